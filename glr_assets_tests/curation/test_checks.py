from __future__ import annotations

import pyarrow as pa
import pytest

from glr_assets.curation.checks import (
    beyond_threshold,
    in_both,
    leaking,
    overfull,
    rows_lost,
    strangers,
    unhashed,
)
from glr_assets.ledger.balance import balance, unbalanced
from glr_assets.ledger.schemas import IMAGE_LEDGER


def ledger(*rows: tuple[str | None, str | None, bool]) -> pa.Table:
    """A ledger of train images: planned, decision and whether it trains."""
    return IMAGE_LEDGER.rows(
        {
            "id": f"{number}",
            "split": "train",
            "status": "stored",
            "reason": "",
            "planned": planned,
            "decision": decision,
            "in_train": in_train,
        }
        for number, (planned, decision, in_train) in enumerate(rows)
    )


SOUND = (
    ("competition", "kept", True),
    ("competition", "dropped", False),
    ("extra", "kept", True),
    ("extra", "failed", False),
    ("reserve", "dropped", False),
    (None, None, False),
)


def test_a_ledger_that_adds_up_passes() -> None:
    assert unbalanced([ledger(*SOUND)]) == ""
    assert unbalanced([ledger(*SOUND[:3]), ledger(*SOUND[3:])]) == ""
    assert unbalanced([]) == ""
    assert balance(ledger(*SOUND)) == {"requested": 5, "kept": 2, "dropped": 2, "failed": 1, "in_train": 2}


@pytest.mark.parametrize(
    ("row", "told"),
    [
        (("competition", None, False), "requested 6, but kept + dropped + failed = 5"),
        (("competition", "kept", False), "3 images were kept, but train_manifest holds 2"),
        (("competition", "dropped", True), "2 images were kept, but train_manifest holds 3"),
        ((None, None, True), "2 images were kept, but train_manifest holds 3"),
    ],
    ids=["undecided", "kept and lost", "dropped but trains", "never asked for but trains"],
)
def test_a_ledger_that_does_not_add_up_is_told(row: tuple[str | None, str | None, bool], told: str) -> None:
    assert unbalanced([ledger(*SOUND), ledger(row)]) == told


def manifest(*landmarks: int) -> pa.Table:
    return pa.table({"id": [f"{n}" for n in range(len(landmarks))], "landmark_id": pa.array(landmarks, pa.int64())})


def test_landmarks_outside_the_competition_are_told() -> None:
    assert strangers(manifest(1, 1, 2), manifest(1, 2, 3)) == ""
    assert strangers(manifest(), manifest(1)) == ""
    assert strangers(manifest(1, 9, 9, 8), manifest(1, 2)) == "3 images of landmarks outside the competition's set"


def test_classes_beyond_what_dedupe_keeps_are_told() -> None:
    assert overfull(manifest(1, 1, 2), 2) == ""
    assert overfull(manifest(), 1) == ""
    assert overfull(manifest(1, 1, 1, 2, 2, 2, 3), 2) == "2 classes have more than 2 images"


def test_extras_that_are_of_the_competition_are_told() -> None:
    extra, competition = pa.table({"id": ["a", "b", "c"]}), pa.table({"id": ["b", "c", "d"]})
    assert in_both(extra, competition) == "2 images, the first b"
    assert in_both(extra.slice(0, 1), competition) == ""


def test_filled_classes_beyond_the_threshold_are_told() -> None:
    def manifest_of(**sizes: tuple[int, int]) -> pa.Table:
        rows = [
            {"landmark_id": int(name[1:]), "origin": origin}
            for name, (competition, extra) in sizes.items()
            for origin in ["competition"] * competition + ["extra"] * extra
        ]
        return pa.Table.from_pylist(rows, pa.schema({"landmark_id": pa.int64(), "origin": pa.string()}))

    assert beyond_threshold(manifest_of(c1=(9, 0), c2=(2, 3), c3=(0, 5)), 5) == ""
    assert beyond_threshold(manifest_of(c1=(9, 0), c2=(2, 4), c3=(0, 6)), 5) == "2 classes have more than 5 images"


def test_stored_images_without_a_hash_are_told() -> None:
    rows = pa.table(
        {
            "status": ["stored", "stored", "stored", "failed"],
            "dhash": pa.array([1, None, 0, None], pa.uint64()),
            "stored_xxh3": pa.array([1, 2, None, None], pa.uint64()),
        }
    )
    assert unhashed([rows.slice(0, 1), rows.slice(3)]) == ""
    assert unhashed([rows.slice(0, 2), rows.slice(2)]) == "2 stored images lack a hash"


def test_a_table_that_lost_more_than_a_tenth_of_its_rows_is_reported() -> None:
    assert rows_lost(1000, 900) == rows_lost(1000, 5000) == rows_lost(0, 0) == ""
    assert rows_lost(1000, 899).startswith("1000 rows before, 899 now")


def test_only_leaks_that_train_are_reported() -> None:
    leaks = pa.table({"id": ["a", "b", "c"], "partner": ["t1", "t1", "t2"]})
    assert leaking(pa.table({"id": ["x", "y"]}), leaks) == ""
    assert leaking(pa.table({"id": ["b", "x", "a"]}), leaks) == (
        "2 images that train are near-duplicates of 1 test images, the first a"
    )
