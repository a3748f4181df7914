"""Checks of partitioned assets: one an asset, evaluated for each partition as it ends.

They count again what the partition's tables hold, and look at nothing of other partitions, so that each costs a few
milliseconds and one small event. What holds across partitions is checked on the tables that gather them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from glr_assets.errors import DamagedFileError, describe
from glr_assets.filtering import scores
from glr_assets.images import checks as images
from glr_assets.images.schemas import IMAGE_INDEX, STORED_TAR
from glr_assets.openimages.schemas import NON_LANDMARK_SCORES
from glr_assets.receipts import Receipt, distrust
from glr_assets.retrieval.schemas import (
    EMBEDDING_VECTORS,
    EMBEDDINGS,
    SEARCHED_FEATURES,
    TEST_FEATURES,
)
from glr_assets.retrieval.vector_files import VectorFile
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store
from glr_assets.tables import missing_ids, read_table
from glr_assets.training import checks as training
from glr_assets.verification import checks as verification
from glr_assets.verification.schemas import COMPARED_FEATURES, VERIFIED_PAIRS, FeatureSet


@dataclass(frozen=True)
class Found:
    """What a check finds of a partition; each text is empty where there is nothing to say.

    Attributes:
        broken: what must not be: an error.
        doubtful: what is worth a look: a warning.
        note: what is good to know and changes nothing.
    """

    broken: str = ""
    doubtful: str = ""
    note: str = ""


@dataclass(frozen=True)
class ShardCheck:
    """The check of a partitioned asset.

    Attributes:
        name: of the check.
        description: what holds where it passes.
        look: what it finds of a partition, by its receipt and key.
    """

    name: str
    description: str
    look: Callable[[Store, Receipt, str], Found]

    def key(self, asset: dg.AssetKey) -> dg.AssetCheckKey:
        """Its key among the checks of an asset."""
        return dg.AssetCheckKey(asset, self.name)

    def spec(self, asset: str, partitions: dg.PartitionsDefinition | None) -> dg.AssetCheckSpec:
        """The check's definition."""
        with warnings.catch_warnings():
            # A preview in Dagster 1.13; what is used of it is characterized by tests.
            warnings.simplefilter("ignore", dg.PreviewWarning)
            return dg.AssetCheckSpec(self.name, asset=asset, description=self.description, partitions_def=partitions)

    def evaluate(
        self, asset: dg.AssetKey, store: Store, receipt: Receipt, partition: str, event: dg.EventLogRecord | None = None
    ) -> dg.AssetCheckEvaluation:
        """The check's result for a partition; where it cannot look, that is what it says.

        Args:
            asset: that is partitioned.
            store: where its files are.
            receipt: of the partition.
            partition: its key.
            event: the materialization that is checked; by it Dagster knows that no later one is unchecked.
        """
        try:
            found = self.look(store, receipt, partition)
        except DamagedFileError as error:
            found = Found(broken=damage(store, error))
        except Exception as error:  # noqa: BLE001 - a check that cannot look stops no partition
            found = Found(broken=describe(error))
        problem = found.broken or found.doubtful
        return dg.AssetCheckEvaluation(
            asset_key=asset,
            check_name=self.name,
            passed=not problem,
            severity=dg.AssetCheckSeverity.ERROR if found.broken else dg.AssetCheckSeverity.WARN,
            metadata={name: text for name, text in (("problem", problem), ("note", found.note)) if text},
            partition=partition,
            target_materialization_data=None
            if event is None
            else AssetCheckEvaluationTargetMaterializationData(
                storage_id=event.storage_id, run_id=event.run_id, timestamp=event.timestamp
            ),
        )


def damage(store: Store, error: DamagedFileError) -> str:
    """What a check tells of files that are not as they were written; what they belong to counts as not made then."""
    names = distrust(store, *error.paths)
    return f"{error}; {', '.join(names)} counts as not made from now on" if names else str(error)


def _stored(store: Store, split: Split, shard: str) -> pa.Table:
    """`id` of the images that are stored of a shard."""
    index = read_table(store, IMAGE_INDEX, ["id", "status"], split=split, shard=shard)
    return index.filter(pc.equal(index["status"], "stored")).select(["id"])


def _ingested(split: Split, store: Store, receipt: Receipt, shard: str) -> Found:
    columns = ["status", "reason", "stored_offset", "stored_size"]
    index = read_table(store, IMAGE_INDEX, columns, split=split, shard=shard)
    tar = receipt.outputs[STORED_TAR.format(split=split, shard=shard)].size
    return Found(
        images.unreconciled(index, receipt.summary, tar),
        images.many_failed(receipt.summary),
        images.unverified(receipt.inputs),
    )


def _embedded(split: Split, store: Store, _: Receipt, shard: str) -> Found:
    table = read_table(store, EMBEDDINGS, ["id"], split=split, shard=shard)
    vectors = VectorFile.open(store, EMBEDDING_VECTORS.format(split=split, shard=shard)).rows
    if vectors != table.num_rows:
        return Found(f"the table has {table.num_rows} images, the file beside it {vectors} vectors")
    return Found(missing_ids(_stored(store, split, shard), table, "stored images", "a vector"))


def _described(kind: FeatureSet, store: Store, receipt: Receipt, shard: str) -> Found:
    columns = ["id", "status", "reason", "size"]
    rows = read_table(store, kind.table, columns, shard=shard)
    stored = _stored(store, kind.split, shard)
    broken = verification.features_unreconciled(rows, receipt.outputs[kind.file.format(shard=shard)].size, stored)
    if kind is TEST_FEATURES and rows.num_rows and not broken:
        broken = missing_ids(stored, rows, "stored images", "a row")
    return Found(broken, images.many_failed(receipt.summary, "extracted"))


def _scored(store: Store, receipt: Receipt, shard: str) -> Found:
    table = read_table(store, NON_LANDMARK_SCORES, ["id"], shard=shard)
    broken = missing_ids(_stored(store, "train", shard), table, "stored images", "a score or a reason")
    scored = {"scored": table.num_rows - int(receipt.summary["failed"] or 0)}
    return Found(broken, images.many_failed(receipt.summary | scored, "scored"))


def _paired(store: Store, _: Receipt, bucket: str) -> Found:
    columns = ["inliers", "threshold", "accepted", "refusal"]
    return Found(verification.wrongly_accepted(read_table(store, VERIFIED_PAIRS, columns, bucket=bucket)))


def _classified(_: Store, receipt: Receipt, __: str) -> Found:
    return Found(doubtful=training.guessing(receipt.summary))


def _of_features(kind: FeatureSet) -> ShardCheck:
    return ShardCheck(
        "features_reconcile",
        "Every image has its local features in the file beside the table, or a reason why it has none; at most "
        f"{images.MOST_FAILED:.0%} failed, or a single one.",
        partial(_described, kind),
    )


#: By asset.
SHARD_CHECKS: Final[Mapping[str, ShardCheck]] = {
    **{
        f"{split}_images": ShardCheck(
            "members_reconcile",
            "Members of the shard = stored + skipped + failed, counted again in its index; each that is not stored has "
            f"a reason, each that is lies in the stored TAR; at most {images.MOST_FAILED:.0%} of the wanted ones "
            "failed, or a single one. Where an MD5 is published, a shard of another one is not stored at all.",
            partial(_ingested, split),
        )
        for split in SPLITS
    },
    **{
        f"{split}_embeddings": ShardCheck(
            "every_image_has_a_vector", "Every stored image of the shard has its vector.", partial(_embedded, split)
        )
        for split in SPLITS
    },
    **{kind.asset: _of_features(kind) for kind in (COMPARED_FEATURES, SEARCHED_FEATURES, TEST_FEATURES)},
    scores.ASSET: ShardCheck(
        "every_image_has_a_score",
        "Every stored image of the shard has a score, or a reason why it has none; at most "
        f"{images.MOST_FAILED:.0%} failed, or a single one.",
        _scored,
    ),
    "verified_pairs": ShardCheck(
        "accepted_by_evidence",
        "A pair is accepted if and only if it has the inliers wanted of it and was refused for no trap.",
        _paired,
    ),
    "group_classifiers": ShardCheck(
        "better_than_guessing", "Top-1 accuracy on held-out photographs is above that of guessing.", _classified
    ),
}


def specs(asset: str, partitions: dg.PartitionsDefinition | None) -> Sequence[dg.AssetCheckSpec]:
    """The checks that an asset's own step evaluates."""
    check = SHARD_CHECKS.get(asset)
    return [] if check is None else [check.spec(asset, partitions)]
