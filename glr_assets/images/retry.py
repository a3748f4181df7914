"""What of a split's shards went wrong and can be tried again, and what simply has not been tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from glr_assets.errors import MissingInputError
from glr_assets.images.catalog import Reconciled, receipt_name, reconcile
from glr_assets.images.shard_runs import find_run
from glr_assets.receipts import Receipt, need_receipt
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.store import Store


@dataclass(frozen=True)
class SplitState:
    """How a split stands.

    Attributes:
        reconciled: its shards by their receipts, and their members.
        failed: shards whose last run failed, or whose files are gone or cut, with the reason. What an earlier run
            left of one may still be there.
        untried: shards that were never begun.
    """

    reconciled: Reconciled
    failed: Mapping[str, str]
    untried: tuple[str, ...]

    @property
    def with_failed_images(self) -> list[str]:
        """Shards that were ingested well, some member excepted."""
        return [shard for shard in self.reconciled.failing if shard not in self.failed]

    @property
    def to_retry(self) -> list[str]:
        """Shards that failed, and those with failed members, sorted."""
        return sorted([*self.failed, *self.with_failed_images])


def split_state(source: Source, store: Store, split: Split) -> SplitState:
    """What became of each shard that the source has of a split."""
    shards = source.shards(split)
    receipts: dict[str, Receipt] = {}
    failed: dict[str, str] = {}
    untried = []
    for shard in shards:
        name, run = receipt_name(split, shard), find_run(store, split, shard)
        try:
            receipts[name] = need_receipt(store, name)
        except MissingInputError as error:
            if run is None:
                untried.append(shard)
            else:
                failed[shard] = run.error or str(error)
            continue
        if run is not None and run.outcome == "failed":
            failed[shard] = run.error
    return SplitState(reconcile({split: shards}, receipts)[split], failed, tuple(untried))
