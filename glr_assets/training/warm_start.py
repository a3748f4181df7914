"""A warm start: a backbone learns from photographs without their labels before it is trained with them.

SimSiam (Chen and He 2021, arXiv 2011.10566): of two variations of a photograph each must tell the other's projection,
whose gradient is stopped. Nothing but that stop keeps all outputs from becoming one, so it is watched.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

# This module is imported only by functions that train a network.
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from glr_assets.errors import EmbedderError
from glr_assets.recipes import Embedder
from glr_assets.seeded import derived_seed
from glr_assets.training.backbones import pooled, widths
from glr_assets.training.lesson import EpochReport, Lesson
from glr_assets.training.photographs import Augmentation, TrainingSet, normalised
from glr_assets.training.trainer import Device, run_lesson
from glr_assets.training.training_state import CheckpointKeeper

# As the authors have it, but for blur: crops down to a fifth of the picture, colour gone from a fifth of them.
VIEWS = Augmentation(area=0.2, colour=0.4, grey=0.2, erase=0.0)
# The authors' collapsed runs are at 0 and their others near 1 (figure 2, times the root of the dimensions).
LEAST_SPREAD = 0.1


class SimSiam(nn.Module):
    """Two variations of each photograph → each one's guess of the other's projection, and the projections.

    The projection is as wide as the backbone's features and the guess goes through a quarter of that: 2048 and 512 for
    a ResNet-50, as published.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        (width,) = widths(backbone)
        self.project = nn.Sequential(
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width),
            nn.ReLU(inplace=True),
            nn.Linear(width, width, bias=False),
            nn.BatchNorm1d(width, affine=False),
        )
        self.predict = nn.Sequential(
            nn.Linear(width, width // 4, bias=False),
            nn.BatchNorm1d(width // 4),
            nn.ReLU(inplace=True),
            nn.Linear(width // 4, width),
        )

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """(guesses, projections), each float32 [2B, width], for normalised RGB [2B, 3, H, W], one variation first."""
        projections = self.project(pooled(self.backbone, pixels))
        return self.predict(projections).float(), projections.float()


def agreement_loss(guesses: Tensor, projections: Tensor) -> Tensor:
    """Mean negative cosine of each guess to the projection of the other variation, which learns nothing from it.

    Both are [2B, D], the B first rows one variation of each photograph and the others the other.
    """
    others = projections.roll(len(projections) // 2, dims=0).detach()
    return -F.cosine_similarity(guesses, others, dim=1).mean()


def spread_of(projections: Tensor) -> Tensor:
    """Mean deviation of each dimension of [n, D] projections of unit length, times the root of D.

    Chen and He's measure of collapse, section 4.1: 1 where projections point in all directions alike, 0 where all are
    the same.
    """
    unit = F.normalize(projections)
    return unit.std(dim=0, correction=0).mean() * math.sqrt(unit.shape[1])


@dataclass(frozen=True)
class WarmStart:
    """How a warm start went."""

    history: tuple[EpochReport, ...]
    resumed_after: int
    """epochs taken over from an earlier, killed run"""


def warm_start(
    backbone: nn.Module,
    photographs: TrainingSet,
    recipe: Embedder,
    *,
    seed: int,
    device: Device = "auto",
    processes: int = 1,
    workers: int = 0,
    keeper: CheckpointKeeper | None = None,
    progress: Callable[[EpochReport], None] | None = None,
    fingerprint: str,
    cache_bytes: int,
) -> WarmStart:
    """Let `backbone` learn from photographs as they are, in place; it is then on the CPU.

    Args:
        backbone: of the recipe.
        photographs: what it learns from; their landmarks count for nothing.
        recipe: `warm_start_epochs` and `warm_start_learning_rate`; the rest as the training has it.
        seed: decides the first weights of what is beside the backbone, the order and the variations.
        device: where it runs.
        processes: of this machine, that share each batch.
        workers: threads of each that decode and vary photographs.
        keeper: given the whole state after each epoch, asked for it at the start.
        progress: told of each epoch.
        fingerprint: what a kept state must be of for the warm start to go on from it.
        cache_bytes: most memory for decoded photographs.

    Raises:
        EmbedderError: outputs that have become one, a loss that is no number, or memory that does not suffice.
    """
    course = recipe.model_copy(
        update={
            "epochs": recipe.warm_start_epochs,
            "learning_rate": recipe.warm_start_learning_rate,
            "sampling": "shuffled",
            "averaging": 0.0,
        }
    )
    lesson = _Lesson(
        photographs.ids,
        [0] * len(photographs),
        photographs.read,
        course,
        seed=derived_seed("warm start", seed),
        workers=workers,
        cache_bytes=cache_bytes,
        augmentation=VIEWS,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(lesson.seed)
        lesson.network = SimSiam(backbone).train()
    run = run_lesson(
        lesson,
        device=device,
        processes=processes,
        fingerprint=fingerprint,
        keeper=keeper,
        progress=progress,
        watched=None,
        error=EmbedderError,
        remedy="lower [embedder] warm_start_learning_rate",
        remedy_of_memory="lower [embedder] batch_size and raise accumulate as much, or lower image_size",
    )
    return WarmStart(run.history, run.resumed_after)


class _Lesson(Lesson[SimSiam]):
    """The network under the agreement of two variations."""

    part = "warm start"
    views = 2

    def on_train_epoch_start(self) -> None:
        self._spreads: list[Tensor] = []

    def batch_loss(self, pixels: Tensor, numbers: Tensor, batch_idx: int) -> Tensor:
        guesses, projections = self.network(normalised(pixels))
        # Outside autocast: lengths and cosines of bfloat16 are coarse.
        with torch.autocast(self.device.type, enabled=False):
            self._spreads.append(spread_of(projections.detach()))
            return agreement_loss(guesses, projections)

    def spread(self) -> Tensor:
        return torch.stack(self._spreads).mean()

    def fault(self, report: EpochReport) -> str | None:
        if report.spread is None or report.spread >= LEAST_SPREAD:
            return None
        return (
            f"warm start: after epoch {report.epoch} of {report.epochs} all photographs look alike to the network "
            f"(spread {report.spread:.3f}, expected {LEAST_SPREAD} to 1); lower [embedder] warm_start_learning_rate, "
            "raise batch_size, or set warm_start_epochs = 0"
        )
