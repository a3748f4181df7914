"""Thresholds from what chance gives: worked examples, plain computations, and the asset on small photographs."""

from __future__ import annotations

import math
from collections import Counter
from itertools import combinations
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
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
    Thresholds,
    calibrated,
    different_pairs,
    images_to_compare,
    make_verification_calibration,
    most_likely_share,
)
from glr_assets.verification.evidence import Judge
from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets.verification.feature_reader import FeatureReader
from glr_assets.verification.local_features import Wanted
from glr_assets.verification.matching import Prepared
from glr_assets.verification.schemas import DIFFERENT_PAIRS, VERIFICATION_CALIBRATION
from glr_assets_tests.images.handmade import identifier
from glr_assets_tests.test_seeded import reference
from glr_assets_tests.verification.test_verified_pairs import SEED, Corpus, changed, features, outputs, write

#: Putative matches, inliers, and the trap.
Found = tuple[int, int, str]


def pairs_of(found: list[Found]) -> pa.Table:
    return DIFFERENT_PAIRS.rows(
        [
            {"first": f"{number:05d}", "second": "x", "putative": putative, "inliers": inliers, "refusal": refusal}
            for number, (putative, inliers, refusal) in enumerate(found)
        ]
    )


def ranges_of(found: list[Found], **recipe: Any) -> list[dict[str, Any]]:
    table = calibrated(pairs_of(found), Verification(**recipe))
    assert problems(VERIFICATION_CALIBRATION, table) == []
    return table.to_pylist()


def test_a_pair_wants_the_inliers_of_its_range() -> None:
    thresholds = Thresholds(np.array([0, 20, 50]), np.array([11, 12, 15]))
    asked = [0, 1, 19, 20, 49, 50, 2000]
    wanted = [11, 11, 11, 12, 12, 15, 15]
    assert [thresholds(putative) for putative in asked] == wanted
    assert thresholds.of_all(np.array(asked)).tolist() == wanted
    rows = [{"putative_from": 0, "threshold": 11}, {"putative_from": 9, "threshold": 13}]
    others = {"pairs": 1, "refused": 0, "accepted": 0, "false_rate": 0.0, "false_rate_most": 1.0}
    table = VERIFICATION_CALIBRATION.rows([row | others for row in rows])
    assert [Thresholds.of(table)(putative) for putative in (8, 9)] == [11, 13]


def test_a_worked_example_of_one_range() -> None:
    # 40 pairs, of which a twentieth may be accepted: two. The third highest, 17, must not be.
    found = [(30, inliers, "") for inliers in [25, 19, 17, 17, 12, *[3] * 35]]
    (row,) = ranges_of(found, max_false_rate=0.05)
    assert row == {
        "putative_from": 0,
        "pairs": 40,
        "refused": 0,
        "accepted": 2,
        "threshold": 18,
        "false_rate": 0.05,
        "false_rate_most": pytest.approx(0.149152, abs=1e-6),
    }
    # A tie of the second and the third: neither is accepted.
    found[1] = (30, 17, "")
    (row,) = ranges_of(found, max_false_rate=0.05)
    assert (row["threshold"], row["accepted"]) == (18, 1)
    # Refused ones do not count as accepted, but as pairs.
    found[0], found[1] = (30, 25, "agrees only in a strip"), (30, 18, "agrees only in a strip")
    (row,) = ranges_of(found, max_false_rate=0.05)
    assert (row["threshold"], row["accepted"], row["refused"], row["pairs"]) == (13, 2, 2, 40)
    # Chance that reaches less than the least is no reason for less.
    (row,) = ranges_of(found, max_false_rate=0.05, min_inliers=16)
    assert (row["threshold"], row["accepted"], row["refused"]) == (16, 2, 2)
    (row,) = ranges_of(found, max_false_rate=0.05, calibrate=False)
    assert (row["threshold"], row["accepted"], row["refused"]) == (11, 3, 2)
    assert row["false_rate"] == 3 / 40


def test_a_worked_example_of_two_ranges() -> None:
    # 200 pairs at a twentieth: two ranges of a hundred, of which five may be accepted.
    low = [(putative, 13 if putative < 6 else 2, "") for putative in range(100)]
    high = [(putative, 20 + putative % 10 if putative < 110 else 2, "") for putative in range(100, 200)]
    rows = ranges_of(low + high, max_false_rate=0.05)
    told = [(row["putative_from"], row["pairs"], row["threshold"], row["accepted"]) for row in rows]
    assert told == [(0, 100, 14, 0), (100, 100, 25, 5)]
    # Where more matches gave less by chance, no less is wanted.
    rows = ranges_of(low + [(putative, 2, "") for putative in range(100, 200)], max_false_rate=0.05)
    assert [(row["threshold"], row["accepted"]) for row in rows] == [(14, 0), (14, 0)]


def test_ranges_are_of_equal_shares_with_enough_pairs_each_and_four_at_most() -> None:
    for pairs, wanted in ((9_999, 1), (10_000, 2), (19_999, 3), (20_000, 4), (60_000, 4)):
        putative = np.random.default_rng(1).permutation(pairs)
        table = pa.table(
            {
                "putative": pa.array(putative, pa.int32()),
                "inliers": pa.array(putative % 7, pa.int32()),
                "refusal": pa.array([""] * pairs),
            }
        )
        rows = calibrated(table, Verification(max_false_rate=0.001)).to_pylist()
        assert len(rows) == wanted
        sizes = [row["pairs"] for row in rows]
        assert max(sizes) - min(sizes) <= 1
        assert wanted == 1 or min(sizes) * 0.001 >= 4.999
        assert sum(sizes) == pairs


def test_without_pairs_the_least_is_wanted_and_nothing_is_known() -> None:
    (row,) = ranges_of([], min_inliers=12)
    assert (row["putative_from"], row["pairs"], row["accepted"], row["threshold"]) == (0, 0, 0, 12)
    assert (row["false_rate"], row["false_rate_most"]) == (0.0, 1.0)
    assert len(ranges_of([(0, 0, "")] * 500, max_false_rate=0.1)) == 1


found_by_chance = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 24), st.sampled_from(["", "", "", "a strip"])), max_size=300
)


@given(found_by_chance, st.sampled_from([0.001, 0.01, 0.1, 0.25, 1.0]), st.integers(4, 14), st.booleans())
@settings(max_examples=200)
def test_each_threshold_is_the_least_that_keeps_the_rate(
    found: list[Found], rate: float, least: int, calibrate: bool
) -> None:
    rows = ranges_of(found, max_false_rate=rate, min_inliers=least, calibrate=calibrate)
    starts = [row["putative_from"] for row in rows]
    assert starts[0] == 0
    assert starts == sorted(set(starts))
    assert len(rows) <= 4
    before = least
    for row, end in zip(rows, [*starts[1:], math.inf], strict=True):
        mine = [of for of in found if row["putative_from"] <= of[0] < end]
        good = [inliers for _, inliers, refusal in mine if not refusal]
        wanted = before
        while calibrate and sum(inliers >= wanted for inliers in good) > rate * len(mine) + 1e-9:
            wanted += 1
        assert row["threshold"] == wanted >= before
        assert row["pairs"] == len(mine)
        assert row["accepted"] == sum(inliers >= wanted for inliers in good)
        assert row["refused"] == sum(inliers >= wanted for _, inliers, refusal in mine if refusal)
        assert row["false_rate"] == (row["accepted"] / len(mine) if mine else 0)
        if calibrate:
            assert row["false_rate"] <= rate
        before = wanted
    thresholds = Thresholds.of(calibrated(pairs_of(found), Verification(max_false_rate=rate, min_inliers=least)))
    accepted = [of for of in found if of[1] >= thresholds(of[0]) and not of[2]]
    assert len(accepted) <= rate * len(found) + 1e-9


def at_most(accepted: int, of: int, share: float) -> float:
    """How likely so many or fewer of `of` are accepted, each by `share`."""
    return math.fsum(math.comb(of, k) * share**k * (1 - share) ** (of - k) for k in range(accepted + 1))


@given(st.integers(1, 300).flatmap(lambda of: st.tuples(st.integers(0, min(of - 1, 40)), st.just(of))))
def test_the_share_not_exceeded_is_that_at_which_so_few_are_as_rare_as_one_in_twenty(numbers: tuple[int, int]) -> None:
    share = most_likely_share(*numbers)
    assert numbers[0] / numbers[1] < share < 1
    assert at_most(*numbers, share) == pytest.approx(0.05, rel=1e-7)


def test_the_share_not_exceeded_of_none_and_where_all_are_accepted_is_one() -> None:
    assert most_likely_share(0, 0) == most_likely_share(7, 7) == 1.0
    # The rule of three.
    assert most_likely_share(0, 20_000) == pytest.approx(1 - 0.05 ** (1 / 20_000))


# Which pairs are compared

landmarks = st.lists(st.integers(0, 5), max_size=14)


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
    table = read_table(copied, VERIFICATION_CALIBRATION)
    assert table.to_pylist() == calibrated(DIFFERENT_PAIRS.rows(pairs), RECIPE).to_pylist()
    thresholds = Thresholds.of(table)
    accepted = sum(row["inliers"] >= thresholds(row["putative"]) and not row["refusal"] for row in pairs)
    assert accepted <= 3
    assert made.receipt.summary == {
        "rows": table.num_rows,
        "images": 28,
        "pairs": 150,
        "accepted": accepted,
        "refused": sum(table["refused"].to_pylist()),
        "false_rate": accepted / 150,
        "false_rate_most": most_likely_share(accepted, 150),
        "accepted_by_min_inliers": sum(row["inliers"] >= 11 for row in pairs),
        "threshold_least": min(table["threshold"].to_pylist()),
        "threshold_most": max(table["threshold"].to_pylist()),
    }
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
    assert summary["pairs"] == every
    assert summary["accepted_by_min_inliers"] == 12
    assert summary["threshold_most"] > 25
    write(copied, "label_conflicts", LABEL_CONFLICTS, conflicts(MISLABELLED[:1]))
    one_less = make_calibration(copied, recipe).receipt.summary
    assert (one_less["pairs"], one_less["accepted_by_min_inliers"]) == (every - 6, 6)
    write(copied, "label_conflicts", LABEL_CONFLICTS, conflicts(MISLABELLED))
    none = make_calibration(copied, recipe).receipt.summary
    assert (none["pairs"], none["accepted_by_min_inliers"]) == (every - 12, 0)
    assert (none["threshold_least"], none["threshold_most"]) == (11, 11)


def test_uncalibrated_the_least_is_wanted_though_chance_reaches_more(copied: Store) -> None:
    summary = make_calibration(copied, changed(calibration_pairs=400, calibrate=False)).receipt.summary
    assert (summary["threshold_least"], summary["threshold_most"], summary["accepted"]) == (11, 11, 12)
    assert summary["false_rate"] == 12 / summary["pairs"]


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
    assert (summary["threshold_least"], summary["threshold_most"], summary["false_rate"]) == (11, 11, None)
