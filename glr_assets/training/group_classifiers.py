"""`group_classifiers`: one classifier a group, trained by itself and kept as a version.

A version is named by what it is made from, so its folder holds one classifier for ever, and a killed training
finds its own checkpoint there.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glr_assets.errors import ClassifierError, MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.receipts import Made, Summary, Writer, digest_of, make, need_receipt, need_receipts
from glr_assets.recipes import Learning, Recipe
from glr_assets.seeded import derived_seed
from glr_assets.store import Store
from glr_assets.training.groups import TRAIN, VALIDATION, GroupImages, group_keys, images_of_group, outsiders_of_group
from glr_assets.training.held_out import SizeFigure
from glr_assets.training.kept import (
    CHECKPOINT_NAME,
    CURVES_NAME,
    HISTORY_NAME,
    LiveTraining,
    Sight,
    StoredCheckpoint,
    end_training,
    epochs_of,
    finish_version,
    learning_curves,
)
from glr_assets.training.outside import outside_files, pinned
from glr_assets.training.record import ModelRecord, files_of, libraries, rights_of, taken_over

if TYPE_CHECKING:
    from glr_assets.training.classifier import ClassifierConfig, FittedClassifier, LoadedClassifier

CODE_VERSION = "2"
ONNX_NAME = "classifier.onnx"
#: Of `[groups]`, what decides on a classifier once the images of its group are known.
TRAINED_BY = (set(Learning.model_fields) - {"onnx"}) | {"dropout", "augmentation", "outsiders"}


def make_group_classifier(
    store: Store,
    group: str,
    recipe: Recipe,
    told: Callable[[str], None],
    seen: Callable[[Sight], None] | None = None,
) -> Made:
    """`group_classifiers/<group>`: the classifier of the group's landmarks, trained on its images.

    A group that is empty, or has one landmark and no outsiders to tell it from, is finished with a configuration
    that says so. A version that was finished before is not trained again: its card and its ONNX file alone are made
    anew.

    Args:
        store: the store.
        group: its key.
        recipe: `[groups]`, `[execution]` and the seed.
        told: given a line on each epoch.
        seen: given the curve so far, now and then while it trains.

    Raises:
        ClassifierError: no such group in the recipe, or its training fails; the text says why.
        EmbedderError: an image, the weights or the device cannot be had, or the export is not the network.
    """
    if group not in group_keys(recipe.groups):
        raise ClassifierError(
            f"group {group}: the recipe has {recipe.groups.count} groups, {group_keys(recipe.groups)[0]} to "
            f"{group_keys(recipe.groups)[-1]}; sync the partitions, or set [groups] count"
        )
    learned_from = need_receipts(store, "training_groups", "image_catalog")
    learned_from |= outside_files("groups", None, recipe.groups.weights)
    deciding: dict[str, Any] = {
        "group": group,
        "groups": recipe.groups.model_dump(mode="json", include=TRAINED_BY),
        "seed": recipe.seed,
    }
    folder = f"models/group_classifiers/{group}/{digest_of([CODE_VERSION, learned_from, deciding])[:12]}"

    def build(writer: Writer) -> Summary:
        live = LiveTraining(
            store, folder, f"group_classifiers/{group}", lambda line: told(f"group {group}: {line}"), seen
        )
        return _build(store, writer, folder, group, recipe, learned_from, live)

    made = make(
        store,
        f"group_classifiers/{group}",
        # Whose the photographs are is told on the card, and teaches the network nothing.
        inputs=learned_from | need_receipts(store, "train_attribution"),
        parameters=deciding | {"onnx": recipe.groups.onnx},
        code_version=CODE_VERSION,
        build=build,
        keep_earlier=True,
    )
    end_training(store, folder)
    return made


def _build(
    store: Store,
    writer: Writer,
    folder: str,
    group: str,
    recipe: Recipe,
    learned_from: dict[str, str],
    live: LiveTraining,
) -> Summary:
    from glr_assets.training.classifier import ClassifierConfig, load_classifier
    from glr_assets.training.embedder import CONFIG_NAME

    images = images_of_group(store, group)
    own = images.of(TRAIN)[0]
    outsiders = outsiders_of_group(store, group, round(recipe.groups.outsiders * len(own)), recipe.seed)
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
        data_versions=dict(sorted(learned_from.items())),
    )
    summary: Summary = {
        "folder": folder,
        "trained": config.trained,
        "reason": reason or None,
        "landmarks": len(images.landmarks),
        "training_images": len(own),
        "outsiders": len(outsiders),
        "validation_images": len(images.of(VALIDATION)[0]),
    }
    if not config.trained:
        live.told(f"{reason}; no classifier is trained")
        writer.json(f"{folder}/{CONFIG_NAME}", config.model_dump(mode="json"))
        return summary
    record = taken_over(store, f"group_classifiers/{group}", folder)
    if record is None:
        record = _trained(store, writer, folder, images, outsiders, config, recipe, live)
    else:
        live.told(f"{folder}: finished before; its card and its ONNX file are made anew")
        for name, written in record.files.items():
            writer.keep(f"{folder}/{name}", written)
    reader = ImageReader.of_split(store, "train", own)
    record = finish_version(
        writer,
        folder,
        record,
        load_classifier(store, folder).module if recipe.groups.onnx else None,
        ONNX_NAME,
        reader.read_many(own),
        rights_of(store, [*own, *outsiders]),
    )
    return summary | {
        "version": record.version,
        "parameters": record.parameters,
        "epochs": record.epochs,
        "loss": record.loss,
        "validation_top1": record.validation_top1,
        "onnx": record.without_onnx or True,
    }


def _trained(
    store: Store,
    writer: Writer,
    folder: str,
    images: GroupImages,
    outsiders: tuple[str, ...],
    config: ClassifierConfig,
    recipe: Recipe,
    live: LiveTraining,
) -> ModelRecord:
    """The group's network trained and kept, with all that was learned of it."""
    from glr_assets.training.classifier import SCRIPT_NAME, save_classifier
    from glr_assets.training.embedder import CONFIG_NAME

    fitted = _fitted(store, folder, images, outsiders, config, recipe, live)
    save_classifier(writer, folder, fitted.network, recipe.groups.image_size)
    writer.write(f"{folder}/{CURVES_NAME}", learning_curves(fitted.history))
    writer.json(f"{folder}/{HISTORY_NAME}", {"epochs": epochs_of(fitted.history)})
    writer.json(f"{folder}/{CONFIG_NAME}", config.model_dump(mode="json"))
    last = fitted.history[-1]
    sizes = Counter(images.of(TRAIN)[1])
    held_out = images.of(VALIDATION)[1]
    whole_group = SizeFigure(
        fewest=min(sizes.values()),
        most=max(sizes.values()),
        landmarks=len(set(held_out)),
        images=len(held_out),
        right=last.validation_top1 or 0.0,
    )
    return ModelRecord(
        model=f"group_classifiers/{config.group}",
        version=folder.rsplit("/", 1)[-1],
        origin="trained",
        code_version=CODE_VERSION,
        seed=recipe.seed,
        recipe={"groups": config.recipe},
        data_versions=config.data_versions,
        libraries=libraries(),
        parameters=sum(tensor.numel() for tensor in fitted.network.parameters()),
        image_size=config.image_size,
        outputs=config.classes,
        landmarks=len(config.landmark_ids),
        training_images=len(images.of(TRAIN)[0]),
        outsiders=len(outsiders),
        held_out=len(held_out),
        epochs=len(fitted.history),
        loss=last.loss,
        validation_top1=last.validation_top1,
        # A group is landmarks of like size: its figure is that of the size.
        by_class_size=() if last.validation_top1 is None else (whole_group,),
        files=files_of(writer, folder),
        script=SCRIPT_NAME,
    )


def _fitted(
    store: Store,
    folder: str,
    images: GroupImages,
    outsiders: tuple[str, ...],
    config: ClassifierConfig,
    recipe: Recipe,
    live: LiveTraining,
) -> FittedClassifier:
    from glr_assets.training.classifier import fit_classifier
    from glr_assets.training.photographs import TrainingSet

    reader = ImageReader.of_split(store, "train", [*images.ids, *outsiders])
    training, validation = (
        TrainingSet(*images.of(fold), reader.read, reader.read_ahead) for fold in (TRAIN, VALIDATION)
    )
    with tempfile.TemporaryDirectory(prefix="glr-training-") as scratch:
        return fit_classifier(
            training,
            validation,
            # A state is gone on with whatever is to be derived of the network in the end.
            recipe.groups.model_copy(
                update={"onnx": True, "weights": pinned(recipe.groups.weights, config.data_versions)}
            ),
            outsiders=outsiders,
            # Groups begin with weights of their own.
            seed=derived_seed("group classifier", recipe.seed, config.group),
            device=recipe.execution.device,
            workers=recipe.execution.threads,
            keeper=StoredCheckpoint(store, f"{folder}/{CHECKPOINT_NAME}", Path(scratch)),
            progress=live,
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
