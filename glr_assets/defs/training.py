"""Group `training`: the embedder."""

import dagster as dg

from glr_assets.defs.conventions import GPU_POOL, GPU_TAGS, table_asset
from glr_assets.defs.platform import Platform, launchpad
from glr_assets.defs.results import result_of
from glr_assets.recipes import Embedder, Execution, Training
from glr_assets.training import versions

EmbedderConfig = launchpad(embedder=Embedder, training=Training, execution=Execution)


@table_asset(
    None,
    group="training",
    code_version=versions.CODE_VERSION,
    kinds={"pytorch", "huggingface"},
    deps=["train_manifest", "deduped_manifest", "image_catalog"],
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
)
def embedder(
    context: dg.AssetExecutionContext,
    config: EmbedderConfig,  # type: ignore[valid-type]
    platform: Platform,
) -> dg.MaterializeResult:
    """One network, photograph to unit vector: weights, TorchScript, configuration and loss curve of a version."""
    store = platform.open_store()
    made = versions.make_embedder(store, platform.load_recipe(config), context.log.info)
    return result_of(made, None, store)


ASSETS = [embedder]
