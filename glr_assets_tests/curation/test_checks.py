from __future__ import annotations

import pyarrow as pa
import pytest

from glr_assets.curation.checks import overfull, strangers, unbalanced
from glr_assets.curation.ledger import balance
from glr_assets.curation.schemas import IMAGE_LEDGER


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
    assert unbalanced(ledger(*SOUND)) == ""
    assert unbalanced(ledger()) == ""
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
    assert unbalanced(ledger(*SOUND, row)) == told


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
