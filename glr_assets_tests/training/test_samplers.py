"""Samplers: what an epoch shows, by counting it."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.recipes import Learning
from glr_assets.training.samplers import Draw, balanced, batches_of, shuffled


def photographs(sizes: list[int]) -> tuple[list[str], list[int]]:
    pairs = [(f"{number}-{n}", number) for number, size in enumerate(sizes) for n in range(size)]
    return [i for i, _ in pairs], [c for _, c in pairs]


SIZES = st.lists(st.integers(1, 9), min_size=1, max_size=9)


@given(SIZES, st.integers(2, 12), st.integers(0, 3), st.randoms(use_true_random=False))
def test_shuffled_shows_each_photograph_at_most_once_and_fills_its_batches(
    sizes: list[int], batch_size: int, epoch: int, shuffle: random.Random
) -> None:
    ids, classes = photographs(sizes)
    course = Learning(batch_size=batch_size)
    batches = shuffled(ids, classes, course, seed=1, epoch=epoch)
    shown = [draw for batch in batches for draw in batch]
    assert len({draw.id for draw in shown}) == len(shown)
    assert all(f"{draw.class_number}-" == draw.id[: draw.id.index("-") + 1] and not draw.repeat for draw in shown)
    if len(ids) >= batch_size:
        assert {len(batch) for batch in batches} == {batch_size}
        assert len(ids) - len(shown) < batch_size
    else:
        assert len(shown) == len(ids)
    order = list(range(len(ids)))
    shuffle.shuffle(order)
    again = shuffled([ids[n] for n in order], [classes[n] for n in order], course, seed=1, epoch=epoch)
    assert again == batches


@given(SIZES, st.integers(2, 12), st.integers(1, 6), st.integers(0, 3), st.randoms(use_true_random=False))
def test_balanced_has_as_many_of_each_class(
    sizes: list[int], batch_size: int, per_landmark: int, epoch: int, shuffle: random.Random
) -> None:
    ids, classes = photographs(sizes)
    course = Learning(batch_size=batch_size, per_landmark=min(per_landmark, batch_size // 2), sampling="balanced")
    batches = balanced(ids, classes, course, seed=1, epoch=epoch)
    assert len(batches) == len(shuffled(ids, classes, course, seed=1, epoch=epoch))
    together = min(batch_size // course.per_landmark, len(sizes))
    for batch in batches:
        counts = Counter(draw.class_number for draw in batch)
        assert len(counts) == together
        assert set(counts.values()) == {batch_size // together}
        # A photograph comes twice in a batch only where its class has too few.
        for number, count in counts.items():
            own = Counter(draw.id for draw in batch if draw.class_number == number)
            if count <= sizes[number]:
                assert len(own) == count
    # Over the epoch no class is shown more often than another, but for the rounds that are under way.
    classes_shown = Counter(dict.fromkeys(range(len(sizes)), 0))
    classes_shown.update(number for batch in batches for number in {draw.class_number for draw in batch})
    assert max(classes_shown.values()) - min(classes_shown.values()) <= 2
    draws = [draw for batch in batches for draw in batch]
    looks = Counter(draw.id for draw in draws)
    for image_id, count in looks.items():
        assert sorted(draw.repeat for draw in draws if draw.id == image_id) == list(range(count))
    order = list(range(len(ids)))
    shuffle.shuffle(order)
    again = balanced([ids[n] for n in order], [classes[n] for n in order], course, seed=1, epoch=epoch)
    assert again == batches


def test_epochs_and_seeds_differ() -> None:
    ids, classes = photographs([6] * 6)
    for sampling in ("shuffled", "balanced"):
        course = Learning(batch_size=12, sampling=sampling)
        first = batches_of(ids, classes, course, seed=1, epoch=0)
        assert first != batches_of(ids, classes, course, seed=1, epoch=1)
        assert first != batches_of(ids, classes, course, seed=2, epoch=0)
        assert first == batches_of(ids, classes, course, seed=1, epoch=0)


def test_a_large_class_crowds_out_no_small_one() -> None:
    ids, classes = photographs([400, 4, 4, 4])
    course = Learning(batch_size=8, per_landmark=2)
    for how, expected in (("shuffled", 400 / 412), ("balanced", 1 / 4)):
        batches = batches_of(ids, classes, course.model_copy(update={"sampling": how}), seed=0, epoch=0)
        share = sum(draw.class_number == 0 for batch in batches for draw in batch) / sum(map(len, batches))
        assert share == pytest.approx(expected, abs=0.01)


def test_a_draw_is_told_apart_by_its_repeats() -> None:
    ids, classes = photographs([1, 3])
    course = Learning(batch_size=8, per_landmark=4, sampling="balanced")
    (batch,) = balanced(ids, classes, course, seed=0, epoch=0)
    assert {draw for draw in batch if draw.class_number == 0} == {Draw("0-0", 0, repeat) for repeat in range(4)}


@pytest.mark.parametrize(
    ("start", "size", "epochs", "expected"),
    [
        (None, 128, 3, [128] * 3),
        (64, 128, 5, [64, 96, 96, 128, 128]),
        (64, 128, 6, [64, 64, 96, 96, 128, 128]),
        (64, 128, 1, [128]),
        (128, 128, 2, [128, 128]),
    ],
)
def test_pictures_grow_to_their_size(start: int | None, size: int, epochs: int, expected: list[int]) -> None:
    course = Learning(start_size=start, image_size=size, epochs=epochs)
    assert [course.size_of(epoch) for epoch in range(epochs)] == expected


@given(st.integers(1, 8), st.integers(0, 8), st.integers(1, 40), st.sampled_from(["resnet-tiny", "dinov2-mini"]))
def test_sizes_rise_by_what_the_backbone_divides_by(start: int, more: int, epochs: int, backbone: str) -> None:
    step = 32 if backbone == "resnet-tiny" else 14
    course = Learning(
        backbone=backbone, start_size=(start + 1) * step, image_size=(start + 1 + more) * step, epochs=epochs
    )
    sizes = [course.size_of(epoch) for epoch in range(epochs)]
    assert sizes == sorted(sizes)
    assert sizes[-1] == course.image_size
    assert all(size % step == 0 and size >= course.start_size for size in sizes)
    counts = Counter(sizes)
    if epochs > more:
        assert len(counts) == more + 1
        assert max(counts.values()) - min(counts.values()) <= 1


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"start_size": 100, "image_size": 128}, "start_size = 100, expected a multiple of 32"),
        ({"start_size": 64, "image_size": 100}, "image_size = 100, expected a multiple of 32"),
        ({"start_size": 160, "image_size": 128}, "start_size = 160 is more than image_size = 128"),
        ({"sampling": "balanced", "batch_size": 8, "per_landmark": 5}, "at most half of batch_size = 8"),
    ],
)
def test_what_does_not_fit_together_is_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        Learning.model_validate(values)
