from __future__ import annotations

import pyarrow as pa
import pytest

from glr_assets.curation.schemas import DEDUPED_MANIFEST, TRAIN_EXTRA, TRAIN_MANIFEST
from glr_assets.curation.train_manifest import join_sets
from glr_assets.errors import TableError
from glr_assets.tables import problems


def deduped(*rows: tuple[str, str]) -> pa.Table:
    return DEDUPED_MANIFEST.rows(
        {"id": i, "landmark_id": 1, "shard": "000", "decision": decision, "reason": f"of {i}"} for i, decision in rows
    )


def extra(*rows: tuple[str, str]) -> pa.Table:
    return TRAIN_EXTRA.rows(
        {"id": i, "landmark_id": 2, "shard": "001", "decision": decision, "reason": f"of {i}"} for i, decision in rows
    )


def test_what_either_set_keeps_trains() -> None:
    found = join_sets(
        deduped(("d", "kept"), ("b", "dropped"), ("a", "kept")), extra(("c", "kept"), ("e", "failed"), ("f", "dropped"))
    )
    assert problems(TRAIN_MANIFEST, found) == []
    assert [(row["id"], row["origin"], row["landmark_id"], row["reason"]) for row in found.to_pylist()] == [
        ("a", "competition", 1, "of a"),
        ("c", "extra", 2, "of c"),
        ("d", "competition", 1, "of d"),
    ]


def test_an_image_in_both_sets_is_refused() -> None:
    with pytest.raises(TableError, match="image b is both"):
        join_sets(deduped(("a", "kept"), ("b", "kept")), extra(("b", "kept"), ("c", "kept")))


def test_an_image_that_one_of_the_sets_dropped_is_no_conflict() -> None:
    assert join_sets(deduped(("a", "dropped")), extra(("a", "kept")))["origin"].to_pylist() == ["extra"]


def test_empty_sets_join_to_an_empty_set() -> None:
    assert problems(TRAIN_MANIFEST, join_sets(deduped(), extra())) == []
