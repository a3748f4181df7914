from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glr_assets.curation.dedupe import (
    GROUPS_PICTURE,
    PAIRS_PICTURE,
    Deduped,
    Pair,
    Why,
    dedupe,
    extreme_pairs,
    make_deduped_manifest,
    near_duplicate_groups,
)
from glr_assets.curation.leaks import make_train_test_leaks
from glr_assets.curation.schemas import DEDUPED_MANIFEST
from glr_assets.recipes import Dedupe
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import problems, read_table, write_table
from glr_assets_tests.curation.test_diversity import bits, by_hand, earlier_by_hand
from glr_assets_tests.images.handmade import TINY, Bucket, identifier, make_curated, photo, picture, tar_of
from glr_assets_tests.test_seeded import reference

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "landmark_id": pa.int64(),
        "shard": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "source_xxh3": pa.uint64(),
        "source_width": pa.int32(),
        "source_height": pa.int32(),
        "sharpness": pa.float32(),
        "dhash": pa.uint64(),
    }
)
#: (landmark, hash, width, sharpness, digest of the file); the hash is None for an image that is not stored.
Row = tuple[int, int | None, int, float | None, int]
hashes = st.integers(0, 2**64 - 1) | st.integers(0, 15) | st.integers(0, 2**14)
classes = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.none() | hashes,
        st.integers(1, 3),
        st.none() | st.sampled_from([0.5, 2.0]),
        st.integers(0, 60),
    ),
    max_size=40,
)
recipes = st.builds(
    lambda keep, more, **others: Dedupe(keep=keep, sample=keep + more, **others),
    st.integers(1, 6),
    st.integers(0, 8),
    method=st.sampled_from(["max_min", "farthest_pairs", "random"]),
    collapse=st.booleans(),
    near_duplicate_bits=st.integers(0, 8),
)
KEPT = {
    "max_min": "among the {} most diverse of its class",
    "farthest_pairs": "among the {} images of the farthest pairs of its class",
    "random": "among {} drawn at random of its class",
}


def plain(landmark: int, value: int | None) -> Row:
    return landmark, value, 100, None, 0


def images_of(rows: list[Row]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "id": identifier(number),
                "landmark_id": landmark,
                "shard": None if value is None and number % 2 else f"{number % 3:03d}",
                "status": "stored" if value is not None else ("missing" if number % 2 else "failed"),
                "reason": "" if value is not None else f"why {number}",
                "source_xxh3": file or None,
                "source_width": None if value is None else width,
                "source_height": None if value is None else 2,
                "sharpness": None if value is None else sharpness,
                "dhash": value,
            }
            for number, (landmark, value, width, sharpness, file) in enumerate(rows)
        ],
        schema=SCHEMA,
    )


def parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    write_table(DEDUPED_MANIFEST, table, file)
    return file.getvalue()


def why_worse(one: dict, other: dict) -> str:
    if one["source_xxh3"] and one["source_xxh3"] == other["source_xxh3"]:
        return "the same file as another image"
    if other["source_width"] > one["source_width"]:
        return "near-duplicate of a larger image"
    if (other["sharpness"] or 0) > (one["sharpness"] or 0):
        return "near-duplicate of a sharper image"
    return "near-duplicate of an image as good"


def decided_by_hand(images: pa.Table, recipe: Dedupe, seed: int) -> dict[str, tuple[str, str]]:
    """Decision and reason by id, image by image."""
    rows = images.to_pylist()
    found = {row["id"]: ("failed", row["reason"]) for row in rows if row["status"] != "stored"}
    for landmark in {row["landmark_id"] for row in rows}:
        mine = [row for row in rows if row["landmark_id"] == landmark and row["status"] == "stored"]
        left: list[dict] = []
        for row in sorted(mine, key=lambda row: (-row["source_width"], -(row["sharpness"] or 0), row["id"])):
            near = [(bits(row["dhash"], other["dhash"]), place) for place, other in enumerate(left)]
            if recipe.collapse and near and min(near)[0] <= recipe.near_duplicate_bits:
                distance, place = min(near)
                word = why_worse(row, left[place])
                found[row["id"]] = ("dropped", f"{word}: {left[place]['id']}, {distance} bits apart")
            else:
                left.append(row)
        if len(left) <= recipe.keep:
            found |= {row["id"]: ("kept", f"whole class: at most {recipe.keep} images") for row in left}
            continue
        order = sorted(left, key=lambda row: (reference(row["id"], seed, "dedupe"), left.index(row)))
        drawn = order[: recipe.sample]
        compared = [row for row in left if row in drawn]
        values = [row["dhash"] for row in compared]
        draw = [compared.index(row) for row in drawn]
        if recipe.method == "max_min":
            picked = by_hand(values, recipe.keep, draw)
        elif recipe.method == "farthest_pairs":
            picked = earlier_by_hand(values, recipe.keep, closest_first=True)
        else:
            picked = draw[: recipe.keep]
        kept = {compared[row]["id"] for row in picked}
        word = KEPT[recipe.method].format(recipe.keep)
        less = {
            "max_min": f"less diverse than the {recipe.keep} kept of its class",
            "farthest_pairs": f"not {word}",
            "random": f"not {word}",
        }[recipe.method]
        for row in left:
            if row["id"] in kept:
                found[row["id"]] = ("kept", word)
            elif row in drawn:
                found[row["id"]] = ("dropped", less)
            else:
                found[row["id"]] = ("dropped", f"not among the {recipe.sample} images of its class compared")
    return found


@given(classes, recipes, st.integers(0, 3))
@settings(max_examples=150)
def test_every_image_is_decided_as_by_hand(rows: list[Row], recipe: Dedupe, seed: int) -> None:
    images = images_of(rows)
    deduped = dedupe(images, recipe, seed)
    found = deduped.manifest
    assert problems(DEDUPED_MANIFEST, found) == []
    decided = {row["id"]: (row["decision"], row["reason"]) for row in found.to_pylist()}
    assert decided == decided_by_hand(images, recipe, seed)
    assert found["id"].to_pylist() == sorted(identifier(n) for n in range(len(rows)))
    words = {Why.FAILED: "failed", Why.KEPT: "kept"}
    assert [words.get(Why(why), "dropped") for why in deduped.why.tolist()] == found["decision"].to_pylist()
    dropped = sum(deduped.counts.values())
    assert dropped == found["decision"].to_pylist().count("dropped")


@given(classes, recipes)
@settings(max_examples=100)
def test_what_each_partner_and_distance_is(rows: list[Row], recipe: Dedupe) -> None:
    images = images_of(rows)
    deduped = dedupe(images, recipe, 0)
    found = deduped.manifest.to_pylist()
    hash_of = dict(zip(images["id"].to_pylist(), images["dhash"].to_pylist(), strict=True))
    quality = {
        row["id"]: (-row["source_width"], -(row["sharpness"] or 0), row["id"])
        for row in images.to_pylist()
        if row["dhash"] is not None
    }
    decided = {row["id"]: row for row in found}
    for row, why in zip(found, deduped.why.tolist(), strict=True):
        if row["decision"] != "dropped":
            assert (row["partner"], row["distance"]) == (None, None)
            continue
        partner = decided[row["partner"]]
        assert partner["landmark_id"] == row["landmark_id"]
        assert row["distance"] == bits(hash_of[row["id"]], hash_of[row["partner"]])
        if why == Why.NEAR_DUPLICATE:
            assert row["distance"] <= recipe.near_duplicate_bits
            assert quality[row["partner"]] < quality[row["id"]]
            assert row["reason"].endswith(f": {row['partner']}, {row['distance']} bits apart")
            continue
        assert partner["decision"] == "kept"
        others = [r["id"] for r in found if r["decision"] == "kept" and r["landmark_id"] == row["landmark_id"]]
        assert row["distance"] == min(bits(hash_of[row["id"]], hash_of[other]) for other in others)


@given(classes, recipes)
@settings(max_examples=100)
def test_as_many_are_kept_as_there_are_different_images_up_to_keep(rows: list[Row], recipe: Dedupe) -> None:
    images = images_of(rows)
    deduped = dedupe(images, recipe, 0)
    landmarks = deduped.manifest["landmark_id"].to_pylist()
    kept = Counter(of for of, why in zip(landmarks, deduped.why.tolist(), strict=True) if why == Why.KEPT)
    different = Counter(
        of
        for of, why in zip(landmarks, deduped.why.tolist(), strict=True)
        if why not in {Why.FAILED, Why.NEAR_DUPLICATE}
    )
    assert kept == Counter({landmark: min(count, recipe.keep) for landmark, count in different.items()})
    if recipe.collapse:
        hash_of = dict(zip(images["id"].to_pylist(), images["dhash"].to_pylist(), strict=True))
        trains = [row for row in deduped.manifest.to_pylist() if row["decision"] == "kept"]
        for one in trains:
            for other in trains:
                if one["id"] < other["id"] and one["landmark_id"] == other["landmark_id"]:
                    assert bits(hash_of[one["id"]], hash_of[other["id"]]) > recipe.near_duplicate_bits


@given(classes, recipes, st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_rows_in_any_order_give_the_same_bytes(rows: list[Row], recipe: Dedupe, random: Random) -> None:
    images = images_of(rows)
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = images.take(pa.array(order, pa.int64()))
    assert parquet(dedupe(shuffled, recipe, 0).manifest) == parquet(dedupe(images, recipe, 0).manifest)


def decisions(deduped: Deduped, count: int) -> list[dict]:
    found = {row["id"]: row for row in deduped.manifest.to_pylist()}
    return [found[identifier(number)] for number in range(count)]


def test_a_worked_example() -> None:
    # Landmark 1: two pairs of near-duplicates and one between them; landmark 2 is small; one image is corrupt.
    rows: list[Row] = [
        (1, 0x00, 100, None, 7),
        (1, 0x01, 200, None, 8),
        (1, 0x3F, 100, None, 9),
        (1, 0xFFF, 100, 1.0, 10),
        (1, 0xFFE, 100, 2.0, 11),
        (2, 0x00, 100, None, 12),
        (2, 0x00, 100, None, 12),
        (1, None, 100, None, 0),
    ]
    of = decisions(dedupe(images_of(rows), Dedupe(keep=3, sample=10, near_duplicate_bits=1), 0), 8)
    first, second = sorted((identifier(5), identifier(6)))
    assert {row["id"]: row["reason"] for row in of if row["decision"] == "dropped"} == {
        identifier(0): f"near-duplicate of a larger image: {identifier(1)}, 1 bits apart",
        identifier(3): f"near-duplicate of a sharper image: {identifier(4)}, 1 bits apart",
        second: f"the same file as another image: {first}, 0 bits apart",
    }
    assert {row["reason"] for row in of if row["decision"] == "kept"} == {"whole class: at most 3 images"}
    assert (of[7]["decision"], of[7]["reason"]) == ("failed", "why 7")
    # One less is kept: the middle one is nearer to both ends than they are to each other.
    of = decisions(dedupe(images_of(rows), Dedupe(keep=2, sample=10, near_duplicate_bits=1), 0), 8)
    assert of[2]["reason"] == "less diverse than the 2 kept of its class"
    assert (of[2]["partner"], of[2]["distance"]) == (identifier(1), 5)


def test_without_collapse_near_duplicates_stay() -> None:
    rows = [plain(1, 5), plain(1, 5), plain(1, 4)]
    assert dedupe(images_of(rows), Dedupe(collapse=False), 0).counts["near_duplicates"] == 0
    assert dedupe(images_of(rows), Dedupe(near_duplicate_bits=0), 0).counts["near_duplicates"] == 1
    assert dedupe(images_of(rows), Dedupe(near_duplicate_bits=1), 0).counts["near_duplicates"] == 2


def test_images_like_test_images_are_dropped_by_reason_before_all_else() -> None:
    images = images_of([plain(1, 5), plain(1, 5), plain(1, 2**40), plain(1, None)])
    best = min(identifier(0), identifier(1))
    leaks = pa.table(
        {
            "id": [best, identifier(2), identifier(3), "other"],
            "partner": ["t1", "t2", "t3", "t4"],
            "distance": pa.array([2, 0, 0, 0], pa.int32()),
            "same_file": [False, True, True, True],
        }
    )
    deduped = dedupe(images, Dedupe(), 0, leaks)
    of = {
        row["id"]: (row["decision"], row["reason"], row["partner"], row["distance"])
        for row in deduped.manifest.to_pylist()
    }
    assert of[best] == ("dropped", "near-duplicate of a test image: t1, 2 bits apart", "t1", 2)
    assert of[identifier(2)] == ("dropped", "the same file as a test image: t2, 0 bits apart", "t2", 0)
    assert of[identifier(3)][0] == "failed"
    # The other of the two near-duplicates stays, since its better half is gone.
    assert of[max(identifier(0), identifier(1))][0] == "kept"
    assert deduped.counts["leaks"] == 2
    assert problems(DEDUPED_MANIFEST, deduped.manifest) == []


def test_another_seed_draws_another_sample() -> None:
    images = images_of([plain(1, number * 0x9E3779B97F4A7C15 % 2**64) for number in range(200)])
    recipe = Dedupe(keep=10, sample=20)
    kept = [
        {row["id"] for row in dedupe(images, recipe, seed).manifest.to_pylist() if row["decision"] == "kept"}
        for seed in (0, 1)
    ]
    assert len(kept[0]) == len(kept[1]) == 10
    assert kept[0] != kept[1]


@given(classes)
@settings(max_examples=60)
def test_extreme_pairs_are_those_of_all_pairs_of_a_class(rows: list[Row]) -> None:
    images = images_of(rows)
    stored = images.filter(pc.equal(images["status"], "stored")).sort_by("id")
    closest, farthest = extreme_pairs(stored, 3)
    by_class: dict[int, list[int]] = {}
    for landmark in {landmark for landmark, *_ in rows}:
        values = [value for of, value, *_ in rows if of == landmark and value is not None]
        distances = [bits(a, b) for n, a in enumerate(values) for b in values[n + 1 :]]
        if distances:
            by_class[landmark] = distances
    assert [pair.distance for pair in closest] == sorted(min(of) for of in by_class.values())[:3]
    assert [pair.distance for pair in farthest] == sorted((max(of) for of in by_class.values()), reverse=True)[:3]
    hash_of = {identifier(number): row for number, row in enumerate(rows)}
    for pair in closest + farthest:
        (landmark, first, *_), (other, second, *_) = hash_of[pair.first], hash_of[pair.second]
        assert landmark == other
        assert first is not None
        assert second is not None
        assert pair.first < pair.second
        assert pair.distance == bits(first, second)


def test_groups_are_the_largest_and_their_nearest_images() -> None:
    rows = [plain(1, 0), plain(1, 1), plain(1, 0), plain(2, 2**20), plain(2, 2**20 + 3), plain(3, 2**40)]
    sizes = [200, 100, 100, 200, 100, 100]
    images = images_of([(row[0], row[1], size, None, 0) for row, size in zip(rows, sizes, strict=True)])
    deduped = dedupe(images, Dedupe(), 0)
    assert near_duplicate_groups(deduped, 5, 5) == [
        (identifier(0), [identifier(2), identifier(1)]),
        (identifier(3), [identifier(4)]),
    ]
    assert near_duplicate_groups(deduped, 1, 2) == [(identifier(0), [identifier(2)])]
    assert extreme_pairs(images.slice(0, 0), 3) == ([], [])
    assert Pair("a", "b", 1) == Pair("a", "b", 1)


def bucket_with(tmp_path: Path, images: list[tuple[int, bytes]]) -> BucketSource:
    train = {identifier(number): landmark for number, (landmark, _) in enumerate(images)}
    shard = tar_of([photo(identifier(number), data) for number, (_, data) in enumerate(images)])
    return BucketSource(Bucket(train, list(train), {"train": {"000": shard}}).write(tmp_path / "bucket"))


def test_the_asset_draws_pairs_and_groups(tmp_path: Path, store: Store) -> None:
    images = [(n % 8, picture(n)) for n in range(32)] + [(n, picture(n, (120, 80))) for n in range(2)]
    recipe = TINY.overridden({"fill": {"threshold": 2}, "dedupe": {"keep": 3, "sample": 4}})
    made = make_curated(bucket_with(tmp_path, images), store, recipe)["deduped_manifest"]
    told = {"near_duplicates": 2, "leaks": 0, "less_diverse": 8, "not_compared": 0}
    assert made.receipt.summary == {"requested": 34, "kept": 24, "dropped": 10, "failed": 0} | told
    assert {row["reason"].split(":")[0] for row in deduped_rows(store) if row["distance"] in {0, 1, 2, 3}} == {
        "near-duplicate of a larger image"
    }
    for path, across, down in ((PAIRS_PICTURE, 12, 2), (GROUPS_PICTURE, 2, 2)):
        with Image.open(io.BytesIO(store.read(path))) as image:
            image.load()
            assert image.format == "JPEG"
            assert (image.width // 100, image.height // 124) == (across, down)
        assert len(store.read(path)) < 100_000
    again = make_deduped_manifest(store, recipe.dedupe, recipe.seed)
    assert again.reused
    other = make_deduped_manifest(store, recipe.dedupe, recipe.seed + 1)
    assert not other.reused


def deduped_rows(store: Store) -> list[dict]:
    return read_table(store, DEDUPED_MANIFEST).to_pylist()


@pytest.mark.parametrize(
    ("images", "good"),
    [
        ([(1, picture(1))], 1),
        ([(1, picture(1)), (2, picture(2))], 2),
        ([(1, b"corrupt"), (1, b"")], 0),
        ([(1, picture(1))] * 4, 1),
    ],
    ids=["one photograph", "one photograph a landmark", "all corrupt", "four copies"],
)
def test_buckets_too_small_for_pairs_still_make_a_train_set(
    images: list[tuple[int, bytes]], good: int, tmp_path: Path, store: Store
) -> None:
    made = make_curated(bucket_with(tmp_path, images), store, TINY)
    corrupt = sum(len(data) < 10 for _, data in images)
    assert made["deduped_manifest"].receipt.summary["kept"] == good
    assert made["train_extra"].receipt.summary["requested"] == 0
    assert made["train_manifest"].receipt.summary["rows"] == good
    balance = made["image_ledger"].receipt.summary
    assert (balance["requested"], balance["failed"]) == (len(images), corrupt)
    with Image.open(io.BytesIO(store.read(PAIRS_PICTURE))) as image:
        image.load()


def test_leaks_are_removed_where_the_recipe_says_so(tmp_path: Path, store: Store) -> None:
    train = {identifier(number): 1 for number in range(6)}
    shard = tar_of([photo(image_id, picture(number)) for number, image_id in enumerate(train)])
    twin = identifier(99)
    bucket = Bucket(
        train, list(train), {"train": {"000": shard}, "test": {"000": tar_of([photo(twin, picture(3))])}}, test=[twin]
    )
    source = BucketSource(bucket.write(tmp_path / "bucket"))
    for remove in (False, True):
        recipe = TINY.overridden({"dedupe": {"remove_leaks": remove}})
        made = make_curated(source, store, recipe)
        assert made["train_test_leaks"].receipt.summary["train_images_in_test"] == 1
        row = next(row for row in deduped_rows(store) if row["id"] == identifier(3))
        if remove:
            assert row["reason"] == f"the same file as a test image: {twin}, 0 bits apart"
            assert row["partner"] == twin
        assert row["decision"] == ("dropped" if remove else "kept")
        assert made["deduped_manifest"].receipt.summary["leaks"] == int(remove)
    assert make_train_test_leaks(store, recipe.dedupe.near_duplicate_bits).reused
