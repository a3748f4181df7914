"""The embedder as an asset: trained on a manifest or brought in, projected, and kept as a version.

A version is named by what it is made from, so its folder holds one embedder for ever, and a killed training
finds its own checkpoint there.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glr_assets.errors import EmbedderError, MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.receipts import Made, Summary, Writer, digest_of, make, need_receipt, need_receipts
from glr_assets.recipes import Embedder, Execution, Recipe
from glr_assets.store import Store
from glr_assets.training.kept import CHECKPOINT_NAME, CURVES_NAME, StoredCheckpoint, epoch_teller, learning_curves
from glr_assets.verification.manifests import kept_images

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy as np
    import numpy.typing as npt

    from glr_assets.training.fitting import Fitted
    from glr_assets.training.photographs import TrainingSet
    from glr_assets.training.trainer import EpochReport

CODE_VERSION = "1"
HISTORY_NAME = "history.json"


def make_embedder(store: Store, recipe: Recipe, told: Callable[[str], None]) -> Made:
    """`embedder`: the recipe's network trained on its manifest, or the TorchScript module it names.

    Args:
        store: the store.
        recipe: `[embedder]`, `[training]`, `[execution]` and the seed.
        told: given a line on each epoch.

    Raises:
        EmbedderError: it cannot be trained or brought in; the text says why.
    """
    inputs = need_receipts(store, recipe.training.manifest, "image_catalog")
    inputs |= {f"file:{name}": digest for name, digest in _outside_files(recipe.embedder).items()}
    parameters: dict[str, Any] = {
        "embedder": recipe.embedder.model_dump(mode="json"),
        "training": recipe.training.model_dump(mode="json"),
        "seed": recipe.seed,
    }
    version = digest_of([CODE_VERSION, inputs, parameters])[:12]

    def build(writer: Writer) -> Summary:
        return _build(store, writer, f"models/embedder/{version}", recipe, inputs, told)

    made = make(
        store,
        "embedder",
        inputs=inputs,
        parameters=parameters,
        code_version=CODE_VERSION,
        build=build,
        keep_earlier=True,
    )
    store.remove(f"models/embedder/{version}/{CHECKPOINT_NAME}")
    return made


def _build(
    store: Store,
    writer: Writer,
    folder: str,
    recipe: Recipe,
    inputs: dict[str, str],
    told: Callable[[str], None],
) -> Summary:
    from glr_assets.training.embedder import bring_in, config_of, embed, save_embedder, whitened
    from glr_assets.training.photographs import TrainingSet, hold_out

    manifest = kept_images(store, recipe.training.manifest)
    landmark_of = dict(zip(manifest["id"].to_pylist(), manifest["landmark_id"].to_pylist(), strict=True))
    reader = ImageReader.of_split(store, "train", list(landmark_of))
    parts = hold_out(list(landmark_of), list(landmark_of.values()), recipe.training.validation, recipe.seed)
    training, validation = (
        TrainingSet(tuple(ids), tuple(landmark_of[image_id] for image_id in ids), reader.read) for ids in parts
    )
    summary: Summary = {"folder": folder, "training_images": len(training), "held_out": len(validation)}
    history: tuple[EpochReport, ...] = ()
    if recipe.embedder.torchscript is not None:
        module: Any = bring_in(recipe.embedder.torchscript, recipe.embedder.image_size)
    else:
        fitted = _fitted(store, folder, training, validation, recipe, inputs, told)
        module, history = fitted.network, fitted.history
        writer.write(f"{folder}/{CURVES_NAME}", learning_curves(history))
        watched = [report.validation_top1 for report in history if report.validation_top1 is not None]
        summary |= {
            "epochs": len(history),
            "loss": history[-1].loss,
            "validation_top1": watched[-1] if watched else None,
        }
    if recipe.embedder.torchscript is not None and recipe.embedder.whitening:
        # What comes from elsewhere is centred and whitened on these photographs; what trained on them ends so.
        images = (reader.read(image_id) for image_id in training.ids)
        vectors = embed(module, images, recipe.embedder.image_size, device=recipe.execution.device)
        module = whitened(module.to("cpu"), vectors, training.landmark_ids)
    config = config_of(
        module,
        recipe.embedder,
        origin="brought in" if recipe.embedder.torchscript else "trained",
        seed=recipe.seed,
        landmark_ids=training.landmark_ids,
        data_versions=inputs,
    )
    save_embedder(writer, folder, module, config)
    writer.json(
        f"{folder}/{HISTORY_NAME}",
        {
            "epochs": [
                {"loss": report.loss, "validation_top1": report.validation_top1, "learning_rate": report.learning_rate}
                for report in history
            ],
            "held_out": sorted(validation.ids),
        },
    )
    return summary | {"classes": len(config.landmark_ids), "dimensions": config.dimensions}


def _fitted(
    store: Store,
    folder: str,
    training: TrainingSet,
    validation: TrainingSet,
    recipe: Recipe,
    inputs: dict[str, str],
    told: Callable[[str], None],
) -> Fitted:
    from glr_assets.training.fitting import fit

    with tempfile.TemporaryDirectory(prefix="glr-training-") as scratch:
        return fit(
            training,
            validation,
            recipe.embedder,
            seed=recipe.seed,
            device=recipe.execution.device,
            workers=recipe.execution.threads,
            keeper=StoredCheckpoint(store, f"{folder}/{CHECKPOINT_NAME}", Path(scratch)),
            progress=epoch_teller(told),
            data_version=digest_of(inputs),
        )


def _outside_files(recipe: Embedder) -> dict[str, str]:
    """SHA-256 of each file outside the store that the embedder is made from."""
    if recipe.torchscript is not None:
        path = Path(recipe.torchscript)
        if not path.is_file():
            raise EmbedderError(
                f"[embedder] torchscript = {recipe.torchscript!r}: no such file; give the path of a TorchScript file"
            )
        return {path.name: _sha256(path)}
    if recipe.weights is not None and Path(recipe.weights).is_dir():
        files = sorted(path for path in Path(recipe.weights).iterdir() if path.is_file())
        return {path.name: _sha256(path) for path in files}
    return {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def embedder_folder(store: Store) -> str:
    """Where the current version of the embedder lies.

    Raises:
        MissingInputError: there is none.
    """
    folder = need_receipt(store, "embedder").summary.get("folder")
    if not isinstance(folder, str):
        raise MissingInputError(f"the embedder in {store.url} names no folder: materialise it again")
    return folder


def held_out_ids(store: Store) -> list[str]:
    """The train images that the current embedder did not learn from, sorted."""
    held_out: list[str] = store.read_json(f"{embedder_folder(store)}/{HISTORY_NAME}")["held_out"]
    return held_out


def open_embedder(store: Store, execution: Execution) -> Callable[[Iterable[bytes]], npt.NDArray[np.float32]]:
    """The current embedder: encoded images in, float32 [n, D] of unit length out."""
    from glr_assets.training.embedder import embed, load_embedder

    loaded = load_embedder(store, embedder_folder(store))
    recipe = loaded.config.recipe
    return lambda images: embed(
        loaded.module,
        images,
        loaded.config.image_size,
        device=execution.device,
        workers=execution.threads,
        precision=recipe.precision,
    )


def open_untrained(recipe: Recipe) -> Callable[[Iterable[bytes]], npt.NDArray[np.float32]]:
    """The recipe's network with the weights it starts from nothing with: the control."""
    from glr_assets.training.embedder import embed
    from glr_assets.training.model import untrained

    network = untrained(recipe.embedder, recipe.seed)
    return lambda images: embed(
        network,
        images,
        recipe.embedder.image_size,
        device=recipe.execution.device,
        workers=recipe.execution.threads,
        precision=recipe.embedder.precision,
    )
