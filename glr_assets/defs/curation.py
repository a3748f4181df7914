"""Group `curation`: which images train, and the reason for each."""

import dagster as dg

from glr_assets.curation import dedupe, fill, ledger
from glr_assets.curation import train_manifest as manifest
from glr_assets.curation.schemas import DEDUPED_MANIFEST, IMAGE_LEDGER, TRAIN_EXTRA, TRAIN_MANIFEST
from glr_assets.defs.conventions import table_asset
from glr_assets.defs.platform import Platform, launchpad
from glr_assets.defs.results import result_of
from glr_assets.recipes import Dedupe, Fill

DedupeConfig = launchpad(dedupe=Dedupe)
FillConfig = launchpad(fill=Fill)


@table_asset(
    DEDUPED_MANIFEST,
    group="curation",
    code_version=dedupe.CODE_VERSION,
    kinds={"imagehash"},
    deps=["competition_train", "image_catalog"],
)
def deduped_manifest(config: DedupeConfig, platform: Platform) -> dg.MaterializeResult:  # type: ignore[valid-type]
    """One row per image of the competition's set: kept, dropped for a more diverse one, or failed at ingest."""
    store, recipe = platform.open_store(), platform.load_recipe(config)
    return result_of(dedupe.make_deduped_manifest(store, recipe.dedupe, recipe.seed), DEDUPED_MANIFEST, store)


@table_asset(
    TRAIN_EXTRA,
    group="curation",
    code_version=fill.CODE_VERSION,
    kinds={"pyarrow"},
    deps=["competition_train", "fill_plan", "image_catalog"],
)
def train_extra(config: FillConfig, platform: Platform) -> dg.MaterializeResult:  # type: ignore[valid-type]
    """One row per planned extra: kept, a reserve that was not needed, or failed at ingest."""
    store = platform.open_store()
    made = fill.make_train_extra(store, platform.load_recipe(config).fill.threshold)
    return result_of(made, TRAIN_EXTRA, store)


@table_asset(
    TRAIN_MANIFEST,
    group="curation",
    code_version=manifest.CODE_VERSION,
    kinds={"pyarrow"},
    deps=["deduped_manifest", "train_extra"],
)
def train_manifest(platform: Platform) -> dg.MaterializeResult:
    """One row per image that trains: the deduped competition set and the extras that fill it."""
    store = platform.open_store()
    return result_of(manifest.make_train_manifest(store), TRAIN_MANIFEST, store)


@table_asset(
    IMAGE_LEDGER,
    group="curation",
    code_version=ledger.CODE_VERSION,
    kinds={"pyarrow"},
    deps=list(ledger.INPUTS),
)
def image_ledger(platform: Platform) -> dg.MaterializeResult:
    """One row per image id that any table or shard names, with every decision on it (`glr why ID`)."""
    store = platform.open_store()
    return result_of(ledger.make_image_ledger(store), IMAGE_LEDGER, store)


ASSETS = [deduped_manifest, train_extra, train_manifest, image_ledger]
