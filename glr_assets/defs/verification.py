"""Group `verification`: the train images that show, by geometry, what others of their landmark show."""

from collections.abc import Iterator

import dagster as dg

from glr_assets.curation.chosen import CODE_VERSION as CHOSEN_VERSION
from glr_assets.curation.chosen import VERIFICATION_MANIFEST, make_chosen_manifest
from glr_assets.defs.conventions import GPU_POOL, GPU_TAGS, table_asset, warn_without_gpu
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of
from glr_assets.defs.shards import BUCKETS, SHARD_BACKFILL, SHARDS, each_shard
from glr_assets.verification import calibration, cleaned_manifest, local_features, verified_pairs
from glr_assets.verification.local_features import Wanted
from glr_assets.verification.schemas import (
    CLEANED_MANIFEST,
    LOCAL_FEATURES,
    VERIFICATION_CALIBRATION,
    VERIFIED_PAIRS,
)

#: What the recipe may clean.
TO_CLEAN = ["train_manifest", "deduped_manifest", "image_catalog"]
#: A bucket of landmarks has images in every shard. Left to itself Dagster would look for a shard of the bucket's key.
ALL_FEATURES = dg.AssetDep("local_features", partition_mapping=dg.AllPartitionMapping())


#: Of `[verification]`, what decides which images are compared, what is extracted of each, and how two compare.
CHOSEN_BY = {"manifest", "min_class", "cap"}
EXTRACTED_BY = {"extractor", "module", "max_features"}
JUDGED_BY = EXTRACTED_BY | {"min_cosine", "residual", "geometry", "min_inliers", "refuse_traps"}


@table_asset(
    None,
    group="verification",
    code_version=CHOSEN_VERSION,
    kinds={"json"},
    deps=TO_CLEAN,
    reads_part=True,
    recipe={"verification": {"manifest"}},
    example='json.load(open(f"{GLR_STORE}/manifests/verification_manifest.json"))',
)
def verification_manifest(
    platform: Platform,
) -> dg.MaterializeResult:
    """Name and digest of the set that is cleaned, which `[verification] manifest` chooses of several."""
    store, recipe = platform.open_store(), platform.load_recipe()
    made = make_chosen_manifest(store, VERIFICATION_MANIFEST, recipe.verification.manifest)
    return result_of(made, store)


@table_asset(
    LOCAL_FEATURES,
    name="local_features",
    group="verification",
    code_version=local_features.CODE_VERSION,
    kinds={"opencv"},
    deps=["train_images", "verification_manifest"],
    reads_part=True,
    recipe={"verification": CHOSEN_BY | EXTRACTED_BY, "seed": ()},
    partitions_def=SHARDS["train"],
    backfill_policy=SHARD_BACKFILL,
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
)
def local_features_shards(
    context: dg.AssetExecutionContext,
    platform: Platform,
) -> Iterator[dg.MaterializeResult]:
    """One partition per train shard: the local features of its images that are compared with others."""
    store, recipe = platform.open_store(), platform.load_recipe()
    if recipe.verification.extractor != "rootsift":  # the one that is no network
        warn_without_gpu(context, recipe.execution)
    wanted = Wanted.of(store, recipe.verification, recipe.seed)
    yield from each_shard(
        context,
        lambda shard: local_features.make_local_features(store, shard, wanted, recipe.verification, recipe.execution),
    )


@table_asset(
    VERIFICATION_CALIBRATION,
    group="verification",
    code_version=calibration.CODE_VERSION,
    kinds={"numba", "opencv"},
    deps=["local_features", "label_conflicts", "verification_manifest"],
    reads_part=True,
    recipe={
        "verification": CHOSEN_BY | JUDGED_BY | {"max_false_rate", "calibration_pairs", "calibrate"},
        "seed": (),
    },
)
def verification_calibration(
    platform: Platform,
) -> dg.MaterializeResult:
    """How many inliers pairs of different landmarks reach by chance, and how many are wanted therefore."""
    store, recipe = platform.open_store(), platform.load_recipe()
    wanted = Wanted.of(store, recipe.verification, recipe.seed)
    made = calibration.make_verification_calibration(store, wanted, recipe.verification, recipe.execution, recipe.seed)
    return result_of(made, store)


@table_asset(
    VERIFIED_PAIRS,
    name="verified_pairs",
    group="verification",
    code_version=verified_pairs.CODE_VERSION,
    kinds={"numba", "opencv"},
    deps=[ALL_FEATURES, "verification_calibration", "verification_manifest"],
    reads_part=True,
    recipe={
        "verification": CHOSEN_BY | JUDGED_BY | {"exhaustive", "keep", "connections", "component", "buckets"},
        "seed": (),
    },
    partitions_def=BUCKETS,
    backfill_policy=SHARD_BACKFILL,
)
def verified_pairs_buckets(
    context: dg.AssetExecutionContext,
    platform: Platform,
) -> Iterator[dg.MaterializeResult]:
    """One partition per bucket of landmarks: the pairs of images tried, and the evidence of each."""
    store, recipe = platform.open_store(), platform.load_recipe()
    wanted = Wanted.of(store, recipe.verification, recipe.seed)
    yield from each_shard(
        context,
        lambda bucket: verified_pairs.make_verified_pairs(store, bucket, wanted, recipe.verification, recipe.execution),
        "bucket",
    )


@table_asset(
    CLEANED_MANIFEST,
    name="cleaned_manifest",
    group="verification",
    code_version=cleaned_manifest.CODE_VERSION,
    kinds={"pyarrow"},
    deps=["verified_pairs", "verification_manifest", "image_catalog"],
    recipe={"verification": CHOSEN_BY | {"keep", "component", "buckets"}, "seed": ()},
)
def cleaned(platform: Platform) -> dg.MaterializeResult:
    """One row per image of the set that is cleaned: kept where another of its landmark verifies it, else why not."""
    store, recipe = platform.open_store(), platform.load_recipe()
    made = cleaned_manifest.make_cleaned_manifest(store, recipe.verification, recipe.seed)
    return result_of(made, store)


ASSETS = [verification_manifest, local_features_shards, verification_calibration, verified_pairs_buckets, cleaned]
