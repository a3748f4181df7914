"""Every image id of every split, with what was decided of it and why."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.fates import MISSING_REASON, fates
from glr_assets.curation.schemas import DEDUPED_MANIFEST, IMAGE_LEDGER, TRAIN_EXTRA, TRAIN_MANIFEST
from glr_assets.metadata.schemas import COMPETITION_TRAIN, INDEX_METADATA, TEST_METADATA, TRAIN_METADATA
from glr_assets.planning.schemas import FILL_PLAN
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import Table, read_table

CODE_VERSION = "1"
INPUTS = (
    "train_metadata",
    "index_metadata",
    "test_metadata",
    "competition_train",
    "fill_plan",
    "image_catalog",
    "deduped_manifest",
    "train_extra",
    "train_manifest",
)
_LISTED: dict[Split, Table] = {"train": TRAIN_METADATA, "index": INDEX_METADATA, "test": TEST_METADATA}


def ledger_of(store: Store) -> pa.Table:
    """`IMAGE_LEDGER` from the tables, the catalog and the manifests of a store, sorted by split and id."""
    parts = [_split_rows(store, split) for split in ("index", "test", "train")]
    return pa.concat_tables(parts)


def _split_rows(store: Store, split: Split) -> pa.Table:
    listed = read_table(store, _LISTED[split])
    known = listed.select(["id", "landmark_id"]) if split == "train" else _without_landmark(listed.select(["id"]))
    found = fates(store, split).drop_columns("dhash")
    rows = known.join(found, "id", join_type="full outer", use_threads=False)
    if split == "train":
        rows = _with_decisions(store, rows)
    else:
        absent = pa.nulls(rows.num_rows, pa.string())
        for name in ("planned", "decision", "decision_reason", "partner"):
            rows = rows.append_column(name, absent)
        rows = rows.append_column("in_train", pa.array(np.zeros(rows.num_rows, bool)))
    rows = rows.append_column("split", pa.array([split] * rows.num_rows, pa.string())).sort_by("id")
    for name, value in (("status", "missing"), ("reason", MISSING_REASON)):
        rows = rows.set_column(rows.schema.get_field_index(name), name, pc.fill_null(rows[name], value))
    return rows.select([column.name for column in IMAGE_LEDGER.columns]).cast(IMAGE_LEDGER.schema)


def _without_landmark(ids: pa.Table) -> pa.Table:
    return ids.append_column("landmark_id", pa.nulls(ids.num_rows, pa.int64()))


def _with_decisions(store: Store, rows: pa.Table) -> pa.Table:
    competition = read_table(store, COMPETITION_TRAIN, ["id"])
    words = pa.array(["competition"] * competition.num_rows, pa.string())
    plan = read_table(store, FILL_PLAN, ["id", "role"]).rename_columns(["id", "planned"])
    planned = pa.concat_tables([competition.append_column("planned", words), plan])
    names = ["id", "decision", "decision_reason"]
    deduped = read_table(store, DEDUPED_MANIFEST, ["id", "decision", "reason", "partner"])
    deduped = deduped.rename_columns([*names, "partner"])
    extra = read_table(store, TRAIN_EXTRA, ["id", "decision", "reason"]).rename_columns(names)
    extra = extra.append_column("partner", pa.nulls(extra.num_rows, pa.string()))
    decided = pa.concat_tables([deduped.select([*names, "partner"]), extra])
    rows = rows.join(planned, "id", use_threads=False).join(decided, "id", use_threads=False)
    in_train = pc.is_in(rows["id"], read_table(store, TRAIN_MANIFEST, ["id"])["id"].combine_chunks())
    return rows.append_column("in_train", in_train)


def make_image_ledger(store: Store) -> Made:
    """`image_ledger`; its summary counts what was asked for and what became of it."""

    def build(writer: Writer) -> Summary:
        ledger = ledger_of(store)
        writer.table(IMAGE_LEDGER, ledger)
        return {"rows": ledger.num_rows} | balance(ledger)

    inputs = need_receipts(store, *INPUTS)
    return make(store, "image_ledger", inputs=inputs, parameters={}, code_version=CODE_VERSION, build=build)


def balance(ledger: pa.Table) -> dict[str, int]:
    """Train images asked for, and how many of them were kept, dropped and failed: the three must add up to it."""
    planned = ledger.filter(pc.is_valid(ledger["planned"]))
    counts = {word: pc.sum(pc.equal(planned["decision"], word)).as_py() or 0 for word in ("kept", "dropped", "failed")}
    return {"requested": planned.num_rows} | counts | {"in_train": pc.sum(ledger["in_train"]).as_py() or 0}
