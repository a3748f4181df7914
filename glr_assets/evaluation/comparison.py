"""Versions of the embedder beside each other: what they were made from, in what they differ, how good they are.

`evaluation` leaves the scores of the version it evaluated in that version's folder, where they stay when another
takes its place.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from glr_assets.errors import MissingInputError, StoreError
from glr_assets.evaluation.schemas import MODEL_COMPARISON
from glr_assets.markdown import code, table
from glr_assets.plots import bars
from glr_assets.receipts import Made, Summary, Writer, digest_of, make, need_receipt, need_receipts
from glr_assets.recipes import Retrieval
from glr_assets.store import Store
from glr_assets.training.record import ModelRecord, kept_record
from glr_assets.training.versions import embedder_folder

log = logging.getLogger(__name__)

CODE_VERSION = "3"
VERSIONS: Final = "models/embedder"
SCORES_NAME = "evaluation.json"
REPORT = "reports/model_comparison.json"
PICTURE = "reports/model_comparison.png"
TOLD = "reports/model_comparison.md"
#: Versions that the picture has room for, the best ones.
DRAWN = 8
FIGURES: Final = {
    "validation_top1": "held-out top-1",
    "gap": "GAP",
    "top1": "top-1",
    "map100": "mAP@100",
}


class VersionScores(BaseModel):
    """What a version of the embedder was worth when it was evaluated, and by what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gap: float
    gap_landmarks_only: float
    top1: float
    map100: float | None
    queries: int
    queries_digest: str
    """of the scored queries and their landmarks"""
    retrieval: dict[str, Any]
    """the recipe's section by which was searched"""


@dataclass(frozen=True)
class Version:
    """A finished version of the embedder, and its scores where it was evaluated."""

    record: ModelRecord
    scores: VersionScores | None
    current: bool


def evaluated_folder(store: Store) -> str:
    """The folder of the embedder that the submission was made with.

    Raises:
        MissingInputError: it was made with an earlier embedder than the current one.
    """
    asked = need_receipt(store, "submission").inputs
    current = need_receipt(store, "embedder").digest
    for name in sorted(asked):
        if name.startswith("test_embeddings/"):
            shard = need_receipt(store, name)
            if shard.digest != asked[name] or shard.inputs.get("embedder") != current:
                raise MissingInputError(
                    f"submission in {store.url} was made with another embedder than the current one: materialise "
                    "test_embeddings and what follows again"
                )
            break
    return embedder_folder(store)


def write_scores(writer: Writer, folder: str, scores: Mapping[str, Any], retrieval: Retrieval) -> None:
    """Leave the scores of the version in `folder` beside it.

    Args:
        writer: of `evaluation`.
        folder: the version's.
        scores: the report of the submission, with `map100` and `queries_digest`.
        retrieval: by which was searched.
    """
    names = ("gap", "gap_landmarks_only", "top1", "map100", "queries", "queries_digest")
    kept = VersionScores(**{name: scores[name] for name in names}, retrieval=retrieval.model_dump(mode="json"))
    writer.json(f"{folder}/{SCORES_NAME}", kept.model_dump(mode="json"))


def versions_of(store: Store) -> list[Version]:
    """The finished versions that the store holds, the best first: by GAP, then by held-out top-1, then by name.

    Versions scored by the same queries as the current one come first: figures of different queries do not compare.
    """
    current = embedder_folder(store)
    found = []
    for name in store.folders(VERSIONS):
        folder = f"{VERSIONS}/{name}"
        try:
            record = kept_record(store, folder)
        except StoreError as error:
            log.warning("%s; the version is left out of the comparison", error)
            continue
        if record is None:
            continue
        try:
            scores = VersionScores.model_validate(store.read_json(f"{folder}/{SCORES_NAME}"))
        except (FileNotFoundError, ValidationError):  # never evaluated, or by a rule that is no longer comparable
            scores = None
        found.append(Version(record, scores, folder == current))

    queries = next((version.scores.queries_digest for version in found if version.current and version.scores), None)

    def rank(version: Version) -> tuple[bool, float, float, str]:
        gap = version.scores.gap if version.scores is not None else -1.0
        others = queries is not None and (version.scores is None or version.scores.queries_digest != queries)
        return others, -gap, -(version.record.validation_top1 or 0.0), version.record.version

    return sorted(found, key=rank)


def differences(records: Sequence[ModelRecord]) -> list[dict[str, Any]]:
    """Of each version its recipe values and data versions, those alone in which the versions differ.

    A value that a version's recipe has not is absent.
    """
    flat = [_flat(record) for record in records]
    keys = sorted({key for values in flat for key in values})
    differing = [key for key in keys if len({digest_of([values.get(key)]) for values in flat}) > 1]
    return [{key: values[key] for key in differing if key in values} for values in flat]


def _flat(record: ModelRecord) -> dict[str, Any]:
    values: dict[str, Any] = {"seed": record.seed, "code": record.code_version}
    values |= {f"{section}.{key}": value for section, keys in record.recipe.items() for key, value in keys.items()}
    values |= {f"data.{name}": digest[:12] for name, digest in record.data_versions.items()}
    return values | {f"library.{name}": number for name, number in record.libraries.items()}


def compared(versions: Sequence[Version]) -> list[dict[str, Any]]:
    """Rows of `MODEL_COMPARISON`, in the order given."""
    rows = []
    for version, differs in zip(versions, differences([version.record for version in versions]), strict=True):
        record, scores = version.record, version.scores
        rows.append(
            {
                "version": record.version,
                "current": version.current,
                "origin": record.origin,
                "differences": json.dumps(differs, sort_keys=True),
                "data_versions": json.dumps(record.data_versions, sort_keys=True),
                "parameters": record.parameters,
                "dimensions": record.outputs,
                "training_images": record.training_images,
                "landmarks": record.landmarks,
                "held_out": record.held_out,
                "epochs": record.epochs,
                "loss": record.loss,
                "validation_top1": record.validation_top1,
                "gap": scores.gap if scores else None,
                "gap_landmarks_only": scores.gap_landmarks_only if scores else None,
                "top1": scores.top1 if scores else None,
                "map100": scores.map100 if scores else None,
                "queries_digest": scores.queries_digest if scores else None,
            }
        )
    return rows


def make_model_comparison(store: Store) -> Made:
    """`model_comparison`: a row a version of the embedder, its figures drawn, the best first.

    Raises:
        MissingInputError: `embedder` or `evaluation` has not been made.
    """
    inputs = need_receipts(store, "embedder", "evaluation")
    versions = versions_of(store)
    # Earlier versions have no receipt of their own any more; their records and scores are what is compared.
    inputs |= {
        f"file:{VERSIONS}/{version.record.version}": digest_of(
            [version.record.model_dump(mode="json"), version.scores and version.scores.model_dump(mode="json")]
        )
        for version in versions
    }

    def build(writer: Writer) -> Summary:
        rows = compared(versions)
        writer.table(MODEL_COMPARISON, MODEL_COMPARISON.rows(sorted(rows, key=lambda row: row["version"])))
        writer.json(REPORT, rows)
        writer.write(PICTURE, _picture(rows[:DRAWN]))
        writer.write(TOLD, _markdown(rows).encode())
        evaluated = [row for row in rows if row["gap"] is not None]
        return {
            "rows": len(rows),
            "evaluated": len(evaluated),
            "best": evaluated[0]["version"] if evaluated else None,
            "best_gap": evaluated[0]["gap"] if evaluated else None,
            "query_sets": len({row["queries_digest"] for row in evaluated}),
        }

    return make(store, "model_comparison", inputs=inputs, parameters={}, code_version=CODE_VERSION, build=build)


def label(row: Mapping[str, Any]) -> str:
    """A version as people tell it: its name, and whether it is the current one."""
    return f"{row['version'][:8]}{' *' if row['current'] else ''}"


def _picture(rows: Sequence[Mapping[str, Any]]) -> bytes:
    drawn = {label(row): {told: row[name] for name, told in FIGURES.items() if row[name] is not None} for row in rows}
    return bars(drawn, "share; * is the current version")


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    keys = sorted({key for row in rows for key in json.loads(row["differences"])})
    header = ["version", *FIGURES.values(), "scored queries", "loss", "epochs", "images", *map(code, keys)]
    told = []
    for row in rows:
        differs = json.loads(row["differences"])
        cells = [label(row), *(_number(row[name]) for name in FIGURES), (row["queries_digest"] or "")[:8]]
        cells += [_number(row["loss"]), str(row["epochs"])]
        told.append([*cells, f"{row['training_images']:,}", *(str(differs.get(key, "")) for key in keys)])
    return table(header, told) + (
        "\n\n\\* the current version; a figure that is absent was not measured; GAP and top-1 "
        "compare between versions of the same scored queries alone\n"
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
