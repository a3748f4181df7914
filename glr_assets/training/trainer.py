"""How any network here is trained: lightning drives the epochs, a keeper holds the state that a run resumes from.

What belongs here: epochs, batches, the optimiser and its schedule, what is kept of them and told. What a network is
and what its loss is, is its own module's.

On a CPU the result is a function of the photographs, the recipe and the seed for one number of torch
threads: interrupted and resumed or not, with any number of decoding threads, in any order of the ids.
"""

from __future__ import annotations

import logging
import math
import pickle
import tempfile
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

# This module is imported only by functions that train a network.
import lightning  # noqa: TID253
import torch  # noqa: TID253
from lightning.pytorch.plugins import TorchSyncBatchNorm  # noqa: TID253
from lightning.pytorch.strategies import DDPStrategy  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: TID253

from glr_assets.errors import GlrError
from glr_assets.receipts import digest_of
from glr_assets.recipes import Learning
from glr_assets.training.embedder import torch_device
from glr_assets.training.photographs import Augmentation, EpochBatches, Pictures, TrainingSet
from glr_assets.training.processes import HelpersError, Team, TeamEnvironment, WholeBatchNorms, team_of
from glr_assets.training.samplers import Batches, batches_of

# Watching costs forward passes, so it is done about this often.
WATCHES = 10
# A loss that is no number is noticed after so many batches; each look waits for the device.
LOOKS_EVERY = 100

Device = Literal["auto", "cpu", "cuda"]
Network = TypeVar("Network", bound=nn.Module)


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
    part: Literal["warm start", "training"] = "training"
    spread: float | None = None
    """of a warm start: 1 where outputs go in all directions alike, 0 where all are the same"""


@dataclass(frozen=True)
class CourseRun(Generic[Network]):
    """How a training went."""

    network: Network
    """what is kept, on the CPU and ready to use"""
    history: tuple[EpochReport, ...]
    resumed_after: int
    """epochs taken over from an earlier, killed run"""


class CheckpointKeeper(Protocol):
    """Where the state of a training outlives its process."""

    @property
    def where(self) -> str:
        """What a user finds it by."""

    def save(self, path: Path) -> None:
        """Keep the file at `path` as the latest state, whole or not at all; the path is gone afterwards."""

    def load(self) -> Path | None:
        """A local file of the latest state, or None."""


class NoCheckpoints:
    """Keeps nothing: a killed training starts again."""

    where = "nowhere"

    def save(self, path: Path) -> None:
        """Let `path` go."""

    def load(self) -> Path | None:
        """There never is an earlier state."""
        return None


class Lesson(lightning.LightningModule, Generic[Network], ABC):
    """A network, the batches of each epoch and the optimiser; a subclass says what the loss of a batch is.

    A subclass sets `network`, and any module beside it that learns, after this class is initialised.
    """

    network: Network
    part: Literal["warm start", "training"] = "training"
    views = 1
    """variations of each photograph in a batch"""

    def __init__(
        self,
        ids: Sequence[str],
        numbers: Sequence[int],
        read: Callable[[str], bytes],
        course: Learning,
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
        self.team = Team()
        # In a list, which torch does not look into: the average learns nothing and is of no state but its own.
        self._average: list[AveragedModel] = []
        self._weights: list[float] = []

    @abstractmethod
    def batch_loss(self, pixels: Tensor, numbers: Tensor, batch_idx: int) -> Tensor:
        """Mean loss of the batch's photographs.

        Args:
            pixels: uint8 [views · B, size, size, 3].
            numbers: class numbers int64 [B].
            batch_idx: the batch's place in the epoch.
        """

    def spread(self) -> Tensor | None:
        """The epoch's `EpochReport.spread`, of this process's photographs, on the device."""
        return None

    def fault(self, report: EpochReport) -> str | None:
        """What is wrong with an epoch, beside a loss that is no number; None where nothing is."""
        return None

    def batches(self, epoch: int) -> Batches:
        """What each batch of an epoch holds, of all processes together."""
        return batches_of(self.ids, self.numbers, self.course, seed=self.seed, epoch=epoch)

    @property
    def learnt(self) -> Network:
        """The network as it would be kept: the average of its weights where the course has one."""
        return self._average[0].module if self._average else self.network  # type: ignore[return-value]

    def train_dataloader(self) -> EpochBatches:
        """The batches of the current epoch, or this process's part of them."""
        found = EpochBatches(
            self.batches(self.current_epoch),
            self.pictures,
            size=self.course.size_of(self.current_epoch),
            seed=self.seed,
            epoch=self.current_epoch,
            workers=self.workers,
            augmentation=self.augmentation,
            views=self.views,
            part=(self.team.number, self.team.size),
        )
        self._weights = found.weights
        return found

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """The batch's loss, as it counts among those of all processes."""
        return self.batch_loss(*batch, batch_idx) * self._weights[batch_idx]

    def setup(self, stage: str) -> None:
        """Begin the average with the network as it is."""
        if self.course.averaging and not self._average:
            # Statistics of batch normalisation are averaged too: they belong to the weights.
            self._average.append(AveragedModel(self.network, multi_avg_fn=self._averaged, use_buffers=True))

    def on_fit_start(self) -> None:
        """Lay weights out as a GPU's convolutions take them fastest."""
        for average in self._average:
            average.to(self.device)
        if self.device.type == "cuda":
            _laid_out(self.network, torch.channels_last)

    def optimizer_step(self, *arguments: Any, **options: Any) -> None:
        """A step, which the average then takes note of."""
        super().optimizer_step(*arguments, **options)
        for average in self._average:
            average.update_parameters(self.network)

    def _averaged(self, averages: Any, values: Any, steps: Any) -> None:
        # Early on the decay is less, so that the first weights are soon forgotten (the rule of TensorFlow's
        # ExponentialMovingAverage).
        taken = float(steps)
        decay = min(self.course.averaging, (1 + taken) / (10 + taken))
        get_ema_multi_avg_fn(decay)(averages, values, steps)  # type: ignore[no-untyped-call]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the average beside the weights."""
        checkpoint["average"] = [average.state_dict() for average in self._average]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the average over."""
        for average, state in zip(self._average, checkpoint["average"], strict=True):
            average.load_state_dict(state)

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
        # Every epoch has as many batches; what is left of one for a step of its own is one.
        steps = math.ceil(len(self.batches(0)) / self.course.accumulate) * self.course.epochs
        # One-cycle: Smith and Topin 2019 (arXiv 1708.07120), cosine down to nearly nothing.
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.course.learning_rate, total_steps=max(2, steps), pct_start=self.course.warm_up
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def run_lesson(
    lesson: Lesson[Network],
    *,
    device: Device,
    processes: int = 1,
    fingerprint: str,
    keeper: CheckpointKeeper | None,
    progress: Callable[[EpochReport], None] | None,
    watched: Callable[[Network], float] | None,
    error: type[GlrError],
    remedy: str,
    remedy_of_memory: str,
) -> CourseRun[Network]:
    """Train the lesson's network, from the kept state on where there is one.

    Args:
        lesson: what is trained.
        device: where it runs; auto takes a GPU if there is one.
        processes: of this machine, that share each batch; on GPUs each has one of its own.
        fingerprint: what a kept state must be of for the training to go on from it.
        keeper: given the whole state after each epoch, asked for it at the start.
        progress: told of each epoch, after its state is kept.
        watched: the share of held-out photographs that a network tells right.
        error: raised where the training cannot go on; the text says why, and where the last good state is.
        remedy: what to do about a loss that is no longer finite.
        remedy_of_memory: what to do where memory does not suffice.
    """
    place = torch_device(device)
    keeper = keeper or NoCheckpoints()
    _check_team(lesson, processes, place, error)
    earlier = kept_state(keeper, fingerprint, error)
    watcher = _Watcher(fingerprint, lesson, keeper, progress, watched, error, remedy)
    work = _Work(lesson, place, fingerprint, earlier, error, remedy)
    try:
        with _quiet_lightning(), team_of(processes, place, _helped, work) as team:
            _train(work, team, watcher)
    except (MemoryError, RuntimeError) as wrong:
        if not _is_of_memory(wrong):
            raise
        reason = (str(wrong).strip() or type(wrong).__name__).splitlines()[0]
        raise error(
            f"training: memory did not suffice in epoch {len(watcher.history) + 1} ({reason}); {remedy_of_memory}; "
            f"{watcher.last_good()}"
        ) from wrong
    except HelpersError as wrong:
        raise error(
            f"training: {wrong}; where that was for want of memory, {remedy_of_memory}; {watcher.last_good()}"
        ) from wrong
    _laid_out(lesson.learnt.cpu(), torch.contiguous_format).eval()
    return CourseRun(lesson.learnt, tuple(watcher.history), watcher.resumed_after)


@dataclass(frozen=True)
class _Work:
    """What every process of a training is given."""

    lesson: Lesson[Any]
    place: torch.device
    fingerprint: str
    earlier: Path | None
    error: type[GlrError]
    remedy: str


def _helped(team: Team, work: _Work) -> None:
    """A helper's whole work: nothing of it is kept or told."""
    watcher = _Watcher(work.fingerprint, work.lesson, NoCheckpoints(), None, None, work.error, work.remedy)
    with _quiet_lightning():
        _train(work, team, watcher)


def _train(work: _Work, team: Team, watcher: _Watcher[Any]) -> None:
    course, on_gpu = work.lesson.course, work.place.type == "cuda"
    several: dict[str, Any] = {}
    if team.size > 1:
        several = {
            "strategy": DDPStrategy(),
            "plugins": [TeamEnvironment(team), TorchSyncBatchNorm() if on_gpu else WholeBatchNorms()],
        }
    work.lesson.team = team
    trainer = lightning.Trainer(
        accelerator="gpu" if on_gpu else "cpu",
        devices=team.size,
        precision="bf16-mixed" if on_gpu and course.precision == "bfloat16" else "32-true",
        max_epochs=course.epochs,
        accumulate_grad_batches=course.accumulate,
        gradient_clip_val=course.clip or None,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        callbacks=[watcher],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **several,
    )
    # The state is a file of our own keeper and holds tensors and plain values alone.
    trainer.fit(work.lesson, ckpt_path=work.earlier, weights_only=True)


def _check_team(lesson: Lesson[Any], processes: int, place: torch.device, error: type[GlrError]) -> None:
    if processes == 1:
        return
    least = min(len(batch) for batch in lesson.batches(0))
    if processes > least:
        raise error(
            f"[execution] processes = {processes}: the smallest batch has {least} photographs, one or more for each "
            "process are needed; set fewer processes, or a larger batch_size"
        )
    if place.type == "cuda" and processes > torch.cuda.device_count():
        raise error(
            f"[execution] processes = {processes}: each needs a GPU of its own, found {torch.cuda.device_count()}; "
            "set as many"
        )


def _is_of_memory(wrong: BaseException) -> bool:
    if isinstance(wrong, MemoryError | torch.OutOfMemoryError):
        return True
    # Torch's allocator of the CPU, and libraries below torch, tell it in words alone.
    return any(words in str(wrong) for words in ("not enough memory", "can't allocate memory", "out of memory"))


def _laid_out(network: nn.Module, layout: torch.memory_format) -> nn.Module:
    """`network` with its convolutions' weights laid out in memory as `layout`."""
    return network.to(memory_format=layout)  # type: ignore[call-overload]


class _Watcher(lightning.Callback, Generic[Network]):
    """Sums up each epoch, has its state kept, then tells of it."""

    def __init__(
        self,
        fingerprint: str,
        lesson: Lesson[Network],
        keeper: CheckpointKeeper,
        progress: Callable[[EpochReport], None] | None,
        watched: Callable[[Network], float] | None,
        error: type[GlrError],
        remedy: str,
    ) -> None:
        self.fingerprint, self.lesson, self.epochs = fingerprint, lesson, lesson.course.epochs
        self.keeper, self.progress, self.watched = keeper, progress, watched
        self.error, self.remedy = error, remedy
        self.history: list[EpochReport] = []
        self.resumed_after = 0
        self._losses: list[Tensor] = []
        self._started = self._rate = 0.0

    def last_good(self) -> str:
        """Where a run can go on from, in words."""
        if not self.history or isinstance(self.keeper, NoCheckpoints):
            return "no state of it is kept"
        return (
            f"its state after epoch {len(self.history)} is kept as {self.keeper.where}, from which a run of the same "
            "recipe goes on"
        )

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
        # Lightning gives the loss as it was divided among the batches of a step.
        self._losses.append(outputs["loss"].detach() * trainer.accumulate_grad_batches)
        if len(self._losses) % LOOKS_EVERY == 0:
            self._mean_loss(trainer, self._losses[-LOOKS_EVERY:])

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        epoch = trainer.current_epoch + 1
        loss, spread = self._mean_loss(trainer, self._losses), self.lesson.spread()
        every = max(1, self.epochs // WATCHES)
        report = EpochReport(
            epoch=epoch,
            epochs=self.epochs,
            loss=loss,
            validation_top1=self._top1() if epoch % every == 0 or epoch == self.epochs else None,
            learning_rate=self._rate,
            seconds=time.monotonic() - self._started,
            part=self.lesson.part,
            spread=None if spread is None else self._mean(trainer, spread),
        )
        wrong = self.lesson.fault(report)
        if wrong is not None:
            raise self.error(f"{wrong}; {self.last_good()}")
        self.history.append(report)
        with tempfile.TemporaryDirectory() as folder:
            state = Path(folder) / "training.ckpt"
            # All processes come here; process 0 alone writes.
            trainer.save_checkpoint(state)
            if trainer.is_global_zero:
                self.keeper.save(state)
        if self.progress is not None:
            self.progress(report)

    def _mean_loss(self, trainer: Any, losses: list[Tensor]) -> float:
        loss = self._mean(trainer, torch.stack(losses).double().mean())
        if not math.isfinite(loss):
            raise self.error(
                f"training: the loss of epoch {trainer.current_epoch + 1} is {loss}, expected a number; "
                f"{self.remedy}; {self.last_good()}"
            )
        return loss

    @staticmethod
    def _mean(trainer: Any, value: Tensor) -> float:
        """The mean of what each process has."""
        return float(trainer.strategy.reduce(value, reduce_op="mean"))

    def _top1(self) -> float | None:
        if self.watched is None:
            return None
        network = self.lesson.learnt.eval()
        try:
            return self.watched(network)
        finally:
            network.train()


def fingerprint_of(
    parts: Sequence[TrainingSet],
    recipe: Learning,
    seed: int,
    data_version: str,
    augmentation: Augmentation,
    part: Literal["warm start", "training"] = "training",
) -> str:
    """What a state must be of for a run to go on from it: photographs, recipe, seed, data and augmentation."""
    return digest_of(
        {
            "part": part,
            "photographs": [sorted(zip(part.ids, part.landmark_ids, strict=True)) for part in parts],
            "recipe": recipe.model_dump(mode="json"),
            "seed": seed,
            "data_version": data_version,
            "augmentation": asdict(augmentation),
        }
    )


def kept_state(keeper: CheckpointKeeper, fingerprint: str, kind: type[GlrError]) -> Path | None:
    """The kept state, where there is one and it is of that fingerprint.

    Raises:
        GlrError: of that `kind`; it cannot be read.
    """
    path = keeper.load()
    if path is None:
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    # Bytes that were changed fail in whatever reads them first.
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise kind(
            f"{path}: the kept state of the training cannot be read ({type(error).__name__}); "
            f"delete {keeper.where} and run again"
        ) from error
    return path if state.get("fingerprint") == fingerprint else None


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
            # Of convolutions of one pixel, whose layouts are all the same.
            warnings.filterwarnings("ignore", message="Grad strides do not match")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
