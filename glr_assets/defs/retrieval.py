"""Group `retrieval`: embeddings, the index, the submissions and what they are worth."""

from collections.abc import Iterator

import dagster as dg

from glr_assets.defs.conventions import GPU_POOL, GPU_TAGS, table_asset
from glr_assets.defs.platform import Platform, launchpad
from glr_assets.defs.results import result_of
from glr_assets.defs.shards import SHARD_BACKFILL, SHARDS, each_shard
from glr_assets.evaluation import report
from glr_assets.recipes import Evaluation, Execution, Retrieval
from glr_assets.retrieval import embeddings, index
from glr_assets.retrieval import submission as answers
from glr_assets.retrieval.schemas import EMBEDDINGS, FAISS_INDEX, NON_LANDMARK_EMBEDDINGS
from glr_assets.source.base import Split
from glr_assets.training.versions import held_out_ids, open_embedder, open_untrained
from glr_assets.verification.manifests import MANIFESTS

ExecutionConfig = launchpad(execution=Execution)
RetrievalConfig = launchpad(retrieval=Retrieval)
EvaluationConfig = launchpad(evaluation=Evaluation, retrieval=Retrieval, execution=Execution)


def _embedding_shards(split: Split) -> dg.AssetsDefinition:
    @table_asset(
        EMBEDDINGS,
        name=f"{split}_embeddings",
        group="retrieval",
        code_version=embeddings.CODE_VERSION,
        kinds={"pytorch"},
        deps=[f"{split}_images", "embedder"],
        description=f"One partition per {split} shard: a unit vector of each image stored of it.",
        partitions_def=SHARDS[split],
        backfill_policy=SHARD_BACKFILL,
        pool=GPU_POOL,
        op_tags=GPU_TAGS,
    )
    def embedding_shards(
        context: dg.AssetExecutionContext,
        config: ExecutionConfig,  # type: ignore[valid-type]
        platform: Platform,
    ) -> Iterator[dg.MaterializeResult]:
        store, execution = platform.open_store(), platform.load_recipe(config).execution
        opened = embeddings.opened_once(lambda: open_embedder(store, execution))
        yield from each_shard(
            context, EMBEDDINGS, lambda shard: embeddings.make_embeddings(store, split, shard, opened)
        )

    return embedding_shards


@table_asset(
    NON_LANDMARK_EMBEDDINGS,
    group="retrieval",
    code_version=embeddings.CODE_VERSION,
    kinds={"numpy"},
    deps=["test_embeddings", "recognition_solution"],
)
def non_landmark_embeddings(
    config: RetrievalConfig,  # type: ignore[valid-type]
    platform: Platform,
) -> dg.MaterializeResult:
    """One row per test image known to show no landmark: what the penalties compare with."""
    source, store = platform.open_source(), platform.open_store()
    usage = platform.load_recipe(config).retrieval.non_landmark_usage
    return result_of(embeddings.make_non_landmark_embeddings(source, store, usage), NON_LANDMARK_EMBEDDINGS, store)


@table_asset(
    FAISS_INDEX,
    group="retrieval",
    code_version=index.CODE_VERSION,
    kinds={"faiss"},
    deps=["train_embeddings", *MANIFESTS, "non_landmark_embeddings", "embedder"],
)
def faiss_index(config: RetrievalConfig, platform: Platform) -> dg.MaterializeResult:  # type: ignore[valid-type]
    """One row per train image that is searched, with its penalty, beside the faiss file and the calibration."""
    source, store, recipe = platform.open_source(), platform.open_store(), platform.load_recipe(config)
    made = index.make_faiss_index(source, store, recipe.retrieval, held_out_ids(store), recipe.seed)
    return result_of(made, FAISS_INDEX, store)


@table_asset(
    None,
    group="retrieval",
    code_version=answers.CODE_VERSION,
    kinds={"csv", "faiss"},
    deps=["test_embeddings", "faiss_index", "non_landmark_embeddings", "test_metadata"],
)
def submission(config: RetrievalConfig, platform: Platform) -> dg.MaterializeResult:  # type: ignore[valid-type]
    """One row per test image: its landmark and a confidence that no other query changes (Kaggle's format)."""
    source, store = platform.open_source(), platform.open_store()
    return result_of(answers.make_submission(source, store, platform.load_recipe(config).retrieval), None, store)


@table_asset(
    None,
    group="retrieval",
    code_version=answers.CODE_VERSION,
    kinds={"csv", "faiss"},
    deps=["test_embeddings", "index_embeddings", "test_metadata", "index_metadata"],
)
def retrieval_submission(
    config: RetrievalConfig,  # type: ignore[valid-type]
    platform: Platform,
) -> dg.MaterializeResult:
    """One row per test image: the index images nearest to it, the best first (Kaggle's format)."""
    source, store = platform.open_source(), platform.open_store()
    recipe = platform.load_recipe(config).retrieval
    return result_of(answers.make_retrieval_submission(source, store, recipe), None, store)


@table_asset(
    None,
    group="retrieval",
    code_version=report.CODE_VERSION,
    kinds={"numpy"},
    deps=[
        "submission",
        "retrieval_submission",
        "recognition_solution",
        "retrieval_solution",
        "landmark_labels",
        *MANIFESTS,
        "image_catalog",
        "non_landmark_embeddings",
    ],
)
def evaluation(config: EvaluationConfig, platform: Platform) -> dg.MaterializeResult:  # type: ignore[valid-type]
    """GAP, top-1 and mAP@100 of the submissions beside an untrained embedder and dhash neighbours."""
    store, recipe = platform.open_store(), platform.load_recipe(config)
    return result_of(report.make_evaluation(store, recipe, lambda: open_untrained(recipe)), None, store)


ASSETS = [
    *(_embedding_shards(split) for split in SHARDS),
    non_landmark_embeddings,
    faiss_index,
    submission,
    retrieval_submission,
    evaluation,
]
