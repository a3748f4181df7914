"""How any network here is trained: lightning drives the epochs, a keeper holds the state that a run resumes from.

What belongs here: epochs, batches, the optimiser and its schedule, what is kept of them and told. What a network is
and what its loss is, is its own module's.

On a CPU the result is a function of the photographs, the recipe and the seed for one number of torch
threads: interrupted and resumed or not, with any number of decoding threads, in any order of the ids.
"""

from __future__ import annotations

import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

# This module is imported only by functions that train a network.
import lightning  # noqa: TID253
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from glr_assets.errors import GlrError
from glr_assets.receipts import digest_of
from glr_assets.recipes import Section
from glr_assets.training.embedder import torch_device
from glr_assets.training.photographs import Augmentation, EpochBatches, Pictures, TrainingSet

# Watching costs forward passes, so it is done about this often.
WATCHES = 10

Device = Literal["auto", "cpu", "cuda"]


class Course(Protocol):
    """What a recipe's section says of a training."""

    @property
    def image_size(self) -> int:
        """Side in pixels of the square a network sees."""

    @property
    def batch_size(self) -> int:
        """Images a step."""

    @property
    def epochs(self) -> int:
        """Passes over the training images."""

    @property
    def learning_rate(self) -> float:
        """Peak of the one-cycle schedule."""

    @property
    def warm_up(self) -> float:
        """Share of the steps over which the learning rate rises."""

    @property
    def weight_decay(self) -> float:
        """Decoupled weight decay of what has more than one dimension."""

    @property
    def precision(self) -> Literal["float32", "bfloat16"]:
        """On a GPU; a CPU uses float32."""


@dataclass(frozen=True)
class EpochReport:
    """What one epoch came to."""

    epoch: int
    """counted from 1"""
    epochs: int
    loss: float
    """mean loss of the epoch's steps"""
    validation_top1: float | None
    """share of held-out photographs whose landmark is told; None where nothing is held out or the epoch was
    not watched"""
    learning_rate: float
    """of the epoch's last step"""
    seconds: float


@dataclass(frozen=True)
class CourseRun:
    """How a training went."""

    history: tuple[EpochReport, ...]
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


class Lesson(lightning.LightningModule):
    """A network, the batches of each epoch and the optimiser; a subclass says what the loss of a batch is.

    A subclass sets `network`, and any module beside it that learns, after this class is initialised.
    """

    network: nn.Module

    def __init__(
        self,
        ids: Sequence[str],
        numbers: Sequence[int],
        read: Callable[[str], bytes],
        course: Course,
        *,
        seed: int,
        workers: int,
        cache_bytes: int,
        augmentation: Augmentation,
    ) -> None:
        super().__init__()
        self.ids, self.numbers, self.course = ids, numbers, course
        self.seed, self.workers, self.augmentation = seed, workers, augmentation
        self.pictures = Pictures(read, course.image_size, cache_bytes)

    def train_dataloader(self) -> EpochBatches:
        """The batches of the current epoch."""
        return EpochBatches(
            self.ids,
            self.numbers,
            self.pictures,
            size=self.course.image_size,
            batch_size=self.course.batch_size,
            seed=self.seed,
            epoch=self.current_epoch,
            workers=self.workers,
            augmentation=self.augmentation,
        )

    def on_fit_start(self) -> None:
        """Lay weights out as a GPU's convolutions take them fastest."""
        if self.device.type == "cuda":
            _laid_out(self.network, torch.channels_last)

    def configure_optimizers(self) -> Any:
        """AdamW under a one-cycle schedule."""
        # Biases, norms and pooling exponents have no reason to be small.
        decayed = [p for p in self.parameters() if p.ndim > 1]
        free = [p for p in self.parameters() if p.ndim <= 1]
        optimiser = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": self.course.weight_decay},
                {"params": free, "weight_decay": 0.0},
            ],
            lr=self.course.learning_rate,
        )
        steps = len(self.train_dataloader()) * self.course.epochs
        # One-cycle: Smith and Topin 2019 (arXiv 1708.07120), cosine down to nearly nothing.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.course.learning_rate, total_steps=max(2, steps), pct_start=self.course.warm_up
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def run_lesson(
    lesson: Lesson,
    *,
    device: Device,
    fingerprint: str,
    keeper: CheckpointKeeper | None,
    progress: Callable[[EpochReport], None] | None,
    watched: Callable[[], float] | None,
    error: type[GlrError],
    remedy: str,
) -> CourseRun:
    """Train the lesson's network, from the kept state on where there is one; it is then on the CPU, ready to use.

    Args:
        lesson: what is trained.
        device: where it runs; auto takes a GPU if there is one.
        fingerprint: what a kept state must be of for the training to go on from it.
        keeper: given the whole state after each epoch, asked for it at the start.
        progress: told of each epoch, after its state is kept.
        watched: the share of held-out photographs that are told right, as the network stands.
        error: raised of a kept state that cannot be read, and of a loss that is no longer finite.
        remedy: what to do about such a loss.
    """
    place = torch_device(device)
    keeper = keeper or NoCheckpoints()
    watcher = _Watcher(fingerprint, lesson, keeper, progress, watched, lambda told: error(f"{told}; {remedy}"))
    earlier = keeper.load()
    if earlier is not None and not _is_of(earlier, fingerprint, error):
        earlier = None
    with _quiet_lightning():
        trainer = lightning.Trainer(
            accelerator="gpu" if place.type == "cuda" else "cpu",
            devices=1,
            precision="bf16-mixed" if place.type == "cuda" and lesson.course.precision == "bfloat16" else "32-true",
            max_epochs=lesson.course.epochs,
            reload_dataloaders_every_n_epochs=1,
            callbacks=[watcher],
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        # The state is a file of our own keeper and holds tensors and plain values alone.
        trainer.fit(lesson, ckpt_path=earlier, weights_only=True)
    _laid_out(lesson.network.cpu(), torch.contiguous_format).eval()
    return CourseRun(tuple(watcher.history), watcher.resumed_after)


def _laid_out(network: nn.Module, layout: torch.memory_format) -> nn.Module:
    """`network` with its convolutions' weights laid out in memory as `layout`."""
    return network.to(memory_format=layout)  # type: ignore[call-overload]


class _Watcher(lightning.Callback):
    """Sums up each epoch, has its state kept, then tells of it."""

    def __init__(
        self,
        fingerprint: str,
        lesson: Lesson,
        keeper: CheckpointKeeper,
        progress: Callable[[EpochReport], None] | None,
        watched: Callable[[], float] | None,
        failed: Callable[[str], GlrError],
    ) -> None:
        self.fingerprint, self.network, self.epochs = fingerprint, lesson.network, lesson.course.epochs
        self.keeper, self.progress, self.watched, self.failed = keeper, progress, watched, failed
        self.history: list[EpochReport] = []
        self.resumed_after = 0
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
            raise self.failed(f"training: the loss of epoch {epoch} is {loss}, expected a number")
        every = max(1, self.epochs // WATCHES)
        report = EpochReport(
            epoch=epoch,
            epochs=self.epochs,
            loss=loss,
            validation_top1=self._top1() if epoch % every == 0 or epoch == self.epochs else None,
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

    def _top1(self) -> float | None:
        if self.watched is None:
            return None
        self.network.eval()
        try:
            return self.watched()
        finally:
            self.network.train()


def fingerprint_of(
    parts: Sequence[TrainingSet], recipe: Section, seed: int, data_version: str, augmentation: Augmentation
) -> str:
    """What a state must be of for a run to go on from it: photographs, recipe, seed, data and augmentation."""
    return digest_of(
        {
            "photographs": [sorted(zip(part.ids, part.landmark_ids, strict=True)) for part in parts],
            "recipe": recipe.model_dump(mode="json"),
            "seed": seed,
            "data_version": data_version,
            "augmentation": asdict(augmentation),
        }
    )


def _is_of(path: Path, fingerprint: str, kind: type[GlrError]) -> bool:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        raise kind(
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
