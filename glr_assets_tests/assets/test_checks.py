"""Each asset check, seen passing and failing."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from glr_assets.curation.schemas import IMAGE_LEDGER, TRAIN_MANIFEST
from glr_assets.defs.build import TABLES
from glr_assets.defs.checks import CHECKS, schema_check
from glr_assets.defs.platform import Platform
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.tables import Table, read_table
from glr_assets_tests.assets.conftest import Runner

BY_NAME = {next(iter(definition.check_keys)).name: definition for definition in CHECKS}


def evaluated(check: dg.AssetChecksDefinition, platform: Platform) -> dg.AssetCheckResult:
    result = check(platform=platform)
    assert isinstance(result, dg.AssetCheckResult)
    return result


def rewrite(platform: Platform, table: Table, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change a table behind the back of its writer."""
    store = platform.open_store()
    with store.writing(table.path) as file:
        pq.write_table(change(read_table(store, table)), file)


def with_column(data: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return data.set_column(data.schema.get_field_index(name), name, values)


@pytest.fixture
def curated(run: Runner, platform: Platform) -> Platform:
    run.curated()
    return platform


def test_every_check_passes_on_a_whole_lineage(curated: Platform) -> None:
    for name, check in BY_NAME.items():
        assert evaluated(check, curated).passed, name
    for asset, table in TABLES.items():
        if table.path.startswith(("metadata/", "manifests/")) and asset != "fill_potential":
            assert evaluated(schema_check(asset, table), curated).passed, asset


def test_schema_fails_on_a_repeated_id_and_on_a_lost_column(curated: Platform) -> None:
    check = schema_check("train_manifest", TRAIN_MANIFEST)
    rewrite(curated, TRAIN_MANIFEST, lambda data: pa.concat_tables([data, data.slice(0, 1)]))
    failed = evaluated(check, curated)
    assert not failed.passed
    assert "more than once" in str(failed.metadata)


def test_shards_that_were_not_ingested_warn(run: Runner, platform: Platform) -> None:
    run.upstream_of_images()
    assert run("train_images", shard=platform.open_source().shards("train")[0]).success
    assert run("image_catalog").success
    result = evaluated(BY_NAME["all_shards_ingested"], platform)
    assert not result.passed
    assert result.severity == dg.AssetCheckSeverity.WARN
    assert "train: 3 shards" in str(result.metadata)


def test_images_that_failed_warn(curated: Platform) -> None:
    rewrite(
        curated,
        IMAGE_CATALOG,
        lambda data: with_column(data, "status", pa.array(["failed", *data["status"].to_pylist()[1:]])),
    )
    result = evaluated(BY_NAME["no_image_failed"], curated)
    assert not result.passed
    assert "1 images" in str(result.metadata)


def test_landmarks_of_nobody_fail(curated: Platform) -> None:
    rewrite(curated, TRAIN_MANIFEST, lambda data: with_column(data, "landmark_id", pc.add(data["landmark_id"], 10**9)))
    assert not evaluated(BY_NAME["classes_of_the_competition"], curated).passed


def test_a_class_beyond_what_dedupe_keeps_fails(curated: Platform) -> None:
    def crowd(data: pa.Table) -> pa.Table:
        row = data.slice(0, 1)
        copies = pa.concat_tables([row] * 30)
        ids = pa.array([f"copy{number}" for number in range(30)])
        return pa.concat_tables([data, with_column(copies, "id", ids)])

    rewrite(curated, TRAIN_MANIFEST, crowd)
    assert not evaluated(BY_NAME["class_sizes"], curated).passed


@pytest.mark.parametrize(
    "change",
    [
        lambda data: with_column(data, "decision", pa.nulls(data.num_rows, pa.string())),
        lambda data: with_column(data, "in_train", pa.array([False] * data.num_rows)),
    ],
    ids=["undecided", "kept but not training"],
)
def test_a_ledger_that_does_not_add_up_fails(curated: Platform, change: Callable[[pa.Table], pa.Table]) -> None:
    rewrite(curated, IMAGE_LEDGER, change)
    assert not evaluated(BY_NAME["adds_up"], curated).passed


def test_schema_checks_block_what_stands_downstream() -> None:
    for asset, table in TABLES.items():
        assert all(spec.blocking for spec in schema_check(asset, table).check_specs)
