"""Which photographs an epoch shows, and which of them together: the same for a seed and epoch, whatever came before.

Both ways give an epoch the same number of batches, n // batch_size for n photographs and at least one, so that a
schedule counted in steps fits either. A last batch that would not be full is left out: its statistics would be poor.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from glr_assets.recipes import Learning
from glr_assets.seeded import derived_seed


@dataclass(frozen=True)
class Draw:
    """One photograph of a batch."""

    id: str
    class_number: int
    repeat: int = 0
    """how often the epoch has shown it before; each time it is varied otherwise"""


Batches = list[list[Draw]]
Item = TypeVar("Item", int, str)


def batches_of(ids: Sequence[str], classes: Sequence[int], course: Learning, *, seed: int, epoch: int) -> Batches:
    """The batches of an epoch as the course's `sampling` has them; the order of `ids` counts for nothing.

    Args:
        ids: photographs, each once.
        classes: the class number of each.
        course: `sampling`, `batch_size` and `per_landmark`.
        seed: of the training.
        epoch: counted from 0.
    """
    how = balanced if course.sampling == "balanced" else shuffled
    return how(ids, classes, course, seed=seed, epoch=epoch)


def shuffled(ids: Sequence[str], classes: Sequence[int], course: Learning, *, seed: int, epoch: int) -> Batches:
    """Every photograph at most once, in a seeded order."""
    size = course.batch_size
    pairs = sorted(zip(ids, classes, strict=True), key=lambda p: (derived_seed("order", seed, epoch, p[0]), p))
    draws = [Draw(image_id, number) for image_id, number in pairs]
    return [draws[first * size : (first + 1) * size] for first in range(_count(draws, size))]


def balanced(ids: Sequence[str], classes: Sequence[int], course: Learning, *, seed: int, epoch: int) -> Batches:
    """P classes of K photographs each a batch (Hermans et al. 2017, arXiv 1703.07737), every class as often.

    K is `per_landmark` and P as many as a batch then holds; where there are fewer classes, a batch has all of them
    and more of each. Classes come in seeded rounds, each once a round, and so do a class's photographs: a class
    that has fewer than K shows some of them again.
    """
    members: dict[int, list[str]] = {}
    for image_id, number in zip(ids, classes, strict=True):
        members.setdefault(number, []).append(image_id)
    together = min(course.batch_size // course.per_landmark, len(members))
    of_each = course.batch_size // together
    numbers = _in_turn(members, together, "round of classes", seed, epoch)
    images = {
        number: _in_turn(own, min(of_each, len(own)), "round of images", seed, epoch) for number, own in members.items()
    }
    return [
        [
            Draw(image_id, number, repeat)
            for number in [next(numbers)[0] for _ in range(together)]
            for image_id, repeat in [next(images[number]) for _ in range(of_each)]
        ]
        for _ in range(_count(ids, course.batch_size))
    ]


def _count(items: Sequence[object], batch_size: int) -> int:
    return max(1, len(items) // batch_size)


def _in_turn(items: Iterable[Item], together: int, *purpose: object) -> Iterator[tuple[Item, int]]:
    """(item, how often it came before) without end, each item once a round, in an order seeded by `purpose`.

    Of each `together` that follow one another, counted from the first, none is twice; there are as many items.
    """
    everything = sorted(items)
    shown: Counter[Item] = Counter()
    waiting: list[Item] = []
    turn = 0
    while True:
        turn += 1
        order = sorted(everything, key=lambda item: (derived_seed(*purpose, turn, item), item))
        # What still waits of the round before goes first, and comes last in this one.
        first = set(waiting)
        waiting += [item for item in order if item not in first] + [item for item in order if item in first]
        while len(waiting) >= together:
            for item in waiting[:together]:
                yield item, shown[item]
                shown[item] += 1
            del waiting[:together]
