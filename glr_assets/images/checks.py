"""What must hold of an ingested shard; each function gives what breaks it, in words, or nothing."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.receipts import Summary

STATUSES: Final = ("stored", "skipped", "failed")
#: Large published sets hold a few broken files for ever; a larger share of them points to a fault. Of a small set one
#: file is a larger share and points to nothing.
MOST_FAILED: Final = 0.01
_MD5: Final = re.compile("[0-9a-f]{32}")


def unreconciled(index: pa.Table, summary: Summary, tar_bytes: int) -> str:
    """Every member is stored, skipped or failed, with a reason for the latter two, and stored ones lie in the TAR.

    Args:
        index: `status, reason, stored_offset, stored_size` of `IMAGE_INDEX`, counted here again.
        summary: the figures of the shard's receipt.
        tar_bytes: size of the stored TAR.
    """
    counts = Counter(index["status"].to_pylist())
    problems = []
    if counts.keys() - set(STATUSES):
        problems.append(f"members with other statuses: {', '.join(sorted(counts.keys() - set(STATUSES)))}")
    if index.num_rows != summary.get("seen"):
        problems.append(f"the index has {index.num_rows} members, the receipt counts {summary.get('seen')}")
    problems += [
        f"the index has {counts[status]} {status} members, the receipt counts {summary.get(status)}"
        for status in STATUSES
        if counts[status] != summary.get(status)
    ]
    stored = pc.equal(index["status"], "stored")
    silent = pc.sum(pc.and_(pc.invert(stored), pc.equal(index["reason"], ""))).as_py() or 0
    if silent:
        problems.append(f"{silent} members that are not stored have no reason")
    ends = pc.add(index["stored_offset"], index["stored_size"]).filter(stored)
    if ends.null_count or (len(ends) and pc.max(ends).as_py() > tar_bytes):
        problems.append(f"stored images lie outside the stored TAR of {tar_bytes} bytes")
    return "; ".join(problems)


def many_failed(summary: Summary, done: str = "stored", things: str = "images") -> str:
    """Of the images that were wanted no more failed than a published set holds broken ones: 1 %, or one, but not all.

    Args:
        summary: figures with `failed`, `failed: <reason>` for each reason, and those that did not fail as `done`.
        done: the name of that figure.
        things: what failed, in the plural.
    """
    failed, others = (int(summary.get(name) or 0) for name in ("failed", done))
    if not failed or (others and failed <= max(1, MOST_FAILED * (failed + others))):
        return ""
    reasons = {name.partition(": ")[2]: value for name, value in summary.items() if name.startswith("failed: ")}
    told = ", ".join(f"{reason} {value}" for reason, value in reasons.items())
    return f"{failed} of {failed + others} {things} failed" + (f": {told}" if told else "")


def unverified(inputs: Mapping[str, str]) -> str:
    """The MD5 of the shard's bytes was compared with a published one.

    That it was the same is certain where there is a receipt: of another MD5 nothing is stored.

    Args:
        inputs: of the shard's receipt, its content among them as `source:<split>/<shard>`.
    """
    content = next((digest for name, digest in inputs.items() if name.startswith("source:")), "")
    return "" if _MD5.fullmatch(content) else "no MD5 of it is published"
