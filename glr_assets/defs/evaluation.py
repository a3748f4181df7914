"""Group `evaluation`: scores of the submissions, and the versions of the embedder side by side."""

import dagster as dg

from glr_assets.defs.conventions import table_asset
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of
from glr_assets.evaluation import comparison, report
from glr_assets.evaluation.schemas import MODEL_COMPARISON
from glr_assets.recipes import Embedder, Evaluation, Retrieval
from glr_assets.training.versions import open_untrained


@table_asset(
    None,
    group="evaluation",
    code_version=report.CODE_VERSION,
    kinds={"numpy"},
    deps=[
        "submission",
        "retrieval_submission",
        "recognition_model",
        "recognition_solution",
        "retrieval_solution",
        "landmark_labels",
        "index_metadata",
        "gallery_manifest",
        "image_catalog",
        "faiss_index",
        "non_landmark_embeddings",
        "embedder",
        "train_embeddings",
        "test_embeddings",
    ],
    recipe={
        "evaluation": Evaluation.model_fields,
        "retrieval": Retrieval.model_fields,
        "embedder": Embedder.model_fields,
        "seed": (),
    },
    example='json.load(open(f"{GLR_STORE}/reports/evaluation.json"))',
)
def evaluation(platform: Platform) -> dg.MaterializeResult:
    """GAP, top-1 and mAP@100 of the submissions beside an untrained embedder, pixels and dhash."""
    store, recipe = platform.open_store(), platform.load_recipe()
    return result_of(report.make_evaluation(store, recipe, lambda: open_untrained(store, recipe)), store)


@table_asset(
    MODEL_COMPARISON,
    group="evaluation",
    code_version=comparison.CODE_VERSION,
    kinds={"pyarrow"},
    deps=["embedder", "evaluation"],
)
def model_comparison(platform: Platform) -> dg.MaterializeResult:
    """One row per finished version of the embedder: in what it differs from the others, and how good it is."""
    store = platform.open_store()
    return result_of(comparison.make_model_comparison(store), store)


ASSETS = [evaluation, model_comparison]
