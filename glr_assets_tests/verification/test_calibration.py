"""Thresholds from what chance gives: worked examples, plain computations, and the asset on small photographs."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations, pairwise
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glr_assets.curation.schemas import LABEL_CONFLICTS
from glr_assets.errors import MissingInputError
from glr_assets.receipts import Made
from glr_assets.recipes import Execution, Verification
from glr_assets.store import Store
from glr_assets.tables import problems, read_table
from glr_assets.verification.calibration import (
    CHART,
    PICTURE,
    ClassThresholds,
    Thresholds,
    calibrated,
    different_pairs,
    halves_of,
    image_rate_of,
    images_to_compare,
    judged,
    make_verification_calibration,
    overlapping,
    pair_rate_of,
    same_thing,
)
from glr_assets.verification.checks import too_often_wrong, unjudged, without_foundation
from glr_assets.verification.evidence import Judge
from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets.verification.feature_reader import FeatureReader
from glr_assets.verification.local_features import Wanted
from glr_assets.verification.matching import Prepared
from glr_assets.verification.schemas import DIFFERENT_PAIRS, FALSE_IMAGES, VERIFICATION_CALIBRATION
from glr_assets.verification.tail import ChanceRates, ForeignPairs
from glr_assets_tests.images.handmade import identifier, write_made
from glr_assets_tests.test_seeded import reference
from glr_assets_tests.verification.test_verified_pairs import SEED, Corpus, changed, features, outputs
from glr_assets_tests.verification.worlds import Verifier, as_table, foreign_pairs

#: Putative matches, inliers, and the trap.
Found = tuple[int, int, str]


def pairs_of(found: list[Found], landmarks: int = 6) -> pa.Table:
    """Pairs of so many landmarks in turn, of which every second is of the first half."""
    rows = []
    for number, (putative, inliers, refusal) in enumerate(found):
        one, other = number % landmarks, (number + 1 + number // landmarks % (landmarks - 1)) % landmarks
        rows.append(
            {"first": f"{number:05d}", "second": "x", "putative": putative, "inliers": inliers, "refusal": refusal}
            | {"first_landmark": one, "second_landmark": other, "overlap": False}
            | {"half": one % 2 if one % 2 == other % 2 else None}
        )
    return DIFFERENT_PAIRS.rows(rows)


def calibration_of(found: list[Found], **recipe: Any) -> pa.Table:
    table = calibrated(pairs_of(found), Verification(**recipe))
    assert problems(VERIFICATION_CALIBRATION, table) == []
    return table


def test_a_pair_wants_the_inliers_of_its_range() -> None:
    thresholds = Thresholds(np.array([0, 20, 50]), np.array([11, 12, 15]))
    asked = [0, 1, 19, 20, 49, 50, 2000]
    wanted = [11, 11, 11, 12, 12, 15, 15]
    assert [thresholds(putative) for putative in asked] == wanted
    assert thresholds.of_all(np.array(asked)).tolist() == wanted


def calibration_rows(*rows: tuple[int, int, int, int]) -> pa.Table:
    others = {"pairs": 1, "refused": 0, "accepted": 0, "pair_rate": 0.0, "image_rate": 0.0, "image_rate_most": 1.0}
    names = ("putative_from", "images_from", "images_to", "threshold")
    return VERIFICATION_CALIBRATION.rows([dict(zip(names, row, strict=True)) | others for row in rows])


def test_a_class_wants_the_inliers_of_its_size() -> None:
    table = calibration_rows((0, 2, 10, 11), (0, 11, 500, 14), (80, 2, 4, 11), (80, 5, 30, 12), (80, 31, 500, 20))
    for order in ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1]):
        thresholds = ClassThresholds.of(table.take(pa.array(order)))
        wanted = {1: (11, 11), 2: (11, 11), 4: (11, 11), 5: (11, 12), 10: (11, 12), 11: (14, 12), 30: (14, 12)}
        wanted |= {31: (14, 20), 500: (14, 20), 9000: (14, 20)}
        for images, of_ranges in wanted.items():
            of_class = thresholds.for_class(images)
            assert (of_class(79), of_class(80)) == of_ranges, images


def test_rates_of_pairs_and_of_images() -> None:
    # One image in a thousand: 1 - .999^(1/24), and so on, to six digits by hand.
    found = pair_rate_of(0.001, np.array([2, 25, 100, 500]))
    assert found == pytest.approx([1e-3, 4.16868e-5, 1.010602e-5, 2.005007e-6], rel=1e-5)
    assert image_rate_of(1e-3, np.array([25, 100, 500])) == pytest.approx([0.023725, 0.094304, 0.393014], rel=1e-4)
    assert pair_rate_of(1.0, np.array([2, 9]))[0] == pytest.approx(1)


@given(st.floats(1e-6, 1), st.integers(2, 5000))
def test_the_two_rates_belong_together(rate: float, images: int) -> None:
    of_pair = pair_rate_of(rate, np.array([images]))
    assert 0 < of_pair[0] <= rate * (1 + 1e-9)
    assert image_rate_of(of_pair, images)[0] == pytest.approx(rate, rel=1e-6)


found_by_chance = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 24), st.sampled_from(["", "", "", "a strip"])), max_size=300
)


@given(found_by_chance, st.sampled_from([0.001, 0.01, 0.1, 1.0]), st.integers(4, 14), st.booleans())
@settings(max_examples=20, deadline=None)
def test_each_threshold_is_the_least_whose_bound_keeps_the_rate(
    found: list[Found], rate: float, least: int, calibrate: bool
) -> None:
    recipe = Verification(
        max_false_rate=rate, min_inliers=least, calibrate=calibrate, cap=90, keep=90, max_features=100
    )
    pairs = pairs_of(found)
    rows = calibrated(pairs, recipe).to_pylist()
    # Every class size has one threshold, which rises with it.
    assert rows[0]["images_from"] == 2
    assert rows[-1]["images_to"] == 90
    assert all(one["images_to"] + 1 == other["images_from"] for one, other in pairwise(rows))
    assert all(one["threshold"] < other["threshold"] for one, other in pairwise(rows))
    rates = ChanceRates.of(
        ForeignPairs(
            np.array([0 if refusal else inliers for _, inliers, refusal in found], np.int64),
            np.zeros(len(found), np.int64),
            np.stack([pairs["first_landmark"].to_numpy(), pairs["second_landmark"].to_numpy()], axis=1),
        ),
        1,
        100,
    )
    for row in rows:
        wanted, largest = row["threshold"], row["images_to"]
        assert row["putative_from"] == 0
        assert wanted >= least
        assert row["pairs"] == len(found)
        assert row["accepted"] == sum(inliers >= wanted and not refusal for _, inliers, refusal in found)
        assert row["refused"] == sum(inliers >= wanted and bool(refusal) for _, inliers, refusal in found)
        assert row["pair_rate"] == pytest.approx(rates.likely[0, wanted])
        bound = image_rate_of(rates.most[0], largest)
        assert row["image_rate_most"] == pytest.approx(bound[wanted])
        assert row["image_rate"] <= row["image_rate_most"]
        if calibrate and found:
            assert row["image_rate_most"] <= rate * (1 + 1e-9)
            # One inlier fewer would let more stay in the smallest class of the row.
            smallest = image_rate_of(rates.most[0], row["images_from"])
            assert wanted == least or smallest[wanted - 1] > rate * (1 - 1e-9)
    if not calibrate:
        assert [row["threshold"] for row in rows] == [least]


def test_ranges_are_of_equal_shares_with_enough_pairs_each_and_four_at_most() -> None:
    for pairs, wanted in ((9_999, 1), (10_000, 2), (19_999, 3), (20_000, 4), (60_000, 4)):
        putative = np.random.default_rng(1).permutation(pairs)
        inliers, landmarks = foreign_pairs(Verifier(0.02, 1.5), 10, 2, pairs, np.random.default_rng(2))
        rows = calibrated(as_table(inliers, landmarks, putative), Verification(cap=25, keep=25)).to_pylist()
        starts = sorted({row["putative_from"] for row in rows})
        assert len(starts) == wanted
        sizes = [next(row["pairs"] for row in rows if row["putative_from"] == start) for start in starts]
        assert max(sizes) - min(sizes) <= 1
        assert sum(sizes) == pairs


def test_what_agrees_more_by_chance_where_there_are_more_matches_wants_more_there() -> None:
    random = np.random.default_rng(3)
    inliers, landmarks = foreign_pairs(Verifier(0.05, 1.5), 40, 5, 10_000, random)
    putative = random.integers(0, 200, 10_000)
    more = np.where(putative >= np.median(putative), inliers + 6 * (inliers > 0), inliers)
    table = calibrated(as_table(more, landmarks, putative), Verification())
    low, high = (ClassThresholds.of(table).for_class(100)(putative) for putative in (0, 199))
    assert high - low == pytest.approx(6, abs=2)


def test_without_pairs_the_least_is_wanted_and_nothing_is_known() -> None:
    (row,) = calibration_of([], min_inliers=12).to_pylist()
    assert (row["putative_from"], row["images_from"], row["images_to"]) == (0, 2, 500)
    assert (row["pairs"], row["accepted"], row["threshold"]) == (0, 0, 12)
    assert (row["pair_rate"], row["image_rate"], row["image_rate_most"]) == (1.0, pytest.approx(1), pytest.approx(1))
    assert judged(pairs_of([]), Verification()).num_rows == 0


def test_refused_pairs_raise_no_threshold() -> None:
    chance = [(30, 5, "")] * 60 + [(30, 0, "")] * 940
    clean = calibration_of(chance)
    traps = calibration_of([*chance, *[(30, 80, "agrees only in a strip")] * 20])
    assert traps["threshold"].to_pylist() == clean["threshold"].to_pylist()
    assert pc.max(traps["refused"]).as_py() == 20


def test_pairs_of_landmarks_that_show_the_same_thing_raise_no_threshold() -> None:
    landmarks = np.array([[1, 2], [2, 1], [1, 3], [2, 3], [1, 2], [3, 1]])
    putative = np.array([120, 100, 90, 100, 100, 200])
    inliers = np.array([40, 20, 39, 33, 5, 66])
    refused = np.array([False, False, False, False, True, False])
    # 40 of 120 are a third; 39 are too few; 66 of 200 too small a share.
    assert overlapping(landmarks, putative, inliers, refused).tolist() == [True, True, False, False, True, False]
    assert not overlapping(landmarks, putative, inliers, inliers >= 40).any()
    pairs = pairs_of([(100, 5, "")] * 60 + [(100, 0, "")] * 940 + [(100, 90, "")] * 3)
    overlap = pa.array([False] * 1000 + [True] * 3)
    marked = pairs.set_column(pairs.schema.get_field_index("overlap"), DIFFERENT_PAIRS.schema.field("overlap"), overlap)
    with_them, without = calibrated(pairs, Verification()), calibrated(marked, Verification())
    assert without.equals(calibrated(pairs.slice(0, 1000), Verification()))
    assert pc.max(without["threshold"]).as_py() < 40 < pc.max(with_them["threshold"]).as_py()


# Thresholds judged on landmarks that chose none


def false_images(verifier: Verifier, seed: int, recipe: Verification, pairs: int = 4000) -> pa.Table:
    """`FALSE_IMAGES` of pairs of 30 landmarks of six images."""
    found = judged(as_table(*foreign_pairs(verifier, 30, 6, pairs, np.random.default_rng(seed)), seed=seed), recipe)
    assert problems(FALSE_IMAGES, found) == []
    return found


def test_each_half_is_judged_by_the_threshold_of_the_other() -> None:
    # One half's pairs reach 20 by chance, the other's never more than 3.
    rows = [(100, 20 if number % 6 % 2 else 3, "") for number in range(3000)]
    pairs = pairs_of(rows)
    within = [row for row in pairs.to_pylist() if row["half"] is not None]
    wrong = sum(row["half"] == 1 for row in within)
    recipe = Verification(cap=25, keep=25)
    ten, all_of_them = judged(pairs, recipe).to_pylist()
    assert (ten["images"], all_of_them["images"]) == (10, 25)
    for row in (ten, all_of_them):
        assert row["pairs"] == len(within)
        # All of the second half, by the threshold of the first, and none of the first by that of the second.
        assert (row["threshold_least"], row["accepted"]) == (11, wrong)
        assert row["threshold_most"] > 20
        assert row["image_rate"] >= row["image_rate_least"] > 0.9
        assert row["landmarks"] == 3
    told = too_often_wrong(judged(pairs, recipe), 0.01)
    assert told.startswith("of a class of 10 images 9")
    assert f"{wrong} times of {len(within)}" in told


def test_a_verifier_that_is_wrong_too_often_is_reported_and_a_good_one_seldom() -> None:
    """Without calibration the threshold is 11 whatever chance gives, so many verifiers are wrong."""
    random = np.random.default_rng(4)
    recipe = Verification(calibrate=False, cap=25, keep=25)
    reported: dict[bool, list[bool]] = {True: [], False: []}
    for seed in range(40):
        verifier = Verifier.arbitrary(random)
        rate = float(image_rate_of(verifier.rates(np.array([11]), 50_000)[0], 25))
        found = bool(too_often_wrong(false_images(verifier, seed, recipe), 0.01))
        if not 0.01 < rate < 0.05:
            reported[rate >= 0.05].append(found)
    assert len(reported[True]) > 15
    assert np.mean(reported[True]) > 0.9
    assert len(reported[False]) > 7
    assert np.mean(reported[False]) < 0.15


def test_calibrated_thresholds_are_seldom_reported() -> None:
    random = np.random.default_rng(5)
    found = [
        too_often_wrong(false_images(Verifier.arbitrary(random), seed, Verification(cap=25, keep=25)), 0.01)
        for seed in range(20)
    ]
    assert sum(map(bool, found)) <= 2


def test_too_few_landmarks_or_excesses_tell_nothing() -> None:
    assert "has pairs of 0 landmarks" in unjudged(FALSE_IMAGES.empty(), 100)
    assert too_often_wrong(FALSE_IMAGES.empty(), 0.01) == ""
    for landmarks, told in ((18, "pairs of 9 landmarks"), (20, "")):
        pairs = as_table(*foreign_pairs(Verifier(0.01, 1.5), landmarks, 6, 4000, np.random.default_rng(1)))
        assert told in unjudged(judged(pairs, Verification()), 100)
        assert bool(told) == bool(unjudged(judged(pairs, Verification()), 100))
    sound = false_images(Verifier(0.01, 1.5), 0, Verification())
    assert too_often_wrong(sound, 0.01) == ""
    assert unjudged(sound, 20) == ""
    assert "19 pairs of different landmarks" in unjudged(sound, 19)


def test_a_verifier_that_agrees_on_anything_is_reported() -> None:
    """Its pairs count as landmarks that overlap, or want more inliers than there are features: no rate tells."""
    assert without_foundation(4000, 4, 14, 500) == ""
    assert "5 of 4000 pairs" in without_foundation(4000, 5, 14, 500)
    assert "501 inliers are wanted" in without_foundation(4000, 0, 501, 500)
    assert without_foundation(4000, 0, 500, 500) == ""
    assert without_foundation(0, 0, 11, 500) == ""
    random, recipe = np.random.default_rng(6), Verification(cap=25, keep=25)
    for seed in range(10):
        inliers, landmarks = foreign_pairs(Verifier(1.0, 1.0), 30, 6, 4000, np.random.default_rng(seed))
        putative = random.integers(30, 600, 4000)
        inliers = np.where(random.random(4000) < random.uniform(0.1, 1), putative, inliers)
        certain = same_thing(putative, inliers, np.zeros(4000, bool))
        overlap = overlapping(landmarks, putative, inliers, np.zeros(4000, bool))
        table = as_table(inliers, landmarks, putative, seed)
        place = table.schema.get_field_index("overlap")
        table = table.set_column(place, table.schema.field(place), pa.array(overlap))
        least = min(calibrated(table, recipe)["threshold"].to_pylist())
        assert without_foundation(4000, int(certain.sum()), least, 500)


# Which pairs are compared

landmarks = st.lists(st.integers(0, 5), max_size=14)


@given(st.lists(st.integers(-5, 2**40), max_size=40), st.integers(0, 9))
def test_halves_are_of_landmarks_and_equally_large(of_image: list[int], seed: int) -> None:
    numbers = np.array(of_image, np.int64)
    half = halves_of(numbers, seed)
    by_landmark = {landmark: half[numbers == landmark].tolist() for landmark in of_image}
    assert all(len(set(halves)) == 1 for halves in by_landmark.values())
    firsts = sum(halves[0] == 0 for halves in by_landmark.values())
    assert firsts - (len(by_landmark) - firsts) in {0, 1}
    assert half.tolist() == halves_of(numbers[::-1], seed)[::-1].tolist()


@given(landmarks, st.integers(0, 40), st.integers(0, 9), st.sets(st.tuples(st.integers(0, 13), st.integers(0, 13))))
@settings(max_examples=200)
def test_pairs_are_of_different_landmarks_and_each_is_drawn_once(
    of_image: list[int], pairs: int, seed: int, alike: set[tuple[int, int]]
) -> None:
    ids = sorted(identifier(number) for number in range(len(of_image)))
    names = {(ids[i], ids[j]) for i, j in alike if max(i, j) < len(ids)}
    numbers = np.array(of_image, np.int64)
    drawn = different_pairs(numbers, ids, pairs, seed, names)
    assert drawn == sorted(set(drawn))
    possible = [(i, j) for i, j in combinations(range(len(ids)), 2) if of_image[i] != of_image[j]]
    free = [(i, j) for i, j in possible if not {(ids[i], ids[j]), (ids[j], ids[i])} & names]
    assert set(drawn) <= set(free)
    assert len(possible) > pairs or drawn == free
    assert len(drawn) <= pairs or len(possible) <= pairs
    without = different_pairs(numbers, ids, pairs, seed, set())
    assert len(without) == min(pairs, len(possible))
    assert drawn == [pair for pair in without if pair in free]


def test_every_pair_is_as_likely_and_another_seed_draws_others() -> None:
    of_image, ids = np.arange(10) // 2, [f"{number:02d}" for number in range(10)]
    counts = Counter(pair for seed in range(400) for pair in different_pairs(of_image, ids, 10, seed, set()))
    # Ten of forty: each in a quarter of the draws (standard deviation 8.7).
    assert len(counts) == 40
    assert all(57 <= count <= 143 for count in counts.values())


def images_of(of_image: list[int]) -> pa.Table:
    return pa.table(
        {
            "id": pa.array([identifier(number) for number in range(len(of_image))]),
            "landmark_id": pa.array(of_image, pa.int64()),
            "features": pa.array(range(len(of_image)), pa.int32()),
        }
    )


@given(
    st.lists(st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 2**40]), min_size=0, max_size=400),
    st.integers(100, 9000),
    st.integers(0, 3),
    st.randoms(use_true_random=False),
)
@settings(max_examples=30)
def test_images_are_of_all_landmarks_in_turn(of_image: list[int], pairs: int, seed: int, random: Random) -> None:
    images = images_of(of_image)
    found = images_to_compare(images, pairs, seed)
    order = sorted(
        range(len(of_image)), key=lambda row: (reference(identifier(row), seed, "calibration"), identifier(row))
    )
    seen: Counter[int] = Counter()
    place = {}
    for row in order:
        place[row] = seen[of_image[row]]
        seen[of_image[row]] += 1
    wanted = sorted(order, key=lambda row: place[row])[: max(200, int(3 * math.sqrt(2 * pairs)))]
    assert found["id"].to_pylist() == sorted(identifier(row) for row in wanted)
    assert found.column_names == images.column_names
    rows = list(range(len(of_image)))
    random.shuffle(rows)
    assert images_to_compare(images.take(pa.array(rows, pa.int64())), pairs, seed).equals(found)


# The asset

RECIPE = changed(calibration_pairs=150, max_false_rate=0.02)


def corpus() -> Corpus:
    """Five landmarks of six, of which one has two photographs of another; one file is broken, one has no corner."""
    made = Corpus()
    for landmark in range(4):
        made.add(landmark, *[(10 + landmark, 0.0)] * 6)
    made.add(4, (10, 0.0), (10, 0.0), (20, 0.0), (21, 0.0), (22, 0.0), None)
    made.data[23] = b"\xff\xd8 no image"
    return made


MISLABELLED, SHOWS = (24, 25), range(6)


def make_calibration(store: Store, recipe: Verification = RECIPE, workers: int = 1) -> Made:
    wanted = Wanted.of(store, recipe, SEED)
    return make_verification_calibration(store, wanted, recipe, Execution(workers=workers), SEED)


def conflicts(numbers: tuple[int, ...]) -> list[dict[str, Any]]:
    """That these show what landmark 0 does, told from either side."""
    ways = [way for of in numbers for other in SHOWS for way in ((of, other), (other, of))]
    rows = [{"id": identifier(one), "partner": identifier(other)} for one, other in ways]
    others = {"landmark_id": 0, "partner_landmark_id": 4, "distance": 1, "same_file": False, "near": 1}
    return sorted((row | others for row in rows), key=lambda row: (row["id"], row["partner"]))


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Features, which no test changes."""
    store = Store(str(tmp_path_factory.mktemp("extracted")))
    corpus().write(store)
    features(store, RECIPE)
    return store


@pytest.fixture
def copied(extracted: Store, store: Store) -> Store:
    store.fs.put(f"{extracted.root}/", f"{store.root}/", recursive=True)
    return store


def test_what_was_compared_and_what_it_gave_is_told(copied: Store) -> None:
    made = make_calibration(copied)
    pairs = read_table(copied, DIFFERENT_PAIRS).to_pylist()
    of = corpus().landmarks
    landmark_of = {identifier(number): landmark for number, landmark in of.items()}
    names = {(row["first"], row["second"]) for row in pairs}
    assert len(names) == len(pairs) == 150
    assert all(one < other and landmark_of[one] != landmark_of[other] for one, other in names)
    used = {name for pair in names for name in pair}
    assert not used & {identifier(23), identifier(29)}  # without features
    ids = sorted(used)
    reader = FeatureReader.of_images(copied, ["000", "001"], ids)
    prepared = {name: Prepared.of(name, reader[name]) for name in ids}
    judge = Judge.of(RECIPE, RootSift.min_cosine, RootSift.oriented)
    for row in pairs:
        evidence = judge(prepared[row["second"]], prepared[row["first"]])
        assert (row["putative"], row["inliers"], row["refusal"]) == (
            evidence.putative,
            evidence.inliers,
            evidence.refusal,
        )
    half = dict(zip(ids, halves_of(np.array([landmark_of[name] for name in ids]), SEED).tolist(), strict=True))
    for row in pairs:
        one, other = row["first"], row["second"]
        assert (row["first_landmark"], row["second_landmark"]) == (landmark_of[one], landmark_of[other])
        assert row["half"] == (half[one] if half[one] == half[other] else None)
    table = read_table(copied, VERIFICATION_CALIBRATION)
    assert table.to_pylist() == calibrated(DIFFERENT_PAIRS.rows(pairs), RECIPE).to_pylist()
    assert read_table(copied, FALSE_IMAGES).to_pylist() == judged(DIFFERENT_PAIRS.rows(pairs), RECIPE).to_pylist()
    summary = made.receipt.summary
    assert (summary["images"], summary["landmarks"], summary["pairs"]) == (28, 5, 150)
    assert summary["rows"] == table.num_rows
    # Landmark 4 has two photographs of what landmark 0 shows.
    assert {tuple(sorted((row["first_landmark"], row["second_landmark"]))) for row in pairs if row["overlap"]} == {
        (0, 4)
    }
    assert summary["overlapping"] == sum(row["overlap"] for row in pairs)
    beyond_doubt = [row for row in pairs if row["inliers"] >= max(40, row["putative"] / 3) and not row["refusal"]]
    assert summary["same_thing"] == len(beyond_doubt) > 0
    assert summary["accepted_by_min_inliers"] == sum(row["inliers"] >= 11 and not row["overlap"] for row in pairs)
    assert summary["threshold_least"] == min(table["threshold"].to_pylist())
    assert summary["threshold_most"] == max(table["threshold"].to_pylist())
    assert summary["image_rate_most"] == max(table["image_rate_most"].to_pylist()) <= 0.02
    root = Path(copied.root)
    assert problems(DIFFERENT_PAIRS, pq.read_table(root / DIFFERENT_PAIRS.path)) == []
    assert problems(VERIFICATION_CALIBRATION, pq.read_table(root / VERIFICATION_CALIBRATION.path)) == []
    for name in (CHART, PICTURE):
        assert (root / name).stat().st_size < 100_000
        with Image.open(root / name) as picture:
            picture.load()


def test_photographs_known_to_show_the_same_are_no_evidence_of_chance(copied: Store) -> None:
    recipe = changed(calibration_pairs=400)  # more than there are
    summary = make_calibration(copied, recipe).receipt.summary
    every = 28 * 27 // 2 - (3 * 15 + 10 + 10)
    # Each of the two shows what six others do beyond doubt, so no pair of their landmarks counts.
    assert (summary["pairs"], summary["overlapping"]) == (every, 30)
    assert (summary["accepted_by_min_inliers"], summary["threshold_most"]) == (0, 11)
    found = read_table(copied, DIFFERENT_PAIRS)
    assert sum(row["inliers"] >= 11 for row in found.to_pylist()) == 12
    write_made(copied, "label_conflicts", LABEL_CONFLICTS, conflicts(MISLABELLED[:1]))
    one_less = make_calibration(copied, recipe).receipt.summary
    assert (one_less["pairs"], one_less["overlapping"]) == (every - 6, 24)
    write_made(copied, "label_conflicts", LABEL_CONFLICTS, conflicts(MISLABELLED))
    none = make_calibration(copied, recipe).receipt.summary
    assert (none["pairs"], none["overlapping"], none["accepted_by_min_inliers"]) == (every - 12, 0, 0)


def test_uncalibrated_the_least_is_wanted_though_chance_reaches_more(copied: Store) -> None:
    recipe = changed(calibration_pairs=400, calibrate=False, max_false_rate=1e-6)
    summary = make_calibration(copied, recipe).receipt.summary
    assert (summary["threshold_least"], summary["threshold_most"]) == (11, 11)
    assert summary["image_rate_most"] > 1e-6


def test_workers_change_no_byte(extracted: Store, tmp_path: Path) -> None:
    found = []
    for workers in (1, 2, 5):
        store = Store(str(tmp_path / str(workers)))
        store.fs.put(f"{extracted.root}/", f"{store.root}/", recursive=True)
        make_calibration(store, RECIPE, workers)
        found.append(outputs(store))
    assert found[0] == found[1] == found[2]


def test_finished_work_is_known_and_another_recipe_or_seed_makes_it_anew(copied: Store) -> None:
    assert not make_calibration(copied).reused
    before = outputs(copied)
    assert make_calibration(copied, RECIPE, 2).reused
    assert make_calibration(copied, RECIPE.model_copy(update={"keep": 3, "exhaustive": True, "buckets": 9})).reused
    assert outputs(copied) == before
    drawn = read_table(copied, DIFFERENT_PAIRS)
    wanted = Wanted.of(copied, RECIPE, SEED)
    assert not make_verification_calibration(copied, wanted, RECIPE, Execution(workers=1), SEED + 1).reused
    assert not read_table(copied, DIFFERENT_PAIRS).equals(drawn)
    assert not make_calibration(copied, RECIPE.model_copy(update={"min_inliers": 12})).reused
    assert min(read_table(copied, VERIFICATION_CALIBRATION)["threshold"].to_pylist()) == 12


def test_features_that_are_not_there_are_named(copied: Store) -> None:
    with pytest.raises(MissingInputError, match=r"with 100 features, the recipe wants .* with 90"):
        make_calibration(copied, RECIPE.model_copy(update={"max_features": 90}))
    copied.remove("receipts/local_features/001.json")
    with pytest.raises(MissingInputError, match="local_features/001 has not been made"):
        make_calibration(copied)
    assert not copied.exists(VERIFICATION_CALIBRATION.path)


@pytest.mark.parametrize("photographs", [0, 1, 6])
def test_a_set_without_pairs_of_different_landmarks_wants_the_least(photographs: int, store: Store) -> None:
    made = Corpus()
    made.add(3, *[(10, 0.0)] * photographs)
    made.write(store)
    recipe = changed(min_class=2)
    features(store, recipe)
    summary = make_calibration(store, recipe).receipt.summary
    assert (summary["pairs"], summary["images"]) == (0, photographs if photographs > 1 else 0)
    assert (summary["threshold_least"], summary["threshold_most"]) == (11, 11)
    assert (summary["image_rate_most"], summary["judged_image_rate"]) == (1, None)
