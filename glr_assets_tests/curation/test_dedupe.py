from __future__ import annotations

import io
from collections import Counter
from pathlib import Path
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glr_assets.curation.dedupe import PICTURE, Pair, dedupe, extreme_pairs, make_deduped_manifest, pair_gallery
from glr_assets.curation.schemas import DEDUPED_MANIFEST
from glr_assets.images.reader import ImageReader
from glr_assets.recipes import Dedupe
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import problems, write_table
from glr_assets_tests.curation.test_diversity import bits, by_hand
from glr_assets_tests.images.handmade import TINY, Bucket, identifier, make_curated, photo, picture, tar_of
from glr_assets_tests.test_seeded import reference

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "landmark_id": pa.int64(),
        "shard": pa.string(),
        "status": pa.string(),
        "reason": pa.string(),
        "dhash": pa.uint64(),
    }
)
#: (landmark, hash), None for an image that is not stored
classes = st.lists(
    st.tuples(st.integers(0, 3), st.none() | st.integers(0, 2**64 - 1) | st.integers(0, 15)), max_size=40
)


def images_of(rows: list[tuple[int, int | None]]) -> pa.Table:
    return pa.Table.from_pylist(
        [
            {
                "id": identifier(number),
                "landmark_id": landmark,
                "shard": None if value is None and number % 2 else f"{number % 3:03d}",
                "status": "stored" if value is not None else ("missing" if number % 2 else "failed"),
                "reason": "" if value is not None else f"why {number}",
                "dhash": value,
            }
            for number, (landmark, value) in enumerate(rows)
        ],
        schema=SCHEMA,
    )


def parquet(table: pa.Table) -> bytes:
    file = io.BytesIO()
    write_table(DEDUPED_MANIFEST, table, file)
    return file.getvalue()


def decided_by_hand(images: pa.Table, recipe: Dedupe, seed: int) -> dict[str, tuple[str, str]]:
    """Decision and reason by id, without the partner."""
    found: dict[str, tuple[str, str]] = {}
    rows = images.to_pylist()
    for landmark in {row["landmark_id"] for row in rows}:
        stored = sorted(
            (row["id"], row["dhash"]) for row in rows if row["landmark_id"] == landmark and row["status"] == "stored"
        )
        if len(stored) <= recipe.keep:
            found |= {i: ("kept", f"whole class: at most {recipe.keep} images") for i, _ in stored}
            continue
        drawn = sorted(stored, key=lambda row: (reference(row[0], seed, "dedupe"), row[0]))[: recipe.sample]
        kept = {drawn[row][0] for row in by_hand([value for _, value in drawn], recipe.keep)}
        for image_id, value in stored:
            if image_id in kept:
                found[image_id] = ("kept", f"among the {recipe.keep} most diverse of its class")
            elif (image_id, value) in drawn:
                found[image_id] = ("dropped", f"less diverse than the {recipe.keep} kept of its class")
            else:
                found[image_id] = ("dropped", f"not among the {recipe.sample} images of its class compared")
    return found | {row["id"]: ("failed", row["reason"]) for row in rows if row["status"] != "stored"}


@given(classes, st.integers(1, 6), st.integers(0, 8), st.integers(0, 3))
@settings(max_examples=80, deadline=None)
def test_every_image_is_decided_as_by_hand(rows: list[tuple[int, int | None]], keep: int, more: int, seed: int) -> None:
    images, recipe = images_of(rows), Dedupe(keep=keep, sample=keep + more)
    found = dedupe(images, recipe, seed)
    assert problems(DEDUPED_MANIFEST, found) == []
    decided = {row["id"]: (row["decision"], row["reason"]) for row in found.to_pylist()}
    assert decided == decided_by_hand(images, recipe, seed)
    assert found["id"].to_pylist() == sorted(identifier(n) for n in range(len(rows)))


@given(classes, st.integers(1, 6), st.integers(0, 8))
@settings(max_examples=60, deadline=None)
def test_exactly_keep_of_a_large_class_are_kept_and_the_partner_is_the_nearest_of_them(
    rows: list[tuple[int, int | None]], keep: int, more: int
) -> None:
    images = images_of(rows)
    found = dedupe(images, Dedupe(keep=keep, sample=keep + more), 0).to_pylist()
    hash_of = dict(zip(images["id"].to_pylist(), images["dhash"].to_pylist(), strict=True))
    stored = Counter(row["landmark_id"] for row in images.to_pylist() if row["status"] == "stored")
    kept = Counter(row["landmark_id"] for row in found if row["decision"] == "kept")
    assert kept == Counter({landmark: min(count, keep) for landmark, count in stored.items()})
    for row in found:
        if row["decision"] != "dropped":
            assert row["partner"] is None
            assert row["distance"] is None
            continue
        others = [r["id"] for r in found if r["decision"] == "kept" and r["landmark_id"] == row["landmark_id"]]
        distances = {other: bits(hash_of[row["id"]], hash_of[other]) for other in others}
        assert row["distance"] == distances[row["partner"]] == min(distances.values())


@given(classes, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_rows_in_any_order_give_the_same_bytes(rows: list[tuple[int, int | None]], random: Random) -> None:
    images, recipe = images_of(rows), Dedupe(keep=3, sample=5)
    order = list(range(len(rows)))
    random.shuffle(order)
    assert parquet(dedupe(images.take(pa.array(order, pa.int64())), recipe, 0)) == parquet(dedupe(images, recipe, 0))


def test_a_worked_example() -> None:
    # Landmark 1: two pairs of near-duplicates and one between them; landmark 2 is small; one image is corrupt.
    rows = [(1, 0x00), (1, 0x01), (1, 0x0F), (1, 0xFF), (1, 0xFE), (2, 0x00), (2, 0x00), (1, None)]
    found = {row["id"]: row for row in dedupe(images_of(rows), Dedupe(keep=3, sample=10), 0).to_pylist()}
    of = [found[identifier(n)] for n in range(8)]
    ends = [row["decision"] for row in (of[0], of[1], of[3], of[4])]
    assert of[2]["decision"] == "kept"
    assert sorted(ends) == ["dropped", "dropped", "kept", "kept"]
    dropped = [row for row in of if row["decision"] == "dropped"]
    assert [row["distance"] for row in dropped] == [1, 1]
    assert {row["reason"] for row in of[5:7]} == {"whole class: at most 3 images"}
    assert (of[7]["decision"], of[7]["reason"]) == ("failed", "why 7")


def test_another_seed_draws_another_sample() -> None:
    images = images_of([(1, number * 0x9E3779B97F4A7C15 % 2**64) for number in range(200)])
    kept = [
        {row["id"] for row in dedupe(images, Dedupe(keep=10, sample=20), seed).to_pylist() if row["decision"] == "kept"}
        for seed in (0, 1)
    ]
    assert len(kept[0]) == len(kept[1]) == 10
    assert kept[0] != kept[1]


@given(classes)
@settings(max_examples=60, deadline=None)
def test_extreme_pairs_are_those_of_all_pairs_of_a_class(rows: list[tuple[int, int | None]]) -> None:
    closest, farthest = extreme_pairs(images_of(rows), 3)
    by_class: dict[int, list[int]] = {}
    for landmark in {landmark for landmark, _ in rows}:
        values = [value for of, value in rows if of == landmark and value is not None]
        distances = [bits(a, b) for n, a in enumerate(values) for b in values[n + 1 :]]
        if distances:
            by_class[landmark] = distances
    assert [pair.distance for pair in closest] == sorted(min(of) for of in by_class.values())[:3]
    assert [pair.distance for pair in farthest] == sorted((max(of) for of in by_class.values()), reverse=True)[:3]
    hash_of = {identifier(number): row for number, row in enumerate(rows)}
    for pair in closest + farthest:
        (landmark, first), (other, second) = hash_of[pair.first], hash_of[pair.second]
        assert landmark == other
        assert first is not None
        assert second is not None
        assert pair.first < pair.second
        assert pair.distance == bits(first, second)


def bucket_with(tmp_path: Path, images: list[tuple[int, bytes]]) -> BucketSource:
    train = {identifier(number): landmark for number, (landmark, _) in enumerate(images)}
    shard = tar_of([photo(identifier(number), data) for number, (_, data) in enumerate(images)])
    return BucketSource(Bucket(train, list(train), {"train": {"000": shard}}).write(tmp_path / "bucket"))


def test_the_asset_draws_the_closest_and_farthest_pairs(tmp_path: Path, store: Store) -> None:
    source = bucket_with(tmp_path, [(n % 8, picture(n)) for n in range(32)])
    recipe = TINY.overridden({"fill": {"threshold": 2}, "dedupe": {"keep": 3, "sample": 4}})
    made = make_curated(source, store, recipe)["deduped_manifest"]
    assert made.receipt.summary == {"requested": 32, "kept": 24, "dropped": 8, "failed": 0}
    with Image.open(io.BytesIO(store.read(PICTURE))) as image:
        image.load()
        assert image.format == "JPEG"
        assert image.width > 6 * 2 * 96  # six pairs
        assert image.height > 2 * 96
    assert len(store.read(PICTURE)) < 100_000
    reader = ImageReader.of_split(store, "train")
    pair = Pair(identifier(0), identifier(8), 5)
    assert pair_gallery(reader, [pair], []) != pair_gallery(reader, [], [pair])
    again = make_deduped_manifest(store, recipe.dedupe, recipe.seed)
    assert again.reused
    other = make_deduped_manifest(store, recipe.dedupe, recipe.seed + 1)
    assert not other.reused


@pytest.mark.parametrize(
    "images",
    [[(1, picture(1))], [(1, picture(1)), (2, picture(2))], [(1, b"corrupt"), (1, b"")], [(1, picture(1))] * 4],
    ids=["one photograph", "one photograph a landmark", "all corrupt", "four copies"],
)
def test_buckets_too_small_for_pairs_still_make_a_train_set(
    images: list[tuple[int, bytes]], tmp_path: Path, store: Store
) -> None:
    made = make_curated(bucket_with(tmp_path, images), store, TINY)
    good = sum(len(data) > 10 for _, data in images)
    assert made["deduped_manifest"].receipt.summary["kept"] == good
    assert made["train_extra"].receipt.summary["requested"] == 0
    assert made["train_manifest"].receipt.summary["rows"] == good
    balance = made["image_ledger"].receipt.summary
    assert (balance["requested"], balance["failed"]) == (len(images), len(images) - good)
    with Image.open(io.BytesIO(store.read(PICTURE))) as image:
        image.load()
