"""What the last run of a shard did: how it ended, how long it took, what it read and what it was spared.

It lies in the store as JSON, beside and not among what is made: times and attempts differ from run to run.
"""

from __future__ import annotations

import logging
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from glr_assets.errors import DamagedFileError
from glr_assets.receipts import Summary
from glr_assets.source.base import Split
from glr_assets.store import Store

log = logging.getLogger(__name__)


_NO_FIGURES = {"outcome", "error", "trace", "source", "stamp", "permanent", "failures", "members"}


class ShardRun(BaseModel):
    """One run over one shard.

    Attributes:
        outcome: `begun`, and so it stays where the run was killed; `ingested`; or `failed` with nothing written.
        error: why it failed.
        trace: the traceback of an error that nobody foresaw; empty for all others.
        source: what identified the shard's content (`Source.shard_digest`); empty where that could not be known.
        stamp: ETag or time, and size, of the shard and of its MD5 file (`Source.shard_stamp`); empty where unknown.
        permanent: that the source must be mended: to try the same content again is of no use.
        failures: runs in a row over this content under this stamp, this one included, that did not end well.
        seconds: from its beginning to its end.
        attempts: how often the shard was begun.
        read_bytes: of members, read of the source in the last attempt.
        spared_bytes: of members that were not read because an earlier run had indexed them.
        decoded: images that were decoded.
        carried: stored images taken over from the earlier run.
        members: seen = stored + skipped + failed, bytes, and failures by reason, as in the receipt.
    """

    model_config = ConfigDict(frozen=True)

    outcome: Literal["begun", "ingested", "failed"]
    error: str
    trace: str = ""
    source: str
    stamp: str = ""
    permanent: bool
    failures: int
    seconds: float
    attempts: int
    read_bytes: int
    spared_bytes: int
    decoded: int
    carried: int
    members: Summary

    def figures(self) -> Summary:
        """The figures of the run alone, for the UI."""
        rate = round(self.decoded / self.seconds, 1) if self.seconds else 0.0
        return self.model_dump(exclude=_NO_FIGURES) | {"images_per_second": rate}


def run_path(split: Split, shard: str) -> str:
    """Where a shard's last run is told of."""
    return f"runs/{split}_images/{shard}.json"


def write_run(store: Store, split: Split, shard: str, run: ShardRun) -> None:
    """Leave what a run did; to lose it in a power cut costs nothing that was made."""
    store.write(run_path(split, shard), run.model_dump_json(indent=2).encode() + b"\n", sync=False)


def find_run(store: Store, split: Split, shard: str) -> ShardRun | None:
    """The last run of a shard; None where there was none, or its record is damaged, which is warned of in the log."""
    try:
        return ShardRun.model_validate(store.read_json(run_path(split, shard)))
    except FileNotFoundError:
        return None
    except (DamagedFileError, ValidationError) as error:
        log.warning("%s: no record of a run (%s); it is left aside", store.full_url(run_path(split, shard)), error)
        return None
