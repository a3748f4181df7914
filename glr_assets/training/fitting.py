"""Training an embedder: lightning drives the epochs, a keeper holds the state that a killed run resumes from.

On a CPU the result is a function of the photographs, the recipe and the seed for one number of torch
threads: interrupted and resumed or not, with any number of decoding threads, in any order of the ids.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

# This module is imported only by functions that train a network.
import lightning  # noqa: TID253
import numpy as np
import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from glr_assets.errors import EmbedderError
from glr_assets.receipts import digest_of
from glr_assets.recipes import Embedder
from glr_assets.seeded import derived_seed
from glr_assets.training.embedder import embed, torch_device
from glr_assets.training.margin import SubCentreArcFace, class_margins
from glr_assets.training.model import EmbeddingNetwork, initial
from glr_assets.training.photographs import (
    CACHE_BYTES,
    Augmentation,
    EpochBatches,
    Pictures,
    TrainingSet,
    normalised,
)

# Watching costs forward passes, so it is done about this often and on no more images than this.
WATCHES = 10
WATCHED_IMAGES = 2000
WATCHED_NEIGHBOURS = 5

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class EpochReport:
    """What one epoch came to."""

    epoch: int
    """counted from 1"""
    epochs: int
    loss: float
    """mean cross-entropy of the margin head"""
    validation_top1: float | None
    """share of held-out photographs whose nearest training photograph shows the same landmark; None
    where nothing is held out or the epoch was not watched"""
    learning_rate: float
    """of the epoch's last step"""
    seconds: float


@dataclass(frozen=True)
class Fitted:
    """A trained network, on the CPU and ready to embed, and how it got there."""

    network: EmbeddingNetwork
    history: tuple[EpochReport, ...]
    landmark_ids: tuple[int, ...]
    """the landmarks it learned, ascending"""
    resumed_after: int
    """epochs taken over from an earlier, killed run"""


class CheckpointKeeper(Protocol):
    """Where the state of a training outlives its process."""

    def save(self, path: Path) -> None:
        """Keep the file at `path` as the latest state, whole or not at all; the path is gone afterwards."""

    def load(self) -> Path | None:
        """A local file of the latest state, or None."""


class NoCheckpoints:
    """Keeps nothing: a killed training starts again."""

    def save(self, path: Path) -> None:
        """Let `path` go."""

    def load(self) -> Path | None:
        """There never is an earlier state."""
        return None


def fit(
    training: TrainingSet,
    validation: TrainingSet | None,
    recipe: Embedder,
    *,
    seed: int,
    device: Device = "auto",
    workers: int = 0,
    keeper: CheckpointKeeper | None = None,
    progress: Callable[[EpochReport], None] | None = None,
    data_version: str = "",
    cache_bytes: int = CACHE_BYTES,
    augmentation: Augmentation | None = None,
) -> Fitted:
    """Train the network of `recipe` on `training`.

    Args:
        training: photographs that train; every landmark in it is a class.
        validation: held-out photographs that are only watched; None or empty where there are none.
        recipe: the [embedder] table.
        seed: decides the first weights, the order of the photographs and their variations.
        device: where the network runs; auto takes a GPU if there is one.
        workers: threads that decode and vary photographs; 0 does it between the steps.
        keeper: given the whole state after each epoch, asked for it at the start. A state of another
            recipe, seed, set of photographs or `data_version` is not resumed from.
        progress: told of each epoch, after its state is kept.
        data_version: the version of what `training.read` reads, where the same ids can come to differ.
        cache_bytes: most memory for decoded photographs.
        augmentation: how far training pictures are varied.

    Raises:
        EmbedderError: fewer than two landmarks, a photograph that cannot be decoded, weights that cannot be
            had, no such device, or a loss that is no longer finite.
    """
    place = torch_device(device)
    classes = tuple(sorted(set(training.landmark_ids)))
    if len(classes) < 2 or len(training) < 2:
        raise EmbedderError(
            f"training: found {len(training)} photographs of {len(classes)} landmarks, expected two landmarks "
            "or more; choose another [training] manifest"
        )
    keeper = keeper or NoCheckpoints()
    lesson = _Lesson(training, classes, recipe, seed, workers, cache_bytes, augmentation or Augmentation())
    fingerprint = _fingerprint(training, validation, recipe, seed, data_version, lesson.augmentation)
    watcher = _Watcher(fingerprint, training, validation, recipe, place, workers, keeper, progress)
    earlier = keeper.load()
    if earlier is not None and not _is_of(earlier, fingerprint):
        earlier = None
    with _quiet_lightning():
        trainer = lightning.Trainer(
            accelerator="gpu" if place.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if place.type == "cuda" and recipe.precision == "bfloat16" else "32-true",
            max_epochs=recipe.epochs,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[watcher],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        # The state is a file of our own keeper and holds tensors and plain values alone.
        trainer.fit(lesson, ckpt_path=earlier, weights_only=True)
    return Fitted(
        network=_laid_out(lesson.network.cpu(), torch.contiguous_format).eval(),
        history=tuple(watcher.history),
        landmark_ids=classes,
        resumed_after=watcher.resumed_after,
    )


def _laid_out(network: EmbeddingNetwork, layout: torch.memory_format) -> EmbeddingNetwork:
    """`network` with its convolutions' weights laid out in memory as `layout`."""
    return network.to(memory_format=layout)  # type: ignore[call-overload]


class _Lesson(lightning.LightningModule):
    """The network and its head, the batches of each epoch and the optimiser."""

    def __init__(
        self,
        training: TrainingSet,
        classes: tuple[int, ...],
        recipe: Embedder,
        seed: int,
        workers: int,
        cache_bytes: int,
        augmentation: Augmentation,
    ) -> None:
        super().__init__()
        self.training_set, self.recipe, self.seed, self.workers = training, recipe, seed, workers
        self.augmentation = augmentation
        number = {landmark: position for position, landmark in enumerate(classes)}
        self.numbers = [number[landmark] for landmark in training.landmark_ids]
        self.pictures = Pictures(training.read, recipe.image_size, cache_bytes)
        self.network = initial(recipe, seed)
        sizes = np.bincount(self.numbers, minlength=len(classes)).tolist()
        margins = class_margins(sizes, margin_size=recipe.margin_size, margin_base=recipe.margin_base)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("head", seed))
            self.head = SubCentreArcFace(recipe.dimensions, margins, sub_centers=recipe.sub_centers, scale=recipe.scale)

    def train_dataloader(self) -> EpochBatches:
        return EpochBatches(
            self.training_set.ids,
            self.numbers,
            self.pictures,
            size=self.recipe.image_size,
            batch_size=self.recipe.batch_size,
            seed=self.seed,
            epoch=self.current_epoch,
            workers=self.workers,
            augmentation=self.augmentation,
        )

    def on_fit_start(self) -> None:
        if self.device.type == "cuda":
            _laid_out(self.network, torch.channels_last)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        pixels, targets = batch
        ramp = self.recipe.margin_ramp * self.recipe.epochs
        share = min(1.0, self.current_epoch / ramp) if ramp else 1.0
        embeddings = self.network(normalised(pixels))
        # Outside autocast: a margin of some hundredths is lost in bfloat16's cosines.
        with torch.autocast(self.device.type, enabled=False):
            return F.cross_entropy(self.head(embeddings.float(), targets, share), targets)

    def configure_optimizers(self) -> Any:
        # Biases, norms and pooling exponents have no reason to be small.
        decayed = [p for p in self.parameters() if p.ndim > 1]
        free = [p for p in self.parameters() if p.ndim <= 1]
        optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.recipe.weight_decay},
                {"params": free, "weight_decay": 0.0},
            ],
            lr=self.recipe.learning_rate,
        )
        steps = len(self.train_dataloader()) * self.recipe.epochs
        # One-cycle: Smith and Topin 2019 (arXiv 1708.07120), cosine down to nearly nothing.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.recipe.learning_rate, total_steps=max(2, steps), pct_start=self.recipe.warm_up
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class _Watcher(lightning.Callback):
    """Sums up each epoch, has its state kept, then tells of it."""

    def __init__(
        self,
        fingerprint: str,
        training: TrainingSet,
        validation: TrainingSet | None,
        recipe: Embedder,
        device: torch.device,
        workers: int,
        keeper: CheckpointKeeper,
        progress: Callable[[EpochReport], None] | None,
    ) -> None:
        self.fingerprint, self.recipe, self.device, self.workers = fingerprint, recipe, device, workers
        self.keeper, self.progress = keeper, progress
        self.history: list[EpochReport] = []
        self.resumed_after = 0
        self.watched = _watched(training, validation)
        self._losses: list[Tensor] = []
        self._started = self._rate = 0.0

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        self.history = [EpochReport(**report) for report in checkpoint["history"]]
        self.resumed_after = len(self.history)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["fingerprint"] = self.fingerprint
        checkpoint["history"] = [asdict(report) for report in self.history]

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self._losses, self._started = [], time.monotonic()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self._rate = float(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self._losses.append(outputs["loss"].detach())

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        epoch = trainer.current_epoch + 1
        loss = float(torch.stack(self._losses).double().mean())
        if not math.isfinite(loss):
            raise EmbedderError(
                f"training: the loss of epoch {epoch} is {loss}, expected a number; "
                "lower [embedder] learning_rate or scale"
            )
        every = max(1, self.recipe.epochs // WATCHES)
        watch = self.watched is not None and (epoch % every == 0 or epoch == self.recipe.epochs)
        report = EpochReport(
            epoch=epoch,
            epochs=self.recipe.epochs,
            loss=loss,
            validation_top1=self._top1(pl_module.network) if watch else None,
            learning_rate=self._rate,
            seconds=time.monotonic() - self._started,
        )
        self.history.append(report)
        with tempfile.TemporaryDirectory() as folder:
            state = Path(folder) / "training.ckpt"
            trainer.save_checkpoint(state)
            self.keeper.save(state)
        if self.progress is not None:
            self.progress(report)

    def _top1(self, network: EmbeddingNetwork) -> float:
        assert self.watched is not None
        references, queries = (self._embedded(network, part) for part in self.watched)
        nearest = np.argmax(queries @ references.T, axis=1)
        known, true = (np.array(part.landmark_ids) for part in self.watched)
        return float(np.mean(known[nearest] == true))

    def _embedded(self, network: EmbeddingNetwork, part: TrainingSet) -> Any:
        network.eval()
        try:
            return embed(
                network,
                map(part.read, part.ids),
                self.recipe.image_size,
                batch_size=self.recipe.batch_size,
                device=self.device.type,
                workers=self.workers,
            )
        finally:
            network.train()


def _watched(training: TrainingSet, validation: TrainingSet | None) -> tuple[TrainingSet, TrainingSet] | None:
    """A bounded choice of (references, queries): some held-out photographs and a few of their landmarks'."""
    if validation is None or not len(validation):
        return None

    def chosen(part: TrainingSet, most: int, per_landmark: int, of: set[int]) -> TrainingSet:
        pairs = sorted(zip(part.ids, part.landmark_ids, strict=True), key=lambda p: (derived_seed("watched", p[0]), p))
        counts: dict[int, int] = {}
        kept = []
        for image_id, landmark in pairs:
            counts[landmark] = counts.get(landmark, 0) + 1
            if landmark in of and counts[landmark] <= per_landmark:
                kept.append((image_id, landmark))
        kept = kept[:most]
        return TrainingSet(tuple(i for i, _ in kept), tuple(c for _, c in kept), part.read)

    queries = chosen(validation, WATCHED_IMAGES, len(validation), set(validation.landmark_ids))
    references = chosen(training, WATCHED_NEIGHBOURS * WATCHED_IMAGES, WATCHED_NEIGHBOURS, set(queries.landmark_ids))
    return (references, queries) if len(references) else None


def _fingerprint(
    training: TrainingSet,
    validation: TrainingSet | None,
    recipe: Embedder,
    seed: int,
    data_version: str,
    augmentation: Augmentation,
) -> str:
    """What a state must be of for a run to go on from it."""
    parts = [training] if validation is None else [training, validation]
    return digest_of(
        {
            "photographs": [sorted(zip(part.ids, part.landmark_ids, strict=True)) for part in parts],
            "recipe": recipe.model_dump(mode="json"),
            "seed": seed,
            "data_version": data_version,
            "augmentation": asdict(augmentation),
        }
    )


def _is_of(path: Path, fingerprint: str) -> bool:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise EmbedderError(
            f"{path}: the kept state of the training cannot be read ({type(error).__name__}); delete it and run again"
        ) from error
    return bool(state.get("fingerprint") == fingerprint)


@contextmanager
def _quiet_lightning() -> Iterator[None]:
    """Progress goes to the caller; lightning's own notes and hints would only stand in its way."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "lightning")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
