import ast
import importlib
import re
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.definitions import defs
from glr_assets.defs.build import ASSETS, ROOTS, TABLES, build_definitions
from glr_assets.defs.column_lineage import COLUMNS, column_lineage
from glr_assets.defs.conventions import GPU_POOL, GPU_TAGS, WORK_TAG
from glr_assets.defs.shards import GROUP_BACKFILL, SHARD_BACKFILL
from glr_assets.recipes import Execution
from glr_assets.recipes.describe import SEED, keys_of, sections
from glr_assets_tests.assets.recipe_reads import declared_keys

CONTRACT = {
    "recipes": {
        "recipe_images",
        "recipe_fill",
        "recipe_dedupe",
        "recipe_verification",
        "recipe_openimages",
        "recipe_training",
        "recipe_embedder",
        "recipe_groups",
        "recipe_filter",
        "recipe_retrieval",
        "recipe_evaluation",
        "recipe_exports",
        "recipe_seed",
    },
    "source": {
        "source_train",
        "source_train_clean",
        "source_train_attribution",
        "source_train_label_to_category",
        "source_train_label_to_hierarchical",
        "source_index",
        "source_index_image_to_landmark",
        "source_test",
        "source_recognition_solution",
        "source_retrieval_solution",
        "source_train_shards",
        "source_index_shards",
        "source_test_shards",
        "source_openimages_class_descriptions",
        "source_openimages_hierarchy",
        "source_openimages_train_boxes",
        "source_openimages_train_image_list",
        "source_openimages_validation_boxes",
        "source_openimages_validation_image_list",
        "source_openimages_test_boxes",
        "source_openimages_test_image_list",
        "source_openimages_images",
        "stored_shards",
    },
    "metadata": {
        "train_metadata",
        "train_attribution",
        "landmark_labels",
        "competition_train",
        "index_metadata",
        "test_metadata",
        "recognition_solution",
        "retrieval_solution",
    },
    "planning": {"class_counts", "fill_potential", "fill_plan"},
    "images": {"train_images", "index_images", "test_images", "image_catalog"},
    "curation": {
        "label_conflicts",
        "train_test_leaks",
        "deduped_manifest",
        "train_extra",
        "fill_shortfall",
        "train_manifest",
    },
    "ledger": {"image_ledger"},
    "verification": {
        "verification_manifest",
        "local_features",
        "verification_calibration",
        "verified_pairs",
        "cleaned_manifest",
    },
    "openimages": {"openimages_annotations", "openimages_images", "openimages_classifier_dataset"},
    "filtering": {"filter_manifest", "non_landmark_classifier", "non_landmark_scores", "non_landmark_filter"},
    "training": {"training_manifest", "embedder", "training_groups", "group_classifiers", "group_calibration"},
    "retrieval": {
        "train_embeddings",
        "index_embeddings",
        "test_embeddings",
        "non_landmark_embeddings",
        "gallery_manifest",
        "faiss_index",
        "search_features",
        "test_features",
        "recognition_model",
        "submission",
        "retrieval_submission",
    },
    "evaluation": {"evaluation", "model_comparison"},
    "exports": {"train_tfrecords", "train_zip"},
}
#: Of what is observed and not made.
ROOT_GROUPS = {"recipes", "source"}
HEAVY = ("torch", "lightning", "transformers", "faiss", "cv2", "imagehash", "matplotlib", "pandas", "s3fs", "onnx")


@pytest.fixture(scope="module")
def specs() -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in defs().resolve_all_asset_specs()}


def test_the_assets_are_those_of_the_contract_in_their_groups(specs: dict[str, dg.AssetSpec]) -> None:
    groups: dict[str, set[str]] = {}
    for name, spec in specs.items():
        groups.setdefault(str(spec.group_name), set()).add(name)
    assert groups == CONTRACT


def test_roots_lie_in_files_of_defs_and_packages_of_the_name_of_their_group() -> None:
    for group in ROOT_GROUPS:
        importlib.import_module(f"glr_assets.{group}")
        twin = importlib.import_module(f"glr_assets.defs.{group}")
        assert {node.key.to_user_string() for node in twin.NODES} == CONTRACT[group]
    assert {root.key.to_user_string() for root in ROOTS} == {name for group in ROOT_GROUPS for name in CONTRACT[group]}


@pytest.mark.parametrize("group", sorted(CONTRACT.keys() - ROOT_GROUPS))
def test_a_group_its_package_and_its_file_of_defs_have_one_name(group: str) -> None:
    importlib.import_module(f"glr_assets.{group}")
    twin = importlib.import_module(f"glr_assets.defs.{group}")
    defined = {asset.key.to_user_string(): asset.op.compute_fn.decorated_fn.__module__ for asset in ASSETS}
    assert {defined[name] for name in CONTRACT[group]} == {twin.__name__}
    tree = ast.parse(Path(twin.__file__).read_text())
    made_by = {
        getattr(twin, node.value.id).__name__
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and re.match("make_|ingest_shard", node.attr)
    }
    assert made_by
    assert {name.split(".")[1] for name in made_by} == {group}


def test_every_group_of_the_graph_has_a_package_and_a_file_of_its_name(specs: dict[str, dg.AssetSpec]) -> None:
    for group in {str(spec.group_name) for spec in specs.values()}:
        assert importlib.import_module(f"glr_assets.{group}").__path__, group
        assert importlib.import_module(f"glr_assets.defs.{group}").__file__, group


def test_groups_are_layers(specs: dict[str, dg.AssetSpec]) -> None:
    above: dict[str, set[str]] = {str(spec.group_name): set() for spec in specs.values()}
    for spec in specs.values():
        parents = {str(specs[dep.asset_key.to_user_string()].group_name) for dep in spec.deps}
        above[str(spec.group_name)] |= parents - {str(spec.group_name)}
    # A cycle among groups raises: their graph could then not be drawn in layers.
    order = [*TopologicalSorter(above).static_order()]
    assert set(order[:2]) == ROOT_GROUPS
    assert order.index("curation") < order.index("training") < order.index("retrieval") < order.index("evaluation")


def test_every_asset_says_what_it_is_who_owns_it_and_of_which_code(specs: dict[str, dg.AssetSpec]) -> None:
    roots = {root.key.to_user_string() for root in ROOTS}
    assert roots < specs.keys()
    for name, spec in specs.items():
        assert spec.description, name
        assert len(spec.description) > 20, name
        assert spec.kinds, name
        if name in roots:
            continue
        assert spec.owners == ["team:landmark-data"], name
        assert spec.code_version, name


def test_every_table_shows_its_columns_with_descriptions(specs: dict[str, dg.AssetSpec]) -> None:
    sharded = {
        "train_images",
        "index_images",
        "test_images",
        "local_features",
        "verified_pairs",
        "openimages_images",
        "non_landmark_scores",
    } | {f"{split}_embeddings" for split in ("train", "index", "test")}
    for name in sharded | TABLES.keys():
        schema = specs[name].metadata["dagster/column_schema"]
        assert schema.columns, name
        assert all(column.description for column in schema.columns), name


def test_sharded_assets_share_one_backfill_policy() -> None:
    for asset in ASSETS:
        if asset.partitions_def is not None:
            of_groups = asset.key == dg.AssetKey("group_classifiers")
            assert asset.backfill_policy == (GROUP_BACKFILL if of_groups else SHARD_BACKFILL)
    assert SHARD_BACKFILL.max_partitions_per_run == 25
    assert GROUP_BACKFILL.max_partitions_per_run == 1


def test_gpu_work_carries_the_pool_and_the_tags_of_a_cluster() -> None:
    gpu = {"local_features", "embedder", "group_classifiers", "group_calibration"}
    gpu |= {"train_embeddings", "index_embeddings", "test_embeddings", "search_features", "test_features"}
    gpu |= {"non_landmark_classifier", "non_landmark_scores"}
    for asset in ASSETS:
        expected = GPU_POOL if asset.key.to_user_string() in gpu else None
        assert asset.op.pool == expected
        assert ("dagster-k8s/config" in asset.op.tags) == (expected is not None)


def test_a_gpu_step_asks_a_cluster_for_a_gpu_a_node_and_memory_and_workers_for_their_queue() -> None:
    config = GPU_TAGS["dagster-k8s/config"]
    assert config["container_config"]["resources"]["limits"] == {"memory": "32Gi", "nvidia.com/gpu": "1"}
    assert config["pod_spec_config"]["node_selector"] == {"nvidia.com/gpu.present": "true"}
    (toleration,) = config["pod_spec_config"]["tolerations"]
    assert (toleration["key"], toleration["effect"]) == ("nvidia.com/gpu", "NoSchedule")
    assert GPU_TAGS["dagster-celery/queue"] == "gpu"


def test_what_costs_runs_by_itself_only_where_it_is_switched_on(specs: dict[str, dg.AssetSpec]) -> None:
    assets = {name: spec for name, spec in specs.items() if spec.group_name not in ROOT_GROUPS}
    by_hand = {name for name, spec in assets.items() if spec.automation_condition is None}
    assert by_hand == {
        *("embedder", "training_groups", "group_classifiers", "group_calibration", "non_landmark_classifier"),
        *("train_zip", "train_tfrecords"),
    }
    definitions = build_definitions()
    assert {sensor.name for sensor in definitions.sensors or [] if sensor.default_status.value == "STOPPED"} == {
        "automation"
    }
    running = {sensor.name for sensor in definitions.sensors or [] if sensor.default_status.value == "RUNNING"}
    assert running == {"observe_roots", "failure_alerts"}
    schedules = list(definitions.schedules or [])
    on = {schedule.name for schedule in schedules if schedule.default_status == dg.DefaultScheduleStatus.RUNNING}
    assert on == {"retry_failed_shards", "daily_health_checks"}


def test_jobs_are_those_of_the_purposes() -> None:
    jobs = {job.name for job in build_definitions().jobs or []}
    by_purpose = {"ingest", "curate", "clean", "train", "train_groups", "evaluate", "full_pipeline"}
    assert jobs == {*by_purpose, "confirm_unchanged", "explain_images", "plan_changes", "retry_failed_shards"}


def test_every_asset_has_a_tag_a_reference_to_its_code_and_an_example(specs: dict[str, dg.AssetSpec]) -> None:
    gpu = {asset.key.to_user_string() for asset in ASSETS if asset.op.pool == GPU_POOL}
    for name, spec in specs.items():
        if spec.group_name in ROOT_GROUPS:
            continue
        assert spec.tags[WORK_TAG] in {"gpu", "shards", "tables"}, name
        assert (spec.tags[WORK_TAG] == "gpu") == (name in gpu), name
        references = spec.metadata["dagster/code_references"].code_references
        assert any("/glr_assets/defs/" in reference.file_path for reference in references), name
        example = str(spec.description).rpartition("Example: ")[2]
        assert re.fullmatch(r"`[^`]+`", example), name
        assert "{shard}" not in example, name


def test_every_example_of_a_table_reads_a_path_of_it(specs: dict[str, dg.AssetSpec]) -> None:
    assert 'images/index/000.parquet")`' in str(specs["index_images"].description)
    assert 'manifests/train_manifest.parquet")`' in str(specs["train_manifest"].description)


def test_lineage_of_columns_names_columns_that_are_there_and_assets_that_are_upstream(
    specs: dict[str, dg.AssetSpec],
) -> None:
    def columns(name: str) -> set[str]:
        return {column.name for column in specs[name].metadata["dagster/column_schema"].columns}

    for name, declared in COLUMNS.items():
        assert declared.keys() <= columns(name), name
        parents = {dep.asset_key.to_user_string() for dep in specs[name].deps}
        above = parents | {dep.asset_key.to_user_string() for parent in parents for dep in specs[parent].deps}
        for column, places in declared.items():
            assert places, (name, column)
            for place in places:
                asset, _, source = place.partition(".")
                assert asset in above, (name, column, place)
                assert source in columns(asset), (name, column, place)


def test_every_table_made_of_tables_tells_where_its_columns_come_from(specs: dict[str, dg.AssetSpec]) -> None:
    roots = {root.key for root in ROOTS}
    tables = {
        name
        for name, spec in specs.items()
        if "dagster/column_schema" in spec.metadata and any(dep.asset_key not in roots for dep in spec.deps)
    }
    # What comes of a model, and crops, whose columns are told by their package.
    elsewhere = {"model_comparison"} | {
        name for name in tables if specs[name].group_name in {"openimages", "filtering"}
    }
    assert tables - elsewhere <= COLUMNS.keys()
    lineage = column_lineage("train_manifest")
    assert lineage is not None
    assert dg.TableColumnDep(dg.AssetKey("train_extra"), "id") in lineage.deps_by_column["id"]
    assert column_lineage("train_metadata") is None


def test_a_launchpad_has_the_keys_that_decide_the_assets_bytes_with_what_they_mean_and_their_limits() -> None:
    limits = {(key.table, key.name): key for table in (*sections(), SEED) for key in keys_of(table)}
    for asset in ASSETS:
        schema = asset.op.config_schema.as_field()
        assert schema is not None
        fields = dict(schema.config_type.fields)
        run = fields.pop("execution").config_type.fields
        assert run.keys() == Execution.model_fields.keys()
        shown = {
            (table, key): found
            for table, field in fields.items()
            for key, found in ({SEED: field} if table == SEED else field.config_type.fields).items()
        }
        assert shown.keys() == declared_keys(asset), asset.key
        for key, field in shown.items():
            assert field.description == f"{limits[key].description} ({limits[key].limits})"
            assert not field.is_required


def test_definitions_are_loadable_and_have_the_sensor() -> None:
    dg.Definitions.validate_loadable(build_definitions())
    assert build_definitions().get_sensor_def("observe_roots")


def test_loading_imports_no_heavy_library_and_reads_no_environment() -> None:
    code = (
        "import os, sys\n"
        "class Trap(dict):\n"
        "    def _seen(self, key):\n"
        "        assert not str(key).startswith('GLR_'), key\n"
        "    def __getitem__(self, key):\n"
        "        self._seen(key); return super().__getitem__(key)\n"
        "    def get(self, key, default=None):\n"
        "        self._seen(key); return super().get(key, default)\n"
        "os.environ = Trap(os.environ)\n"
        "from glr_assets.definitions import defs\n"
        "defs().resolve_all_asset_specs()\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"
