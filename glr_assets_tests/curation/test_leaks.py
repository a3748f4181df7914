from __future__ import annotations

import io
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glr_assets.curation.leaks import (
    CONFLICTS_PICTURE,
    LEAKS_PICTURE,
    label_conflicts,
    leaks_into_test,
    make_label_conflicts,
    make_train_test_leaks,
    train_leaks,
)
from glr_assets.curation.near_duplicates import MOST_PARTNERS
from glr_assets.curation.schemas import LABEL_CONFLICTS, TRAIN_TEST_LEAKS
from glr_assets.receipts import Made
from glr_assets.recipes import Recipe
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import problems, read_table, write_table
from glr_assets_tests.curation.test_diversity import bits
from glr_assets_tests.images.handmade import TINY, Bucket, identifier, make_curated, photo, picture, tar_of

RECIPE = TINY.overridden({"fill": {"threshold": 2}})

SCHEMA = pa.schema({"id": pa.string(), "landmark_id": pa.int64(), "source_xxh3": pa.uint64(), "dhash": pa.uint64()})
hashes = st.integers(0, 15) | st.integers(0, 2**64 - 1)
images = st.lists(st.tuples(st.none() | st.integers(0, 3), st.integers(0, 3), hashes), max_size=25)


def images_of(rows: list[tuple[int | None, int, int]], prefix: str = "") -> pa.Table:
    return pa.Table.from_pylist(
        sorted(
            (
                {"id": prefix + identifier(n), "landmark_id": landmark, "source_xxh3": file or None, "dhash": value}
                for n, (landmark, file, value) in enumerate(rows)
            ),
            key=lambda row: row["id"],
        ),
        schema=SCHEMA,
    )


def near_by_hand(row: dict, others: list[dict], limit: int) -> list[dict]:
    """Those near an image, the nearest first, of as near ones those of the same bytes, then by id."""

    def key(other: dict) -> tuple[int, bool, str]:
        same = row["source_xxh3"] is not None and row["source_xxh3"] == other["source_xxh3"]
        return bits(row["dhash"], other["dhash"]), not same, other["id"]

    return sorted((other for other in others if key(other)[0] <= limit), key=key)


@given(images, st.integers(0, 8))
@settings(max_examples=100)
def test_conflicts_are_near_images_of_other_landmarks(rows: list[tuple[int | None, int, int]], limit: int) -> None:
    train = images_of(rows)
    found = label_conflicts(train, limit)
    assert problems(LABEL_CONFLICTS, found) == []
    labelled = [row for row in train.to_pylist() if row["landmark_id"] is not None]
    expected = []
    for row in labelled:
        near = near_by_hand(row, [other for other in labelled if other["landmark_id"] != row["landmark_id"]], limit)
        for other in near[:MOST_PARTNERS]:
            expected.append(
                {
                    "id": row["id"],
                    "landmark_id": row["landmark_id"],
                    "partner": other["id"],
                    "partner_landmark_id": other["landmark_id"],
                    "distance": bits(row["dhash"], other["dhash"]),
                    "same_file": row["source_xxh3"] is not None and row["source_xxh3"] == other["source_xxh3"],
                    "near": len(near),
                }
            )
    assert found.to_pylist() == expected


@given(images, images, st.integers(0, 8))
@settings(max_examples=100)
def test_leaks_are_train_images_near_others(
    rows: list[tuple[int | None, int, int]], others: list[tuple[int | None, int, int]], limit: int
) -> None:
    train, test = images_of(rows), images_of(others, "t")
    found = train_leaks(train, test, "test", limit)
    assert problems(TRAIN_TEST_LEAKS, found) == []
    expected = []
    for row in train.to_pylist():
        near = near_by_hand(row, test.to_pylist(), limit)
        expected += [(row["id"], row["landmark_id"], "test", other["id"], len(near)) for other in near[:MOST_PARTNERS]]
    columns = [found[name].to_pylist() for name in ("id", "landmark_id", "split", "partner", "near")]
    assert list(zip(*columns, strict=True)) == expected


@given(images, st.randoms(use_true_random=False))
@settings(max_examples=40)
def test_conflicts_are_the_same_whatever_the_number_of_partners_of_others(
    rows: list[tuple[int | None, int, int]], random: Random
) -> None:
    """The pairs do not depend on which images stand beside them."""
    train = images_of(rows)
    if not train.num_rows:
        return
    some = train.take(pa.array(sorted(random.sample(range(train.num_rows), random.randrange(train.num_rows) + 1))))
    names = set(some["id"].to_pylist())
    all_pairs = {(row["id"], row["partner"]) for row in label_conflicts(train, 3).to_pylist()}
    pairs = {(row["id"], row["partner"]) for row in label_conflicts(some, 3).to_pylist()}
    assert {pair for pair in all_pairs if set(pair) <= names} <= pairs


def test_thousands_of_blank_images_have_ten_rows_each() -> None:
    train = images_of([(n, 0, 0) for n in range(500)])
    found = label_conflicts(train, 3)
    assert found.num_rows == 500 * MOST_PARTNERS
    assert set(found["near"].to_pylist()) == {499}
    leaks = train_leaks(train, train, "test", 3)
    assert leaks.num_rows == 500 * MOST_PARTNERS
    assert set(leaks["near"].to_pylist()) == {500}


def write_leaks(store: Store, rows: list[dict]) -> None:
    blank = {"landmark_id": 1, "same_file": False, "near": 1}
    with store.writing(TRAIN_TEST_LEAKS.path) as file:
        write_table(TRAIN_TEST_LEAKS, TRAIN_TEST_LEAKS.rows([blank | row for row in rows]), file)


def test_of_leaks_into_test_the_nearest_partner_counts_and_index_does_not(store: Store) -> None:
    write_leaks(
        store,
        [
            {"id": "a", "split": "index", "partner": "i", "distance": 0},
            {"id": "a", "split": "test", "partner": "t", "distance": 1},
            {"id": "a", "split": "test", "partner": "s", "distance": 2},
            {"id": "b", "split": "test", "partner": "s", "distance": 0, "same_file": True},
            {"id": "c", "split": "index", "partner": "i", "distance": 0},
        ],
    )
    assert leaks_into_test(store).to_pylist() == [
        {"id": "a", "partner": "t", "distance": 1, "same_file": False},
        {"id": "b", "partner": "s", "distance": 0, "same_file": True},
    ]
    write_leaks(store, [])
    assert leaks_into_test(store).num_rows == 0


def curated(folder: Path, store: Store, recipe: Recipe = RECIPE) -> dict[str, Made]:
    """Four landmarks of three photographs; one is of two landmarks, two are in test and one of them in index too."""
    train = {identifier(number): number % 4 for number in range(12)}
    entries = [photo(image_id, picture(number)) for number, image_id in enumerate(train)]
    double = identifier(20)
    train[double] = 1
    entries.append(photo(double, picture(0)))
    test = [photo(identifier(30), picture(2)), photo(identifier(31), picture(3, (120, 80)))]
    index = [photo(identifier(40), picture(2)), photo(identifier(41), picture(77))]
    shards = {"train": {"000": tar_of(entries)}, "test": {"000": tar_of(test)}, "index": {"000": tar_of(index)}}
    bucket = Bucket(
        train,
        list(train),
        shards,  # type: ignore[arg-type]
        index={identifier(40): 1, identifier(41): 1},
        test=[identifier(30), identifier(31)],
    )
    return make_curated(BucketSource(bucket.write(folder / "bucket")), store, recipe)


def test_both_assets_on_photographs(tmp_path: Path, store: Store) -> None:
    made = curated(tmp_path, store)
    conflicts = read_table(store, LABEL_CONFLICTS).to_pylist()
    first, second = sorted([(identifier(0), 0), (identifier(20), 1)])
    assert [(row["id"], row["landmark_id"], row["partner"], row["partner_landmark_id"]) for row in conflicts] == [
        (*first, *second),
        (*second, *first),
    ]
    assert all(row["same_file"] for row in conflicts)
    assert made["label_conflicts"].receipt.summary == {"rows": 2, "images": 2, "landmarks": 2, "pairs": 1}
    leaks = {
        (row["id"], row["split"], row["partner"], row["same_file"])
        for row in read_table(store, TRAIN_TEST_LEAKS).to_pylist()
    }
    assert leaks == {
        (identifier(2), "test", identifier(30), True),
        (identifier(3), "test", identifier(31), False),
        (identifier(2), "index", identifier(40), True),
    }
    summary = made["train_test_leaks"].receipt.summary
    assert (summary["rows"], summary["train_images_in_test"], summary["test_images_in_train"]) == (3, 2, 2)
    assert (summary["train_images_in_index"], summary["index_pairs"]) == (1, 1)
    for path, across, down in ((CONFLICTS_PICTURE, 2, 1), (LEAKS_PICTURE, 6, 1)):
        with Image.open(io.BytesIO(store.read(path))) as image:
            image.load()
            assert (image.width // 100, image.height // 124) == (across, down)
        assert len(store.read(path)) < 100_000
    assert make_label_conflicts(store, 3).reused
    assert not make_label_conflicts(store, 4).reused
    assert not make_train_test_leaks(store, 4).reused


@pytest.mark.parametrize("bits_apart", [0, 3])
def test_without_pairs_there_are_empty_tables_and_pictures(bits_apart: int, tmp_path: Path, store: Store) -> None:
    train = {identifier(number): number for number in range(3)}
    shard = tar_of([photo(image_id, picture(number)) for number, image_id in enumerate(train)])
    recipe = TINY.overridden({"dedupe": {"near_duplicate_bits": bits_apart}})
    source = BucketSource(Bucket(train, list(train), {"train": {"000": shard}}).write(tmp_path / "bucket"))
    made = make_curated(source, store, recipe)
    assert set(made["label_conflicts"].receipt.summary.values()) == {0}
    assert set(made["train_test_leaks"].receipt.summary.values()) == {0}
    assert store.size(LEAKS_PICTURE)
    assert np.asarray(Image.open(io.BytesIO(store.read(CONFLICTS_PICTURE)))).size
