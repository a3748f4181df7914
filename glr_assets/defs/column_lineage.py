"""Which columns of a table come from which columns of others, as the UI's lineage of columns shows them.

A column that is not named comes of no column: it is read from files of the source, from images, or counted over rows.
What decides a value counts as well as what is copied: `decision` of a manifest comes of the hashes it was taken by.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import dagster as dg

from glr_assets.images.schemas import IMAGE_INDEX

_HASHES = ("image_catalog.dhash",)
_FEATURES = ("width", "height", "stored_xxh3")


def _same(source: str, *columns: str) -> dict[str, tuple[str, ...]]:
    """Columns that are those of the same name of another table."""
    return {column: (f"{source}.{column}",) for column in columns}


def _images(split: str) -> dict[str, tuple[str, ...]]:
    wanted = {"train": ("competition_train.id", "fill_plan.id")}.get(split, ())
    landmark = {"landmark_id": ("train_metadata.landmark_id",)} if split == "train" else {}
    return _same(f"{split}_metadata", "id") | landmark | {"status": (f"{split}_metadata.id", *wanted)}


def _of_shards(column: str) -> tuple[str, ...]:
    return tuple(f"{split}_images.{column}" for split in ("train", "index", "test"))


def _features(split: str) -> dict[str, tuple[str, ...]]:
    return _same(f"{split}_images", "id", "landmark_id", *_FEATURES)


_BY_VECTORS = ("train_embeddings.row", "test_embeddings.row")

#: By asset and column, the columns it comes of as `asset.column`.
COLUMNS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "competition_train": _same("train_metadata", "landmark_id"),
    "class_counts": {
        "landmark_id": ("train_metadata.landmark_id", "competition_train.landmark_id"),
        "train_images": ("train_metadata.landmark_id",),
        "competition_images": ("competition_train.landmark_id",),
        "extra_images": ("train_metadata.landmark_id", "competition_train.landmark_id"),
    },
    "fill_potential": {
        "classes": ("class_counts.competition_images",),
        "potential": ("class_counts.competition_images",),
        "supply": ("class_counts.extra_images",),
        "exhausted": ("class_counts.train_images",),
    },
    "fill_plan": {
        **_same("train_metadata", "id", "landmark_id"),
        "rank": ("train_metadata.id", "competition_train.id"),
        "role": ("class_counts.competition_images",),
    },
    **{f"{split}_images": _images(split) for split in ("train", "index", "test")},
    "image_catalog": {column: _of_shards(column) for column in IMAGE_INDEX.schema.names},
    "label_conflicts": {
        "id": ("image_catalog.id",),
        "landmark_id": ("image_catalog.landmark_id",),
        "partner": ("image_catalog.id",),
        "partner_landmark_id": ("image_catalog.landmark_id",),
        "distance": _HASHES,
        "same_file": ("image_catalog.source_xxh3",),
        "near": _HASHES,
    },
    "train_test_leaks": {
        **_same("image_catalog", "id", "landmark_id", "split"),
        "partner": ("image_catalog.id",),
        "distance": _HASHES,
        "same_file": ("image_catalog.source_xxh3",),
        "near": _HASHES,
    },
    "deduped_manifest": {
        **_same("competition_train", "id", "landmark_id"),
        "shard": ("image_catalog.shard",),
        "decision": ("image_catalog.status", "image_catalog.sharpness", *_HASHES, "train_test_leaks.id"),
        "reason": ("image_catalog.reason", *_HASHES),
        "partner": ("competition_train.id", *_HASHES),
        "distance": _HASHES,
    },
    "train_extra": {
        **_same("fill_plan", "id", "landmark_id"),
        "shard": ("image_catalog.shard",),
        "decision": ("fill_plan.rank", "image_catalog.status", *_HASHES, "deduped_manifest.decision"),
        "reason": ("fill_plan.role", "image_catalog.reason", *_HASHES),
        "partner": ("fill_plan.id", "deduped_manifest.id", *_HASHES),
        "distance": _HASHES,
    },
    "fill_shortfall": {
        "landmark_id": ("class_counts.landmark_id",),
        "from_competition": ("deduped_manifest.decision",),
        "extras": ("train_extra.decision",),
        "short": ("deduped_manifest.decision", "train_extra.decision"),
        "failed": ("train_extra.decision",),
        "passed_over": ("train_extra.decision",),
        "unplanned": ("class_counts.extra_images",),
        "exhausted": ("class_counts.train_images",),
    },
    "train_manifest": {
        column: (f"deduped_manifest.{column}", f"train_extra.{column}")
        for column in ("id", "landmark_id", "shard", "decision", "reason")
    },
    "local_features": _features("train"),
    "search_features": _features("train"),
    "test_features": _features("test"),
    "verification_calibration": {"accepted": ("local_features.id",), "threshold": ("local_features.id",)},
    "verified_pairs": {
        "landmark_id": ("local_features.landmark_id",),
        "first": ("local_features.id",),
        "second": ("local_features.id",),
        "threshold": ("verification_calibration.threshold",),
        "accepted": ("verification_calibration.threshold",),
    },
    "cleaned_manifest": {
        **{
            column: tuple(f"{source}.{column}" for source in ("train_manifest", "deduped_manifest", "image_catalog"))
            for column in ("id", "landmark_id", "shard")
        },
        "decision": ("verified_pairs.accepted",),
        "reason": ("verified_pairs.refusal",),
        "partner": ("verified_pairs.first", "verified_pairs.second"),
        "inliers": ("verified_pairs.inliers",),
        "degree": ("verified_pairs.accepted",),
        "component": ("verified_pairs.accepted",),
    },
    "image_ledger": {
        "id": ("image_catalog.id", "train_metadata.id", "index_metadata.id", "test_metadata.id"),
        "split": ("image_catalog.split",),
        "landmark_id": ("train_metadata.landmark_id", "image_catalog.landmark_id"),
        **_same("image_catalog", "shard", "status", "reason"),
        "planned": ("competition_train.id", "fill_plan.role"),
        "decision": ("deduped_manifest.decision", "train_extra.decision"),
        "decision_reason": ("deduped_manifest.reason", "train_extra.reason"),
        "partner": ("deduped_manifest.partner", "train_extra.partner"),
        "distance": ("deduped_manifest.distance", "train_extra.distance"),
        **_same("train_attribution", "author", "license"),
        "in_train": ("train_manifest.id",),
        "in_cleaned": ("cleaned_manifest.decision",),
    },
    "training_groups": {
        column: tuple(f"{source}.{column}" for source in ("train_manifest", "deduped_manifest", "cleaned_manifest"))
        for column in ("id", "landmark_id", "shard")
    },
    "group_calibration": {
        **_same("training_groups", "id", "fold", "group"),
        "landmark_id": ("training_groups.landmark_id", "recognition_solution.landmark_ids"),
        "answer": ("training_groups.landmark_id",),
    },
    **{f"{split}_embeddings": _same(f"{split}_images", "id", "stored_xxh3") for split in ("train", "index", "test")},
    "non_landmark_embeddings": {
        "id": ("test_embeddings.id", "recognition_solution.usage", "recognition_solution.landmark_ids"),
        **_same("test_embeddings", "row", "stored_xxh3"),
    },
    "faiss_index": {
        "id": ("train_embeddings.id", "train_manifest.id"),
        "landmark_id": ("train_manifest.landmark_id",),
        "penalty": ("train_embeddings.row", "non_landmark_embeddings.row"),
    },
    "recognition_model": {
        "id": ("train_embeddings.id", "non_landmark_embeddings.id"),
        "landmark_id": ("train_manifest.landmark_id",),
        "answer": ("faiss_index.landmark_id",),
        "probability": ("faiss_index.penalty", "train_embeddings.row"),
    },
    "submission": {
        "id": ("test_metadata.id",),
        "landmark_id": ("faiss_index.landmark_id",),
        "score": ("faiss_index.penalty", *_BY_VECTORS),
        "probability": ("recognition_model.probability",),
        "neighbours": _BY_VECTORS,
        "best": _BY_VECTORS,
        "penalty": ("faiss_index.penalty",),
    },
}


def column_lineage(asset: str) -> dg.TableColumnLineage | None:
    """The lineage of an asset's columns; None of one whose columns come of no other table's."""
    columns = COLUMNS.get(asset)
    if columns is None:
        return None
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(asset_key=dg.AssetKey(name), column_name=source)
                for name, _, source in (place.partition(".") for place in places)
            ]
            for column, places in columns.items()
        }
    )
