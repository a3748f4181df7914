"""Group `training`: the embedder, and the classifiers of groups of landmarks of like size."""

from collections.abc import Iterator

import dagster as dg

from glr_assets.curation.chosen import CODE_VERSION as CHOSEN_VERSION
from glr_assets.curation.chosen import TRAINING_MANIFEST, make_chosen_manifest
from glr_assets.defs.conventions import GPU_POOL, GPU_TAGS, table_asset, warn_without_gpu
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of, watched
from glr_assets.defs.shards import GROUP_BACKFILL, GROUPS, each_shard
from glr_assets.evaluation.answers import scores_of_answers
from glr_assets.manifests import MANIFESTS
from glr_assets.receipts import Made
from glr_assets.recipes import Embedder, Training
from glr_assets.training import group_calibration, group_classifiers, groups, versions
from glr_assets.training.schemas import GROUP_CALIBRATION, TRAINING_GROUPS


@table_asset(
    None,
    group="training",
    code_version=CHOSEN_VERSION,
    kinds={"json"},
    deps=MANIFESTS,
    reads_part=True,
    recipe={"training": {"manifest"}},
    example='json.load(open(f"{GLR_STORE}/manifests/training_manifest.json"))',
)
def training_manifest(platform: Platform) -> dg.MaterializeResult:
    """Name and digest of the curated set that trains, which `[training] manifest` chooses of several."""
    store, recipe = platform.open_store(), platform.load_recipe()
    made = make_chosen_manifest(store, TRAINING_MANIFEST, recipe.training.manifest)
    return result_of(made, store)


@table_asset(
    None,
    group="training",
    code_version=versions.CODE_VERSION,
    kinds={"pytorch", "huggingface"},
    deps=["training_manifest", "image_catalog", "train_attribution"],
    recipe={"embedder": Embedder.model_fields, "training": Training.model_fields, "seed": ()},
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
    example="glr models",
)
def embedder(
    context: dg.AssetExecutionContext,
    platform: Platform,
) -> dg.MaterializeResult:
    """One network, photograph to unit vector: a version's weights, TorchScript, ONNX, record, card and loss curve."""
    store, recipe = platform.open_store(), platform.load_recipe()
    warn_without_gpu(context, recipe.execution)
    return result_of(versions.make_embedder(store, recipe, context.log.info, watched(context)), store)


@table_asset(
    TRAINING_GROUPS,
    name="training_groups",
    group="training",
    code_version=groups.CODE_VERSION,
    kinds={"pyarrow"},
    deps=["training_manifest", "image_catalog"],
    recipe={"groups": groups.GROUPED_BY, "training": {"manifest"}, "seed": ()},
)
def grouped_images(platform: Platform) -> dg.MaterializeResult:
    """One row per image that trains: the group of its landmark, by images a landmark, and what it is for there."""
    store = platform.open_store()
    return result_of(groups.make_training_groups(store, platform.load_recipe()), store)


@table_asset(
    None,
    name="group_classifiers",
    group="training",
    code_version=group_classifiers.CODE_VERSION,
    kinds={"pytorch", "huggingface"},
    deps=["training_groups", "image_catalog", "train_attribution"],
    recipe={"groups": group_classifiers.TRAINED_BY | {"onnx"}, "seed": ()},
    partitions_def=GROUPS,
    backfill_policy=GROUP_BACKFILL,
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
    example='torch.jit.load(f"{GLR_STORE}/models/group_classifiers/00/<version>/classifier.pt")',
)
def classifiers_of_groups(
    context: dg.AssetExecutionContext,
    platform: Platform,
) -> Iterator[dg.MaterializeResult]:
    """One partition per group: a version's TorchScript, ONNX, record, card and loss curve for its landmarks."""
    store, recipe = platform.open_store(), platform.load_recipe()
    warn_without_gpu(context, recipe.execution)

    def made(group: str) -> Made:
        return group_classifiers.make_group_classifier(store, group, recipe, context.log.info, watched(context, group))

    yield from each_shard(context, made, "group", store)


@table_asset(
    GROUP_CALIBRATION,
    name="group_calibration",
    group="training",
    code_version=group_calibration.CODE_VERSION,
    kinds={"pytorch", "scipy"},
    deps=["group_classifiers", "training_groups", "image_catalog", "recognition_solution"],
    recipe={
        "groups": {"count", "calibrating", "min_probability"},
        "retrieval": {"non_landmark_usage"},
        "seed": (),
    },
    pool=GPU_POOL,
    op_tags=GPU_TAGS,
)
def calibrated_groups(
    platform: Platform,
) -> dg.MaterializeResult:
    """One row per held-out image shown to all groups: the calibrated answer, or none, beside the raw maximum."""
    store, recipe = platform.open_store(), platform.load_recipe()
    made = group_calibration.make_group_calibration(store, recipe, scores_of_answers)
    return result_of(made, store)


ASSETS = [training_manifest, embedder, grouped_images, classifiers_of_groups, calibrated_groups]
