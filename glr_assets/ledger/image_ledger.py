"""Every image id of every split, with each decision on it in order, and why.

At GLDv2's size that is five million ids with ten million decisions: the ledger is written in pieces of sorted ids.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.fates import MISSING_REASON, fates
from glr_assets.curation.schemas import DEDUPED_MANIFEST, TRAIN_EXTRA, TRAIN_MANIFEST
from glr_assets.ledger.balance import BALANCE, balance
from glr_assets.ledger.schemas import DECISION, IMAGE_LEDGER
from glr_assets.metadata.schemas import (
    COMPETITION_TRAIN,
    INDEX_METADATA,
    TEST_METADATA,
    TRAIN_ATTRIBUTION,
    TRAIN_METADATA,
)
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER
from glr_assets.planning.schemas import FILL_PLAN
from glr_assets.ranges import ordered
from glr_assets.receipts import Made, Summary, Writer, find_receipt, make, need_receipt, need_receipts
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import (
    ROWS_A_GROUP,
    Table,
    TableWriter,
    fixed_width,
    places,
    read_parts,
    read_table,
    taken,
)
from glr_assets.verification.schemas import CLEANED_MANIFEST

CODE_VERSION = "6"
INPUTS = (
    "train_metadata",
    "train_attribution",
    "index_metadata",
    "test_metadata",
    "competition_train",
    "fill_plan",
    "image_catalog",
    "deduped_manifest",
    "train_extra",
    "train_manifest",
)
#: What a team may leave out: its decisions are told where it has been made.
OPTIONAL: Mapping[str, Table] = {
    "cleaned_manifest": CLEANED_MANIFEST,
    "non_landmark_filter": NON_LANDMARK_FILTER,
}
#: Ids that are in memory together with their decisions, some 300 bytes each.
PIECE = ROWS_A_GROUP
VERSION_DIGITS = 12
ABSENT_REASON = "in no shard of the source"
REASONS = "reports/image_ledger.json"
REASON_COLUMNS = ("asset", "decision", "reason", "images")
STORED_REASON = "downsized and stored"
PLANNED = {
    "competition": ("competition_train", "in the competition's train set"),
    "extra": ("fill_plan", "planned to fill its class"),
    "reserve": ("fill_plan", "held in reserve for its class"),
}
_LISTED: dict[Split, Table] = {"train": TRAIN_METADATA, "index": INDEX_METADATA, "test": TEST_METADATA}

Ids = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class _Side:
    """A table about images, sorted by id, with its ids for looking rows up.

    Of a column of few values each value is held once, as a dictionary: a row has a number.
    """

    ids: Ids
    data: pa.Table

    @classmethod
    def of(cls, data: pa.Table, repeating: Sequence[str] = ()) -> _Side:
        """A table with a column `id`; of the columns `repeating` values are held once."""
        return cls.of_parts([data], repeating)

    @classmethod
    def of_parts(cls, parts: Iterable[pa.Table], repeating: Sequence[str]) -> _Side:
        """A table that comes in parts, one at least."""
        data = pa.concat_tables(_coded(part, repeating) for part in parts).unify_dictionaries().combine_chunks()
        ids, data = fixed_width(data["id"]), data.drop_columns(["id"])
        if (ids[1:] < ids[:-1]).any():
            order = np.argsort(ids, kind="stable")
            ids, data = ids[order], data.take(pa.array(order))
        return cls(ids, data)

    def rows(self, wanted: Ids) -> pa.Table:
        """Its row of each of the wanted ids, which ascend; absent values where it has none."""
        begin, end = np.searchsorted(self.ids, wanted[0]), np.searchsorted(self.ids, wanted[-1], "right")
        ids, near = self.ids[begin:end], self.data.slice(begin, end - begin)
        return near if np.array_equal(ids, wanted) else taken(near, places(wanted, ids))


def _coded(data: pa.Table, repeating: Sequence[str]) -> pa.Table:
    for name in repeating:
        data = data.set_column(data.schema.get_field_index(name), name, data[name].dictionary_encode())
    return data


def ledger_pieces(store: Store) -> Iterator[pa.Table]:
    """`IMAGE_LEDGER` from the tables, the catalog and the manifests of a store, sorted by split and id, in pieces."""
    versions: dict[str | None, str | None] = {name: _version(store, name) for name in (*INPUTS, *OPTIONAL)}
    for split in ("index", "test", "train"):
        yield from _split_pieces(store, split, versions)


def _version(store: Store, asset: str) -> str | None:
    receipt = find_receipt(store, asset)
    return None if receipt is None else receipt.digest[:VERSION_DIGITS]


def _split_pieces(store: Store, split: Split, versions: Mapping[str | None, str | None]) -> Iterator[pa.Table]:
    train = split == "train"
    found = _Side.of(fates(store, split, ()), ["shard", "status", "reason"])
    listed = _Side.of(read_table(store, _LISTED[split], ["id", "landmark_id"] if train else ["id"]))
    sides = _decided(store) if train else {}
    shards = sorted(pc.unique(found.data["shard"]).to_pylist())
    of_shard: dict[str | None, str | None] = {key: _version(store, f"{split}_images/{key}") for key in shards}
    ids = _either(listed.ids, found.ids)
    all_ingested = need_receipt(store, "image_catalog").summary.get(f"{split}_shards_missing") == 0
    missing_reason = ABSENT_REASON if all_ingested else MISSING_REASON

    def piece(start: int) -> pa.Table:
        return _piece(ids[start : start + PIECE], split, listed, found, sides, versions, of_shard, missing_reason)

    # The next piece is joined while one is written.
    yield from ordered(piece, range(0, len(ids), PIECE), workers=1)


def _either(one: Ids, other: Ids) -> Ids:
    """The ids of two sides, ascending."""
    strange = other[places(other, one) < 0]
    return np.sort(np.concatenate([one, strange]), kind="stable") if len(strange) else one


def _decided(store: Store) -> dict[str, _Side]:
    """What is known of train images beside their fates: the plan, the decision, who made them, whether they train."""
    competition = read_table(store, COMPETITION_TRAIN, ["id"])
    words = pa.repeat(pa.scalar("competition"), competition.num_rows)
    plan = read_table(store, FILL_PLAN, ["id", "role"]).rename_columns(["id", "planned"])
    deduped = read_table(store, DEDUPED_MANIFEST, ["id", "decision", "reason", "partner", "distance"])
    extra = read_table(store, TRAIN_EXTRA)
    extra = extra.select([name for name in deduped.schema.names if name in extra.schema.names])
    train = read_table(store, TRAIN_MANIFEST, ["id"])
    sides = {
        name: _Side.of(_decisions_of(store, table), ["decision"])
        for name, table in OPTIONAL.items()
        if find_receipt(store, name) is not None
    }
    # Of the largest table a row group at a time has its strings in memory.
    columns = ["id", "author", "license"]
    nothing = pa.schema([TRAIN_ATTRIBUTION.schema.field(name).with_nullable(True) for name in columns]).empty_table()
    attribution = chain([nothing], read_parts(store, TRAIN_ATTRIBUTION, columns))
    return sides | {
        "planned": _Side.of(pa.concat_tables([competition.append_column("planned", words), plan]), ["planned"]),
        "decided": _Side.of(pa.concat_tables([deduped, extra], promote_options="default"), ["decision"]),
        "attribution": _Side.of_parts(attribution, columns[1:]),
        "train": _Side.of(train.append_column("in_train", pa.repeat(pa.scalar(True), train.num_rows))),
    }


def _decisions_of(store: Store, table: Table) -> pa.Table:
    """`id, decision, reason, partner` of a manifest; partners are absent where it names none."""
    named = {column.name for column in table.columns}
    rows = read_table(store, table, [name for name in ("id", "decision", "reason", "partner") if name in named])
    return rows if "partner" in named else rows.append_column("partner", pa.nulls(rows.num_rows, pa.string()))


def _piece(
    ids: Ids,
    split: Split,
    listed: _Side,
    found: _Side,
    sides: Mapping[str, _Side],
    versions: Mapping[str | None, str | None],
    of_shard: Mapping[str | None, str | None],
    missing_reason: str,
) -> pa.Table:
    count = len(ids)
    fate = found.rows(ids)
    known = {name: side.rows(ids) for name, side in sides.items()}

    def column(side: str, name: str, kind: pa.DataType) -> pa.Array | pa.ChunkedArray:
        return known[side][name].cast(kind) if side in known else pa.nulls(count, kind)

    string = pa.string()
    shard, status, reason = (fate[name].cast(string) for name in ("shard", "status", "reason"))
    status, reason = pc.fill_null(status, "missing"), pc.fill_null(reason, missing_reason)
    planned = column("planned", "planned", string)
    decided = {name: column("decided", name, string) for name in ("decision", "reason", "partner")}
    distance = column("decided", "distance", pa.int32())
    later = {asset: {name: column(asset, name, string) for name in decided} for asset in OPTIONAL}
    landmark = listed.rows(ids)["landmark_id"] if split == "train" else pa.nulls(count, pa.int64())
    decisions = _in_order(
        [
            _planned(planned, versions),
            _ingested(split, fate["shard"], status, reason, of_shard),
            _curated(planned, decided, distance, versions),
            *(_later(asset, of_asset, versions) for asset, of_asset in later.items()),
        ]
    )
    columns = {
        "id": pa.array(ids.astype(str), string),
        "split": pa.repeat(pa.scalar(split), count),
        "landmark_id": landmark,
        "shard": shard,
        "status": status,
        "reason": reason,
        "planned": planned,
        "decision": decided["decision"],
        "decision_reason": decided["reason"],
        "partner": decided["partner"],
        "distance": distance,
        "decisions": decisions,
        "author": _where_known(column("attribution", "author", string)),
        "license": _where_known(column("attribution", "license", string)),
        "in_train": pc.fill_null(column("train", "in_train", pa.bool_()), False),
        "in_cleaned": pc.fill_null(pc.equal(later["cleaned_manifest"]["decision"], "kept"), False),
        "in_filtered": pc.fill_null(pc.equal(later["non_landmark_filter"]["decision"], "kept"), False),
    }
    return pa.table(columns).select(IMAGE_LEDGER.schema.names)


def _where_known(values: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    """The values, absent where they are empty."""
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)


@dataclass(frozen=True)
class _Decided:
    """One decision each on some of a piece's rows: `rows` [n], ascending, and their `DECISION` structs [n]."""

    rows: npt.NDArray[np.int64]
    structs: pa.StructArray


def _structs(rows: npt.NDArray[np.int64], **fields: pa.Array | pa.ChunkedArray) -> _Decided:
    arrays = []
    for field in DECISION:
        values = fields.get(field.name, pa.nulls(len(rows), field.type))
        values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
        arrays.append(values.cast(field.type))
    return _Decided(rows, pa.StructArray.from_arrays(arrays, fields=list(DECISION)))


def _worded(values: pa.Array | pa.ChunkedArray, words: Mapping[Any, str | None]) -> pa.Array:
    """Each value's word: few values, many rows."""
    values = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    coded = values if pa.types.is_dictionary(values.type) else values.dictionary_encode()
    dictionary = pa.array([words.get(value) for value in coded.dictionary.to_pylist()], pa.string())
    return dictionary.take(coded.indices)


def _planned(planned: pa.ChunkedArray, versions: Mapping[str | None, str | None]) -> _Decided:
    rows = np.flatnonzero(planned.is_valid().to_numpy(zero_copy_only=False))
    role = planned.take(pa.array(rows))
    return _structs(
        rows,
        asset=_worded(role, {word: asset for word, (asset, _) in PLANNED.items()}),
        version=_worded(role, {word: versions[asset] for word, (asset, _) in PLANNED.items()}),
        decision=role,
        reason=_worded(role, {word: reason for word, (_, reason) in PLANNED.items()}),
    )


def _ingested(
    split: Split,
    shard: pa.ChunkedArray,
    status: pa.ChunkedArray,
    reason: pa.ChunkedArray,
    of_shard: Mapping[str | None, str | None],
) -> _Decided:
    assets = {key: f"{split}_images/{key}" for key in of_shard}
    return _structs(
        np.arange(len(status)),
        asset=pc.fill_null(_worded(shard, assets), f"{split}_images"),
        version=_worded(shard, of_shard),
        decision=status,
        reason=pc.if_else(pc.equal(reason, ""), STORED_REASON, reason),
    )


def _curated(
    planned: pa.ChunkedArray,
    decided: Mapping[str, pa.ChunkedArray],
    distance: pa.ChunkedArray,
    versions: Mapping[str | None, str | None],
) -> _Decided:
    rows = np.flatnonzero(decided["decision"].is_valid().to_numpy(zero_copy_only=False))
    at = pa.array(rows)
    assets: dict[str | None, str | None] = {"competition": "deduped_manifest"}
    asset = pc.fill_null(_worded(planned.take(at), assets), "train_extra")
    return _structs(
        rows,
        asset=asset,
        version=_worded(asset, versions),
        **{name: values.take(at) for name, values in decided.items()},
        distance=distance.take(at),
    )


def _later(asset: str, decided: Mapping[str, pa.ChunkedArray], versions: Mapping[str | None, str | None]) -> _Decided:
    rows = np.flatnonzero(decided["decision"].is_valid().to_numpy(zero_copy_only=False))
    told = {name: values.take(pa.array(rows)) for name, values in decided.items()}
    same = {"asset": asset, "version": versions[asset]}
    names = {name: pa.array([value] * len(rows), pa.string()) for name, value in same.items()}
    return _structs(rows, **names, **told)


def _in_order(parts: list[_Decided]) -> pa.ListArray:
    """The decisions of every row as a list, in the order of `parts`."""
    rows = np.concatenate([part.rows for part in parts])
    count = int(rows.max(initial=-1)) + 1
    order = np.argsort(rows, kind="stable")
    structs = pa.concat_arrays([part.structs for part in parts]).take(pa.array(order))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows, minlength=count))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), structs)


def make_image_ledger(store: Store) -> Made:
    """`image_ledger`; its summary counts what was asked for and what became of it."""

    def build(writer: Writer) -> Summary:
        counts: Counter[str] = Counter()
        reasons: Counter[tuple[str, str, str]] = Counter()
        with writer.writing(IMAGE_LEDGER.path) as file, TableWriter(IMAGE_LEDGER, file) as ledger:
            for piece in ledger_pieces(store):
                ledger.append(piece)
                counts.update(balance(piece))
                reasons.update(decision_reasons(piece))
        told = [dict(zip(REASON_COLUMNS, (*key, count), strict=True)) for key, count in sorted(reasons.items())]
        writer.json(REASONS, told)
        catalog = need_receipt(store, "image_catalog").summary
        absent = {
            name: catalog[name] for name in (f"{split}_wanted_in_no_shard" for split in _LISTED) if name in catalog
        }
        return {"rows": ledger.rows, **{name: counts[name] for name in BALANCE}, **absent}

    there = [name for name in OPTIONAL if find_receipt(store, name) is not None]
    inputs = need_receipts(store, *INPUTS, *there)
    return make(store, "image_ledger", inputs=inputs, parameters={}, code_version=CODE_VERSION, build=build)


def decision_reasons(ledger: pa.Table) -> dict[tuple[str, str, str], int]:
    """How many images each asset decided on so and for that reason: `{(asset, decision, reason): images}`.

    Shards are counted together, and of a reason what comes before its particulars.
    """
    flat = ledger["decisions"].combine_chunks().flatten()
    told = pa.table(
        {
            "asset": _without(flat.field("asset"), "/.*"),
            "decision": flat.field("decision"),
            "reason": _without(flat.field("reason"), "[:;].*"),
        }
    )
    counted = told.group_by(told.schema.names, use_threads=False).aggregate([([], "count_all")]).to_pylist()
    return {(row["asset"], row["decision"], row["reason"]): row["count_all"] for row in counted}


def _without(values: pa.Array, pattern: str) -> pa.Array:
    """Values that repeat, without what matches the pattern."""
    coded = values.dictionary_encode()
    return pc.replace_substring_regex(coded.dictionary, pattern, "").take(coded.indices)
