"""Group `openimages`: labelled crops of Open Images, from its boxes and its images."""

from collections.abc import Iterator

import dagster as dg

from glr_assets.defs.conventions import table_asset
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of
from glr_assets.defs.shards import OPENIMAGES_PARTS, SHARD_BACKFILL, each_shard
from glr_assets.defs.source import OPENIMAGES_FILES, asked_images, openimages_tables
from glr_assets.openimages import annotations, dataset, images
from glr_assets.openimages.schemas import OPENIMAGES_ANNOTATIONS, OPENIMAGES_CLASSIFIER_DATASET, OPENIMAGES_IMAGES


@table_asset(
    OPENIMAGES_ANNOTATIONS,
    group="openimages",
    code_version=annotations.CODE_VERSION,
    kinds={"csv"},
    deps=list(openimages_tables()),
    reads_part=True,
    recipe={"openimages": annotations.DECIDED_BY, "seed": ()},
)
def openimages_annotations(
    context: dg.AssetExecutionContext,
    platform: Platform,
) -> dg.MaterializeResult:
    """One row per box of the recipe's categories, usable or refused with a reason, with its image's rights."""
    store, recipe = platform.open_store(), platform.load_recipe()
    root = platform.open_openimages()
    made = annotations.make_openimages_annotations(root, store, recipe.openimages, recipe.seed)
    # They are inputs of what this run makes next.
    for observation in asked_images(platform.settings(), store, recipe):
        context.log_event(observation)
    return result_of(made, store)


@table_asset(
    OPENIMAGES_IMAGES,
    name="openimages_images",
    group="openimages",
    code_version=images.CODE_VERSION,
    kinds={"tar", "jpeg"},
    deps=[OPENIMAGES_FILES, "openimages_annotations"],
    recipe={"openimages": images.DECIDED_BY},
    partitions_def=OPENIMAGES_PARTS,
    backfill_policy=SHARD_BACKFILL,
)
def openimages_images_parts(
    context: dg.AssetExecutionContext,
    platform: Platform,
) -> Iterator[dg.MaterializeResult]:
    """One partition per part of the images with usable boxes: obtained byte for byte, or missing with a reason."""
    root, store, recipe = platform.open_openimages(), platform.open_store(), platform.load_recipe()
    yield from each_shard(
        context,
        lambda part: images.make_openimages_images(root, store, part, recipe.openimages, recipe.execution),
        "part",
    )


@table_asset(
    OPENIMAGES_CLASSIFIER_DATASET,
    group="openimages",
    code_version=dataset.CODE_VERSION,
    kinds={"opencv"},
    deps=["openimages_annotations", "openimages_images"],
    recipe={"openimages": dataset.DECIDED_BY, "seed": ()},
)
def openimages_classifier_dataset(platform: Platform) -> dg.MaterializeResult:
    """One row per box: where its labelled crop lies as a tensor and in a webdataset TAR, or why there is none."""
    store, recipe = platform.open_store(), platform.load_recipe()
    made = dataset.make_openimages_classifier_dataset(store, recipe.openimages, recipe.execution, recipe.seed)
    return result_of(made, store)


ASSETS = [openimages_annotations, openimages_images_parts, openimages_classifier_dataset]
