"""Group `retrieval`: embeddings, the search index and the submissions."""

from collections.abc import Iterator

import dagster as dg

from glr_assets.curation.chosen import CODE_VERSION as CHOSEN_VERSION
from glr_assets.curation.chosen import GALLERY_MANIFEST, make_chosen_manifest
from glr_assets.defs.conventions import GPU_POOL, GPU_TAGS, table_asset, warn_without_gpu
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of
from glr_assets.defs.shards import SHARD_BACKFILL, SHARDS, each_shard
from glr_assets.defs.verification import CHOSEN_BY, EXTRACTED_BY
from glr_assets.manifests import MANIFESTS
from glr_assets.retrieval import embeddings, index, local
from glr_assets.retrieval import recognition_model as models
from glr_assets.retrieval import submission as answers
from glr_assets.retrieval.schemas import (
    ANSWERS,
    ASKED_FEATURES,
    EMBEDDINGS,
    FAISS_INDEX,
    NON_LANDMARK_EMBEDDINGS,
    RECOGNITION_SAMPLES,
    SEARCH_FEATURES,
)
from glr_assets.source.base import Split
from glr_assets.training.versions import held_out_ids, open_embedder
from glr_assets.verification import local_features


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
        platform: Platform,
    ) -> Iterator[dg.MaterializeResult]:
        store, execution = platform.open_store(), platform.load_recipe().execution
        warn_without_gpu(context, execution)
        opened = embeddings.opened_once(lambda: open_embedder(store, execution))
        yield from each_shard(context, lambda shard: embeddings.make_embeddings(store, split, shard, opened))

    return embedding_shards


@table_asset(
    NON_LANDMARK_EMBEDDINGS,
    group="retrieval",
    code_version=embeddings.NON_LANDMARKS_CODE_VERSION,
    kinds={"numpy"},
    deps=["test_embeddings", "train_embeddings", "recognition_solution", "non_landmark_filter"],
    reads_part=True,
    recipe={"retrieval": {"non_landmark_usage", "filtered_gallery"}},
)
def non_landmark_embeddings(
    platform: Platform,
) -> dg.MaterializeResult:
    """One row per image known, or filtered, to show no landmark: what the penalties compare with."""
    source, store = platform.open_source(), platform.open_store()
    recipe = platform.load_recipe().retrieval
    return result_of(embeddings.make_non_landmark_embeddings(source, store, recipe), store)


@table_asset(
    None,
    group="retrieval",
    code_version=CHOSEN_VERSION,
    kinds={"json"},
    deps=MANIFESTS,
    reads_part=True,
    recipe={"retrieval": {"manifest"}},
    example='json.load(open(f"{GLR_STORE}/manifests/gallery_manifest.json"))',
)
def gallery_manifest(platform: Platform) -> dg.MaterializeResult:
    """Name and digest of the curated set that is searched, which `[retrieval] manifest` chooses of several."""
    store, recipe = platform.open_store(), platform.load_recipe()
    made = make_chosen_manifest(store, GALLERY_MANIFEST, recipe.retrieval.manifest)
    return result_of(made, store)


@table_asset(
    FAISS_INDEX,
    group="retrieval",
    code_version=index.CODE_VERSION,
    kinds={"faiss"},
    deps=["train_embeddings", "gallery_manifest", "non_landmark_embeddings", "embedder"],
    recipe={"retrieval": index.DECIDED_BY, "seed": ()},
)
def faiss_index(platform: Platform) -> dg.MaterializeResult:
    """One row per train image that is searched, with its penalty, beside the faiss file."""
    source, store, recipe = platform.open_source(), platform.open_store(), platform.load_recipe()
    return result_of(index.make_faiss_index(source, store, recipe.retrieval, recipe.seed), store)


@table_asset(
    SEARCH_FEATURES,
    name="search_features",
    group="retrieval",
    code_version=local_features.CODE_VERSION,
    kinds={"opencv"},
    deps=["train_images", "gallery_manifest", "verification_manifest"],
    reads_part=True,
    recipe={
        "retrieval": {"rerank", "manifest", "per_landmark"},
        "verification": CHOSEN_BY | EXTRACTED_BY,
        "seed": (),
    },
    partitions_def=SHARDS["train"],
    backfill_policy=SHARD_BACKFILL,
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
)
def search_features(
    context: dg.AssetExecutionContext,
    platform: Platform,
) -> Iterator[dg.MaterializeResult]:
    """One partition per train shard: local features of searched images that `local_features` does not hold."""
    store, recipe = platform.open_store(), platform.load_recipe()
    wanted = local.wanted_of_search(store, recipe)
    yield from each_shard(context, lambda shard: local.make_search_features(store, shard, wanted, recipe))


@table_asset(
    ASKED_FEATURES,
    name="test_features",
    group="retrieval",
    code_version=local_features.CODE_VERSION,
    kinds={"opencv"},
    deps=["test_images", "image_catalog"],
    reads_part=True,
    recipe={"retrieval": {"rerank"}, "verification": EXTRACTED_BY},
    partitions_def=SHARDS["test"],
    backfill_policy=SHARD_BACKFILL,
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
)
def test_features(
    context: dg.AssetExecutionContext,
    platform: Platform,
) -> Iterator[dg.MaterializeResult]:
    """One partition per test shard: local features of its stored images, which re-ranking compares."""
    store, recipe = platform.open_store(), platform.load_recipe()
    wanted = local.wanted_of_tests(store, recipe)
    yield from each_shard(context, lambda shard: local.make_test_features(store, shard, wanted, recipe))


@table_asset(
    RECOGNITION_SAMPLES,
    group="retrieval",
    code_version=models.CODE_VERSION,
    kinds={"faiss", "numba"},
    deps=[
        "faiss_index",
        "non_landmark_embeddings",
        "train_embeddings",
        "embedder",
        "local_features",
        "search_features",
        "test_features",
        "image_catalog",
        "training_manifest",
    ],
    recipe={
        "training": {"manifest"},
        "retrieval": models.DECIDED_BY,
        "verification": models.COMPARED_BY,
        "seed": (),
    },
)
def recognition_model(platform: Platform) -> dg.MaterializeResult:
    """How neighbours and local features make a probability, learnt from photographs whose landmark is known."""
    source, store, recipe = platform.open_source(), platform.open_store(), platform.load_recipe()
    made = models.make_recognition_model(source, store, recipe, held_out_ids(store))
    return result_of(made, store)


@table_asset(
    ANSWERS,
    group="retrieval",
    code_version=answers.CODE_VERSION,
    kinds={"csv", "faiss", "numba"},
    deps=[
        "test_embeddings",
        "train_embeddings",
        "faiss_index",
        "recognition_model",
        "non_landmark_embeddings",
        "test_metadata",
        "local_features",
        "search_features",
        "test_features",
    ],
    reads_part=True,
    recipe={"retrieval": models.DECIDED_BY, "verification": models.COMPARED_BY, "seed": ()},
)
def submission(platform: Platform) -> dg.MaterializeResult:
    """One row per test image: its landmark and a confidence that no other query changes (Kaggle's format)."""
    source, store = platform.open_source(), platform.open_store()
    return result_of(answers.make_submission(source, store, platform.load_recipe()), store)


@table_asset(
    None,
    group="retrieval",
    code_version=answers.RETRIEVAL_CODE_VERSION,
    kinds={"csv", "faiss"},
    deps=["test_embeddings", "index_embeddings", "test_metadata", "index_metadata"],
    recipe={"retrieval": answers.RETRIEVED_BY},
    example="glr score retrieval --submission data/submissions/retrieval_submission.csv --solution solution.csv",
)
def retrieval_submission(
    platform: Platform,
) -> dg.MaterializeResult:
    """One row per test image: the index images nearest to it, the best first (Kaggle's format)."""
    source, store = platform.open_source(), platform.open_store()
    recipe = platform.load_recipe().retrieval
    return result_of(answers.make_retrieval_submission(source, store, recipe), store)


ASSETS = [
    *(_embedding_shards(split) for split in SHARDS),
    non_landmark_embeddings,
    gallery_manifest,
    faiss_index,
    search_features,
    test_features,
    recognition_model,
    submission,
    retrieval_submission,
]
