from __future__ import annotations

from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.errors import TableError
from glr_assets.metadata.tables import make_competition_train, make_train_metadata
from glr_assets.planning.class_counts import PICTURE, count_classes, make_class_counts
from glr_assets.planning.schemas import CLASS_COUNTS
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import problems, read_table
from glr_assets_tests.images.handmade import Bucket, identifier

images_of_classes = st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=60)


def tables_of(images: list[tuple[int, bool]]) -> tuple[pa.Table, pa.Table]:
    """The full train set and the competition's part of it, of `(landmark, in the competition)`."""
    rows = [{"id": f"{n:04x}", "landmark_id": landmark, "clean": clean} for n, (landmark, clean) in enumerate(images)]
    schema = pa.schema({"id": pa.string(), "landmark_id": pa.int64()})
    clean = [row for row in rows if row["clean"]]
    return tuple(pa.Table.from_pylist(part, schema=schema) for part in (rows, clean))  # type: ignore[return-value]


@given(images_of_classes)
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_a_plain_count(images: list[tuple[int, bool]]) -> None:
    counts = count_classes(*tables_of(images))
    full = Counter(landmark for landmark, _ in images)
    competition = Counter(landmark for landmark, clean in images if clean)
    assert problems(CLASS_COUNTS, counts) == []
    assert counts.to_pylist() == [
        {
            "landmark_id": landmark,
            "train_images": full[landmark],
            "competition_images": competition[landmark],
            "extra_images": full[landmark] - competition[landmark],
        }
        for landmark in sorted(full)
    ]


def test_a_competition_set_of_another_train_set_is_refused() -> None:
    train, _ = tables_of([(1, True), (5, True), (5, False)])
    for landmarks, told in (([1, 1, 5], "1 landmarks have more images"), ([9, 0, 5], "2 landmarks .* the first 0;")):
        with pytest.raises(TableError, match=told):
            count_classes(train, pa.table({"landmark_id": landmarks}))
    with pytest.raises(TableError, match=r"the first 7; .* materialise competition_train again"):
        count_classes(train.slice(0, 0), pa.table({"landmark_id": [7]}))


def test_the_asset_writes_table_picture_and_figures(tmp_path: Path, store: Store) -> None:
    train = {identifier(n): (1, 1, 1, 5, 5, 9)[n] for n in range(6)}
    source = BucketSource(Bucket(train, [identifier(0), identifier(3), identifier(4)]).write(tmp_path / "bucket"))
    make_train_metadata(source, store)
    make_competition_train(source, store)
    made = make_class_counts(store)
    assert made.receipt.summary == {
        "rows": 3,
        "train_images": 6,
        "largest_class": 3,
        "median_class": 2.0,
        "competition_classes": 2,
        "competition_images": 3,
        "largest_competition_class": 2,
        "median_competition_class": 1.5,
        "extra_images_of_competition_classes": 2,
    }
    assert read_table(store, CLASS_COUNTS)["extra_images"].to_pylist() == [2, 0, 1]
    assert store.read(PICTURE).startswith(b"\x89PNG")
    assert make_class_counts(store).reused
