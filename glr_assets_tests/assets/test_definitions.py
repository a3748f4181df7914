import subprocess
import sys

import dagster as dg
import pytest

from glr_assets.definitions import defs
from glr_assets.defs.build import ASSETS, TABLES, build_definitions
from glr_assets.defs.conventions import GPU_POOL
from glr_assets.defs.shards import GROUP_BACKFILL, SHARD_BACKFILL
from glr_assets.recipes import Embedder, Evaluation, Execution, Groups, Retrieval, Section, Training

CONTRACT = {
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
        "image_ledger",
    },
    "verification": {"local_features", "verification_calibration", "verified_pairs", "cleaned_manifest"},
    "training": {"embedder", "training_groups", "group_classifiers", "group_calibration"},
    "retrieval": {
        "train_embeddings",
        "index_embeddings",
        "test_embeddings",
        "non_landmark_embeddings",
        "faiss_index",
        "search_features",
        "test_features",
        "recognition_model",
        "submission",
        "retrieval_submission",
        "evaluation",
        "model_comparison",
    },
    "exports": {"train_tfrecords", "train_zip"},
}
HEAVY = ("torch", "lightning", "transformers", "faiss", "cv2", "imagehash", "matplotlib", "pandas", "s3fs", "onnx")


@pytest.fixture(scope="module")
def specs() -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in defs().resolve_all_asset_specs()}


def test_the_assets_are_those_of_the_contract_in_their_groups(specs: dict[str, dg.AssetSpec]) -> None:
    groups: dict[str, set[str]] = {}
    for name, spec in specs.items():
        groups.setdefault(str(spec.group_name), set()).add(name)
    assert groups == CONTRACT


def test_every_asset_says_what_it_is_who_owns_it_and_of_which_code(specs: dict[str, dg.AssetSpec]) -> None:
    for name, spec in specs.items():
        assert spec.description, name
        assert len(spec.description) > 20, name
        assert spec.owners == ["team:landmark-data"], name
        assert spec.kinds, name
        assert spec.code_version, name


def test_every_table_shows_its_columns_with_descriptions(specs: dict[str, dg.AssetSpec]) -> None:
    sharded = {"train_images", "index_images", "test_images", "local_features", "verified_pairs"} | {
        f"{split}_embeddings" for split in ("train", "index", "test")
    }
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
    for asset in ASSETS:
        expected = GPU_POOL if asset.key.to_user_string() in gpu else None
        assert asset.op.pool == expected
        assert ("dagster-k8s/config" in asset.op.tags) == (expected is not None)


def test_what_is_dear_is_never_materialised_by_itself(specs: dict[str, dg.AssetSpec]) -> None:
    assert {name for name, spec in specs.items() if spec.automation_condition is not None} == set()
    assert not list(build_definitions().schedules or [])


SECTIONS: dict[str, tuple[type[Section], ...]] = {
    "embedder": (Embedder, Training, Execution),
    "training_groups": (Groups, Training),
    "group_classifiers": (Groups, Execution),
    "group_calibration": (Groups, Retrieval, Execution),
    "evaluation": (Evaluation, Retrieval, Execution),
}


@pytest.mark.parametrize("name", SECTIONS)
def test_every_value_of_the_recipe_is_in_the_launchpad_with_what_it_means(name: str) -> None:
    (asset,) = (asset for asset in ASSETS if asset.key == dg.AssetKey(name))
    schema = asset.op.config_schema.as_field()
    assert schema is not None
    fields = schema.config_type.fields
    for section in SECTIONS[name]:
        values = fields[section.__name__.lower()].config_type.inner_type.fields
        assert values.keys() == section.model_fields.keys(), section
        for key, field in section.model_fields.items():
            assert field.description, key
            assert values[key].description == field.description, key
            assert not values[key].is_required, key
    assert fields.keys() == {"seed", *(section.__name__.lower() for section in SECTIONS[name])}


def test_definitions_are_loadable_and_have_the_sensor() -> None:
    dg.Definitions.validate_loadable(build_definitions())
    assert build_definitions().get_sensor_def("new_shards")


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
