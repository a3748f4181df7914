"""How any network here is trained: lightning drives the epochs, a keeper holds the state that a run resumes from.

What a network and its loss are, is the lesson's; which state a run may go on from, `training_state`'s.

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
from typing import Any, Generic, Literal

# This module is imported only by functions that train a network.
import lightning  # noqa: TID253
import torch  # noqa: TID253
from lightning.pytorch.plugins import TorchSyncBatchNorm  # noqa: TID253
from lightning.pytorch.strategies import DDPStrategy  # noqa: TID253
from torch import Tensor  # noqa: TID253

from glr_assets.errors import GlrError
from glr_assets.training.embedding import torch_device
from glr_assets.training.lesson import EpochReport, Lesson, Network, laid_out
from glr_assets.training.processes import HelpersError, Team, TeamEnvironment, WholeBatchNorms, team_of
from glr_assets.training.training_state import CheckpointKeeper, NoCheckpoints, kept_state

# Watching costs forward passes, so it is done about this often.
WATCHES = 10
# A loss that is no number is noticed after so many batches; each look waits for the device.
LOOKS_EVERY = 100

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class CourseRun(Generic[Network]):
    """How a training went."""

    network: Network
    """what is kept, on the CPU and ready to use"""
    history: tuple[EpochReport, ...]
    resumed_after: int
    """epochs taken over from an earlier, killed run"""


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
    laid_out(lesson.learnt.cpu(), torch.contiguous_format).eval()
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
