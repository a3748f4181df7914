"""What any training here is made of: a network, the batches of each epoch, an optimiser and its schedule."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

# This module is imported only by functions that train a network.
import lightning  # noqa: TID253
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn  # noqa: TID253

from glr_assets.recipes import Learning
from glr_assets.training.photographs import Augmentation, EpochBatches, Pictures, ReadAhead
from glr_assets.training.processes import Team
from glr_assets.training.samplers import Batches, batches_of

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
        read_ahead: ReadAhead | None = None,
    ) -> None:
        super().__init__()
        self.ids, self.numbers, self.course = ids, numbers, course
        self.seed, self.workers, self.augmentation = seed, workers, augmentation
        self.pictures = Pictures(read, course.image_size, cache_bytes, read_ahead)
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
            laid_out(self.network, torch.channels_last)

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


def laid_out(network: nn.Module, layout: torch.memory_format) -> nn.Module:
    """`network` with its convolutions' weights laid out in memory as `layout`."""
    return network.to(memory_format=layout)  # type: ignore[call-overload]
