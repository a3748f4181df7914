"""Which assets and partitions a walk over the lineage need not run: finished by their receipts and fresh in Dagster."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from glr_assets.defs.dry_runs import DryPlatform, dry_verdicts
from glr_assets.settings import Settings


class UpToDate:
    """Compares assets with the store and with the instance, as both are when it is first asked after `forget`.

    A partition, or an asset without partitions, is up to date where all of this holds:

    - the instance has a materialization of it, and Dagster calls it fresh;
    - each check of it passed when it was last evaluated, and no later materialization of the partition is unchecked;
    - a dry run of the asset's own code finds the work done, files of moderate size compared by their digests;
    - nothing that it depends on in the same group is pending.
    """

    def __init__(self, settings: Settings, instance: dg.DagsterInstance, graph: BaseAssetGraph[Any]) -> None:
        self._settings, self._instance, self._graph = settings, instance, graph
        self.forget()

    def forget(self) -> None:
        """Look at store and instance again: a run has changed them."""
        self._platform: DryPlatform | None = None
        self._stale = CachingStaleStatusResolver(self._instance, self._graph, LoadingContextForTest(self._instance))

    def pending(
        self, group: Sequence[dg.AssetKey], partitions: Sequence[str] | None, forced: Collection[dg.AssetKey] = ()
    ) -> dict[dg.AssetKey, set[str | None]]:
        """By asset the partitions that are not up to date; `{None}` or nothing of an asset without partitions.

        Assets upstream of the group must be finished: a dry run compares with what they are now.

        Args:
            group: assets of one partition set, parents before children.
            partitions: the keys that count; None where the assets have no partitions.
            forced: assets that are pending whatever has been made.
        """
        keys: list[str | None] = [None] if partitions is None else [*partitions]
        fresh = {key: set() if key in forced else self._fresh(key, keys) for key in group}
        done = self._done([key.to_user_string() for key, found in fresh.items() if found])
        pending: dict[dg.AssetKey, set[str | None]] = {}
        for key in group:
            name = key.to_user_string()
            finished = {part for part in fresh[key] if (f"{name}/{part}" if part is not None else name) in done}
            pending[key] = {*keys} - finished | self._downstream(key, pending, keys)
        return pending

    def _downstream(
        self, key: dg.AssetKey, pending: dict[dg.AssetKey, set[str | None]], keys: Sequence[str | None]
    ) -> set[str | None]:
        """The partitions of an asset that depend on pending ones of assets of its group."""
        node = self._graph.get(key)
        found: set[str | None] = set()
        for parent in node.parent_keys & pending.keys():
            whole = isinstance(node.partition_mappings.get(parent), dg.AllPartitionMapping)
            found |= {*keys} if whole and pending[parent] else pending[parent]
        return found

    def _fresh(self, key: dg.AssetKey, keys: Sequence[str | None]) -> set[str | None]:
        """The partitions that Dagster calls fresh and whose checks passed."""
        passed = self._passed(key, keys)
        return {part for part in passed if self._stale.get_status(key, part) == StaleStatus.FRESH}

    def _passed(self, key: dg.AssetKey, keys: Sequence[str | None]) -> set[str | None]:
        """The partitions of which every check passed: their own checks, and those of the asset as a whole."""
        found = {*keys}
        for check in self._graph.get_check_keys_for_assets({key}):
            partitioned = self._graph.get(check).partitions_def is not None
            infos = self._instance.event_log_storage.get_asset_check_partition_info([check])
            passed = {
                info.partition_key
                for info in infos
                if info.latest_execution_status == AssetCheckExecutionRecordStatus.SUCCEEDED
                and (info.is_current or not partitioned)
            }
            found &= passed if partitioned else found if None in passed else set()
        return found

    def _done(self, names: Collection[str]) -> set[str]:
        """What of these assets a run would find done, as `asset` or `asset/partition`."""
        if not names:
            return set()
        if self._platform is None:
            self._platform = DryPlatform.of(self._settings)
        verdicts = dry_verdicts(self._platform, names, check_bytes=True, graph=self._graph)
        return {name for found in verdicts.values() for name, verdict in found.items() if verdict.is_done}
