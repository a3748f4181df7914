"""What an asset tells Dagster: figures, columns, pictures, texts and versions of what it made; how a training goes."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

from glr_assets.defs.launchpad import override_metadata, override_tags
from glr_assets.defs.provenance import DATA_VERSION_TAG
from glr_assets.markdown import escape
from glr_assets.receipts import Made
from glr_assets.store import Store
from glr_assets.tables import Table
from glr_assets.training.kept import Sight

ROW_COUNT = "dagster/row_count"
#: Pictures and texts live in the event log, which is a database: larger ones stay in the store and are only named.
MAX_SHOWN_BYTES = 100_000
#: `dagster._core.definitions.source_asset.SYSTEM_METADATA_KEY_SOURCE_ASSET_OBSERVATION`, which is not public.
_LOGS_ITS_EVENTS = "__source_asset_observation__"
_PICTURES = {"png": "image/png", "jpg": "image/jpeg"}


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


def metadata_of(made: Made, store: Store | None = None) -> dict[str, Any]:
    """An asset's figures and files, and its pictures and texts where the store to read them is given.

    What is the same for every materialization, such as the columns, stands in the metadata of the asset's definition.
    """
    receipt = made.receipt
    metadata: dict[str, Any] = {key: value for key, value in receipt.summary.items() if value is not None}
    rows = receipt.summary.get("rows", receipt.summary.get("seen", receipt.summary.get("requested")))
    if isinstance(rows, int):
        metadata[ROW_COUNT] = rows
    metadata |= override_metadata()
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


def result_of(made: Made, store: Store | None = None, more: Mapping[str, Any] | None = None) -> dg.MaterializeResult:
    """The result of an asset that is not partitioned."""
    return dg.MaterializeResult(
        metadata=metadata_of(made, store) | dict(more or {}),
        data_version=dg.DataVersion(made.receipt.digest),
        tags=override_tags(),
    )


def materialization(
    asset_key: dg.AssetKey, made: Made, partition: str, provenance: Mapping[str, str], store: Store | None = None
) -> dg.AssetMaterialization:
    """The event of one partition.

    Args:
        asset_key: of the asset.
        made: the partition's receipt, and whether the work had been done before.
        partition: its key.
        provenance: tags of its code version and inputs.
        store: read for the pictures and texts to show; None shows none.
    """
    return dg.AssetMaterialization(
        asset_key,
        description="already stored, nothing to do" if made.reused else "stored",
        metadata=metadata_of(made, store),
        partition=partition,
        tags={**provenance, DATA_VERSION_TAG: made.receipt.digest},
    )


def no_further_event() -> dg.MaterializeResult:
    """The result of a step that has logged the event of each of its partitions.

    Dagster would log one more event for each partition, all with the metadata of this result. The mark in its metadata
    is the one by which Dagster knows the outputs of observable sources, which log their observations themselves.
    Steps downstream in the same run do run.
    """
    return dg.MaterializeResult(metadata={_LOGS_ITS_EVENTS: True})
