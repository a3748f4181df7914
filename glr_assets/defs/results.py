"""What an asset tells Dagster of what it made: figures, columns, pictures and the version of its content."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import dagster as dg

from glr_assets.receipts import Made
from glr_assets.store import Store
from glr_assets.tables import Table

#: Pictures live in the event log, which is a database: larger ones stay in the store and are only named.
MAX_PICTURE_BYTES = 100_000
DATA_VERSION_TAG = "dagster/data_version"


def columns_of(table: Table) -> dg.TableSchema:
    """A table's schema as the UI shows it."""
    return dg.TableSchema(
        columns=[
            dg.TableColumn(
                column.name,
                str(column.type),
                description=column.description,
                constraints=dg.TableColumnConstraints(nullable=column.nullable, unique=table.key == (column.name,)),
            )
            for column in table.columns
        ]
    )


def metadata_of(made: Made, table: Table | None, store: Store | None = None) -> dict[str, Any]:
    """An asset's figures and files, its columns, and its pictures where the store to read them is given."""
    receipt = made.receipt
    metadata: dict[str, Any] = {key: value for key, value in receipt.summary.items() if value is not None}
    rows = receipt.summary.get("rows", receipt.summary.get("seen", receipt.summary.get("requested")))
    if isinstance(rows, int):
        metadata["dagster/row_count"] = rows
    if table is not None:
        metadata["dagster/column_schema"] = columns_of(table)
    metadata["files"] = dg.MetadataValue.json({path: written.size for path, written in receipt.outputs.items()})
    metadata["done_before"] = made.reused
    # Of this run alone: seconds, bytes read and spared.
    metadata |= {f"run: {key}": value for key, value in made.run.items()}
    if store is not None:
        metadata |= pictures_of(made, store)
    return metadata


def pictures_of(made: Made, store: Store) -> dict[str, Any]:
    """The pictures among an asset's files, as Markdown with the bytes inside."""
    pictures: dict[str, Any] = {}
    for path, written in made.receipt.outputs.items():
        kind = {"png": "image/png", "jpg": "image/jpeg"}.get(path.rsplit(".", 1)[-1])
        if kind is None:
            continue
        name = path.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        if written.size > MAX_PICTURE_BYTES:
            pictures[f"picture {name}"] = store.full_url(path)
            continue
        data = base64.b64encode(store.read(path)).decode()
        pictures[f"picture {name}"] = dg.MetadataValue.md(f"![{name}](data:{kind};base64,{data})")
    return pictures


def result_of(
    made: Made, table: Table | None, store: Store | None = None, more: Mapping[str, Any] | None = None
) -> dg.MaterializeResult:
    """The result of an asset that is not partitioned, or of one partition."""
    return dg.MaterializeResult(
        metadata=metadata_of(made, table, store) | dict(more or {}),
        data_version=dg.DataVersion(made.receipt.digest),
    )


def materialization(
    asset_key: dg.AssetKey,
    made: Made,
    table: Table | None,
    partition: str,
    tags: Mapping[str, str] | None = None,
    store: Store | None = None,
) -> dg.AssetMaterialization:
    """The event of one partition of a run of several; its data version stands beside the other tags.

    Its pictures are shown where the store to read them is given.
    """
    return dg.AssetMaterialization(
        asset_key,
        metadata=metadata_of(made, table, store),
        partition=partition,
        tags=dict(tags or {}) | {DATA_VERSION_TAG: made.receipt.digest},
    )
