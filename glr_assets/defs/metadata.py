"""Group `metadata`: the source's CSV tables as typed Parquet."""

from collections.abc import Callable

import dagster as dg

from glr_assets.defs.conventions import table_asset
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of
from glr_assets.defs.source import source_tables
from glr_assets.metadata import schemas, tables
from glr_assets.receipts import Made
from glr_assets.source import Source, TableName
from glr_assets.store import Store
from glr_assets.tables import Table


def _metadata_asset(
    name: str,
    table: Table,
    make: Callable[[Source, Store], Made],
    reads: tuple[TableName, ...],
    description: str,
    deps: tuple[str, ...] = (),
) -> dg.AssetsDefinition:
    @table_asset(
        table,
        name=name,
        group="metadata",
        code_version=tables.CODE_VERSION,
        kinds={"csv"},
        deps=[*source_tables(*reads), *deps],
        description=description,
    )
    def metadata_table(platform: Platform) -> dg.MaterializeResult:
        store = platform.open_store()
        return result_of(make(platform.open_source(), store), store)

    return metadata_table


ASSETS = [
    _metadata_asset(
        "train_metadata",
        schemas.TRAIN_METADATA,
        tables.make_train_metadata,
        ("train",),
        "One row per image of the full train set: id, URL and landmark (`train.csv`).",
    ),
    _metadata_asset(
        "train_attribution",
        schemas.TRAIN_ATTRIBUTION,
        tables.make_train_attribution,
        ("train_attribution",),
        "One row per train image: author, licence and title (`train_attribution.csv`).",
    ),
    _metadata_asset(
        "landmark_labels",
        schemas.LANDMARK_LABELS,
        tables.make_landmark_labels,
        ("train_label_to_category", "train_label_to_hierarchical"),
        "One row per landmark: readable name, category and place in the hierarchy.",
    ),
    _metadata_asset(
        "competition_train",
        schemas.COMPETITION_TRAIN,
        tables.make_competition_train,
        ("train_clean",),
        "One row per image of the competition's train set (`train_clean.csv`, unfolded).",
        deps=("train_metadata",),
    ),
    _metadata_asset(
        "index_metadata",
        schemas.INDEX_METADATA,
        tables.make_index_metadata,
        ("index", "index_image_to_landmark"),
        "One row per image of the retrieval index; its landmarks have a numbering of their own.",
    ),
    _metadata_asset(
        "test_metadata",
        schemas.TEST_METADATA,
        tables.make_test_metadata,
        ("test",),
        "One row per test image (`test.csv`).",
    ),
    _metadata_asset(
        "recognition_solution",
        schemas.RECOGNITION_SOLUTION,
        tables.make_recognition_solution,
        ("recognition_solution",),
        "One row per test image: the landmarks it shows, none for most, and its Usage.",
    ),
    _metadata_asset(
        "retrieval_solution",
        schemas.RETRIEVAL_SOLUTION,
        tables.make_retrieval_solution,
        ("retrieval_solution",),
        "One row per test image: the index images that show the same, and its Usage.",
    ),
]
