"""What a store may hold: the assets that have receipts, and the kinds of files that have none."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from glr_assets.exports.packages import EXPORTS, PACKAGE_NAMES, is_of_users
from glr_assets.receipts import RECEIPTS
from glr_assets.store import is_lock
from glr_assets.training.record import RECORD_NAME

#: The assets of the lineage, by the folder or stage they belong to. Receipts of others are left over.
ASSETS: Final = frozenset(
    [
        *("train_metadata", "train_attribution", "landmark_labels", "competition_train", "index_metadata"),
        *("test_metadata", "recognition_solution", "retrieval_solution"),
        *("class_counts", "fill_potential", "fill_plan"),
        *("train_images", "index_images", "test_images", "image_catalog"),
        *("label_conflicts", "train_test_leaks", "deduped_manifest", "train_extra", "fill_shortfall"),
        *("train_manifest", "image_ledger"),
        *("verification_manifest", "filter_manifest", "training_manifest", "gallery_manifest"),
        *("local_features", "verification_calibration", "verified_pairs", "cleaned_manifest"),
        *("openimages_annotations", "openimages_images", "openimages_classifier_dataset"),
        *("non_landmark_classifier", "non_landmark_scores", "non_landmark_filter"),
        *("embedder", "training_groups", "group_classifiers", "group_calibration"),
        *("train_embeddings", "index_embeddings", "test_embeddings", "non_landmark_embeddings", "faiss_index"),
        *("search_features", "test_features", "recognition_model", "submission", "retrieval_submission"),
        *("evaluation", "model_comparison", "train_tfrecords", "train_zip"),
    ]
)
#: What has receipts beside the assets: the rendered samples, and packages of any manifest.
OTHERS: Final = frozenset({"sample", "openimages_sample", *PACKAGE_NAMES})
#: Folders that the lineage writes; what lies in others is not the store's.
FOLDERS: Final = frozenset(
    [
        *("metadata", "images", "manifests", "features", "verification", "openimages", "models", "embeddings", "index"),
        *("submissions", "query_labels", "reports", EXPORTS, "sample", "receipts", "runs"),
    ]
)
#: Files of models cost hours: a repair leaves those that are whole.
MODELS: Final = "models/"
FETCHED: Final = "openimages/fetched/"
SAMPLE: Final = "sample/"
OPENIMAGES_SAMPLE: Final = "sample/openimages/"


def asset_of(name: str) -> str:
    """The asset that a receipt is of, archived or not."""
    return owner_of(name).partition("/")[0]


def owner_of(name: str) -> str:
    """The name of the asset or partition that a receipt is of, archived or not."""
    return name.removeprefix("archive/").rpartition("/")[0] if name.startswith("archive/") else name


def is_known(name: str) -> bool:
    """Whether a receipt is of an asset of the lineage, or of something else that has receipts."""
    return asset_of(name) in ASSETS or asset_of(name) in OTHERS


def kind_without_receipt(path: str, made: Collection[str], with_record: Collection[str]) -> str:
    """What a file is that no receipt names, in words; empty where it is left over.

    Args:
        path: the file; none that is being written.
        made: names that have a receipt.
        with_record: folders of models that hold the record of a finished version.
    """
    top, below, _ = path.partition("/")
    if is_lock(path):
        return "locks"
    if top.startswith(".") or top not in FOLDERS or not below:
        return "not of the store"
    if path.startswith(MODELS):
        finished = path.rpartition("/")[0] in with_record
        return "of earlier versions of models, without a receipt" if finished else "of trainings that are not finished"
    if path.startswith(FETCHED):
        part = path.removeprefix(FETCHED).partition("/")[0]
        return "" if f"openimages_images/{part}" in made else "fetched for a part that is not finished"
    if path.startswith(SAMPLE):
        owner = "openimages_sample" if path.startswith(OPENIMAGES_SAMPLE) else "sample"
        return "" if owner in made else "of a sample without a receipt"
    return "of packages in folders that were named" if is_of_users(path) else ""


def is_receipt(path: str) -> bool:
    """Whether a path is that of a receipt."""
    return path.startswith(f"{RECEIPTS}/") and path.endswith(".json") and "/." not in path


def is_record(path: str) -> bool:
    """Whether a path is that of the record of a version of a model."""
    return path.startswith(MODELS) and path.endswith(f"/{RECORD_NAME}")
