"""What a model answers to photographs that were held out of its training, and how that depends on a landmark's images.

What belongs here: which photographs are asked, the nearest of those that trained, and shares right by class size.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glr_assets.seeded import derived_seed
from glr_assets.training.photographs import TrainingSet
from glr_assets.training.schemas import HELD_OUT_ANSWERS

Floats = npt.NDArray[np.float32]
#: Turns encoded images into float32 [n, D] of unit length, in their order.
Embed = Callable[[Iterable[bytes]], Floats]

#: Asking costs forward passes, so no more held-out photographs are asked, of so many that trained a landmark.
MOST_ASKED: Final = 2000
MOST_COMPARED: Final = 5
#: The fewest images of each range of class sizes.
CLASS_SIZES: Final = (1, 3, 6, 11, 21, 51, 101)


@dataclass(frozen=True)
class SizeFigure:
    """How well photographs of landmarks of like size are told.

    Attributes:
        fewest: images of a landmark that trained, at least.
        most: at most; None where there is no upper bound.
        landmarks: how many landmarks were asked of.
        images: how many photographs.
        right: share of them that were told right.
    """

    fewest: int
    most: int | None
    landmarks: int
    images: int
    right: float

    @property
    def range(self) -> str:
        """The class sizes in words, as `6–10`."""
        return range_of_size(self.fewest)


def asked_and_compared(training: TrainingSet, validation: TrainingSet) -> tuple[TrainingSet, TrainingSet]:
    """The held-out photographs that are asked, and those that trained which they are compared with.

    Compared are at most `MOST_COMPARED` of a landmark: of every landmark that is asked of, then of others as far as
    there is room. The choice depends on the ids and landmarks alone; both are empty where nothing can be compared.
    """

    def ordered(part: TrainingSet) -> list[tuple[str, int]]:
        return sorted(zip(part.ids, part.landmark_ids, strict=True), key=lambda p: (derived_seed("watched", p[0]), p))

    known = set(training.landmark_ids)
    asked = [pair for pair in ordered(validation) if pair[1] in known][:MOST_ASKED]
    of = {landmark for _, landmark in asked}
    counts: Counter[int] = Counter()
    first: list[tuple[str, int]] = []
    others: list[tuple[str, int]] = []
    for image_id, landmark in ordered(training) if asked else []:
        counts[landmark] += 1
        if counts[landmark] <= MOST_COMPARED:
            (first if landmark in of else others).append((image_id, landmark))
    return _of(validation, asked), _of(training, (first + others)[: MOST_COMPARED * MOST_ASKED])


def _of(part: TrainingSet, pairs: Sequence[tuple[str, int]]) -> TrainingSet:
    return part.of((i for i, _ in pairs), (c for _, c in pairs))


def held_out_answers(embed: Embed, training: TrainingSet, validation: TrainingSet) -> pa.Table:
    """The nearest trained photograph of each held-out one that is asked: rows of `HELD_OUT_ANSWERS`, sorted by id.

    Equal cosines go to the smaller id. There is no row where nothing is held out.

    Args:
        embed: the embedder.
        training: the photographs that trained.
        validation: those held out.
    """
    asked, compared = asked_and_compared(training, validation)
    if not len(asked):
        return HELD_OUT_ANSWERS.empty()
    sizes = Counter(training.landmark_ids)
    compared = _of(compared, sorted(zip(compared.ids, compared.landmark_ids, strict=True)))
    landmarks = np.array(compared.landmark_ids, np.int64)
    rows = []
    for image_id, landmark, found in zip(asked.ids, asked.landmark_ids, _cosines(embed, asked, compared), strict=True):
        best, own = int(found.argmax()), int(np.where(landmarks == landmark, found, -np.inf).argmax())
        rows.append(
            {
                "id": image_id,
                "landmark_id": landmark,
                "train_images": sizes[landmark],
                "answer": int(landmarks[best]),
                "nearest": compared.ids[best],
                "cosine": float(found[best]),
                "own_nearest": compared.ids[own],
                "own_cosine": float(found[own]),
            }
        )
    return HELD_OUT_ANSWERS.rows(sorted(rows, key=itemgetter("id")))


def share_right(embed: Embed, asked: TrainingSet, compared: TrainingSet) -> float:
    """Share of `asked` whose nearest photograph of `compared` shows the same landmark."""
    nearest = _cosines(embed, asked, compared).argmax(axis=1)
    return float(np.mean(np.array(compared.landmark_ids)[nearest] == np.array(asked.landmark_ids)))


def _cosines(embed: Embed, asked: TrainingSet, compared: TrainingSet) -> Floats:
    """[asked, compared], to four decimals, so that noise of the last bits decides nothing that an order can decide."""
    known = embed(compared.images())
    return np.round(embed(asked.images()) @ known.T, 4)


def range_of_size(images: int) -> str:
    """The range that a number of images of a landmark falls in, in words: `6–10`, `101+`, `0` where there is none."""
    place = bisect_right(CLASS_SIZES, images) - 1
    if place < 0:
        return "0"
    most = CLASS_SIZES[place + 1] - 1 if place + 1 < len(CLASS_SIZES) else None
    return f"{CLASS_SIZES[place]}+" if most is None else f"{CLASS_SIZES[place]}–{most}"


def by_class_size(
    landmark_ids: Sequence[int], train_images: Sequence[int], right: Sequence[bool]
) -> tuple[SizeFigure, ...]:
    """Shares right by images a landmark, of the ranges that have any, the smallest first.

    Args:
        landmark_ids: of each photograph.
        train_images: images of that landmark that trained, at least one each.
        right: whether it was told right.
    """
    number = np.searchsorted(np.array(CLASS_SIZES), np.asarray(train_images, np.int64), side="right") - 1
    shown, told = np.asarray(landmark_ids, np.int64), np.asarray(right, np.bool_)
    ends = [*(fewest - 1 for fewest in CLASS_SIZES[1:]), None]
    return tuple(
        SizeFigure(
            fewest=CLASS_SIZES[place],
            most=ends[place],
            landmarks=len(np.unique(shown[number == place])),
            images=int((number == place).sum()),
            right=float(told[number == place].mean()),
        )
        for place in sorted(set(number.tolist()))
    )
