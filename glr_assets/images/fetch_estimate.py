"""Bytes that an ingest of shards would fetch, estimated from listings and from what earlier runs indexed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.dry_run import Verdict
from glr_assets.errors import GlrError
from glr_assets.images.schemas import IMAGE_INDEX
from glr_assets.images.selection import Selection, selection_for
from glr_assets.ranges import ordered
from glr_assets.recipes import Images
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_table

#: Indexes that are read at once.
WORKERS: Final = 16
#: How the reason of a member begins that another one of its id was stored for.
_REPEATED: Final = "repeated id"


@dataclass(frozen=True)
class FetchEstimate:
    """Bytes that runs of shards would fetch from the source.

    Attributes:
        bytes: of the shards for which they are known.
        unknown: how many shards they are not known of.
    """

    bytes: int
    unknown: int


def fetch_estimate(
    source: Source, store: Store, split: Split, verdicts: Iterable[Verdict], recipe: Images
) -> FetchEstimate:
    """The estimate for shards that a run would make.

    New or changed content is read whole. Where the content is the same and another table of ids alone has changed, the
    ranges of the images that are wanted now and were not before count. With other limits or another version of
    the code it is not known which stored images are carried over.

    Args:
        source: where the shards are.
        store: where indexes of earlier runs are.
        split: train, index or test.
        verdicts: of the shards, named `<split>_images/<shard>`.
        recipe: which images are wanted.
    """
    sizes = source.shard_sizes(split)
    found: list[int | None] = []
    of_known_content: list[str] = []
    for verdict in verdicts:
        shard = verdict.name.partition("/")[2]
        if verdict.error:
            found.append(None)
        elif _is_read_whole(verdict):
            found.append(sizes.get(shard))
        elif all(change.kind == "input" for change in verdict.changes):
            of_known_content.append(shard)
        else:
            found.append(None)
    if of_known_content:
        try:
            selection = selection_for(store, split, recipe)
            found += ordered(
                lambda shard: _newly_wanted(store, split, shard, selection), of_known_content, workers=WORKERS
            )
        except GlrError:  # what is wanted cannot be told before its tables are made
            found += [None] * len(of_known_content)
    return FetchEstimate(sum(size for size in found if size is not None), sum(size is None for size in found))


def _is_read_whole(verdict: Verdict) -> bool:
    kinds = {change.kind for change in verdict.changes}
    new = any(change.kind == "input" and change.name.startswith("source:") for change in verdict.changes)
    return new or bool(kinds & {"never made", "unfinished", "files", "forced"})


def _newly_wanted(store: Store, split: Split, shard: str, selection: Selection) -> int | None:
    """Bytes of a shard's members that were not wanted before and are now; repeated ids stay as they are."""
    try:
        columns = ["id", "status", "reason", "source_size"]
        index = read_table(store, IMAGE_INDEX, columns, split=split, shard=shard)
    except GlrError:
        return None
    left_out = pc.and_(pc.equal(index["status"], "skipped"), pc.invert(pc.starts_with(index["reason"], _REPEATED)))
    index = index.filter(pc.and_(left_out, pc.is_valid(index["id"])))
    rows = places(fixed_width(index["id"]), selection.ids)
    known = rows >= 0
    wanted = np.zeros(len(rows), bool)
    wanted[known] = selection.wanted[rows[known]]
    return pc.sum(index["source_size"].filter(pa.array(wanted))).as_py() or 0
