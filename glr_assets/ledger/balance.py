"""What was asked for against what became of it: the two must add up."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

#: Columns of the ledger that `unbalanced` reads.
BALANCED = ("planned", "decision", "in_train")
BALANCE = ("requested", "kept", "dropped", "failed", "in_train")


def balance(ledger: pa.Table) -> dict[str, int]:
    """Train images asked for, and how many of them were kept, dropped and failed: the three must add up to it.

    Args:
        ledger: at least the columns `planned, decision, in_train`.
    """
    planned = ledger.select(["decision"]).filter(pc.is_valid(ledger["planned"]))
    counts = {word: pc.sum(pc.equal(planned["decision"], word)).as_py() or 0 for word in ("kept", "dropped", "failed")}
    return {"requested": planned.num_rows} | counts | {"in_train": pc.sum(ledger["in_train"]).as_py() or 0}


def unbalanced(ledger: Iterable[pa.Table]) -> str:
    """Of the train images asked for, each was kept, dropped or failed, and all that were kept train.

    Args:
        ledger: pieces of it with the columns `BALANCED`.
    """
    counts = dict.fromkeys(BALANCE, 0)
    for piece in ledger:
        for name, count in balance(piece).items():
            counts[name] += count
    settled = counts["kept"] + counts["dropped"] + counts["failed"]
    if settled != counts["requested"]:
        return f"requested {counts['requested']}, but kept + dropped + failed = {settled}"
    if counts["in_train"] != counts["kept"]:
        return f"{counts['kept']} images were kept, but train_manifest holds {counts['in_train']}"
    return ""
