"""Group `curation`: which images train, and the reason for each."""

import dagster as dg

from glr_assets.curation import dedupe, fill, leaks
from glr_assets.curation import train_manifest as manifest
from glr_assets.curation.schemas import (
    DEDUPED_MANIFEST,
    FILL_SHORTFALL,
    LABEL_CONFLICTS,
    TRAIN_EXTRA,
    TRAIN_MANIFEST,
    TRAIN_TEST_LEAKS,
)
from glr_assets.defs.conventions import table_asset
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of
from glr_assets.recipes import Dedupe


@table_asset(
    LABEL_CONFLICTS,
    group="curation",
    code_version=leaks.CODE_VERSION,
    kinds={"numba"},
    deps=["image_catalog"],
    recipe={"dedupe": {"near_duplicate_bits"}},
)
def label_conflicts(platform: Platform) -> dg.MaterializeResult:
    """Near-duplicates among the stored train images that are published under different landmarks."""
    store, recipe = platform.open_store(), platform.load_recipe()
    made = leaks.make_label_conflicts(store, recipe.dedupe.near_duplicate_bits)
    return result_of(made, store)


@table_asset(
    TRAIN_TEST_LEAKS,
    group="curation",
    code_version=leaks.CODE_VERSION,
    kinds={"numba"},
    deps=["image_catalog"],
    recipe={"dedupe": {"near_duplicate_bits"}},
)
def train_test_leaks(platform: Platform) -> dg.MaterializeResult:
    """Train images that are near-duplicates of images of test or index; `[dedupe] remove_leaks` drops those of test."""
    store, recipe = platform.open_store(), platform.load_recipe()
    made = leaks.make_train_test_leaks(store, recipe.dedupe.near_duplicate_bits)
    return result_of(made, store)


@table_asset(
    DEDUPED_MANIFEST,
    group="curation",
    code_version=dedupe.CODE_VERSION,
    kinds={"numba"},
    deps=["competition_train", "image_catalog", "train_test_leaks"],
    recipe={"dedupe": Dedupe.model_fields, "seed": ()},
)
def deduped_manifest(platform: Platform) -> dg.MaterializeResult:
    """One row per image of the competition's set: kept, dropped for another that is better, or failed at ingest."""
    store, recipe = platform.open_store(), platform.load_recipe()
    return result_of(dedupe.make_deduped_manifest(store, recipe.dedupe, recipe.seed), store)


@table_asset(
    TRAIN_EXTRA,
    group="curation",
    code_version=fill.CODE_VERSION,
    kinds={"numba"},
    deps=["deduped_manifest", "fill_plan", "image_catalog", "train_test_leaks"],
    recipe={"fill": {"threshold", "variety"}, "dedupe": {"near_duplicate_bits", "remove_leaks"}},
)
def train_extra(platform: Platform) -> dg.MaterializeResult:
    """One row per planned extra: kept, a near-duplicate, a reserve that was not needed, or failed at ingest."""
    store, recipe = platform.open_store(), platform.load_recipe()
    return result_of(fill.make_train_extra(store, recipe.fill, recipe.dedupe), store)


@table_asset(
    FILL_SHORTFALL,
    group="curation",
    code_version=fill.CODE_VERSION,
    kinds={"pyarrow"},
    deps=["class_counts", "deduped_manifest", "train_extra"],
    recipe={"fill": {"threshold"}},
)
def fill_shortfall(platform: Platform) -> dg.MaterializeResult:
    """Classes that stay below the fill threshold: by how much, why, and whether the full train set could fill them."""
    store = platform.open_store()
    made = fill.make_fill_shortfall(store, platform.load_recipe().fill.threshold)
    return result_of(made, store)


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
    return result_of(manifest.make_train_manifest(store), store)


ASSETS = [
    label_conflicts,
    train_test_leaks,
    deduped_manifest,
    train_extra,
    fill_shortfall,
    train_manifest,
]
