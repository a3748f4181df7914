"""Asset checks: every table against its schema, and what must hold across tables."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg

from glr_assets.curation import checks as curated
from glr_assets.curation.schemas import IMAGE_LEDGER, TRAIN_MANIFEST
from glr_assets.defs.platform import Platform
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.metadata.schemas import COMPETITION_TRAIN
from glr_assets.receipts import need_receipt
from glr_assets.store import Store
from glr_assets.tables import Table, problems, read_table


def schema_check(asset: str, table: Table) -> dg.AssetChecksDefinition:
    """A blocking check that the asset's file has the columns, types and unique keys of its schema."""

    @dg.asset_check(asset=asset, name="schema", blocking=True, description=f"Schema of {table.path}: {table.grain}.")
    def schema(platform: Platform) -> dg.AssetCheckResult:
        found = problems(table, read_table(platform.open_store(), table))
        return dg.AssetCheckResult(passed=not found, metadata={"problems": found})

    return schema


def _holds(
    asset: str,
    name: str,
    description: str,
    broken: Callable[[Store, Platform], str],
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR,
) -> dg.AssetChecksDefinition:
    @dg.asset_check(asset=asset, name=name, description=description)
    def check(platform: Platform) -> dg.AssetCheckResult:
        problem = broken(platform.open_store(), platform)
        return dg.AssetCheckResult(passed=not problem, severity=severity, metadata={"problem": problem or "none"})

    return check


def _missing_shards(store: Store, _: Platform) -> str:
    summary = need_receipt(store, "image_catalog").summary
    gaps = {name: count for name, count in summary.items() if name.endswith("_shards_missing") and count}
    return ", ".join(f"{name.removesuffix('_shards_missing')}: {count} shards" for name, count in gaps.items())


def _failed_images(store: Store, _: Platform) -> str:
    catalog = read_table(store, IMAGE_CATALOG, ["split", "status"]).to_pandas()
    counts = catalog[catalog["status"] == "failed"].groupby("split").size()
    return ", ".join(f"{split}: {count} images" for split, count in counts.items())


def _strangers(store: Store, _: Platform) -> str:
    columns = ["landmark_id"]
    return curated.strangers(read_table(store, TRAIN_MANIFEST, columns), read_table(store, COMPETITION_TRAIN, columns))


def _overfull(store: Store, platform: Platform) -> str:
    return curated.overfull(read_table(store, TRAIN_MANIFEST, ["landmark_id"]), platform.load_recipe().dedupe.keep)


WARN = dg.AssetCheckSeverity.WARN
CHECKS = [
    _holds(
        "image_catalog",
        "all_shards_ingested",
        "Every shard of the source has been ingested.",
        _missing_shards,
        severity=WARN,
    ),
    _holds(
        "image_catalog",
        "no_image_failed",
        "No wanted image was refused; the catalog gives the reason of each that was.",
        _failed_images,
        severity=WARN,
    ),
    _holds(
        "train_manifest",
        "classes_of_the_competition",
        "Every landmark that trains is one of the competition's.",
        _strangers,
    ),
    _holds("train_manifest", "class_sizes", "No class has more images than dedupe keeps.", _overfull),
    _holds(
        "image_ledger",
        "adds_up",
        "Requested = kept + dropped + failed, and what was kept trains.",
        lambda store, _: curated.unbalanced(read_table(store, IMAGE_LEDGER)),
    ),
]
