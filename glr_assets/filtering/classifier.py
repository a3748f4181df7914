"""`non_landmark_classifier`: how likely a photograph shows no landmark, and what it shows instead."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, ValidationError

from glr_assets.curation.chosen import FILTER_MANIFEST, chosen_inputs
from glr_assets.errors import ClassifierError, MissingInputError
from glr_assets.filtering.examples import Examples, gather_examples, photograph_name
from glr_assets.manifests import kept_images
from glr_assets.openimages.schemas import NON_LANDMARK_VALIDATION
from glr_assets.receipts import Made, Summary, Writer, digest_of, make, need_receipt, need_receipts
from glr_assets.recipes import Classifying, Execution, Recipe
from glr_assets.seeded import derived_seed
from glr_assets.store import Store
from glr_assets.training.kept import (
    CHECKPOINT_NAME,
    CURVES_NAME,
    HISTORY_NAME,
    LiveTraining,
    Sight,
    StoredCheckpoint,
    end_training,
    epochs_of,
    learning_curves,
)
from glr_assets.training.outside import outside_files, pinned
from glr_assets.training.photographs import TrainingSet

if TYPE_CHECKING:
    from glr_assets.training.classifier import FittedClassifier
    from glr_assets.training.embedding import Running
    from glr_assets.training.photographs import Picture

ASSET: Final = "non_landmark_classifier"
CODE_VERSION = "3"
CONFIG_NAME: Final = "config.json"
SCRIPT_NAME: Final = "classifier.pt"
#: Decimals of a score: what a network gives twice for the same photograph, whatever stands beside it in a batch.
SCORE_DECIMALS: Final = 3
#: Of `[filter]`, what decides on the network.
DECIDED_BY: Final = (set(Classifying.model_fields) - {"onnx"}) | {"manifest", "landmarks", "validation", "torchscript"}

Floats = npt.NDArray[np.float64]


class FilterConfig(BaseModel):
    """What a kept classifier is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[str, ...]
    """the categories in the order of its numbers; the last is `a landmark`"""
    image_size: int
    precision: Literal["float32", "bfloat16"]
    layers: int = 1
    """classifiers that the network holds: a picture is told by that which has not learned from its fold"""


def make_non_landmark_classifier(
    store: Store,
    recipe: Recipe,
    told: Callable[[str], None],
    seen: Callable[[Sight], None] | None = None,
) -> Made:
    """`non_landmark_classifier`: trained on crops and landmark photographs, or a layer behind a brought-in embedder.

    What it gives the held-out pictures is kept beside it: thresholds are set by that.

    Args:
        store: the store.
        recipe: `[filter]`, `[openimages]`, `[execution]` and the seed.
        told: given a line on each epoch.
        seen: given the curve so far, now and then while it trains.

    Raises:
        ClassifierError: there is nothing to learn from, or the training fails.
        EmbedderError: the embedder, weights or device cannot be had.
    """
    section = recipe.filter
    inputs = need_receipts(store, "openimages_classifier_dataset", "cleaned_manifest", "image_catalog")
    inputs |= chosen_inputs(store, FILTER_MANIFEST, section.manifest)
    inputs |= outside_files("filter", section.torchscript, section.weights)
    parameters: dict[str, Any] = {
        "filter": section.model_dump(mode="json", include=set(DECIDED_BY)),
        "categories": list(recipe.openimages.categories),
        "size": recipe.openimages.size,
        "seed": recipe.seed,
    }
    folder = f"models/{ASSET}/{digest_of([CODE_VERSION, inputs, parameters])[:12]}"

    def build(writer: Writer) -> Summary:
        from glr_assets.training.torchscript import script_bytes

        live = LiveTraining(store, folder, ASSET, told, seen)
        examples = gather_examples(store, recipe)
        of_commit = section.model_copy(update={"weights": pinned(section.weights, inputs)})
        learning = recipe.model_copy(update={"filter": of_commit})
        learned = _probed if section.torchscript else _trained
        module, figures = learned(store, writer, folder, examples, learning, live)
        writer.write(f"{folder}/{SCRIPT_NAME}", script_bytes(module))
        config = FilterConfig(
            classes=examples.classes,
            image_size=int(figures.get("image_size") or section.image_size),
            precision=section.precision,
            layers=int(figures.get("layers") or 1),
        )
        writer.json(f"{folder}/{CONFIG_NAME}", config.model_dump(mode="json"))
        held_out = examples.held_out
        found = probabilities(module, config, held_out.ids, held_out.images(), recipe.execution)
        shown = np.array(held_out.landmark_ids, np.int64)
        writer.table(NON_LANDMARK_VALIDATION, _validation(held_out.ids, shown, found, examples))
        right = found.argmax(axis=1) == shown
        return figures | {
            "folder": folder,
            "classes": len(examples.classes),
            "training_images": len(examples.training),
            "held_out": len(held_out),
            "photographs_a_crop": examples.balance,
            "held_out_top1": float(right.mean()) if len(right) else None,
        }

    made = make(
        store, ASSET, inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build, keep_earlier=True
    )
    end_training(store, folder)
    return made


def _validation(names: tuple[str, ...], shown: npt.NDArray[np.int64], found: Floats, examples: Examples) -> pa.Table:
    scores, categories = scores_of(found, examples.classes)
    return NON_LANDMARK_VALIDATION.rows(
        [
            {
                "picture": name,
                "shown": examples.classes[number],
                "verified": name in examples.verified,
                "category": category,
                "score": score,
            }
            for name, number, category, score in zip(names, shown.tolist(), categories, scores.tolist(), strict=True)
        ]
    )


def _trained(
    store: Store, writer: Writer, folder: str, examples: Examples, recipe: Recipe, live: LiveTraining
) -> tuple[Any, Summary]:
    from glr_assets.training.torchscript import export

    fitted = _fitted(store, folder, examples, recipe, live)
    writer.write(f"{folder}/{CURVES_NAME}", learning_curves(fitted.history))
    writer.json(f"{folder}/{HISTORY_NAME}", {"epochs": epochs_of(fitted.history)})
    figures: Summary = {"epochs": len(fitted.history), "loss": fitted.history[-1].loss}
    # As if it had been shown as many crops as photographs (Saerens, Latinne and Decaestecker 2002).
    fitted.network.head.bias.data[examples.landmark] -= math.log(examples.balance)
    return export(fitted.network, recipe.filter.image_size), figures


def _fitted(store: Store, folder: str, examples: Examples, recipe: Recipe, live: LiveTraining) -> FittedClassifier:
    from glr_assets.training.classifier import fit_classifier

    with tempfile.TemporaryDirectory(prefix="glr-training-") as scratch:
        return fit_classifier(
            examples.training,
            examples.held_out,
            recipe.filter.model_copy(update={"onnx": True}),
            section="filter",
            classes=len(examples.classes),
            seed=derived_seed(ASSET, recipe.seed),
            device=recipe.execution.device,
            workers=recipe.execution.threads,
            keeper=StoredCheckpoint(store, f"{folder}/{CHECKPOINT_NAME}", Path(scratch)),
            progress=live,
            data_version=digest_of(need_receipts(store, "openimages_classifier_dataset", "image_catalog")),
        )


def _probed(
    store: Store, writer: Writer, folder: str, examples: Examples, recipe: Recipe, live: LiveTraining
) -> tuple[Any, Summary]:
    from glr_assets.filtering.probe import FOLDS, Probe, fit_layers
    from glr_assets.training.embedding import embed
    from glr_assets.training.image_size import open_external
    from glr_assets.training.torchscript import export

    section, execution, training = recipe.filter, recipe.execution, examples.training
    running: Running = {"device": execution.device, "workers": execution.threads, "precision": section.precision}
    photographs = _photographs(store, recipe, training)
    module, size = open_external(str(section.torchscript), section.image_size, "filter", photographs, running)
    if size.warning:
        live.told(size.warning)
    found = embed(module, training.images(), size.side, **running)
    vectors, shown = found.astype(np.float64), np.array(training.landmark_ids, np.int64)
    counts = np.where(shown == examples.landmark, 1.0, examples.balance)
    weights, offsets, penalty = fit_layers(vectors, shown, counts, training.ids, len(examples.classes))
    live.told(f"layers behind {Path(str(section.torchscript)).name}, of {len(training)} pictures, penalty {penalty:g}")
    probe = Probe(module.cpu(), weights, offsets).eval()
    figures: Summary = {"penalty": penalty, "layers": FOLDS, "image_size": size.side}
    return export(probe, size.side), figures | {
        "image_size_source": size.source,
        "image_size_warning": size.warning or None,
    }


def _photographs(store: Store, recipe: Recipe, training: TrainingSet) -> TrainingSet:
    """The landmark photographs among the training pictures, with their landmarks."""
    kept = kept_images(store, recipe.filter.manifest)
    names = {photograph_name(image_id): image_id for image_id in kept["id"].to_pylist()}
    landmark_of = dict(zip(kept["id"].to_pylist(), kept["landmark_id"].to_pylist(), strict=True))
    ids = tuple(name for name in training.ids if name in names)
    return training.of(ids, [landmark_of[names[name]] for name in ids])


def probabilities(
    module: Any, config: FilterConfig, names: Sequence[str], images: Iterable[Picture], execution: Execution
) -> Floats:
    """Shares of the classes for each picture, float64 [n, classes], each row adding up to 1.

    Args:
        module: the classifier.
        config: what it is.
        names: of the pictures, as they were called among the examples.
        images: the pictures.
        execution: where, and with how many threads.

    Raises:
        EmbedderError: a picture that cannot be decoded.
        ClassifierError: logits that are not finite.
    """
    from glr_assets.filtering.probe import fold_of
    from glr_assets.training.embedding import module_outputs

    found = module_outputs(
        module,
        images,
        config.image_size,
        device=execution.device,
        workers=execution.threads,
        precision=config.precision,
    )
    layers = np.asarray(found.numpy(), np.float64).reshape(len(names), config.layers, len(config.classes))
    if not np.isfinite(layers).all():
        raise ClassifierError(
            f"{ASSET}: it gives logits that are not finite; lower [filter] learning_rate and materialise it again"
        )
    own = np.array([fold_of(name) % config.layers for name in names], np.int64)
    logits = layers[np.arange(len(names)), own]
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), np.float64)


def scores_of(found: Floats, classes: tuple[str, ...]) -> tuple[Floats, list[str]]:
    """Of each picture the share of all classes but `a landmark`, to `SCORE_DECIMALS`, and the likeliest category.

    Args:
        found: float64 [n, classes], of `probabilities`.
        classes: their names, the last that of landmarks.
    """
    scores = (1.0 - found[:, -1]).round(SCORE_DECIMALS)
    return scores, [classes[number] for number in found[:, :-1].argmax(axis=1).tolist()]


def open_filter(store: Store) -> tuple[Any, FilterConfig]:
    """The current classifier, a TorchScript module on the CPU, and what it is.

    Raises:
        MissingInputError: it has not been made.
        ClassifierError: its files cannot be read.
    """
    import io

    from glr_assets.training.torchscript import load_script

    folder = str(need_receipt(store, ASSET).summary["folder"])
    where = store.full_url(folder)
    try:
        config = FilterConfig.model_validate_json(store.read(f"{folder}/{CONFIG_NAME}"))
        return load_script(io.BytesIO(store.read(f"{folder}/{SCRIPT_NAME}"))), config
    except FileNotFoundError as error:
        raise MissingInputError(f"{where} is incomplete: materialise {ASSET} first") from error
    except (ValidationError, RuntimeError, ValueError) as error:
        raise ClassifierError(
            f"{where}: not a classifier ({type(error).__name__}); materialise {ASSET} again"
        ) from error
