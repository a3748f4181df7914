from __future__ import annotations

import itertools
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.curation.fates import MISSING_REASON, asked, fates, stored_images
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.store import Store
from glr_assets.tables import write_table

members = st.lists(
    st.tuples(
        st.sampled_from(["train", "index"]),
        st.sampled_from([None, "a", "b", "c"]),
        st.sampled_from(["stored", "skipped", "failed"]),
    ),
    max_size=20,
)


def write_catalog(store: Store, rows: list[tuple[str, str | None, str]]) -> None:
    blank: dict[str, Any] = dict.fromkeys(IMAGE_CATALOG.schema.names)
    found = []
    for number, (split, image_id, status) in enumerate(rows):
        place = {
            "member": f"{number}",
            "kind": "file",
            "source_path": "x.tar",
            "source_offset": number,
            "source_size": 1,
        }
        told = {"split": split, "shard": f"{number:03d}", "id": image_id, "status": status, "reason": f"why {number}"}
        found.append(blank | place | told | {"dhash": number if status == "stored" else None})
    with store.writing(IMAGE_CATALOG.path) as file:
        write_table(IMAGE_CATALOG, IMAGE_CATALOG.rows(found), file)


@pytest.fixture(scope="module")
def shared_store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return Store(str(tmp_path_factory.mktemp("fates")))


@given(rows=members)
@settings(max_examples=60, deadline=None)
def test_of_an_id_the_stored_member_counts_else_the_first_failed_one(
    shared_store: Store, rows: list[tuple[str, str | None, str]]
) -> None:
    write_catalog(shared_store, rows)
    numbered = [(number, *row) for number, row in enumerate(rows) if row[0] == "train" and row[1] is not None]
    best = {"stored": 0, "failed": 1, "skipped": 2}
    ordered = sorted(numbered, key=lambda row: (row[2], best[row[3]], row[0]))
    expected = [next(group) for _, group in itertools.groupby(ordered, key=lambda row: row[2])]
    found = fates(shared_store, "train").to_pylist()
    assert [(int(row["shard"]), row["id"], row["status"]) for row in found] == [
        (number, image_id, status) for number, _, image_id, status in expected
    ]
    assert all(row["reason"] == f"why {int(row['shard'])}" for row in found)


def test_what_was_asked_for_and_is_in_no_shard_is_missing(store: Store) -> None:
    write_catalog(store, [("train", "b", "stored"), ("train", "z", "stored")])
    wanted = pa.table({"id": ["c", "b", "a"], "landmark_id": [3, 2, 1]})
    found = asked(wanted, fates(store, "train"))
    assert found.select(["id", "landmark_id", "shard", "status", "reason"]).to_pylist() == [
        {"id": "a", "landmark_id": 1, "shard": None, "status": "missing", "reason": MISSING_REASON},
        {"id": "b", "landmark_id": 2, "shard": "000", "status": "stored", "reason": "why 0"},
        {"id": "c", "landmark_id": 3, "shard": None, "status": "missing", "reason": MISSING_REASON},
    ]


def test_other_columns_of_the_catalog_come_where_they_are_asked_for(store: Store) -> None:
    write_catalog(store, [("train", "b", "stored"), ("index", "c", "stored"), ("train", "a", "failed")])
    found = fates(store, "train", ("source_size", "dhash"))
    assert found.to_pylist() == [
        {"id": "a", "shard": "002", "status": "failed", "reason": "why 2", "source_size": 1, "dhash": None},
        {"id": "b", "shard": "000", "status": "stored", "reason": "why 0", "source_size": 1, "dhash": 0},
    ]
    assert asked(pa.table({"id": ["b"]}), found).column_names == found.column_names
    assert fates(store, "test").column_names == ["id", "shard", "status", "reason", "dhash"]
    assert fates(store, "test").num_rows == 0


@given(rows=members)
@settings(max_examples=30)
def test_stored_images_are_those_of_the_split_by_id(
    shared_store: Store, rows: list[tuple[str, str | None, str]]
) -> None:
    write_catalog(shared_store, rows)
    expected = sorted(
        (image_id, number)
        for number, (split, image_id, status) in enumerate(rows)
        if split == "train" and status == "stored" and image_id is not None
    )
    found = stored_images(shared_store, "train", ["dhash"])
    assert [(row["id"], row["dhash"]) for row in found.to_pylist()] == expected
