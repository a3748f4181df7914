"""Wanted images that no shard holds: a mirror may lack shards, and a shard may lack members that the tables list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glr_assets.images.schemas import IMAGE_INDEX
from glr_assets.images.selection import Selection, selection_for, selection_tables
from glr_assets.ranges import ordered
from glr_assets.receipts import find_receipt
from glr_assets.recipes import Images
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_table

#: Ids that are named where they are counted.
EXAMPLES = 5
#: Indexes read at once; a remote store answers each in tens of milliseconds.
REQUESTS = 16


class WantedImages:
    """The wanted ids of a split, of which those that shards hold are ticked off; some 20 bytes an id in memory."""

    def __init__(self, selection: Selection) -> None:
        self._ids: npt.NDArray[np.bytes_] = selection.ids[selection.wanted]
        self._held = np.zeros(len(self._ids), bool)

    def tick(self, ids: pa.ChunkedArray) -> None:
        """Take the ids of a shard's members, absent ones among them, as held."""
        rows = places(fixed_width(ids.drop_null()), self._ids)
        self._held[rows[rows >= 0]] = True

    def absent(self) -> AbsentImages:
        """Those that no shard held."""
        rows = np.flatnonzero(~self._held)
        return AbsentImages(len(self._ids), len(rows), [self._ids[row].decode() for row in rows[:EXAMPLES]])


@dataclass(frozen=True)
class AbsentImages:
    """Wanted images that no shard of a split holds.

    Attributes:
        wanted: images that the recipe wants of the split.
        count: those of them that no shard holds.
        examples: the first ids of these, at most `EXAMPLES`.
    """

    wanted: int
    count: int
    examples: list[str]

    def __str__(self) -> str:
        named = ", ".join(self.examples) + (", …" if self.count > len(self.examples) else "")
        return f"{self.count} of {self.wanted} wanted images are in no shard" + (f": {named}" if named else "")


def wanted_images(store: Store, split: Split, recipe: Images) -> WantedImages | None:
    """What the recipe wants of a split; None where a table that decides it has not been made."""
    if any(find_receipt(store, name) is None for name in selection_tables(split, recipe)):
        return None
    return WantedImages(selection_for(store, split, recipe))


def absent_images(store: Store, split: Split, shards: Sequence[str], recipe: Images) -> AbsentImages | None:
    """Wanted images that none of these ingested shards holds; None where a table that decides it has not been made.

    Raises:
        TableError: an index cannot be read.
    """
    wanted = wanted_images(store, split, recipe)
    if wanted is None:
        return None
    for ids in ordered(
        lambda shard: read_table(store, IMAGE_INDEX, ["id"], split=split, shard=shard)["id"], shards, workers=REQUESTS
    ):
        wanted.tick(ids)
    return wanted.absent()
