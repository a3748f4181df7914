"""What of a split's shards went wrong and can be tried again, and what simply has not been tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from glr_assets.errors import MissingInputError
from glr_assets.images import versions
from glr_assets.images.catalog import REQUESTS, Reconciled, receipt_name, reconcile
from glr_assets.images.shard_runs import ShardRun, find_run
from glr_assets.ranges import ordered
from glr_assets.receipts import Receipt, need_receipt
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.store import Store

#: Runs in a row that may fail for a passing reason before a shard is left to people: with one a night, a line that was
#: bad for a working week.
MAX_FAILURES = 5
UNFINISHED = "its last run was killed or cancelled before it ended"


@dataclass(frozen=True)
class SplitState:
    """How a split stands.

    Attributes:
        reconciled: its shards by their receipts, and their members.
        failed: shards whose last run failed or was broken off, or whose files are gone or cut, with the reason. What
            an earlier run left of one may still be there.
        untried: shards that were never begun.
        runs: the last run of each shard that failed, where it is told of.
        replaced: failed shards whose file or MD5 file is another since their last run: what they failed by may be gone.
        outdated: shards that another version of the code ingested: a run makes again what it would make otherwise.
    """

    reconciled: Reconciled
    failed: Mapping[str, str]
    untried: tuple[str, ...]
    runs: Mapping[str, ShardRun] = field(default_factory=dict)
    outdated: tuple[str, ...] = ()
    replaced: frozenset[str] = frozenset()

    @property
    def with_failed_images(self) -> list[str]:
        """Ingested shards with failed members that may be stored when they are tried again."""
        return [shard for shard in self.reconciled.retriable if shard not in self.failed]

    @property
    def to_retry(self) -> list[str]:
        """Shards that failed, and those with failed members that may do better, sorted."""
        return sorted([*self.failed, *self.with_failed_images])

    @property
    def passing(self) -> list[str]:
        """Failed shards that may do better by themselves: nothing is wrong at the source, and they had few tries."""
        return [shard for shard in sorted(self.failed) if not self.is_permanent(shard) and not self.is_given_up(shard)]

    def is_permanent(self, shard: str) -> bool:
        """Whether a shard failed by what the source holds, which trying again does not change."""
        return shard in self.runs and shard not in self.replaced and self.runs[shard].permanent

    def is_given_up(self, shard: str) -> bool:
        """Whether a shard failed so often that no run is asked for any more by itself."""
        return shard in self.runs and shard not in self.replaced and self.runs[shard].failures >= MAX_FAILURES


def split_state(source: Source, store: Store, split: Split) -> SplitState:
    """What became of each shard that the source has of a split."""
    shards = source.shards(split)

    def told(shard: str) -> tuple[Receipt | str, ShardRun | None]:
        run = find_run(store, split, shard)
        try:
            return need_receipt(store, receipt_name(split, shard)), run
        except MissingInputError as error:
            return str(error), run

    receipts: dict[str, Receipt] = {}
    failed: dict[str, str] = {}
    runs: dict[str, ShardRun] = {}
    untried = []
    for shard, (receipt, run) in zip(shards, ordered(told, shards, workers=REQUESTS), strict=True):
        if isinstance(receipt, Receipt):
            receipts[receipt.name] = receipt
            if run is not None and run.outcome == "failed":
                failed[shard] = run.error
        elif run is None:
            untried.append(shard)
        else:
            failed[shard] = run.error or (UNFINISHED if run.outcome == "begun" else receipt)
        if run is not None and shard in failed:
            runs[shard] = run
    outdated = tuple(
        shard
        for shard in shards
        if shard not in failed
        and (of_shard := receipts.get(receipt_name(split, shard))) is not None
        and of_shard.code_version != versions.CODE_VERSION
    )
    stamps = source.shard_stamps(split) if runs else {}
    replaced = frozenset(key for key, run in runs.items() if run.stamp and run.stamp != stamps.get(key))
    return SplitState(reconcile({split: shards}, receipts)[split], failed, tuple(untried), runs, outdated, replaced)
