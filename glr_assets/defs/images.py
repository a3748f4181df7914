"""Group `images`: one partition a source shard, and the catalog of them all."""

from collections.abc import Iterator

import dagster as dg

from glr_assets.defs.conventions import table_asset
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of
from glr_assets.defs.shards import SHARD_BACKFILL, SHARDS, each_shard
from glr_assets.defs.source import shards_node
from glr_assets.images import catalog, ingest, versions
from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_INDEX
from glr_assets.images.selection import selection_for
from glr_assets.recipes import Images
from glr_assets.source.base import Split


def _image_shards(split: Split, deps: list[str], description: str) -> dg.AssetsDefinition:
    # Of train alone the recipe chooses which images are wanted.
    stored_by = set(Images.model_fields) - (set() if split == "train" else {"keep"})

    @table_asset(
        IMAGE_INDEX,
        name=f"{split}_images",
        group="images",
        code_version=versions.CODE_VERSION,
        kinds={"tar", "jpeg"},
        deps=[shards_node(split), *deps],
        recipe={"images": stored_by},
        description=description,
        partitions_def=SHARDS[split],
        backfill_policy=SHARD_BACKFILL,
    )
    def image_shards(
        context: dg.AssetExecutionContext,
        platform: Platform,
    ) -> Iterator[dg.MaterializeResult]:
        source, store, recipe = platform.open_source(), platform.open_store(), platform.load_recipe()
        selection = selection_for(store, split, recipe.images)
        yield from each_shard(
            context,
            lambda shard: ingest.ingest_shard(
                source,
                store,
                split,
                shard,
                selection,
                recipe.images,
                recipe.execution.threads,
                retry_failed=recipe.execution.retry_failed,
            ),
        )

    return image_shards


@table_asset(
    IMAGE_CATALOG,
    group="images",
    code_version=catalog.CODE_VERSION,
    kinds={"pyarrow"},
    deps=[
        *("train_images", "index_images", "test_images"),
        *("train_metadata", "competition_train", "fill_plan", "index_metadata", "test_metadata"),
    ],
    recipe={"images": {"keep"}},
)
def image_catalog(platform: Platform) -> dg.MaterializeResult:
    """One row per member of every ingested shard.

    Its metadata counts the source's shards still missing and, once a split has all, the wanted images that none holds.
    """
    store, recipe = platform.open_store(), platform.load_recipe()
    return result_of(catalog.make_image_catalog(platform.open_source(), store, recipe.images), store)


ASSETS = [
    _image_shards(
        "train",
        ["train_metadata", "competition_train", "fill_plan"],
        "One partition per train shard: its wanted images, downsized, and an index row for every member.",
    ),
    _image_shards(
        "index",
        ["index_metadata"],
        "One partition per index shard: its images, downsized, and an index row for every member.",
    ),
    _image_shards(
        "test",
        ["test_metadata"],
        "One partition per test shard: its images, downsized, and an index row for every member.",
    ),
    image_catalog,
]
