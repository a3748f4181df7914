"""Training an embedder: its network under a margin head, watched by nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

# This module is imported only by functions that train a network.
import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from glr_assets.errors import EmbedderError
from glr_assets.recipes import Embedder
from glr_assets.seeded import derived_seed
from glr_assets.training.embedder import embed, torch_device
from glr_assets.training.margin import SubCentreArcFace, class_margins
from glr_assets.training.model import EmbeddingNetwork, initial
from glr_assets.training.photographs import CACHE_BYTES, Augmentation, TrainingSet, normalised
from glr_assets.training.trainer import (
    CheckpointKeeper,
    Device,
    EpochReport,
    Lesson,
    fingerprint_of,
    run_lesson,
)

# Watching costs forward passes, so it is done on no more images than this.
WATCHED_IMAGES = 2000
WATCHED_NEIGHBOURS = 5


@dataclass(frozen=True)
class Fitted:
    """A trained network, on the CPU and ready to embed, and how it got there."""

    network: EmbeddingNetwork
    history: tuple[EpochReport, ...]
    landmark_ids: tuple[int, ...]
    """the landmarks it learned, ascending"""
    resumed_after: int
    """epochs taken over from an earlier, killed run"""


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
    how = augmentation or Augmentation()
    lesson = _Lesson(training, classes, recipe, seed, workers, cache_bytes, how)
    parts = [training] if validation is None else [training, validation]
    compared = _watched(training, validation)
    run = run_lesson(
        lesson,
        device=device,
        fingerprint=fingerprint_of(parts, recipe, seed, data_version, how),
        keeper=keeper,
        progress=progress,
        watched=None if compared is None else lambda: _top1(lesson.network, *compared, recipe, place, workers),
        error=EmbedderError,
        remedy="lower [embedder] learning_rate or scale",
    )
    return Fitted(lesson.network, run.history, classes, run.resumed_after)


class _Lesson(Lesson):
    """The network and its head."""

    network: EmbeddingNetwork

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
        number = {landmark: position for position, landmark in enumerate(classes)}
        numbers = [number[landmark] for landmark in training.landmark_ids]
        super().__init__(
            training.ids,
            numbers,
            training.read,
            recipe,
            seed=seed,
            workers=workers,
            cache_bytes=cache_bytes,
            augmentation=augmentation,
        )
        self.recipe = recipe
        self.network = initial(recipe, seed)
        sizes = np.bincount(numbers, minlength=len(classes)).tolist()
        margins = class_margins(sizes, margin_size=recipe.margin_size, margin_base=recipe.margin_base)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("head", seed))
            self.head = SubCentreArcFace(recipe.dimensions, margins, sub_centers=recipe.sub_centers, scale=recipe.scale)

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        pixels, targets = batch
        ramp = self.recipe.margin_ramp * self.recipe.epochs
        share = min(1.0, self.current_epoch / ramp) if ramp else 1.0
        embeddings = self.network(normalised(pixels))
        # Outside autocast: a margin of some hundredths is lost in bfloat16's cosines.
        with torch.autocast(self.device.type, enabled=False):
            return F.cross_entropy(self.head(embeddings.float(), targets, share), targets)


def _top1(
    network: EmbeddingNetwork,
    known: TrainingSet,
    asked: TrainingSet,
    recipe: Embedder,
    device: torch.device,
    workers: int,
) -> float:
    """Share of `asked` whose nearest photograph of `known` shows the same landmark."""

    def embedded(part: TrainingSet) -> Any:
        images = map(part.read, part.ids)
        return embed(
            network, images, recipe.image_size, batch_size=recipe.batch_size, device=device.type, workers=workers
        )

    nearest = np.argmax(embedded(asked) @ embedded(known).T, axis=1)
    return float(np.mean(np.array(known.landmark_ids)[nearest] == np.array(asked.landmark_ids)))


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
