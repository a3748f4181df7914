"""What an asset tells Dagster: figures, columns, pictures, texts and versions of what it made; how a training goes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from glr_assets.defs.column_lineage import column_lineage
from glr_assets.markdown import escape
from glr_assets.receipts import Made
from glr_assets.store import Store
from glr_assets.tables import Table
from glr_assets.training.kept import Sight

#: Pictures and texts live in the event log, which is a database: larger ones stay in the store and are only named.
MAX_SHOWN_BYTES = 100_000
_PICTURES = {"png": "image/png", "jpg": "image/jpeg"}
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
    """An asset's figures and files, its columns, and its pictures and texts where the store to read them is given."""
    receipt = made.receipt
    metadata: dict[str, Any] = {key: value for key, value in receipt.summary.items() if value is not None}
    rows = receipt.summary.get("rows", receipt.summary.get("seen", receipt.summary.get("requested")))
    if isinstance(rows, int):
        metadata["dagster/row_count"] = rows
    if table is not None:
        metadata["dagster/column_schema"] = columns_of(table)
    lineage = column_lineage(receipt.name.partition("/")[0])
    if lineage is not None:
        metadata["dagster/column_lineage"] = lineage
    metadata["files"] = dg.MetadataValue.json({path: written.size for path, written in receipt.outputs.items()})
    metadata["done_before"] = made.reused
    # Of this run alone: seconds, bytes read and spared.
    metadata |= {f"run: {key}": value for key, value in made.run.items()}
    if store is not None:
        metadata |= shown_files(made, store)
    return metadata


def shown_files(made: Made, store: Store) -> dict[str, Any]:
    """The pictures and the Markdown among an asset's files; of a large one its URL."""
    shown: dict[str, Any] = {}
    for path, written in made.receipt.outputs.items():
        name, _, ending = path.rsplit("/", 1)[-1].rpartition(".")
        if ending not in {"md", *_PICTURES}:
            continue
        key = f"text {name}" if ending == "md" else f"picture {name}"
        if written.size > MAX_SHOWN_BYTES:
            shown[key] = store.full_url(path)
        elif ending == "md":
            shown[key] = dg.MetadataValue.md(store.read(path).decode())
        else:
            shown[key] = _picture(name, store.read(path), _PICTURES[ending])
    return shown


def _picture(name: str, data: bytes, kind: str) -> dg.MarkdownMetadataValue:
    return dg.MetadataValue.md(f"![{escape(name)}](data:{kind};base64,{base64.b64encode(data).decode()})")


def observation(asset_key: dg.AssetKey, sight: Sight, partition: str | None = None) -> dg.AssetObservation:
    """How a training stands, for the asset's page while the run goes on; it says nothing of what is stored."""
    report = sight.report
    metadata: dict[str, Any] = {
        "part": report.part,
        "epoch": report.epoch,
        "epochs": report.epochs,
        "loss": report.loss,
        "learning_rate": report.learning_rate,
        "seconds_of_epoch": report.seconds,
        "picture curves": _picture("curves", sight.picture, _PICTURES["png"]),
    }
    if report.validation_top1 is not None:
        metadata["validation_top1"] = report.validation_top1
    return dg.AssetObservation(
        asset_key, description=f"epoch {report.epoch} of {report.epochs}", metadata=metadata, partition=partition
    )


def watched(context: dg.AssetExecutionContext, partition: str | None = None) -> Callable[[Sight], None]:
    """Tells a training's curve, as it goes on, on the page of the asset that trains."""
    return lambda sight: context.log_event(observation(context.asset_key, sight, partition))


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
