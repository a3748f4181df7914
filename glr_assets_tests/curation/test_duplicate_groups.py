"""Groups of near-duplicates of stored images: by their hashes in the catalog, within a landmark."""

from __future__ import annotations

from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from glr_assets.curation.duplicate_groups import duplicate_groups
from glr_assets.errors import MissingInputError
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.store import Store
from glr_assets.tables import write_table

HASH = 0x0123456789ABCDEF


def catalog(store: Store, rows: list[tuple[str, str, int | None, float | None]]) -> None:
    """Of each image its id, its split, its hash and its sharpness."""
    blank: dict[str, Any] = dict.fromkeys(IMAGE_CATALOG.schema.names)
    blank |= {"shard": "000", "reason": "", "kind": "image", "source_path": "", "source_size": 0}
    found = [
        blank
        | {"id": name, "split": split, "member": f"{name}.jpg", "source_offset": place, "dhash": dhash}
        | {"sharpness": sharpness, "status": "failed" if dhash is None else "stored"}
        for place, (name, split, dhash, sharpness) in enumerate(sorted(rows, key=lambda row: row[1]))
    ]
    with store.writing(IMAGE_CATALOG.path) as file:
        write_table(IMAGE_CATALOG, IMAGE_CATALOG.rows(found), file)


def images(rows: list[tuple[str, int]]) -> pa.Table:
    return pa.table({"id": [row[0] for row in rows], "landmark_id": pa.array([row[1] for row in rows], pa.int64())})


def test_stored_near_duplicates_of_a_landmark_are_a_group_named_by_its_first_id(store: Store) -> None:
    catalog(
        store,
        [
            ("a", "train", HASH, 90.0),
            ("b", "train", HASH ^ 0b1011, 80.0),
            ("c", "train", HASH, 70.0),  # of another landmark
            ("d", "train", ~HASH & 2**64 - 1, 60.0),
            ("e", "train", HASH, 0.2),  # blank
            ("f", "train", None, None),  # failed
            ("a", "test", ~HASH & 2**64 - 1, 60.0),
            ("h", "train", HASH ^ 0b1, 5.0),  # not asked of
        ],
    )
    asked = [("b", 1), ("g", 1), ("a", 1), ("c", 2), ("d", 1), ("e", 1), ("f", 1)]
    for seed in range(5):
        rows = Random(seed).sample(asked, len(asked))
        found = duplicate_groups(store, images(rows))
        assert found.dtype == np.int64
        groups = {name: rows[int(first)][0] for (name, _), first in zip(rows, found, strict=True)}
        assert groups == {"a": "a", "b": "a", "c": "c", "d": "d", "e": "e", "f": "f", "g": "g"}
    assert duplicate_groups(store, images([])).tolist() == []


def test_without_a_catalog_it_is_named(store: Store) -> None:
    with pytest.raises(MissingInputError, match="image_catalog"):
        duplicate_groups(store, images([("a", 1)]))
