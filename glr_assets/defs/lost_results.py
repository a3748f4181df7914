"""Results that Dagster calls materialized and the store does not hold: they are reported as lost.

Files go behind Dagster's back: `glr verify --repair` removes what is damaged, a folder is deleted to free a disk, a
backup of last week is restored. Such a result is reported once more, with a data version of its own and the lost file
among its inputs, so that Dagster calls it unsynced and names the file. What was made of it is unsynced too, and fresh
again when the same bytes are back.

Receipts and files are compared by listings, names and sizes alone; `glr verify` compares content.
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

from glr_assets.defs.provenance import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    INPUT_EVENT_TAG,
    INPUT_VERSION_TAG,
    NEVER_OBSERVED,
    NO_EVENT,
)
from glr_assets.defs.source import Stored, stored_results
from glr_assets.errors import StoreError
from glr_assets.receipts import digest_of, find_receipt, holds_receipts, receipt_path
from glr_assets.store import Store

#: The data version of what is lost.
LOST: Final = "lost"
#: Materializations that are looked through for the one whose bytes are back.
_PAST: Final = 50
#: The folders that hold results, by URL of their store, as the last look found them.
_folders: dict[str, list[str]] = {}


def check_holds(instance: dg.DagsterInstance, graph: BaseAssetGraph, store: Store) -> None:
    """Refuse a store that holds nothing at all of what the instance has materialized, which counts as an outage.

    Raises:
        StoreError: it does, or cannot be read.
    """
    if holds_receipts(store):
        return
    known = _known(instance, graph)
    if any(version != LOST for versions in known.values() for version in versions.values()):
        raise StoreError(
            f"{store.url} holds nothing of the {len(known)} assets that this instance has materialized: taken for an "
            "outage; set GLR_STORE back, give the store an instance (DAGSTER_HOME) of its own, or wipe the "
            "materializations in the UI"
        )


def lost_and_found(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, store: Store
) -> Iterator[dg.AssetMaterialization]:
    """Reports of what the store has lost, and of what is back in it, since they were reported last.

    Raises:
        StoreError: the store cannot be read.
    """
    # The instance first: a receipt is written before the materialization is logged.
    known = _known(instance, graph)
    files = _Files(store)
    whole = {asset: versions[None] for asset, versions in known.items() if None in versions}
    there = stored_results(store, sorted(whole))
    for asset, version in whole.items():
        yield from _changed(instance, files, asset, None, version, there.get(asset))
    for asset, versions in known.items():
        keys = [key for key in versions if key is not None]
        stored = stored_results(store, keys, asset) if keys else {}
        for key in keys:
            yield from _changed(instance, files, asset, key, versions[key], stored.get(key))
    _folders[store.url] = sorted(files.listed)


def results_stamp(store: Store) -> str:
    """What tells whether a file was added to or removed from the folders in which the last look found results.

    It is empty before the first look, and always the same of a remote store, of which every folder would be listed at
    each tick.
    """
    if not store.is_local:
        return "remote"
    folders = _folders.get(store.url)
    return digest_of({folder: store.folder_stamp(folder) for folder in folders}) if folders else ""


class _Files:
    """The files of a store, each folder listed once."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.listed: dict[str, dict[str, int]] = {}

    def lost(self, name: str, stored: Stored | None) -> tuple[str, str] | None:
        """The file for which a result does not count any more, and why; None where it does, or a run is at it."""
        if stored is None:
            return receipt_path(name), "gone"
        for path, size in stored.files.items():
            wrong = self._wrong(path, size)
            if wrong:
                # A run may have begun to make it again since the receipt was read.
                receipt = find_receipt(self.store, name)
                return (path, wrong) if receipt is not None and receipt.digest == stored.digest else None
        return (receipt_path(name), stored.lost) if stored.lost else None

    def _wrong(self, path: str, size: int) -> str:
        folder, name = posixpath.split(path)
        if folder not in self.listed:
            self.listed[folder] = self.store.sizes(folder)
        there = self.listed[folder].get(name)
        if there is None:
            return "gone"
        return "" if there == size else f"{there} bytes in place of {size}"


def _known(instance: dg.DagsterInstance, graph: BaseAssetGraph) -> dict[str, Mapping[str | None, str]]:
    """The latest data versions of what is materialized, by asset and registered partition."""
    found: dict[str, Mapping[str | None, str]] = {}
    for record in instance.get_asset_records(sorted(graph.materializable_asset_keys)):
        key, last = record.asset_entry.asset_key, record.asset_entry.last_materialization
        partitions = graph.get(key).partitions_def
        if last is None or last.asset_materialization is None:
            continue
        if partitions is None:
            found[key.to_user_string()] = {None: (last.asset_materialization.tags or {}).get(DATA_VERSION_TAG, "")}
            continue
        tags = instance.event_log_storage.get_latest_tags_by_partition(
            key,
            dg.DagsterEventType.ASSET_MATERIALIZATION,
            [DATA_VERSION_TAG],
            list(partitions.get_partition_keys(dynamic_partitions_store=instance)),
        )
        found[key.to_user_string()] = {
            partition: of.get(DATA_VERSION_TAG, "") for partition, of in sorted(tags.items())
        }
    return found


def _changed(
    instance: dg.DagsterInstance, files: _Files, asset: str, partition: str | None, version: str, stored: Stored | None
) -> Iterable[dg.AssetMaterialization]:
    lost = files.lost(asset if partition is None else f"{asset}/{partition}", stored)
    if lost is not None and version != LOST:
        path, why = lost
        last = next(_past(instance, asset, partition), None)
        yield dg.AssetMaterialization(
            asset,
            partition=partition,
            description=f"lost: {path} in the store: {why}; materialize it again",
            metadata={"lost": f"{path}: {why}"},
            # Dagster says of an input that is no dependency: "removed dependency on" it.
            tags={
                CODE_VERSION_TAG: NEVER_OBSERVED,  # of one that has none, without which Dagster compares no inputs
                **((last.tags if last is not None else None) or {}),
                DATA_VERSION_TAG: LOST,
                f"{INPUT_VERSION_TAG}/{path}": LOST,
                f"{INPUT_EVENT_TAG}/{path}": NO_EVENT,
            },
        )
    elif lost is None and version == LOST and stored is not None and stored.digest is not None:
        # A run that made other bytes tells it itself.
        for before in _past(instance, asset, partition):
            if (before.tags or {}).get(DATA_VERSION_TAG) == stored.digest:
                yield dg.AssetMaterialization(
                    asset,
                    partition=partition,
                    description="in the store again",
                    metadata=before.metadata,
                    tags=before.tags,
                )
                break


def _past(instance: dg.DagsterInstance, asset: str, partition: str | None) -> Iterator[dg.AssetMaterialization]:
    """The last materializations, the latest first."""
    filters = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=None if partition is None else [partition])
    for record in instance.fetch_materializations(filters, limit=_PAST).records:
        if record.asset_materialization is not None:
            yield record.asset_materialization
