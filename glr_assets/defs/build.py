"""One function that assembles the code location, so that tests can build it with another platform."""

from __future__ import annotations

import dagster as dg

from glr_assets.curation.schemas import (
    DEDUPED_MANIFEST,
    FILL_SHORTFALL,
    LABEL_CONFLICTS,
    TRAIN_EXTRA,
    TRAIN_MANIFEST,
    TRAIN_TEST_LEAKS,
)
from glr_assets.defs import (
    curation,
    evaluation,
    explain,
    exports,
    filtering,
    images,
    ledger,
    metadata,
    openimages,
    planning,
    recipes,
    retrieval,
    source,
    training,
    verification,
)
from glr_assets.defs.automation import CHECKS as STATE_CHECKS
from glr_assets.defs.automation import JOBS, SCHEDULES, SENSORS
from glr_assets.defs.automation.conditions import with_conditions
from glr_assets.defs.checks import CHECKS, schema_check
from glr_assets.defs.links import with_code_references
from glr_assets.defs.plan_job import plan_job
from glr_assets.defs.platform import Platform
from glr_assets.evaluation.schemas import MODEL_COMPARISON
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.ledger.schemas import IMAGE_LEDGER
from glr_assets.metadata import schemas
from glr_assets.openimages.schemas import (
    NON_LANDMARK_FILTER,
    OPENIMAGES_ANNOTATIONS,
    OPENIMAGES_CLASSIFIER_DATASET,
)
from glr_assets.planning.schemas import CLASS_COUNTS, FILL_PLAN, FILL_POTENTIAL
from glr_assets.retrieval.schemas import ANSWERS, FAISS_INDEX, NON_LANDMARK_EMBEDDINGS, RECOGNITION_SAMPLES
from glr_assets.tables import Table
from glr_assets.training.schemas import GROUP_CALIBRATION, TRAINING_GROUPS
from glr_assets.verification.schemas import CLEANED_MANIFEST, VERIFICATION_CALIBRATION

#: Every table that one asset writes as one file.
TABLES: dict[str, Table] = {
    "train_metadata": schemas.TRAIN_METADATA,
    "train_attribution": schemas.TRAIN_ATTRIBUTION,
    "landmark_labels": schemas.LANDMARK_LABELS,
    "competition_train": schemas.COMPETITION_TRAIN,
    "index_metadata": schemas.INDEX_METADATA,
    "test_metadata": schemas.TEST_METADATA,
    "recognition_solution": schemas.RECOGNITION_SOLUTION,
    "retrieval_solution": schemas.RETRIEVAL_SOLUTION,
    "class_counts": CLASS_COUNTS,
    "fill_potential": FILL_POTENTIAL,
    "fill_plan": FILL_PLAN,
    "image_catalog": IMAGE_CATALOG,
    "label_conflicts": LABEL_CONFLICTS,
    "train_test_leaks": TRAIN_TEST_LEAKS,
    "deduped_manifest": DEDUPED_MANIFEST,
    "train_extra": TRAIN_EXTRA,
    "fill_shortfall": FILL_SHORTFALL,
    "train_manifest": TRAIN_MANIFEST,
    "image_ledger": IMAGE_LEDGER,
    "verification_calibration": VERIFICATION_CALIBRATION,
    "cleaned_manifest": CLEANED_MANIFEST,
    "openimages_annotations": OPENIMAGES_ANNOTATIONS,
    "openimages_classifier_dataset": OPENIMAGES_CLASSIFIER_DATASET,
    "non_landmark_filter": NON_LANDMARK_FILTER,
    "training_groups": TRAINING_GROUPS,
    "group_calibration": GROUP_CALIBRATION,
    "non_landmark_embeddings": NON_LANDMARK_EMBEDDINGS,
    "faiss_index": FAISS_INDEX,
    "model_comparison": MODEL_COMPARISON,
    "recognition_model": RECOGNITION_SAMPLES,
    "submission": ANSWERS,
}


_REFERENCED = with_code_references(
    [
        *metadata.ASSETS,
        *planning.ASSETS,
        *images.ASSETS,
        *curation.ASSETS,
        *verification.ASSETS,
        *openimages.ASSETS,
        *filtering.ASSETS,
        *ledger.ASSETS,
        *training.ASSETS,
        *retrieval.ASSETS,
        *evaluation.ASSETS,
        *exports.ASSETS,
    ]
)
#: Every asset, with the place of its code.
ASSETS = with_conditions([asset for asset in _REFERENCED if isinstance(asset, dg.AssetsDefinition)])
#: What assets are made from and Dagster does not make: it observes these.
ROOTS = [*source.NODES, *recipes.NODES]
ASSET_CHECKS = [*(schema_check(asset, table) for asset, table in TABLES.items()), *CHECKS, *STATE_CHECKS]


def build_definitions(
    platform: Platform | None = None, executor: dg.ExecutorDefinition | None = None
) -> dg.Definitions:
    """The code location; without a platform of its own it reads the `GLR_…` settings when assets run.

    The executor is that of all runs. Without one the steps of a run share its process: a process a step costs two
    seconds and the imports of every library, and a killed step would be a failure of the asset, which is not retried.
    """
    return dg.Definitions(
        assets=[*ASSETS, *ROOTS],
        asset_checks=ASSET_CHECKS,
        jobs=[*JOBS, *explain.JOBS, plan_job],
        sensors=SENSORS,
        schedules=SCHEDULES,
        resources={"platform": platform or Platform(source=None, store=None, openimages=None, recipe=None)},
        executor=executor or dg.in_process_executor,
    )
