"""What became of every photograph of the train and test splits, in figures that add up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from glr_assets.ledger.schemas import IMAGE_LEDGER
from glr_assets.store import Store
from glr_assets.tables import read_parts

TRAINS = "trains"
WITHOUT_PICTURE = "without a picture"
_COLUMNS = ("split", "landmark_id", "status", "reason", "planned", "decision", "decision_reason", "in_train")
_DUPLICATES = ("near-duplicate", "the same file", "like a test image")


def image_account(store: Store) -> dict[str, dict[str, int]]:
    """Images by what became of them: `train`, those that a landmark is published of, and `test`, all queries.

    Raises:
        MissingInputError: the ledger has not been made.
    """
    train: Counter[str] = Counter()
    test: Counter[str] = Counter()
    for part in read_parts(store, IMAGE_LEDGER, _COLUMNS):
        for row in part.to_pylist():
            if row["split"] == "train" and row["landmark_id"] is not None:
                train[_fate(row)] += 1
            elif row["split"] == "test":
                test["stored" if row["status"] == "stored" else WITHOUT_PICTURE] += 1
    return {"train": dict(sorted(train.items())), "test": dict(sorted(test.items()))}


def _fate(row: Mapping[str, Any]) -> str:
    if row["in_train"]:
        return TRAINS
    if row["status"] == "failed":
        return "failed at ingest"
    if row["status"] == "missing":
        return str(row["reason"])
    if row["planned"] is None:
        return "set aside for filling classes"
    if (row["decision_reason"] or "").startswith(_DUPLICATES):
        return "near-duplicates"
    return "not kept by the recipe"


def account_lines(account: Mapping[str, Mapping[str, int]], held_out: int) -> list[str]:
    """The account for a terminal, a sum a line.

    Args:
        account: of `image_account`.
        held_out: photographs that train in the end and that a validation split holds out meanwhile.
    """
    lines = []
    train = account["train"]
    others = "".join(f" + {count} {fate}" for fate, count in train.items() if fate != TRAINS)
    validated = f" ({held_out} of them held out for validation)" if held_out else ""
    lines.append(f"train    {sum(train.values())} = {train.get(TRAINS, 0)} that train{validated}{others}")
    lost = account["test"].get(WITHOUT_PICTURE, 0)
    if lost:
        lines.append(f"queries  {lost} of {sum(account['test'].values())} have no picture and count as unanswered")
    return lines
