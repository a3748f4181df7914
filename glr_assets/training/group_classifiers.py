"""`group_classifiers`: one classifier a group, trained by itself and kept as a version.

A version is named by what it is made from, so its folder holds one classifier for ever, and a killed training
finds its own checkpoint there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glr_assets.errors import ClassifierError, MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.receipts import Made, Summary, Writer, digest_of, make, need_receipt, need_receipts
from glr_assets.recipes import Recipe
from glr_assets.seeded import derived_seed
from glr_assets.store import Store
from glr_assets.training.groups import TRAIN, VALIDATION, GroupImages, group_keys, images_of_group, outsiders_of_group
from glr_assets.training.kept import CHECKPOINT_NAME, CURVES_NAME, StoredCheckpoint, epoch_teller, learning_curves

if TYPE_CHECKING:
    from glr_assets.training.classifier import ClassifierConfig, FittedClassifier, LoadedClassifier

CODE_VERSION = "1"
METRICS_NAME = "metrics.json"
#: Of `[groups]`, what decides on a classifier once the images of its group are known.
TRAINED_BY = {
    "weights",
    "backbone",
    "image_size",
    "dropout",
    "augmentation",
    "outsiders",
    "epochs",
    "batch_size",
    "learning_rate",
    "warm_up",
    "weight_decay",
    "precision",
}


def make_group_classifier(store: Store, group: str, recipe: Recipe, told: Callable[[str], None]) -> Made:
    """`group_classifiers/<group>`: the classifier of the group's landmarks, trained on its images.

    A group that is empty, or has one landmark and no outsiders to tell it from, is finished with a configuration
    that says so.

    Args:
        store: the store.
        group: its key.
        recipe: `[groups]`, `[execution]` and the seed.
        told: given a line on each epoch.

    Raises:
        ClassifierError: no such group in the recipe, or its training fails; the text says why.
        EmbedderError: an image, the weights or the device cannot be had.
    """
    if group not in group_keys(recipe.groups):
        raise ClassifierError(
            f"group {group}: the recipe has {recipe.groups.count} groups, {group_keys(recipe.groups)[0]} to "
            f"{group_keys(recipe.groups)[-1]}; sync the partitions, or set [groups] count"
        )
    inputs = need_receipts(store, "training_groups", "image_catalog")
    parameters: dict[str, Any] = {
        "group": group,
        "groups": recipe.groups.model_dump(mode="json", include=TRAINED_BY),
        "seed": recipe.seed,
    }
    folder = f"models/group_classifiers/{group}/{digest_of([CODE_VERSION, inputs, parameters])[:12]}"

    def build(writer: Writer) -> Summary:
        return _build(store, writer, folder, group, recipe, inputs, told)

    made = make(
        store,
        f"group_classifiers/{group}",
        inputs=inputs,
        parameters=parameters,
        code_version=CODE_VERSION,
        build=build,
        keep_earlier=True,
    )
    store.remove(f"{folder}/{CHECKPOINT_NAME}")
    return made


def _build(
    store: Store,
    writer: Writer,
    folder: str,
    group: str,
    recipe: Recipe,
    inputs: dict[str, str],
    told: Callable[[str], None],
) -> Summary:
    from glr_assets.training.classifier import ClassifierConfig, save_classifier
    from glr_assets.training.embedder import CONFIG_NAME

    images = images_of_group(store, group)
    own = len(images.of(TRAIN)[0])
    outsiders = outsiders_of_group(store, group, round(recipe.groups.outsiders * own), recipe.seed)
    reason = ""
    if not images.landmarks:
        reason = "the group is empty"
    elif len(images.landmarks) == 1 and not outsiders:
        reason = "the group has one landmark, and nothing to tell it from"
    config = ClassifierConfig(
        group=group,
        trained=not reason,
        reason=reason,
        image_size=recipe.groups.image_size,
        precision=recipe.groups.precision,
        recipe=recipe.groups.model_dump(mode="json", include=TRAINED_BY),
        seed=recipe.seed,
        landmark_ids=images.landmarks,
        outside=bool(outsiders),
        data_versions=dict(sorted(inputs.items())),
    )
    summary: Summary = {
        "folder": folder,
        "trained": config.trained,
        "reason": reason or None,
        "landmarks": len(images.landmarks),
        "training_images": own,
        "outsiders": len(outsiders),
        "validation_images": len(images.of(VALIDATION)[0]),
    }
    if config.trained:
        fitted = _fitted(store, folder, images, outsiders, config, recipe, told)
        save_classifier(writer, folder, fitted.network, recipe.groups.image_size)
        writer.write(f"{folder}/{CURVES_NAME}", learning_curves(fitted.history))
        last = fitted.history[-1]
        figures: Summary = {"epochs": len(fitted.history), "loss": last.loss, "validation_top1": last.validation_top1}
        epochs = [
            {"loss": report.loss, "validation_top1": report.validation_top1, "learning_rate": report.learning_rate}
            for report in fitted.history
        ]
        writer.json(f"{folder}/{METRICS_NAME}", summary | figures | {"history": epochs})
        summary |= figures
    else:
        told(f"group {group}: {reason}; no classifier is trained")
    writer.json(f"{folder}/{CONFIG_NAME}", config.model_dump(mode="json"))
    return summary


def _fitted(
    store: Store,
    folder: str,
    images: GroupImages,
    outsiders: tuple[str, ...],
    config: ClassifierConfig,
    recipe: Recipe,
    told: Callable[[str], None],
) -> FittedClassifier:
    from glr_assets.training.classifier import fit_classifier
    from glr_assets.training.photographs import TrainingSet

    reader = ImageReader.of_split(store, "train", [*images.ids, *outsiders])
    training, validation = (TrainingSet(*images.of(fold), reader.read) for fold in (TRAIN, VALIDATION))
    with tempfile.TemporaryDirectory(prefix="glr-training-") as scratch:
        return fit_classifier(
            training,
            validation,
            recipe.groups,
            outsiders=outsiders,
            # Groups begin with weights of their own.
            seed=derived_seed("group classifier", recipe.seed, config.group),
            device=recipe.execution.device,
            workers=recipe.execution.threads,
            keeper=StoredCheckpoint(store, f"{folder}/{CHECKPOINT_NAME}", Path(scratch)),
            progress=epoch_teller(lambda line: told(f"group {config.group}: {line}")),
            data_version=digest_of(config.data_versions),
        )


def classifier_folder(store: Store, group: str) -> str:
    """Where the current version of a group's classifier lies.

    Raises:
        MissingInputError: there is none.
    """
    folder = need_receipt(store, f"group_classifiers/{group}").summary.get("folder")
    if not isinstance(folder, str):
        raise MissingInputError(f"group_classifiers/{group} in {store.url} names no folder: materialise it again")
    return folder


def open_classifier(store: Store, group: str) -> LoadedClassifier:
    """The current classifier of a group, on the CPU; it says so itself where the group has none."""
    from glr_assets.training.classifier import load_classifier

    return load_classifier(store, classifier_folder(store, group))
