"""Group `filtering`: a classifier of photographs without a landmark, its scores, and the train set without them."""

import functools
from collections.abc import Iterator

import dagster as dg

from glr_assets.curation.chosen import CODE_VERSION as CHOSEN_VERSION
from glr_assets.curation.chosen import FILTER_MANIFEST, make_chosen_manifest
from glr_assets.defs.conventions import GPU_POOL, GPU_TAGS, table_asset, warn_without_gpu
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of, watched
from glr_assets.defs.shards import SHARD_BACKFILL, SHARDS, each_shard
from glr_assets.filtering import classifier, non_landmark_filter, scores
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER, NON_LANDMARK_SCORES

#: What the recipe may filter.
TO_FILTER = ["train_manifest", "deduped_manifest", "cleaned_manifest"]


@table_asset(
    None,
    group="filtering",
    code_version=CHOSEN_VERSION,
    kinds={"json"},
    deps=TO_FILTER,
    reads_part=True,
    recipe={"filter": {"manifest"}},
    example='json.load(open(f"{GLR_STORE}/manifests/filter_manifest.json"))',
)
def filter_manifest(platform: Platform) -> dg.MaterializeResult:
    """Name and digest of the curated set that is filtered, which `[filter] manifest` chooses of several."""
    store, recipe = platform.open_store(), platform.load_recipe()
    made = make_chosen_manifest(store, FILTER_MANIFEST, recipe.filter.manifest)
    return result_of(made, store)


@table_asset(
    None,
    group="filtering",
    code_version=classifier.CODE_VERSION,
    kinds={"pytorch", "huggingface"},
    deps=["openimages_classifier_dataset", "image_catalog", "filter_manifest", "cleaned_manifest"],
    recipe={"filter": classifier.DECIDED_BY, "openimages": {"categories", "size"}, "seed": ()},
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
    example='torch.jit.load(f"{GLR_STORE}/models/non_landmark_classifier/<version>/classifier.pt")',
)
def non_landmark_classifier(
    context: dg.AssetExecutionContext,
    platform: Platform,
) -> dg.MaterializeResult:
    """One network, photograph to the shares of Open Images' categories and of `a landmark`; its held-out answers."""
    store, recipe = platform.open_store(), platform.load_recipe()
    warn_without_gpu(context, recipe.execution)
    made = classifier.make_non_landmark_classifier(store, recipe, context.log.info, watched(context))
    return result_of(made, store)


@table_asset(
    NON_LANDMARK_SCORES,
    name="non_landmark_scores",
    group="filtering",
    code_version=scores.CODE_VERSION,
    kinds={"pytorch"},
    deps=["train_images", "non_landmark_classifier"],
    partitions_def=SHARDS["train"],
    backfill_policy=SHARD_BACKFILL,
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
)
def scored_shards(
    context: dg.AssetExecutionContext,
    platform: Platform,
) -> Iterator[dg.MaterializeResult]:
    """One partition per train shard: of each stored image, how likely it shows no landmark, and what instead."""
    store, execution = platform.open_store(), platform.load_recipe().execution
    warn_without_gpu(context, execution)
    opened = functools.cache(lambda: classifier.open_filter(store))
    yield from each_shard(context, lambda shard: scores.make_non_landmark_scores(store, shard, opened, execution))


@table_asset(
    NON_LANDMARK_FILTER,
    name="non_landmark_filter",
    group="filtering",
    code_version=non_landmark_filter.CODE_VERSION,
    kinds={"pyarrow"},
    deps=["non_landmark_scores", "non_landmark_classifier", "filter_manifest", "cleaned_manifest"],
    recipe={"filter": non_landmark_filter.DECIDED_BY},
)
def filtered(platform: Platform) -> dg.MaterializeResult:
    """One row per image of the set that is filtered: kept, or dropped as it shows no landmark and is not verified."""
    store, recipe = platform.open_store(), platform.load_recipe()
    return result_of(non_landmark_filter.make_non_landmark_filter(store, recipe.filter), store)


ASSETS = [filter_manifest, non_landmark_classifier, scored_shards, filtered]
