"""The embedder as an asset: trained on a manifest or brought in, projected, and kept as a version.

A version is named by what it is made from, so its folder holds one embedder for ever, and a killed training
finds its own checkpoint there.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow.compute as pc

from glr_assets.curation.chosen import TRAINING_MANIFEST, chosen_inputs
from glr_assets.curation.duplicate_groups import duplicate_groups
from glr_assets.errors import MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.manifests import kept_images
from glr_assets.receipts import Made, Summary, Writer, digest_of, make, need_receipt, need_receipts
from glr_assets.recipes import Execution, Recipe
from glr_assets.store import Store
from glr_assets.training.centres import CENTRES_NAME, ClassCentres, read_centres
from glr_assets.training.held_out import by_class_size, held_out_answers
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
from glr_assets.training.photographs import TrainingSet, hold_out
from glr_assets.training.record import ModelRecord, files_of, libraries, rights_of, taken_over
from glr_assets.training.schemas import HELD_OUT_ANSWERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    import numpy.typing as npt

    from glr_assets.training.embedding import Running
    from glr_assets.training.fitting import Fitted
    from glr_assets.training.lesson import EpochReport

CODE_VERSION = "5"
ONNX_NAME = "embedder.onnx"
#: Photographs whose embeddings are in memory together on the way to a projection: a multiple of a forward pass.
_EMBEDDED_AT_ONCE: Final = 4096
#: Of `[embedder]`, what is derived of a network, or how it is used, and is no part of what it is; as a version has it.
DERIVED: Final[dict[str, Any]] = {"onnx": True, "flip": False, "scales": (1.0,)}


def make_embedder(
    store: Store, recipe: Recipe, told: Callable[[str], None], seen: Callable[[Sight], None] | None = None
) -> Made:
    """`embedder`: the recipe's network trained on its manifest, or the TorchScript module it names.

    A version that was finished before is not trained again: its card and its ONNX file alone are made anew.

    Args:
        store: the store.
        recipe: `[embedder]`, `[training]`, `[execution]` and the seed.
        told: given a line on each epoch.
        seen: given the curve so far, now and then while it trains.

    Raises:
        EmbedderError: it cannot be trained, brought in or exported; the text says why.
    """
    learned_from = chosen_inputs(store, TRAINING_MANIFEST, recipe.training.manifest)
    learned_from |= need_receipts(store, "image_catalog")
    learned_from |= outside_files("embedder", recipe.embedder.torchscript, recipe.embedder.weights)
    parameters: dict[str, Any] = {
        "embedder": recipe.embedder.model_dump(mode="json"),
        "training": recipe.training.model_dump(mode="json"),
        "seed": recipe.seed,
    }
    deciding = parameters | {"embedder": recipe.embedder.model_dump(mode="json", exclude=set(DERIVED))}
    folder = f"models/embedder/{digest_of([CODE_VERSION, learned_from, deciding])[:12]}"

    def build(writer: Writer) -> Summary:
        live = LiveTraining(store, folder, "embedder", told, seen)
        return _build(store, writer, folder, recipe, learned_from, live)

    made = make(
        store,
        "embedder",
        # Whose the photographs are is told on the card, and teaches the network nothing.
        inputs=learned_from | need_receipts(store, "train_attribution"),
        parameters=parameters,
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
    recipe: Recipe,
    learned_from: dict[str, str],
    live: LiveTraining,
) -> Summary:
    from glr_assets.training.embedder import load_embedder
    from glr_assets.training.torchscript import need_embeddings
    from glr_assets.training.views import VIEWS_NAME, Views

    manifest = kept_images(store, recipe.training.manifest)
    landmark_of = dict(zip(manifest["id"].to_pylist(), manifest["landmark_id"].to_pylist(), strict=True))
    reader = ImageReader.of_split(store, "train", list(landmark_of))
    groups = duplicate_groups(store, manifest)
    parts = hold_out(list(landmark_of), list(landmark_of.values()), recipe.training.validation, recipe.seed, groups)
    training, validation = (
        TrainingSet(tuple(ids), tuple(landmark_of[image_id] for image_id in ids), reader.read, reader.read_ahead)
        for ids in parts
    )
    record = taken_over(store, "embedder", folder)
    if record is None:
        record = _trained(store, writer, folder, recipe, training, validation, learned_from, live)
    else:
        live.told(f"{folder}: finished before; its card and its ONNX file are made anew")
        for name, written in record.files.items():
            writer.keep(f"{folder}/{name}", written)
    views = Views.of(recipe.embedder.model_copy(update={"image_size": record.image_size}))
    module = load_embedder(store, folder).module
    need_embeddings(module, set(views.sides) - {record.image_size}, folder)
    writer.json(f"{folder}/{VIEWS_NAME}", views.model_dump(mode="json"))
    record = finish_version(
        writer,
        folder,
        record,
        module if recipe.embedder.onnx else None,
        ONNX_NAME,
        training.images(),
        rights_of(store, training.ids),
    )
    return {
        "folder": folder,
        "version": record.version,
        "training_images": record.training_images,
        "held_out": record.held_out,
        "parameters": record.parameters,
        "epochs": record.epochs or None,
        "loss": record.loss,
        "validation_top1": record.validation_top1,
        "classes": record.landmarks,
        "dimensions": record.outputs,
        "image_size": record.image_size,
        "image_size_source": record.image_size_source,
        "image_size_warning": record.image_size_warning or None,
        "views": len(views.sides) * (1 + views.mirrored),
        "onnx": record.without_onnx or True,
    }


def _trained(
    store: Store,
    writer: Writer,
    folder: str,
    recipe: Recipe,
    training: TrainingSet,
    validation: TrainingSet,
    learned_from: dict[str, str],
    live: LiveTraining,
) -> ModelRecord:
    """The network trained or brought in, projected and kept with all that was learned of it."""
    from glr_assets.training.embedder import SCRIPT_NAME, config_of, save_embedder, whitened
    from glr_assets.training.embedding import embed
    from glr_assets.training.image_size import ImageSize, open_external

    section, execution = recipe.embedder, recipe.execution
    running: Running = {"device": execution.device, "workers": execution.threads, "precision": section.precision}
    history: tuple[EpochReport, ...] = ()
    size = ImageSize(section.image_size, "recipe")
    if section.torchscript is not None:
        opened = open_external(section.torchscript, section.image_size, "embedder", training, running)
        module: Any = opened[0]
        size = opened[1]
        live.told(f"{Path(section.torchscript).name} sees photographs at {size.side} pixels ({size.source})")
        if size.warning:
            live.told(size.warning)
    else:
        fitted = _fitted(store, folder, training, validation, recipe, learned_from, live)
        module, history = fitted.network, fitted.history
        writer.write(f"{folder}/{CENTRES_NAME}", fitted.centres.to_bytes())
        writer.write(f"{folder}/{CURVES_NAME}", learning_curves(history))

    def embedded(images: Iterable[bytes]) -> npt.NDArray[np.float32]:
        return embed(module, images, size.side, **running)

    parameters = sum(tensor.numel() for tensor in module.parameters())
    if section.torchscript is not None and section.whitening:
        # What comes from elsewhere is centred and whitened on these photographs; what trained on them ends so.
        module = whitened(module.to("cpu"), _by_landmark(training, embedded))
    config = config_of(
        module,
        section.model_copy(update={"image_size": size.side}),
        origin="brought in" if section.torchscript else "trained",
        seed=recipe.seed,
        landmark_ids=training.landmark_ids,
        data_versions=learned_from,
    )
    save_embedder(writer, folder, module, config)
    answers = held_out_answers(embedded, training, validation)
    right = pc.equal(answers["answer"], answers["landmark_id"]).to_pylist()
    version = folder.rsplit("/", 1)[-1]
    writer.table(HELD_OUT_ANSWERS, answers, version=version)
    writer.json(f"{folder}/{HISTORY_NAME}", {"epochs": epochs_of(history), "held_out": sorted(validation.ids)})
    return ModelRecord(
        model="embedder",
        version=version,
        origin="brought in" if section.torchscript else "trained",
        code_version=CODE_VERSION,
        seed=recipe.seed,
        recipe={
            "embedder": section.model_dump(mode="json", exclude=set(DERIVED)),
            "training": recipe.training.model_dump(mode="json"),
        },
        data_versions=dict(sorted(learned_from.items())),
        libraries=libraries(),
        parameters=parameters,
        image_size=size.side,
        image_size_source=size.source,
        image_size_warning=size.warning,
        image_sizes_tried=dict(size.tried),
        outputs=config.dimensions,
        landmarks=len(config.landmark_ids),
        training_images=len(training),
        outsiders=0,
        held_out=len(validation),
        epochs=len(history),
        loss=history[-1].loss if history else None,
        validation_top1=sum(right) / len(right) if right else None,
        by_class_size=by_class_size(answers["landmark_id"].to_pylist(), answers["train_images"].to_pylist(), right),
        files=files_of(writer, folder),
        script=SCRIPT_NAME,
    )


def _by_landmark(
    training: TrainingSet, embedded: Callable[[Iterable[bytes]], npt.NDArray[np.float32]]
) -> Iterator[tuple[npt.NDArray[np.float32], list[int]]]:
    """Embeddings of the training photographs, landmark by landmark, `_EMBEDDED_AT_ONCE` together."""
    pairs = sorted(zip(training.landmark_ids, training.ids, strict=True))
    images = training.of((image_id for _, image_id in pairs), (landmark for landmark, _ in pairs)).images()
    for start in range(0, len(pairs), _EMBEDDED_AT_ONCE):
        landmarks = [landmark for landmark, _ in pairs[start : start + _EMBEDDED_AT_ONCE]]
        yield embedded(islice(images, len(landmarks))), landmarks


def _fitted(
    store: Store,
    folder: str,
    training: TrainingSet,
    validation: TrainingSet,
    recipe: Recipe,
    learned_from: dict[str, str],
    live: LiveTraining,
) -> Fitted:
    from glr_assets.training.fitting import fit

    with tempfile.TemporaryDirectory(prefix="glr-training-") as scratch:
        return fit(
            training,
            validation,
            # A state is gone on with whatever is to be derived of the network in the end.
            recipe.embedder.model_copy(update=DERIVED | {"weights": pinned(recipe.embedder.weights, learned_from)}),
            seed=recipe.seed,
            device=recipe.execution.device,
            processes=recipe.execution.processes,
            workers=recipe.execution.threads,
            keeper=StoredCheckpoint(store, f"{folder}/{CHECKPOINT_NAME}", Path(scratch)),
            progress=live,
            data_version=digest_of(learned_from),
        )


def embedder_folder(store: Store) -> str:
    """Where the current version of the embedder lies.

    Raises:
        MissingInputError: there is none.
    """
    folder = need_receipt(store, "embedder").summary.get("folder")
    if not isinstance(folder, str):
        raise MissingInputError(f"the embedder in {store.url} names no folder: materialise it again")
    return folder


def open_centres(store: Store) -> ClassCentres | None:
    """The centres of the head of the current embedder; None of one that was brought in.

    Raises:
        MissingInputError: there is no embedder.
        EmbedderError: their file is damaged.
    """
    folder = embedder_folder(store)
    kept = f"{folder}/{CENTRES_NAME}" in need_receipt(store, "embedder").outputs
    return read_centres(store, folder) if kept else None


def held_out_ids(store: Store) -> list[str]:
    """The train images that the current embedder did not learn from, sorted."""
    held_out: list[str] = store.read_json(f"{embedder_folder(store)}/{HISTORY_NAME}")["held_out"]
    return held_out


def open_embedder(store: Store, execution: Execution) -> Callable[[Iterable[bytes]], npt.NDArray[np.float32]]:
    """The current embedder: encoded images in, float32 [n, D] of unit length out."""
    from glr_assets.training.embedder import load_embedder

    loaded = load_embedder(store, embedder_folder(store))
    return lambda images: loaded.embed(images, device=execution.device, workers=execution.threads)


def open_untrained(store: Store, recipe: Recipe) -> Callable[[Iterable[bytes]], npt.NDArray[np.float32]]:
    """The recipe's network with the weights it starts from nothing with, at the current embedder's image size."""
    from glr_assets.training.embedder import load_config
    from glr_assets.training.embedding import embed
    from glr_assets.training.model import untrained

    side = recipe.embedder.image_size or load_config(store, embedder_folder(store)).image_size
    network = untrained(recipe.embedder, recipe.seed)
    return lambda images: embed(
        network,
        images,
        side,
        device=recipe.execution.device,
        workers=recipe.execution.threads,
        precision=recipe.embedder.precision,
    )
