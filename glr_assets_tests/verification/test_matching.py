"""Two images compared: each step against a plain computation of it, and the whole on features made by a known model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_limits

from glr_assets.verification import match_loops
from glr_assets.verification.features import MAX_DIMENSIONS, MAX_FEATURES, KeptFeatures
from glr_assets.verification.matching import (
    LEAST_MATCHES,
    LOOKED_AT,
    LOOSER,
    SIZE_FACTOR,
    TURN,
    Agreement,
    Matcher,
    Prepared,
)

RESIDUAL = 8.0
ORIENTED = Matcher(0.85, RESIDUAL, oriented=True)
MAGSAC = Matcher(0.85, RESIDUAL, oriented=False)
LIMITS = (RESIDUAL, True, math.log(SIZE_FACTOR), TURN)
#: Cosines are told apart to a millionth, of float32 values that are off by less.
STEP = 3e-6
seeds = st.integers(0, 2**32 - 1)


def codes_of(random: np.random.Generator, count: int, signed: bool = False, dimensions: int = 128) -> np.ndarray:
    """Codes that are much unlike one another: most of their values are nothing."""
    values = random.integers(-127 if signed else 0, 128 if signed else 256, (count, dimensions))
    return (values * (random.random((count, dimensions)) < 0.25)).astype(np.float32)


def spread(random: np.random.Generator, count: int, width: int = 512, height: int = 384) -> np.ndarray:
    """Places at least four pixels apart, of any size and angle."""
    cells = random.choice((width // 8) * (height // 8), count, replace=False)
    corner = np.stack(np.divmod(cells, height // 8), axis=1) * 8
    places = corner + random.uniform(0, 4, (count, 2))
    return np.column_stack([places, 2 ** random.uniform(1, 4, count), random.uniform(0, 2 * np.pi, count)]).astype("f4")


def prepared(name: str, places: np.ndarray, codes: np.ndarray) -> Prepared:
    return Prepared.of(name, KeptFeatures(places, codes, 512, 384))


def mutual_of(one: Prepared, other: Prepared, least: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = match_loops.mutual(one.codes @ other.codes.T, one.inverse, other.inverse, np.float32(least))
    return found[0], found[1], found[2]


def cosines_of(one: Prepared, other: Prepared) -> np.ndarray:
    lengths = [np.maximum(np.linalg.norm(of.codes.astype(float), axis=1), 1) for of in (one, other)]
    return (one.codes.astype(float) @ other.codes.astype(float).T) / np.outer(*lengths)


def alike(random: np.random.Generator, count: int, signed: bool, noise: float) -> tuple[Prepared, Prepared]:
    """Two images that have most features in common, those of the second in another order."""
    codes = codes_of(random, count, signed)
    least = -127 if signed else 0
    changed = np.clip(np.rint(codes + random.normal(0, noise, codes.shape)), least, 255 + least).astype(np.float32)
    new = codes_of(random, count // 4, signed)
    second = np.concatenate([changed[random.permutation(count)][: count - count // 4], new])
    return (
        prepared("a", spread(random, count), codes),
        prepared("b", spread(random, len(second)), second),
    )


@given(seeds, st.integers(1, 60), st.booleans(), st.sampled_from([0.0, 10.0, 60.0]), st.sampled_from([0.3, 0.85]))
@settings(max_examples=60)
def test_mutual_neighbours_are_those_of_a_plain_computation(
    seed: int, count: int, signed: bool, noise: float, least: float
) -> None:
    one, other = alike(np.random.default_rng(seed), count, signed, noise)
    first, second, cosine = mutual_of(one, other, least)
    cosines = cosines_of(one, other)
    assert np.abs(cosine - cosines[first, second]).max(initial=0) < STEP
    found = dict(zip(first.tolist(), second.tolist(), strict=True))
    assert len(found) == len(first) == len(set(second.tolist()))
    for i, row in enumerate(cosines):
        j = int(row.argmax())
        rivals = np.r_[np.delete(row, j), np.delete(cosines[:, j], i), least]
        if np.abs(rivals - row[j]).min() < STEP:
            continue  # too near to a tie to say
        wanted = row[j] > least and cosines[:, j].max() == row[j]
        assert found.get(i, -1) == (j if wanted else -1)


@given(seeds, st.integers(2, 60))
@settings(max_examples=40)
def test_mutual_neighbours_are_those_that_opencv_finds(seed: int, count: int) -> None:
    one, other = alike(np.random.default_rng(seed), count, signed=False, noise=30)
    unit = [(of.codes * of.inverse[:, None]).astype(np.float32) for of in (one, other)]
    found = cv2.BFMatcher(cv2.NORM_L2, crossCheck=True).match(*unit)
    cosines = cosines_of(one, other)
    wanted = {(match.queryIdx, match.trainIdx) for match in found if cosines[match.queryIdx, match.trainIdx] >= 0.85}
    first, second, _ = mutual_of(one, other, 0.85)
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == wanted
    assert len(wanted) > 0


@pytest.mark.parametrize(("dimensions", "signed"), [(128, False), (40, True), (MAX_DIMENSIONS, True)])
def test_a_feature_finds_itself(dimensions: int, signed: bool) -> None:
    """A cosine of one, which rounding may take above, is the greatest there is."""
    codes = codes_of(np.random.default_rng(1), MAX_FEATURES, signed, dimensions)
    image = prepared("a", np.ones((MAX_FEATURES, 4), np.float32), codes)
    first, second, cosine = mutual_of(image, image, 0.9)
    assert first.tolist() == second.tolist() == list(range(MAX_FEATURES))
    assert cosine.min() > 1 - STEP


def test_of_equal_features_the_last_is_nearest_and_one_without_a_code_has_no_match() -> None:
    code, another = codes_of(np.random.default_rng(2), 2)
    one = prepared("a", np.ones((4, 4), np.float32), np.stack([code, code, 0 * code, another]))
    other = prepared("b", np.ones((5, 4), np.float32), np.stack([code, another, code, code, 0 * code]))
    first, second, _ = mutual_of(one, other, 0.5)
    assert list(zip(first.tolist(), second.tolist(), strict=True)) == [(1, 3), (3, 1)]


@pytest.mark.parametrize("signed", [True, False])
def test_products_of_codes_are_exact_however_they_are_summed(signed: bool) -> None:
    random = np.random.default_rng(3)
    codes = random.integers(-127 if signed else 0, 128 if signed else 256, (2, 700, MAX_DIMENSIONS))
    if not signed:
        codes[:, :50] = 255  # the largest sums there are
    exact = codes[0] @ codes[1].T
    one, other = (prepared(name, np.ones((700, 4), np.float32), of) for name, of in zip("ab", codes, strict=True))
    assert exact.max() < 2**24
    for threads in (1, 2, 3):
        with threadpool_limits(threads, user_api="blas"):
            assert np.array_equal(one.codes @ other.codes.T, exact)
    for block in (1, 7, 64):
        parts = [one.codes[:, k : k + block] @ other.codes[:, k : k + block].T for k in range(0, 256, block)]
        assert np.array_equal(sum(parts), exact)
        rows = [one.codes[k : k + block] @ other.codes.T for k in range(0, 700, block)]
        assert np.array_equal(np.concatenate(rows), exact)
    order = random.permutation(MAX_DIMENSIONS)
    assert np.array_equal(np.asfortranarray(one.codes[:, order]) @ other.codes[:, order].T, exact)


# Models


def similarity(scale: float, turn: float, to_x: float = 0.0, to_y: float = 0.0) -> np.ndarray:
    a, b = scale * math.cos(turn), scale * math.sin(turn)
    return np.array([[a, -b, to_x], [b, a, to_y]])


def moved(model: np.ndarray, places: np.ndarray) -> np.ndarray:
    return places[:, :2].astype(float) @ model[:, :2].T + model[:, 2]


def least_squares(here: np.ndarray, there: np.ndarray, affine: bool) -> np.ndarray:
    """By numpy's own solver, of all six unknowns or the four of a similarity."""
    x, y = here.T
    nothing, one = np.zeros(len(x)), np.ones(len(x))
    if affine:
        return np.linalg.lstsq(np.column_stack([here, one]), there, rcond=None)[0].T
    rows = np.concatenate([np.column_stack([x, -y, one, nothing]), np.column_stack([y, x, nothing, one])])
    a, b, c, f = np.linalg.lstsq(rows, np.r_[there[:, 0], there[:, 1]], rcond=None)[0]
    return np.array([[a, -b, c], [b, a, f]])


def possible(model: np.ndarray) -> bool:
    """By the singular values: no mirror, no area 16 times as large or small, no side 4 times another."""
    large, small = np.linalg.svd(model[:, :2], compute_uv=False)
    det = np.linalg.det(model[:, :2])
    return bool(1 / 16 <= det <= 16 and large <= 4 * small)


@given(seeds, st.integers(2, 40), st.booleans())
@settings(max_examples=100)
def test_models_are_of_least_squares(seed: int, count: int, line: bool) -> None:
    random = np.random.default_rng(seed)
    places = spread(random, 60)
    if line:
        places[:, 1] = 0.5 * places[:, 0] + 20
    model = random.normal(0, 1, (2, 3)) * (1, 1, 100)
    others = np.column_stack([moved(model, places) + random.normal(0, 3, (60, 2)), places[:, 2:]]).astype(np.float32)
    first, second = random.permutation(60), random.permutation(60)
    used = np.zeros(60, bool)
    used[random.choice(60, count, replace=False)] = True
    found, well = match_loops.fitted(places, others, first, second, used)
    here, there = places[first[used], :2].astype(float), others[second[used], :2].astype(float)
    wanted = least_squares(here, there, affine=count >= 6 and not line)
    assert np.allclose(found, wanted, rtol=1e-6, atol=1e-4)
    assert well == possible(wanted)


def test_too_few_places_or_one_place_alone_tell_no_model() -> None:
    places = np.full((9, 4), 7, np.float32)
    numbers = np.arange(9)
    assert not match_loops.fitted(places, places, numbers, numbers, np.ones(9, bool))[1]
    places[0, 0] = 90
    one = np.zeros(9, bool)
    assert not match_loops.fitted(places, places, numbers, numbers, one)[1]
    one[0] = True
    assert not match_loops.fitted(places, places, numbers, numbers, one)[1]


@given(st.lists(st.floats(-5, 5, allow_subnormal=False), min_size=4, max_size=4))
@settings(max_examples=300)
def test_models_that_no_two_views_of_a_thing_give_are_refused(values: list[float]) -> None:
    model = np.column_stack([np.reshape(values, (2, 2)), np.zeros(2)])
    large, small = np.linalg.svd(model[:, :2], compute_uv=False)
    det = np.linalg.det(model[:, :2])
    if min(abs(det - 16), abs(det - 1 / 16), abs(large - 4 * small)) < 1e-6:
        return  # on the edge
    assert match_loops.plausible(model) == possible(model)


def turned(angle: float) -> float:
    return abs(math.remainder(angle, 2 * math.pi))


def single_by_hand(
    places: np.ndarray, others: np.ndarray, first: np.ndarray, second: np.ndarray, loose: float
) -> list[tuple[int, np.ndarray]]:
    """Of each match, how many agree with the similarity it tells, and that; with every bound moved by `loose`."""
    found = []
    pairs = [(places[i].astype(float), others[j].astype(float)) for i, j in zip(first, second, strict=True)]
    for here, there in pairs:
        scale, turn = there[2] / here[2], there[3] - here[3]
        if not 1 / 4 - loose <= scale <= 4 + loose:
            found.append((0, np.zeros((2, 3))))
            continue
        factor = scale * complex(math.cos(turn), math.sin(turn))
        shift = complex(*there[:2]) - factor * complex(*here[:2])
        agreeing = 0
        for place, other in pairs:
            off = abs(factor * complex(*place[:2]) + shift - complex(*other[:2]))
            size = abs(math.log(other[2] / place[2]) - math.log(scale))
            near = off <= 2 * RESIDUAL * max(1, scale) + loose
            agreeing += near and size <= LIMITS[2] + loose and turned(other[3] - place[3] - turn) <= TURN + loose
        found.append(
            (agreeing, np.array([[factor.real, -factor.imag, shift.real], [factor.imag, factor.real, shift.imag]]))
        )
    return found


@given(seeds, st.integers(4, 50))
@settings(max_examples=40)
def test_the_match_that_most_agree_with_is_that_of_trying_each_in_plain_python(seed: int, count: int) -> None:
    pair = planted(np.random.default_rng(seed), True, inliers=count // 2, outliers=count - count // 2)
    first, second = pair.matches
    found, model = match_loops.from_single(pair.one.places, pair.other.places, first, second, LIMITS)
    tight, loose = (single_by_hand(pair.one.places, pair.other.places, first, second, by) for by in (-1e-4, 1e-4))
    assert max(of for of, _ in tight) <= found <= max(of for of, _ in loose)
    if [of for of, _ in tight] == [of for of, _ in loose]:
        best = max(range(len(first)), key=lambda match: (tight[match][0], -match))
        assert found == tight[best][0]
        assert np.allclose(model, tight[best][1], atol=1e-3)


# Whole comparisons


@dataclass(frozen=True, eq=False)
class Planted:
    """Two images of which some features are of one thing, by a known model."""

    one: Prepared
    other: Prepared
    model: np.ndarray
    same: dict[int, int]
    matches: tuple[np.ndarray, np.ndarray]


def planted(random: np.random.Generator, oriented: bool, inliers: int = 40, outliers: int = 40) -> Planted:
    """`inliers` features by a model and `outliers` that match as well but lie elsewhere, among as many alone."""
    scale, turn = 2 ** random.uniform(-0.8, 0.8), random.uniform(0, 2 * math.pi)
    model = similarity(scale, turn, random.uniform(-100, 100), random.uniform(-100, 100))
    model[:, :2] @= np.array([[random.uniform(0.9, 1.1), random.uniform(-0.1, 0.1)], [0.0, 1.0]])
    count, alone = inliers + outliers, (inliers + outliers) // 2
    places = spread(random, count + alone)
    others = spread(random, count + alone)
    others[:, :2] = moved(model, places) + random.uniform(-1, 1, (count + alone, 2))
    others[:, 2] = places[:, 2] * scale * 2 ** random.normal(0, 0.05, count + alone)
    others[:, 3] = (places[:, 3] + turn + random.normal(0, math.radians(2), count + alone)) % (2 * math.pi)
    # Those that lie elsewhere are moved by chance, and where that is too near by more.
    away = random.uniform(-200, 200, (outliers, 2))
    near = np.hypot(*away.T) < 60
    away[near] += 150
    others[inliers:count, :2] += away
    others[inliers:count, 3] = random.uniform(0, 2 * math.pi, outliers)
    if not oriented:
        places[:, 2:], others[:, 2:] = (1, 0), (1, 0)
    codes = codes_of(random, count + alone)
    changed = np.clip(np.rint(codes + random.normal(0, 8, codes.shape)), 0, 255)
    changed[count:] = codes_of(random, alone)
    here, there = random.permutation(count + alone), random.permutation(count + alone)
    one = prepared("a", places[here], codes[here])
    other = prepared("b", others[there], changed[there])
    first, second = np.argsort(here)[:count], np.argsort(there)[:count]
    order = np.argsort(first)
    same = dict(zip(first[:inliers].tolist(), second[:inliers].tolist(), strict=True))
    return Planted(one, other, model, same, (first[order], second[order]))


def pairs_of(found: Agreement) -> dict[int, int]:
    return dict(zip(found.first.tolist(), found.second.tolist(), strict=True))


CORNERS = np.array([(0, 0), (512, 0), (0, 384), (512, 384)], float)


@pytest.mark.parametrize("oriented", [True, False], ids=["oriented", "MAGSAC"])
@given(seed=seeds, inliers=st.integers(20, 60), outliers=st.integers(0, 40))
@settings(max_examples=40)
def test_a_known_model_and_what_agrees_with_it_are_found(
    oriented: bool, seed: int, inliers: int, outliers: int
) -> None:
    pair = planted(np.random.default_rng(seed), oriented, inliers, outliers)
    matcher = ORIENTED if oriented else MAGSAC
    found = matcher.compare(pair.one, pair.other)
    assert found.putative == inliers + outliers
    assert pairs_of(found) == pair.same
    assert found.inliers == inliers
    assert np.abs(moved(found.model, CORNERS) - moved(pair.model, CORNERS)).max() < 4


@pytest.mark.parametrize("oriented", [True, False], ids=["oriented", "MAGSAC"])
@given(seed=seeds)
@settings(max_examples=30)
def test_which_image_is_named_first_changes_nothing(oriented: bool, seed: int) -> None:
    pair = planted(np.random.default_rng(seed), oriented)
    matcher = ORIENTED if oriented else MAGSAC
    there, back = matcher.compare(pair.one, pair.other), matcher.compare(pair.other, pair.one)
    assert (there.putative, pairs_of(there)) == (back.putative, pairs_of(back))
    assert np.array_equal(there.model, back.model)
    assert matcher.likeness(pair.one, pair.other) == matcher.likeness(pair.other, pair.one) > 0
    # With the ids exchanged the model leads back.
    found = matcher.compare(replace(pair.one, id="b"), replace(pair.other, id="a"))
    assert (found.putative, found.inliers) == (there.putative, there.inliers)
    assert {j: i for i, j in pairs_of(found).items()} == pairs_of(there)
    assert np.abs(moved(found.model, moved(there.model, CORNERS)) - CORNERS).max() < 6


def figures(found: Agreement) -> tuple[object, ...]:
    return found.putative, found.model.tobytes(), found.first.tobytes(), found.second.tobytes()


@pytest.mark.parametrize("matcher", [ORIENTED, MAGSAC], ids=["oriented", "MAGSAC"])
def test_what_was_compared_before_and_how_many_threads_run_change_nothing(matcher: Matcher) -> None:
    pairs = [planted(np.random.default_rng(seed), matcher.oriented, 12, 60) for seed in range(24)]

    def compare(pair: Planted) -> tuple[object, ...]:
        return figures(matcher.compare(pair.one, pair.other))

    wanted = [compare(pair) for pair in pairs]
    assert [compare(pair) for pair in pairs[::-1]] == wanted[::-1]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(compare, pairs * 3)) == wanted * 3


def test_magsac_draws_by_the_ids_alone() -> None:
    """Where chance decides, another pair of ids may draw otherwise, and the same ids draw the same."""
    pair = planted(np.random.default_rng(7), False, 5, 60)
    found = {
        name: figures(MAGSAC.compare(replace(pair.one, id=name), replace(pair.other, id=name + "x")))
        for name in (f"{number:03d}" for number in range(12))
    }
    assert len(set(found.values())) > 1
    for name, wanted in found.items():
        assert figures(MAGSAC.compare(replace(pair.one, id=name), replace(pair.other, id=name + "x"))) == wanted


@pytest.mark.parametrize("matcher", [ORIENTED, MAGSAC], ids=["oriented", "MAGSAC"])
@pytest.mark.parametrize("dimensions", [128, 40])
def test_images_of_few_features_have_no_model(matcher: Matcher, dimensions: int) -> None:
    random = np.random.default_rng(4)
    codes, places = codes_of(random, 6, dimensions=dimensions), spread(random, 6)
    if not matcher.oriented:
        places[:, 2:] = (1, 0)
    for few in range(LEAST_MATCHES):
        for many in (0, few, 6):
            one, other = prepared("a", places[:few], codes[:few]), prepared("b", places[:many], codes[:many])
            found = matcher.compare(one, other)
            assert (found.putative, found.inliers) == (min(few, many), 0)
            assert np.array_equal(found.model, np.zeros((2, 3)))
            assert (matcher.likeness(one, other) > 0) == (min(few, many) > 0)
    whole = matcher.compare(prepared("a", places, codes), prepared("b", places, codes))
    assert whole.inliers == 6
    assert np.allclose(whole.model, [[1, 0, 0], [0, 1, 0]], atol=1e-3)


@pytest.mark.parametrize("matcher", [ORIENTED, MAGSAC], ids=["oriented", "MAGSAC"])
@pytest.mark.parametrize(("x", "inliers"), [(3 + 12 * np.arange(40), 40), (60, 0), (60 + 90 * (np.arange(40) % 2), 2)])
def test_features_along_a_line_or_at_one_place_tell_a_similarity_at_most(
    matcher: Matcher, x: np.ndarray | int, inliers: int
) -> None:
    """Of those at one place one counts; an affine model, which MAGSAC draws, is told by none of them."""
    random = np.random.default_rng(5)
    codes, places = codes_of(random, 40), spread(random, 40)
    places[:, 2:] = (4, 1) if matcher.oriented else (1, 0)
    places[:, 0] = x
    places[:, 1] = 0.25 * places[:, 0] + 20
    others = places.copy()
    others[:, :2] = moved(similarity(1.2, 0.0, 30, 5), places)
    others[:, 2] *= 1.2 if matcher.oriented else 1
    found = matcher.compare(prepared("a", places, codes), prepared("b", others, codes))
    assert found.putative == 40
    assert found.inliers == (inliers if matcher.oriented else 0)
    assert np.isfinite(found.model).all()
    assert found.model.any() == (found.inliers > 0)


def test_repeated_windows_are_found_where_the_model_says() -> None:
    """Twenty of forty features look alike, so that few of them are mutual matches of the whole image."""
    random = np.random.default_rng(6)
    pair = planted(random, True, 40, 0)
    codes = pair.one.codes.copy()
    changed = pair.other.codes.copy()
    window = codes_of(random, 1)[0]
    for i, j in list(pair.same.items())[:20]:
        codes[i] = np.clip(np.rint(window + random.normal(0, 8, 128)), 0, 255)
        changed[j] = np.clip(np.rint(window + random.normal(0, 8, 128)), 0, 255)
    one, other = prepared("a", pair.one.places, codes), prepared("b", pair.other.places, changed)
    found = ORIENTED.compare(one, other)
    assert found.putative < 35
    assert pairs_of(found) == pair.same


@given(seeds, st.integers(1, 40))
@settings(max_examples=40)
def test_guided_matches_are_those_of_a_plain_computation(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    pair = planted(random, True, count, count)
    one, other = pair.one.places.copy(), pair.other.places.copy()
    # Some features lie where another does, in the one image, in the other or in both.
    same = list(pair.same.items())
    for number, ((i, j), (k, m)) in enumerate(zip(same[::2], same[1::2], strict=False)):
        one[i], other[j] = one[k], other[m]
        one[i, 0] += (0, 2, 0.5)[number % 3]
        other[j, 0] += (2, 0, 0.5)[number % 3]
    cosines = random.random((len(one), len(other))).astype(np.float32)
    found = match_loops.guided(one, other, cosines, pair.model, np.float32(0.4), LIMITS)
    scale = math.sqrt(np.linalg.det(pair.model[:, :2]))
    turn = math.atan2(pair.model[1, 0] - pair.model[0, 1], pair.model[0, 0] + pair.model[1, 1])
    off = np.linalg.norm(moved(pair.model, one)[:, None] - other[None, :, :2], axis=2)
    sizes = np.abs(np.log(other[None, :, 2] / one[:, None, 2]) - math.log(scale))
    turns = np.vectorize(turned)(other[None, :, 3] - one[:, None, 3] - turn)
    if min(np.abs(off - RESIDUAL).min(), np.abs(sizes - LIMITS[2]).min(), np.abs(turns - TURN).min()) < 1e-4:
        return  # on an edge
    good = np.where((off <= RESIDUAL) & (sizes <= LIMITS[2]) & (turns <= TURN) & (cosines >= 0.4), cosines, -1)
    wanted: list[tuple[int, int]] = []
    for i, row in enumerate(good):
        j = int(row.argmax())
        if row[j] < 0 or good[:, j].argmax() != i:
            continue
        seen = [(one[i, :2], one[k, :2]) for k, _ in wanted] + [(other[j, :2], other[k, :2]) for _, k in wanted]
        if not any(np.abs(here - there).max() < 1 for here, there in seen):
            wanted.append((i, j))
    assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == wanted


@given(seeds, st.integers(1, 250))
@settings(max_examples=30)
def test_likeness_is_of_the_strongest_features_alone(seed: int, count: int) -> None:
    one, other = alike(np.random.default_rng(seed), count, signed=False, noise=20)
    first, second, _ = mutual_of(
        prepared("a", one.places[:LOOKED_AT], one.codes[:LOOKED_AT]),
        prepared("b", other.places[:LOOKED_AT], other.codes[:LOOKED_AT]),
        0.85 - LOOSER,
    )
    cosines = cosines_of(one, other)
    wanted = sum((cosines[i, j] - 0.8) ** 2 for i, j in zip(first.tolist(), second.tolist(), strict=True))
    assert ORIENTED.likeness(one, other) == pytest.approx(wanted, abs=1e-4)


# What chance gives


def by_chance(random: np.random.Generator, matches: int, size: tuple[int, int]) -> tuple[Prepared, Prepared]:
    """Two images of so many features, each of which matches one of the other image, anywhere in it."""
    codes = (255 * np.eye(MAX_DIMENSIONS)[:matches]).astype(np.float32)
    found: list[Prepared] = []
    for name in "ab":
        places = np.column_stack(
            [
                random.uniform(0, size[0], matches),
                random.uniform(0, size[1], matches),
                2 ** random.uniform(1, 4, matches),
                random.uniform(0, 2 * np.pi, matches),
            ]
        )
        found.append(prepared(name + str(random.integers(2**40)), places.astype(np.float32), codes))
    return found[0], found[1]


def unoriented(images: Sequence[Prepared]) -> list[Prepared]:
    return [
        replace(image, places=np.column_stack([image.places[:, :2], image.places[:, 2:] * 0 + (1, 0)]).astype("f4"))
        for image in images
    ]


def test_chance_does_not_reach_eleven_inliers_as_it_does_by_twenty_pixels_of_256() -> None:
    """METHODS 3: 240 putative matches at random. Eleven inliers of a plain RANSAC of 20 px are no evidence."""
    trials = 300
    random = np.random.default_rng(8)
    oriented, magsac, plain = [], [], []
    for _ in range(trials):
        one, other = by_chance(random, 240, (512, 384))
        found = ORIENTED.compare(one, other)
        assert found.putative == 240
        oriented.append(found.inliers)
        magsac.append(MAGSAC.compare(*unoriented((one, other))).inliers)
        here, there = random.uniform(0, 256, (2, 240, 2)).astype(np.float32)
        _, mask = cv2.estimateAffine2D(
            here, there, method=cv2.RANSAC, ransacReprojThreshold=20, maxIters=1000, confidence=0.9999, refineIters=0
        )
        plain.append(int(np.count_nonzero(mask)))
    assert np.mean(np.array(oriented) < 11) >= 0.99
    assert np.mean(np.array(magsac) < 11) >= 0.99
    assert np.mean(np.array(plain) >= 11) >= 0.95
