"""Training an embedder: its network under a margin head, watched by nearest neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

# This module is imported only by functions that train a network.
import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from glr_assets.errors import EmbedderError
from glr_assets.recipes import Embedder
from glr_assets.seeded import derived_seed
from glr_assets.training.centres import ClassCentres
from glr_assets.training.embedding import embed, torch_device
from glr_assets.training.held_out import Floats, asked_and_compared, share_right
from glr_assets.training.lesson import EpochReport, Lesson
from glr_assets.training.margin import SubCentreArcFace, class_margins
from glr_assets.training.model import EmbeddingNetwork, initial
from glr_assets.training.photographs import CACHE_BYTES, Augmentation, TrainingSet, normalised
from glr_assets.training.trainer import Device, run_lesson
from glr_assets.training.training_state import CheckpointKeeper, NoCheckpoints, fingerprint_of, kept_state
from glr_assets.training.warm_start import warm_start


@dataclass(frozen=True)
class Fitted:
    """A trained network, on the CPU and ready to embed, and how it got there."""

    network: EmbeddingNetwork
    history: tuple[EpochReport, ...]
    centres: ClassCentres
    """those of the head's landmarks, all that it learned"""
    resumed_after: int
    """epochs taken over from an earlier, killed run"""


def fit(
    training: TrainingSet,
    validation: TrainingSet | None,
    recipe: Embedder,
    *,
    seed: int,
    device: Device = "auto",
    processes: int = 1,
    workers: int = 0,
    keeper: CheckpointKeeper | None = None,
    progress: Callable[[EpochReport], None] | None = None,
    data_version: str = "",
    cache_bytes: int = CACHE_BYTES,
    augmentation: Augmentation | None = None,
) -> Fitted:
    """Train the network of `recipe` on `training`, after a warm start of its backbone where the recipe has one.

    Args:
        training: photographs that train; every landmark in it is a class.
        validation: held-out photographs that are only watched; None or empty where there are none.
        recipe: the [embedder] table.
        seed: decides the first weights, the order of the photographs and their variations.
        device: where the network runs; auto takes a GPU if there is one.
        processes: of this machine, that share each batch; on GPUs each has one of its own.
        workers: threads that decode and vary photographs; 0 does it between the steps.
        keeper: given the whole state after each epoch, asked for it at the start. A state of another
            recipe, seed, set of photographs or `data_version` is not resumed from.
        progress: told of each epoch, the warm start's too, after its state is kept.
        data_version: the version of what `training.read` reads, where the same ids can come to differ.
        cache_bytes: most memory for decoded photographs.
        augmentation: how far training pictures are varied.

    Raises:
        EmbedderError: fewer than two landmarks, a photograph that cannot be decoded, weights that cannot be
            had, no such device, a loss that is no longer finite, a warm start whose outputs have become one, or
            memory that does not suffice.
    """
    place = torch_device(device)
    classes = tuple(sorted(set(training.landmark_ids)))
    if len(classes) < 2 or len(training) < 2:
        raise EmbedderError(
            f"training: found {len(training)} photographs of {len(classes)} landmarks, expected two landmarks "
            "or more; choose another [training] manifest"
        )
    how = augmentation or Augmentation()
    keeper = keeper or NoCheckpoints()
    threads = max(1, workers // processes) if workers else 0
    lesson = _Lesson(training, classes, recipe, seed, threads, cache_bytes, how)
    parts = [training] if validation is None else [training, validation]
    fingerprint = fingerprint_of(parts, recipe, seed, data_version, how)
    if recipe.warm_start_epochs and kept_state(keeper, fingerprint, EmbedderError) is None:
        warm_start(
            lesson.network.backbone,
            training,
            recipe,
            seed=seed,
            device=device,
            processes=processes,
            workers=threads,
            keeper=keeper,
            progress=progress,
            fingerprint=fingerprint_of(parts, recipe, seed, data_version, how, "warm start"),
            cache_bytes=cache_bytes,
        )
        lesson.network.train()
    asked, compared = asked_and_compared(training, validation or training.of((), ()))

    def share_told_right(network: EmbeddingNetwork) -> float:
        def embedded(images: Iterable[bytes]) -> Floats:
            size, batch = recipe.image_size, recipe.batch_size
            return embed(network, images, size, batch_size=batch, device=place.type, workers=workers)

        return share_right(embedded, asked, compared)

    run = run_lesson(
        lesson,
        device=device,
        processes=processes,
        fingerprint=fingerprint,
        keeper=keeper,
        progress=progress,
        watched=share_told_right if len(asked) else None,
        error=EmbedderError,
        remedy="lower [embedder] learning_rate or scale, or set clip",
        remedy_of_memory="lower [embedder] batch_size and raise accumulate as much, or lower image_size",
    )
    centres = ClassCentres(np.array(classes, np.int64), lesson.head.centres().cpu().numpy())
    return Fitted(run.network, run.history, centres, run.resumed_after)


class _Lesson(Lesson[EmbeddingNetwork]):
    """The network and its head."""

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

    def batch_loss(self, pixels: Tensor, numbers: Tensor, batch_idx: int) -> Tensor:
        ramp = self.recipe.margin_ramp * self.recipe.epochs
        share = min(1.0, self.current_epoch / ramp) if ramp else 1.0
        embeddings = self.network(normalised(pixels))
        # Outside autocast: a margin of some hundredths is lost in bfloat16's cosines.
        with torch.autocast(self.device.type, enabled=False):
            return F.cross_entropy(self.head(embeddings.float(), numbers, share), numbers)
