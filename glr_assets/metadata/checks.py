"""What must hold across the metadata tables; each function gives what breaks it, in words, or nothing."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.metadata.tables import UNKNOWN_LABELLED, UNLABELLED
from glr_assets.receipts import Summary
from glr_assets.tables import fixed_width, places


def shared(ids: pa.ChunkedArray, others: pa.ChunkedArray, other: str) -> str:
    """No id of a table is in another.

    Args:
        ids: of the table, strings.
        others: of the other, each there once.
        other: its name.
    """
    found = ids.filter(pa.array(_among(ids, others)))
    return f"{len(found)} images are also in {other}, the first {found[0].as_py()!r}" if len(found) else ""


def unlisted(ids: pa.ChunkedArray, known: pa.ChunkedArray, what: str, where: str) -> str:
    """Every id that a table names is in the table that lists such ids.

    Args:
        ids: that are named, strings.
        known: those that are listed, each there once.
        what: `ids` are the ids of, in the plural.
        where: the name of the table that lists them.
    """
    found = pc.unique(ids.filter(pa.array(~_among(ids, known))))
    return f"{len(found)} {what} are not in {where}, the first {found[0].as_py()!r}" if len(found) else ""


def _among(ids: pa.ChunkedArray, known: pa.ChunkedArray) -> np.ndarray:
    """Which of `ids` are in `known`: bool [n]."""
    return places(fixed_width(ids), fixed_width(known)) >= 0


def mislabelled(summary: Summary) -> str:
    """index_image_to_landmark.csv is of the images of index.csv: it names no other, and not none of them.

    Args:
        summary: of the receipt of `index_metadata`.
    """
    unknown, unlabelled, rows = (int(summary.get(name) or 0) for name in (UNKNOWN_LABELLED, UNLABELLED, "rows"))
    problems = []
    if unknown:
        problems.append(f"{unknown} images of index_image_to_landmark.csv are not in index.csv")
    if rows and unlabelled == rows:
        problems.append(f"index_image_to_landmark.csv has a landmark of none of the {rows} images of index.csv")
    return "; ".join(problems)
