"""Landmarks of small photographs with known likenesses, from features to the cleaned set, by whichever way."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from glr_assets.curation.schemas import LABEL_CONFLICTS, TRAIN_MANIFEST
from glr_assets.errors import MissingInputError, RecipeError
from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_INDEX
from glr_assets.receipts import Made, Receipt, find_receipt
from glr_assets.recipes import Execution, Verification
from glr_assets.store import Store
from glr_assets.tables import problems, read_table
from glr_assets.verification.calibration import ClassThresholds, make_verification_calibration
from glr_assets.verification.cleaned_manifest import make_cleaned_manifest
from glr_assets.verification.evidence import Evidence, Judge
from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets.verification.feature_reader import ClassFeatures
from glr_assets.verification.features import KeptFeatures, decoded, encoded
from glr_assets.verification.local_features import Wanted, make_local_features
from glr_assets.verification.matching import Prepared
from glr_assets.verification.plan import bucket_keys, buckets_of
from glr_assets.verification.schemas import (
    CLEANED_MANIFEST,
    VERIFICATION_CALIBRATION,
    VERIFIED_IMAGES,
    VERIFIED_PAIRS,
)
from glr_assets.verification.traps import REFUSALS
from glr_assets.verification.verified_pairs import ClassVerifier, VerifiedClass, make_verified_pairs
from glr_assets_tests.images.handmade import identifier, write_locations, write_made
from glr_assets_tests.verification import planted
from glr_assets_tests.verification.test_local_features import Shard

RECIPE = Verification(max_features=100, min_class=6, cap=10, keep=6, connections=3, calibration_pairs=300, buckets=3)
EVERY = {"exhaustive": True}
SEED = 5
#: A place: which texture, and how far to the right of its middle, in pixels. None is a picture without a corner.
View = tuple[int, float] | None
UNDECODABLE = b"\xff\xd8 no image"


@functools.cache
def texture(number: int) -> np.ndarray:
    """A wide picture with corners of all sizes, unlike that of any other number."""
    random = np.random.default_rng([number, 1])
    out = np.zeros((300, 1000, 3))
    for cell in (4, 9, 25, 60):
        coarse = random.integers(0, 256, (300 // cell + 1, 1000 // cell + 1, 3)).astype(np.uint8)
        out += cv2.resize(coarse, (1000, 300), interpolation=cv2.INTER_CUBIC) / 4
    return out.astype(np.uint8)


@functools.cache
def photograph(view: View, seed: int) -> bytes:
    """200 x 160 pixels of a texture, turned, nearer or farther, in a light of its own, as JPEG."""
    if view is None:
        return jpeg(np.full((160, 200, 3), 90, np.uint8))
    random = np.random.default_rng([seed, 2])
    model = cv2.getRotationMatrix2D((500 + view[1], 150), random.uniform(-10, 10), random.uniform(0.8, 1.2))
    model[:, 2] += random.uniform(-12, 12, 2) - (400 + view[1], 70)
    seen = cv2.warpAffine(texture(view[0]), model, (200, 160), borderMode=cv2.BORDER_REFLECT).astype(float)
    seen = seen * random.uniform(0.7, 1.1) + random.uniform(-10, 20) + random.normal(0, 4, seen.shape)
    return jpeg(np.clip(seen, 0, 255).astype(np.uint8))


def jpeg(pixels: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()


@dataclass
class Corpus:
    """Images by number: the landmark, and the JPEG bytes."""

    landmarks: dict[int, int] = field(default_factory=dict)
    data: dict[int, bytes] = field(default_factory=dict)

    def add(self, landmark: int, *views: View) -> list[int]:
        """The numbers of the images added."""
        numbers = list(range(len(self.data), len(self.data) + len(views)))
        for number, view in zip(numbers, views, strict=True):
            self.landmarks[number], self.data[number] = landmark, photograph(view, number)
        return numbers

    def write(self, store: Store) -> None:
        """Leave what ingest and curation leave, in two shards."""
        catalog = []
        for key in ("000", "001"):
            mine = [number for number in self.data if number % 2 == int(key)]
            images = {identifier(number): self.data[number] for number in mine}
            Shard(images, {}).write(store, key)
            of = {identifier(number): self.landmarks[number] for number in mine}
            rows = read_table(store, IMAGE_INDEX, split="train", shard=key).to_pylist()
            catalog += [row | {"split": "train", "shard": key, "landmark_id": of[row["id"]]} for row in rows]
        trains = [
            {"id": row["id"], "landmark_id": row["landmark_id"], "shard": row["shard"]}
            | {"decision": "kept", "reason": "", "origin": "competition"}
            for row in catalog
        ]
        for name, table, made in (
            ("image_catalog", IMAGE_CATALOG, catalog),
            ("train_manifest", TRAIN_MANIFEST, sorted(trains, key=lambda row: row["id"])),
            ("label_conflicts", LABEL_CONFLICTS, []),
        ):
            write_made(store, name, table, made)
        write_locations(store)


def corpus() -> Corpus:
    """Seven landmarks, each of which shows one thing; numbers by what they show are in `SHOWN`."""
    made = Corpus()
    for landmark, views in SHOWN.items():
        made.add(landmark, *views)
    made.data[BROKEN] = UNDECODABLE
    return made


SHOWN: dict[int, list[View]] = {
    # One thing seven times, and a stranger, a picture without corners and one that is broken.
    11: [(0, 0)] * 7 + [(90, 0), None, (0, 0)],
    # A row of views of which only neighbours have something in common.
    12: [(1, 70 * step - 210) for step in range(7)],
    # Two things, and a stranger.
    13: [(2, 0)] * 4 + [(3, 0)] * 3 + [(91, 0)],
    # Strangers alone.
    14: [(92 + number, 0) for number in range(6)],
    # Too few.
    15: [(4, 0)] * 3,
    # More than are compared, of which more than are kept are verified.
    16: [(5, 0)] * 12,
    # All is well.
    17: [(6, 0)] * 6,
}
BROKEN, FLAT, STRANGER = 9, 8, 7


def numbers_of(landmark: int) -> list[int]:
    first = sum(len(views) for of, views in SHOWN.items() if of < landmark)
    return list(range(first, first + len(SHOWN[landmark])))


def changed(**values: Any) -> Verification:
    return Verification.model_validate(RECIPE.model_dump() | values)


def features_and_calibration(store: Store, recipe: Verification = RECIPE, workers: int = 1) -> None:
    execution = Execution(workers=workers)
    wanted = Wanted.of(store, recipe, SEED)
    for key in wanted.shards:
        make_local_features(store, key, wanted, recipe, execution)
    make_verification_calibration(store, wanted, recipe, execution, SEED)


def verified(store: Store, recipe: Verification = RECIPE, workers: int = 1, turn: int = 1) -> dict[str, Made]:
    """All buckets, in either order."""
    wanted = Wanted.of(store, recipe, SEED)
    return {
        key: make_verified_pairs(store, key, wanted, recipe, Execution(workers=workers))
        for key in bucket_keys(recipe.buckets)[::turn]
    }


def total(made: Mapping[str, Made], name: str) -> int:
    """The sum of a figure of all runs."""
    return sum(int(of.run.get(name) or 0) for of in made.values())


def outputs(store: Store, *folders: str) -> dict[str, bytes]:
    """Every file of the stage, or of these folders."""
    root = Path(store.root)
    names = folders or ("features", "verification", "reports", "manifests", "receipts")
    files = [file for name in names for file in sorted((root / name).rglob("*")) if file.is_file()]
    return {str(file.relative_to(root)): file.read_bytes() for file in files}


def pairs_of(store: Store, recipe: Verification = RECIPE) -> dict[tuple[str, str], dict[str, Any]]:
    parts = [read_table(store, VERIFIED_PAIRS, bucket=key) for key in bucket_keys(recipe.buckets)]
    return {(row["first"], row["second"]): row for row in pa.concat_tables(parts).to_pylist()}


def images_of(store: Store, recipe: Verification = RECIPE) -> dict[str, dict[str, Any]]:
    parts = [read_table(store, VERIFIED_IMAGES, bucket=key) for key in bucket_keys(recipe.buckets)]
    return {row["id"]: row for row in pa.concat_tables(parts).to_pylist()}


def cleaned_of(store: Store) -> dict[int, dict[str, Any]]:
    """Rows by the number of the image."""
    numbers = {identifier(number): number for number in range(200)}
    return {numbers[row["id"]]: row for row in read_table(store, CLEANED_MANIFEST).to_pylist()}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Features and calibration, which no test changes."""
    store = Store(str(tmp_path_factory.mktemp("prepared")))
    corpus().write(store)
    features_and_calibration(store)
    return store


def copy_of(store: Store, folder: Path) -> Store:
    copied = Store(str(folder))
    copied.fs.put(f"{store.root}/", f"{copied.root}/", recursive=True)
    return copied


@pytest.fixture
def copied(prepared: Store, tmp_path: Path) -> Store:
    return copy_of(prepared, tmp_path / "copied")


@pytest.fixture(scope="module")
def done(prepared: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Store]:
    """The cleaned set by trying likely pairs first, and by trying all, which no test changes."""
    stores = []
    for recipe in (RECIPE, changed(**EVERY)):
        store = copy_of(prepared, tmp_path_factory.mktemp("done"))
        made = verified(store, recipe)
        assert (total(made, "pairs_compared"), total(made, "pairs_known")) == (len(pairs_of(store)), 0)
        make_cleaned_manifest(store, recipe, SEED)
        stores.append(store)
    return stores[0], stores[1]


def test_each_image_stays_or_goes_as_what_it_shows_wants(done: tuple[Store, Store]) -> None:
    for store in done:
        cleaned = cleaned_of(store)
        decisions = {
            landmark: "".join(cleaned[number]["decision"][0] for number in numbers_of(landmark)) for landmark in SHOWN
        }
        kept = {landmark: word.count("k") for landmark, word in decisions.items()}
        assert kept == {11: 6, 12: 6, 13: 6, 14: 0, 15: 0, 16: 6, 17: 6}
        assert decisions[11].endswith("ddf")
        assert decisions[13].endswith("d")
        assert decisions[17] == "kkkkkk"
        assert cleaned[BROKEN]["reason"].startswith("undecodable: ")
        assert cleaned[FLAT]["reason"].startswith("not verified: at most 0 inliers with ")
        assert cleaned[STRANGER]["reason"].startswith("not verified: at most ")
        reasons = [cleaned[number]["reason"] for number in numbers_of(16)]
        assert reasons.count("not among the 10 images of its landmark compared") == 2
        assert reasons.count("verified, but not among the 6 best connected of its landmark") == 4
        assert sum(reason.startswith("verified: ") for reason in reasons) == 6
        assert {cleaned[number]["reason"] for number in numbers_of(15)} == {"its landmark has fewer than 6 images"}
    assert [row["decision"] for row in cleaned_of(done[0]).values()] == [
        row["decision"] for row in cleaned_of(done[1]).values()
    ]


@pytest.mark.parametrize("which", [0, 1], ids=["early exit", "all pairs"])
def test_summaries_are_those_of_the_tables(which: int, done: tuple[Store, Store]) -> None:
    store = done[which]
    summary = receipt_of(store, "cleaned_manifest").summary
    assert summary == {"requested": 52, "kept": 30, "dropped": 21, "failed": 1, "landmarks": 7, "landmarks_left": 5}
    rows = cleaned_of(store).values()
    assert {word: sum(row["decision"] == word for row in rows) for word in ("kept", "dropped", "failed")} == {
        word: summary[word] for word in ("kept", "dropped", "failed")
    }
    all_pairs = {11: 36, 12: 21, 13: 28, 14: 15, 16: 45, 17: 15}
    for key in bucket_keys(3):
        pairs = read_table(store, VERIFIED_PAIRS, bucket=key).to_pylist()
        images = read_table(store, VERIFIED_IMAGES, bucket=key).to_pylist()
        landmarks = {row["landmark_id"] for row in images}
        assert receipt_of(store, f"verified_pairs/{key}").summary == {
            "rows": len(pairs),
            "pairs_of_all": sum(all_pairs[landmark] for landmark in landmarks),
            "accepted": sum(row["accepted"] for row in pairs),
            "refused": sum(row["refusal"] != "" for row in pairs),
            "landmarks": len(landmarks),
            "images": len(images),
            "verified": sum(row["verified"] for row in images),
            "chosen": sum(row["chosen"] for row in images),
        }
    assert sum(receipt_of(store, f"verified_pairs/{key}").summary["landmarks"] for key in bucket_keys(3)) == 6
    assert (len(pairs_of(store)) == sum(all_pairs.values())) == (which == 1)


def test_tables_are_as_their_schemas_say_and_pictures_open(done: tuple[Store, Store]) -> None:
    root = Path(done[0].root)
    for key in bucket_keys(3):
        for table in (VERIFIED_PAIRS, VERIFIED_IMAGES):
            rows = pq.read_table(root / table.at(bucket=key))
            assert problems(table, rows) == []
            keys = list(zip(*(rows[name].to_pylist() for name in table.key), strict=True))
            assert keys == sorted(keys)
    assert problems(CLEANED_MANIFEST, pq.read_table(root / CLEANED_MANIFEST.path)) == []
    pictures = sorted((root / "reports").iterdir())
    assert len(pictures) == 2 + 3 + 3
    for file in pictures:
        assert file.stat().st_size < 100_000
        with Image.open(file) as picture:
            picture.load()


def receipt_of(store: Store, name: str) -> Receipt:
    receipt = find_receipt(store, name)
    assert receipt is not None
    return receipt


def features_by_hand(data: bytes) -> KeptFeatures:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    (found,) = RootSift(100).extract([pixels])
    return decoded(encoded(found, False), len(found.places), 128, False, found.width, found.height)


def test_each_pair_holds_what_comparing_its_two_photographs_gives(done: tuple[Store, Store]) -> None:
    recipe = changed(**EVERY)
    judge = Judge.of(recipe, RootSift.min_cosine, RootSift.oriented)
    by_id = {
        identifier(number): (corpus().landmarks[number], Prepared.of(identifier(number), features_by_hand(data)))
        for number, data in corpus().data.items()
        if number != BROKEN
    }
    found = pairs_of(done[1])
    calibration = ClassThresholds.of(read_table(done[1], VERIFICATION_CALIBRATION))
    compared = {row["id"] for row in images_of(done[1]).values() if not row["reason"]}
    wanted = {pair for pair in combinations(sorted(compared), 2) if by_id[pair[0]][0] == by_id[pair[1]][0]}
    assert set(found) == wanted
    for (first, second), row in found.items():
        evidence = judge(by_id[first][1], by_id[second][1])
        assert (row["putative"], row["inliers"], row["refusal"]) == (
            evidence.putative,
            evidence.inliers,
            evidence.refusal,
        )
        assert row["model"] == np.array(evidence.model, np.float32).tolist()
        size = sum(by_id[name][0] == row["landmark_id"] for name in compared)
        assert row["threshold"] == calibration.for_class(size)(evidence.putative) >= 11
        assert row["accepted"] == (row["inliers"] >= row["threshold"] and not row["refusal"])
        assert row["landmark_id"] == by_id[first][0]


def test_what_agrees_is_what_shows_the_same(done: tuple[Store, Store]) -> None:
    """The photographs are good enough to tell: else the tests of this file would say little."""
    number_of = {identifier(number): number for number in corpus().data}
    views = [view for of in SHOWN.values() for view in of]
    for (first, second), row in pairs_of(done[1]).items():
        one, other = views[number_of[first]], views[number_of[second]]
        if one is None or other is None or one[0] != other[0]:
            assert not row["accepted"]
        elif abs(one[1] - other[1]) < 80:
            assert row["accepted"]
        elif abs(one[1] - other[1]) > 250:
            assert row["inliers"] < 11


SAME = ("verified", "degree", "chosen", "reason", "stored_xxh3", "landmark_id")


@pytest.mark.parametrize(
    "values",
    [{}, {"component": "exact"}, {"component": "largest"}, {"keep": 2, "connections": 1}, {"keep": 10}],
    ids=["as it is", "exact", "largest", "two kept", "all kept"],
)
def test_stopping_early_decides_as_all_pairs_do(values: Mapping[str, Any], prepared: Store, tmp_path: Path) -> None:
    early, every = (copy_of(prepared, tmp_path / name) for name in ("early", "every"))
    verified(early, changed(**values))
    verified(every, changed(**values, **EVERY))
    found, wanted = images_of(early), images_of(every)
    names = (*SAME, "component") if "component" in values else SAME
    assert {image: [row[name] for name in names] for image, row in found.items()} == {
        image: [row[name] for name in names] for image, row in wanted.items()
    }
    tried, all_pairs = pairs_of(early), pairs_of(every)
    assert len(tried) < len(all_pairs)
    for pair, row in tried.items():
        assert row == all_pairs[pair]
    sizes = Counter(row["landmark_id"] for row in found.values() if not row["reason"])
    for image, row in found.items():
        assert row["tried"] == sum(image in pair for pair in tried)
        if not row["verified"] and not row["reason"]:
            assert row["tried"] == sizes[row["landmark_id"]] - 1


def test_of_two_things_the_recipe_may_keep_the_larger_group_alone(copied: Store) -> None:
    recipe = changed(component="largest")
    verified(copied, recipe)
    make_cleaned_manifest(copied, recipe, SEED)
    cleaned = cleaned_of(copied)
    two = [cleaned[number] for number in numbers_of(13)]
    assert [row["decision"] for row in two] == ["kept"] * 4 + ["dropped"] * 4
    assert {row["reason"] for row in two[4:7]} == {"verified, but outside the largest group of its landmark"}
    assert [row["component"] for row in two] == [0] * 4 + [1] * 3 + [None]
    # The row of neighbours is one group, though its ends have nothing in common.
    assert {cleaned[number]["component"] for number in numbers_of(12)} == {0}


@pytest.mark.parametrize("buckets", [1, 3, 7])
def test_neither_workers_nor_buckets_nor_their_order_change_a_byte(
    buckets: int, prepared: Store, done: tuple[Store, Store], tmp_path: Path
) -> None:
    recipe = changed(buckets=buckets)
    found = []
    for workers, turn in ((1, 1), (2, -1)):
        store = copy_of(prepared, tmp_path / str(workers))
        verified(store, recipe, workers, turn)
        make_cleaned_manifest(store, recipe, SEED)
        found.append(outputs(store))
    assert found[0] == found[1]
    assert store.read(CLEANED_MANIFEST.path) == done[0].read(CLEANED_MANIFEST.path)
    assert pairs_of(store, recipe) == pairs_of(done[0])
    assert images_of(store, recipe) == images_of(done[0])
    for number, key in enumerate(bucket_keys(buckets)):
        landmarks = np.array(read_table(store, VERIFIED_IMAGES, bucket=key)["landmark_id"].to_pylist(), np.int64)
        assert (buckets_of(landmarks, buckets) == number).all()


def test_two_workers_from_the_features_on_leave_the_same(done: tuple[Store, Store], store: Store) -> None:
    corpus().write(store)
    features_and_calibration(store, RECIPE, 2)
    verified(store, RECIPE, 2, -1)
    make_cleaned_manifest(store, RECIPE, SEED)
    assert outputs(store) == outputs(done[0])


# What an earlier run left

FIVE = {"min_class": 5}


def features(store: Store, recipe: Verification) -> None:
    wanted = Wanted.of(store, recipe, SEED)
    for key in wanted.shards:
        make_local_features(store, key, wanted, recipe, Execution(workers=1))


def calibrate_at(store: Store, *of_sizes: tuple[int, int]) -> None:
    """Thresholds that a calibration might have given, each with the largest class that it is for."""
    rows, first = [], 2
    for threshold, images in of_sizes:
        rows.append(
            {"putative_from": 0, "images_from": first, "images_to": images, "threshold": threshold}
            | {"pairs": 1, "refused": 0, "accepted": 0, "pair_rate": 0.0, "image_rate": 0.0, "image_rate_most": 1.0}
        )
        first = images + 1
    write_made(store, "verification_calibration", VERIFICATION_CALIBRATION, rows)


@pytest.fixture(scope="module")
def earlier(prepared: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Store]:
    """What was verified of the corpus, by all pairs or not, which no test changes."""
    stores = {}
    for exhaustive in (True, False):
        stores[exhaustive] = copy_of(prepared, tmp_path_factory.mktemp("earlier"))
        calibrate_at(stores[exhaustive], (11, 500))
        verified(stores[exhaustive], changed(**FIVE, exhaustive=exhaustive))
    return stores


def altered(change: str) -> tuple[Corpus, set[int]]:
    """The corpus with one thing changed, and the images whose pairs are not known."""
    made = corpus()
    new: set[int] = set()
    if change == "other pixels":
        made.data[3] = photograph((0, 20), 300)
        new = {3}
    elif change == "an image more":
        new = set(made.add(17, (6, 0)))
    elif change == "an image less":
        del made.data[numbers_of(17)[0]], made.landmarks[numbers_of(17)[0]]
    elif change == "another landmark":
        new = {numbers_of(14)[0]}
        made.landmarks[numbers_of(14)[0]] = 17
    elif change == "broken":
        made.data[3] = UNDECODABLE
    elif change == "mended":
        made.data[BROKEN] = photograph((0, 0), 301)
        new = {BROKEN}
    return made, new


def compared_pairs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """A list that grows by the ids of each pair that is compared."""
    pairs: list[tuple[str, str]] = []
    usual = Judge.__call__

    def call(judge: Judge, one: Prepared, other: Prepared) -> Evidence:
        pairs.append((min(one.id, other.id), max(one.id, other.id)))
        return usual(judge, one, other)

    monkeypatch.setattr(Judge, "__call__", call)
    return pairs


CHANGES = ["other pixels", "an image more", "an image less", "another landmark", "broken", "mended"]


@pytest.mark.parametrize("change", CHANGES)
def test_only_pairs_of_what_changed_are_compared_and_nothing_tells_of_it(
    change: str, earlier: dict[bool, Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    later, new = altered(change)
    names = {identifier(number) for number in new}
    fresh = Store(str(tmp_path / "fresh"))
    later.write(fresh)
    features(fresh, changed(**FIVE))
    calibrate_at(fresh, (11, 500))
    seen = compared_pairs(monkeypatch)
    for exhaustive, before in earlier.items():
        recipe = changed(**FIVE, exhaustive=exhaustive)
        store, alone = (copy_of(of, tmp_path / f"{exhaustive}{at}") for at, of in enumerate((before, fresh)))
        later.write(store)
        features(store, recipe)
        seen.clear()
        made = verified(store, recipe)
        compared = set(seen)
        assert len(compared) == len(seen) == total(made, "pairs_compared")
        left = pairs_of(store)
        assert compared == set(left) - {pair for pair in pairs_of(before) if not names & set(pair)}
        if exhaustive:
            assert compared == {pair for pair in left if names & set(pair)}
            assert bool(compared) == bool(names)
        again = [key for key, of in made.items() if not of.reused]
        rows = sum(read_table(store, VERIFIED_PAIRS, bucket=key).num_rows for key in again)
        assert total(made, "pairs_known") == rows - len(compared)
        verified(alone, recipe)
        assert outputs(store) == outputs(alone)


@pytest.mark.parametrize("exhaustive", [False, True])
def test_the_images_of_a_landmark_decide_on_its_threshold(
    exhaustive: bool, earlier: dict[bool, Store], tmp_path: Path
) -> None:
    store = copy_of(earlier[exhaustive], tmp_path / "sized")
    before = images_of(store)
    sizes = Counter(row["landmark_id"] for row in before.values() if not row["reason"])
    between = sorted(set(sizes.values()))[-2]
    # Classes of more images than that want what no pair has.
    calibrate_at(store, (11, between), (101, 500))
    made = verified(store, changed(**FIVE, exhaustive=exhaustive))
    after = images_of(store)
    for name, row in after.items():
        assert row["verified"] == (before[name]["verified"] and sizes[row["landmark_id"]] <= between)
    kept = {row["landmark_id"] for row in after.values() if row["verified"]}
    assert kept
    assert kept < {row["landmark_id"] for row in before.values() if row["verified"]}
    # A pair's evidence is that of the earlier threshold.
    assert total(made, "pairs_known") > 0
    wanted = {row["threshold"] for row in pairs_of(store).values() if sizes[row["landmark_id"]] > between}
    assert wanted == {101}


def test_finished_work_is_known(done: tuple[Store, Store], tmp_path: Path) -> None:
    store = copy_of(done[0], tmp_path / "again")
    before = outputs(store)
    assert all(made.reused for made in verified(store, RECIPE, 2, -1).values())
    assert make_cleaned_manifest(store, RECIPE, SEED).reused
    assert outputs(store) == before
    assert not make_cleaned_manifest(store, RECIPE, SEED + 1).reused
    tried = pairs_of(store)
    other = verified(store, changed(keep=3))
    assert not any(made.reused for made in other.values())
    # Further pairs tell who is best connected.
    assert total(other, "pairs_compared") == len(set(pairs_of(store)) - set(tried))
    assert total(other, "pairs_known") == len(set(pairs_of(store)) & set(tried)) > 50


def test_where_pairs_would_be_compared_otherwise_none_is_known(done: tuple[Store, Store], tmp_path: Path) -> None:
    store = copy_of(done[1], tmp_path / "again")
    for values in ({"residual": 7.5}, {"min_cosine": 0.86}, {"geometry": "magsac"}, {"refuse_traps": False}):
        made = verified(store, changed(**values, **EVERY))
        assert (total(made, "pairs_compared"), total(made, "pairs_known")) == (160, 0)


@pytest.mark.parametrize("threshold", [14, 33, 1000])
def test_another_threshold_decides_anew_of_what_was_compared(
    threshold: int, prepared: Store, done: tuple[Store, Store], tmp_path: Path
) -> None:
    recipe = changed(**EVERY)
    store, fresh = copy_of(done[1], tmp_path / "store"), copy_of(prepared, tmp_path / "fresh")
    calibrate_at(store, (threshold, 500))
    made = verified(store, recipe)
    assert (total(made, "pairs_compared"), total(made, "pairs_known")) == (0, 160)
    calibrate_at(fresh, (threshold, 500))
    verified(fresh, recipe)
    assert outputs(store, "verification") == outputs(fresh, "verification")
    pairs = pairs_of(store).values()
    assert all(row["accepted"] == (row["inliers"] >= threshold and not row["refusal"]) for row in pairs)
    assert {row["threshold"] for row in pairs} == {threshold}
    accepted = sum(row["accepted"] for row in pairs)
    assert accepted < sum(row["accepted"] for row in pairs_of(done[1]).values()) or threshold == 14
    assert (accepted == 0) == (threshold == 1000)
    assert any(row["verified"] for row in images_of(store).values()) == (threshold < 1000)


@pytest.mark.parametrize("damage", ["table", "cut", "receipt"])
def test_what_an_earlier_run_left_damaged_is_not_used(damage: str, earlier: dict[bool, Store], tmp_path: Path) -> None:
    store = copy_of(earlier[True], tmp_path / "store")
    wanted = outputs(store, "verification")
    for key in bucket_keys(3):
        table = Path(store.path(VERIFIED_PAIRS.at(bucket=key)))
        if damage == "table":
            table.write_bytes(b"x" * table.stat().st_size)
        elif damage == "cut":
            table.write_bytes(table.read_bytes()[:-1])
        else:
            store.write(f"receipts/verified_pairs/{key}.json", b"{}")
    made = verified(store, changed(**FIVE, **EVERY, keep=5))  # else what is damaged unseen would be known as done
    assert (total(made, "pairs_compared"), total(made, "pairs_known")) == (160, 0)
    verified(store, changed(**FIVE, **EVERY))
    assert outputs(store, "verification") == wanted


# What is refused


def test_features_of_another_set_are_refused(copied: Store) -> None:
    later = corpus()
    later.add(17, (6, 0))  # of shard 000
    later.write(copied)
    wanted = Wanted.of(copied, RECIPE, SEED)
    bucket = int(buckets_of(np.array([17]), RECIPE.buckets)[0])
    for number, key in enumerate(bucket_keys(3)):
        if number != bucket:
            make_verified_pairs(copied, key, wanted, RECIPE, Execution(workers=1))
            continue
        with pytest.raises(
            MissingInputError, match=r"local_features/000 has \d+ images of bucket .*: the set has changed"
        ):
            make_verified_pairs(copied, key, wanted, RECIPE, Execution(workers=1))
    assert not copied.exists(VERIFIED_PAIRS.at(bucket=bucket_keys(3)[bucket]))


@pytest.mark.parametrize("values", [{"max_features": 120}, {"extractor": "superpoint"}])
def test_features_of_another_extractor_are_refused(values: Mapping[str, Any], copied: Store, tmp_path: Path) -> None:
    if "extractor" in values:
        folder = tmp_path / "weights"
        folder.mkdir()
        (folder / "config.json").write_text('{"model_type": "superpoint", "descriptor_decoder_dim": 256}')
        values = {**values, "module": str(folder)}
    recipe = changed(**values)
    wanted = Wanted.of(copied, recipe, SEED)
    names = r"local_features are of rootsift 1, contrast 0.02 with 100 features, the recipe wants "
    with pytest.raises(MissingInputError, match=names):
        make_verified_pairs(copied, "00", wanted, recipe, Execution(workers=1))
    with pytest.raises(MissingInputError, match=names):
        make_verification_calibration(copied, wanted, recipe, Execution(workers=1), SEED)


@pytest.mark.parametrize("key", ["03", "0", "x", "000"])
def test_a_bucket_that_the_recipe_has_not_is_refused(key: str, copied: Store) -> None:
    wanted = Wanted.of(copied, RECIPE, SEED)
    with pytest.raises(RecipeError, match=f"no bucket {key} of 3, they are 00 to 02"):
        make_verified_pairs(copied, key, wanted, RECIPE, Execution(workers=1))


@pytest.mark.parametrize("name", ["verification_calibration", "local_features/001"])
def test_what_has_not_been_made_is_named(name: str, copied: Store) -> None:
    wanted = Wanted.of(copied, RECIPE, SEED)
    copied.remove(f"receipts/{name}.json")
    with pytest.raises(MissingInputError, match=f"{name} has not been made"):
        make_verified_pairs(copied, "00", wanted, RECIPE, Execution(workers=1))


def test_the_cleaned_set_wants_every_bucket(done: tuple[Store, Store], tmp_path: Path) -> None:
    store = copy_of(done[0], tmp_path / "store")
    store.remove("receipts/verified_pairs/01.json")
    with pytest.raises(MissingInputError, match="verified_pairs/01 has not been made"):
        make_cleaned_manifest(store, RECIPE, SEED)


def test_where_nothing_is_compared_nothing_stays(store: Store) -> None:
    made = Corpus()
    made.add(15, *SHOWN[15])
    made.write(store)
    features_and_calibration(store)
    verified(store)
    summary = make_cleaned_manifest(store, RECIPE, SEED).receipt.summary
    assert (summary["requested"], summary["dropped"]) == (3, 3)
    assert (pairs_of(store), images_of(store)) == ({}, {})


# Traps, and real photographs


def test_a_trap_is_refused_whatever_the_threshold_and_though_it_was_compared_before(store: Store) -> None:
    recipe = changed(max_features=300, min_class=4, **EVERY)
    photos = [cv2.resize(texture(number)[:, 300:700], (512, 384)) for number in (200, 201)]
    made = Corpus(dict.fromkeys(range(4), 20))
    pair = planted.TRAPS["strip"](*photos)
    strangers = [texture(number)[:160, :200] for number in (202, 203)]
    made.data = dict(enumerate(map(jpeg, (*pair, *strangers))))
    made.write(store)
    features_and_calibration(store, recipe)
    names = min(identifier(0), identifier(1)), max(identifier(0), identifier(1))
    found = []
    for threshold in (11, 1000, 12):
        calibrate_at(store, (threshold, 500))
        again = verified(store, recipe)
        row = pairs_of(store)[names]
        found.append((row["inliers"], row["refusal"], row["accepted"]))
        assert total(again, "pairs_compared") == (6 if threshold == 11 else 0)
    assert found[0][0] >= 12
    assert found[0][1] in REFUSALS
    assert found == [(*found[0][:2], False)] * 3
    # Without looking for traps the two would verify each other.
    verified(store, changed(max_features=300, min_class=4, refuse_traps=False, **EVERY))
    assert pairs_of(store)[names]["accepted"]


def features_of(file: Path, extractor: RootSift) -> KeptFeatures:
    """As ingest stores a photograph and extraction keeps it."""
    with Image.open(file) as image:
        pixels = planted.stored(np.asarray(ImageOps.exif_transpose(image).convert("RGB")))
    (found,) = extractor.extract([pixels])
    return decoded(encoded(found, False), len(found.places), 128, False, found.width, found.height)


def decisions(verified_class: VerifiedClass) -> list[tuple[Any, ...]]:
    rows = verified_class.images.to_pylist()
    return [(row["id"], row["verified"], row["chosen"], row["degree"]) for row in rows]


def decided_alike(folders: Sequence[Path]) -> tuple[int, int, int, int]:
    """Photographs, verified ones, pairs tried and all pairs, once both ways have shown to decide alike."""
    extractor = RootSift(500)
    thresholds = ClassThresholds(np.array([0]), np.array([20, 500]), np.array([[11, 13]]))
    photos = kept = tried = pairs = 0
    for landmark, folder in enumerate(folders):
        files = sorted(folder.iterdir())
        of = ClassFeatures(landmark, [file.name for file in files], [features_of(file, extractor) for file in files])
        recipes = [Verification(keep=10, connections=5, exhaustive=exhaustive) for exhaustive in (False, True)]
        judge = Judge.of(recipes[0], extractor.min_cosine, extractor.oriented)
        early, every = (ClassVerifier(judge, thresholds, recipe, {})(of) for recipe in recipes)
        assert decisions(early) == decisions(every)
        assert every.pairs.num_rows == every.compared == len(files) * (len(files) - 1) // 2
        rows = {(row["first"], row["second"]): row for row in every.pairs.to_pylist()}
        assert [rows[row["first"], row["second"]] for row in early.pairs.to_pylist()] == early.pairs.to_pylist()
        photos, kept = photos + len(files), kept + sum(every.images["verified"].to_pylist())
        tried, pairs = tried + early.compared, pairs + every.compared
    return photos, kept, tried, pairs


def test_photographs_are_decided_as_by_all_pairs(shared_photos: Path) -> None:
    names = ("lund", "london_bridge", "piazza_san_marco", "sacre_coeur", "oriental_pearl_tv_tower")
    photos, kept, tried, pairs = decided_alike([shared_photos / "landmarks" / name for name in names])
    assert 0 < kept < photos
    assert tried < 0.6 * pairs


@pytest.mark.slow
def test_photographs_of_every_landmark_are_decided_as_by_all_pairs(shared_photos: Path) -> None:
    folders = sorted((shared_photos / "landmarks").iterdir())
    assert len(folders) == 25
    photos, kept, tried, pairs = decided_alike(folders)
    assert 0 < kept < photos
    assert tried < pairs
