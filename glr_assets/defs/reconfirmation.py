"""Assets that are stale by Dagster's rules and made of nothing that changed: they are reported as up to date.

Dagster compares every dependency. A chosen manifest depends on all sets that the recipe may name and is made of one of
them, so a change of another set would leave it stale. Such an asset is reported again, without a run, with the data
version that it has and with the versions that its dependencies have now.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from glr_assets.curation.chosen import CHOSEN_BY, chosen_inputs
from glr_assets.defs.provenance import (
    CODE_VERSION_TAG,
    DATA_VERSION_TAG,
    INPUT_EVENT_TAG,
    INPUT_VERSION_TAG,
    NEVER_OBSERVED,
    NO_EVENT,
    digest_of_versions,
    version_in,
)
from glr_assets.errors import MissingInputError
from glr_assets.receipts import Receipt, find_receipt
from glr_assets.recipes import Recipe
from glr_assets.recipes.describe import values_of
from glr_assets.store import Store


def reconfirm_chosen_manifests(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, store: Store, recipe: Recipe
) -> list[str]:
    """Report again the chosen manifests that are stale for a set that the recipe does not name; returns their names.

    Nothing is reported of one that a run would make again.
    """
    stale = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    found = []
    for name, table in CHOSEN_BY.items():
        key = dg.AssetKey(name)
        if stale.get_status(key) != StaleStatus.STALE:
            continue
        receipt = find_receipt(store, name)
        if receipt is not None and _is_current(
            store, receipt, values_of(recipe, table)["manifest"], graph.get(key).code_version
        ):
            reconfirm(instance, graph, key)
            found.append(name)
    return found


def _is_current(store: Store, receipt: Receipt, choice: str, code_version: str | None) -> bool:
    try:
        chosen_inputs(store, receipt.name, choice)
    except MissingInputError:
        return False
    return receipt.code_version == code_version


def reconfirm(instance: dg.DagsterInstance, graph: BaseAssetGraph, key: dg.AssetKey) -> None:
    """Report the last materialization of an asset without partitions again, as made of its dependencies of today."""
    event = instance.get_latest_materialization_event(key)
    last = event.asset_materialization if event is not None else None
    if last is None:
        return
    tags = {CODE_VERSION_TAG: graph.get(key).code_version or "", DATA_VERSION_TAG: (last.tags or {})[DATA_VERSION_TAG]}
    for parent in graph.get(key).parent_keys:
        version, pointer = _input(instance, graph, parent, key)
        tags[f"{INPUT_VERSION_TAG}/{parent.to_user_string()}"] = version
        tags[f"{INPUT_EVENT_TAG}/{parent.to_user_string()}"] = pointer
    instance.report_runless_asset_event(
        dg.AssetMaterialization(
            key,
            description="nothing to make: what changed is not read by this recipe",
            metadata=last.metadata,
            tags=tags,
        )
    )


def _input(
    instance: dg.DagsterInstance, graph: BaseAssetGraph, parent: dg.AssetKey, key: dg.AssetKey
) -> tuple[str, str]:
    """The data version and the event of a dependency, as Dagster notes them with a materialization."""
    record = instance.get_latest_data_version_record(parent)
    if record is None:
        return NEVER_OBSERVED, NO_EVENT
    if graph.get(parent).partitions_def is None:
        return version_in(record), str(record.storage_id)
    with dg.partition_loading_context(dynamic_partitions_store=instance):
        mapped = graph.get_parent_partition_keys_for_child(None, parent, key)
        keys = sorted(mapped.partitions_subset.get_partition_keys())
    versions = (instance.get_latest_data_version_record(parent, partition_key=each) for each in keys)
    return digest_of_versions(version_in(found) for found in versions if found is not None), str(record.storage_id)
