"""All shards' indexes as one table, where each stored image lies, and what of the source is still to be ingested.

The catalog is written a shard at a time: at GLDv2's size it has five million rows, and no more than a few
shards' are in memory together. Locations are sorted by id, with some 50 bytes an image in memory.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import IO

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.errors import MissingInputError, TableError
from glr_assets.images.held import AbsentImages, wanted_images
from glr_assets.images.members import BEHIND_FIGURE, may_succeed
from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_INDEX, IMAGE_LOCATIONS
from glr_assets.images.selection import selection_tables
from glr_assets.ranges import ordered
from glr_assets.receipts import Made, Receipt, Summary, Writer, damage, find_receipt, make
from glr_assets.recipes import Images
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store
from glr_assets.tables import TableWriter, fixed_width, read_table

CODE_VERSION = "4"
REPEATED = "repeated id: stored from an earlier shard"
STATUSES = ("stored", "skipped", "failed")
#: Small files that are asked for at once; a remote store answers each in tens of milliseconds.
REQUESTS = 16
#: Rows of a row group of locations: what is read to find one image.
LOCATIONS_A_GROUP = 2**14
_LOCATION = np.dtype(
    [
        ("shard", np.int32),
        ("stored_offset", np.int64),
        ("stored_size", np.int64),
        ("stored_xxh3", np.uint64),
        ("digested", np.bool_),
    ]
)
#: Indexes read ahead of the one that is written: about 5 MB each in memory.
AHEAD = 4


@dataclass(frozen=True)
class Reconciled:
    """What of a split has been ingested, by the receipts of its shards.

    Attributes:
        shards: the source's, sorted.
        ingested: those with a receipt.
        missing: those without.
        failing: the ingested ones of which some member failed.
        retriable: those of them of which some failed member may be stored when it is tried again.
        seen: members of the ingested shards.
        stored, skipped, failed: what became of them.
        behind_end_mark: by shard, what stands behind the end mark of its TAR: members, or other bytes as one.
    """

    shards: tuple[str, ...]
    ingested: tuple[str, ...]
    missing: tuple[str, ...]
    failing: tuple[str, ...]
    retriable: tuple[str, ...]
    seen: int
    stored: int
    skipped: int
    failed: int
    behind_end_mark: Mapping[str, int] = field(default_factory=dict)


def reconcile(shards: Mapping[Split, Sequence[str]], receipts: Mapping[str, Receipt]) -> dict[Split, Reconciled]:
    """The source's shards beside the receipts of those that were ingested, by split.

    Args:
        shards: the keys of each split's shards.
        receipts: by name, as `train_images/000`; others than of these shards are left aside.

    Raises:
        TableError: a shard's members are not all accounted for: seen is not stored + skipped + failed.
    """
    return {split: _reconciled(split, sorted(keys), receipts) for split, keys in shards.items()}


def _reconciled(split: Split, shards: Sequence[str], receipts: Mapping[str, Receipt]) -> Reconciled:
    found = {key: receipts[receipt_name(split, key)] for key in shards if receipt_name(split, key) in receipts}
    counts = {key: _counts(receipt) for key, receipt in found.items()}
    totals: Counter[str] = Counter()
    for of_shard in counts.values():
        totals.update(of_shard)
    return Reconciled(
        shards=tuple(shards),
        ingested=tuple(found),
        missing=tuple(key for key in shards if key not in found),
        failing=tuple(key for key, of_shard in counts.items() if of_shard["failed"]),
        retriable=tuple(key for key, receipt in found.items() if may_succeed(receipt.summary)),
        seen=totals["seen"],
        **{status: totals[status] for status in STATUSES},
        behind_end_mark={
            key: int(receipt.summary[BEHIND_FIGURE] or 0)
            for key, receipt in found.items()
            if BEHIND_FIGURE in receipt.summary
        },
    )


def _counts(receipt: Receipt) -> dict[str, int]:
    counts = {name: int(receipt.summary.get(name) or 0) for name in ("seen", *STATUSES)}
    accounted = sum(counts[status] for status in STATUSES)
    if counts["seen"] != accounted:
        raise TableError(
            f"{receipt.name}: its receipt tells of {counts['seen']} members but of {accounted} stored, skipped or "
            "failed; remove the receipt and ingest the shard again"
        )
    return counts


def receipt_name(split: Split, shard: str) -> str:
    """The name under which a shard's ingest leaves its receipt."""
    return f"{split}_images/{shard}"


def shard_receipts(store: Store, shards: Mapping[Split, Sequence[str]]) -> dict[str, Receipt]:
    """The receipts of those of these shards that have been ingested, by name; each is read once.

    Raises:
        MissingInputError: a file of a receipt is gone or cut.
    """
    names = [receipt_name(split, key) for split, keys in shards.items() for key in sorted(keys)]

    def whole(name: str) -> Receipt | None:
        receipt = find_receipt(store, name)
        wrong = "" if receipt is None else damage(store, receipt)
        if wrong:
            raise MissingInputError(f"{name} in {store.url} is damaged: {wrong}; materialise it again")
        return receipt

    return {receipt.name: receipt for receipt in ordered(whole, names, workers=REQUESTS) if receipt}


def make_image_catalog(source: Source, store: Store, recipe: Images | None = None) -> Made:
    """`image_catalog` of the shards that have been ingested, with locations by id; its summary counts what is missing.

    Of a split of which all shards are ingested it counts the wanted images that none of them holds, and names some.

    Args:
        source: which shards there are.
        store: what was ingested.
        recipe: which images are wanted; the default's where none is given.

    Raises:
        MissingInputError: a file of an ingested shard is gone or cut.
        TableError: an index has not the rows that its shard's receipt tells of.
    """
    shards = {split: source.shards(split) for split in SPLITS}
    receipts = shard_receipts(store, shards)
    reconciled = reconcile(shards, receipts)
    missing = {f"{split}_shards_missing": len(state.missing) for split, state in reconciled.items()}
    images = recipe if recipe is not None else Images()
    behind = sum(sum(state.behind_end_mark.values()) for state in reconciled.values())

    def build(writer: Writer) -> Summary:
        counts: Counter[str] = Counter()
        stored = {split: SplitLocations(split) for split in reconciled}
        absent: dict[Split, AbsentImages] = {}
        with (
            writer.writing(IMAGE_CATALOG.path) as file,
            TableWriter(IMAGE_CATALOG, file) as catalog,
        ):
            for split, state in reconciled.items():
                # Before all shards are there, an image may be in one that is to come.
                wanted = None if state.missing else wanted_images(store, split, images)
                for key, part, repeated in catalog_parts(store, split, state.ingested):
                    of_part = _statuses(part)
                    _agree(receipts[receipt_name(split, key)], of_part, repeated)
                    counts.update({f"{split}_{status}": of_part[status] for status in STATUSES})
                    catalog.append(part)
                    stored[split].add(key, part)
                    if wanted is not None:
                        wanted.tick(part["id"])
                if wanted is not None:
                    absent[split] = wanted.absent()
            rows = catalog.rows
        with writer.writing(IMAGE_LOCATIONS.path) as file:
            write_locations(stored, file)
        figures = {f"{split}_{status}": counts[f"{split}_{status}"] for split in SPLITS for status in STATUSES}
        return {
            "rows": rows,
            **figures,
            **missing,
            **{f"{split}_wanted_in_no_shard": found.count for split, found in absent.items()},
            **{absent_figure(split): ", ".join(found.examples) for split, found in absent.items() if found.count},
            **({BEHIND_FIGURE: behind} if behind else {}),
        }

    inputs = {name: receipt.digest for name, receipt in receipts.items()}
    for name in sorted({name for split in SPLITS for name in selection_tables(split, images)}):
        table = find_receipt(store, name)
        inputs |= {} if table is None else {name: table.digest}
    parameters = missing | {"keep": images.keep}
    return make(store, "image_catalog", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)


def absent_figure(split: Split) -> str:
    """The figure of the catalog's receipt that names some of a split's wanted images that no shard holds."""
    return f"{split}_wanted_in_no_shard_as"


def absent_problem(summary: Summary) -> str:
    """Wanted images that no shard holds, by the figures of the catalog's receipt; empty where there are none."""
    counts = {split: summary.get(f"{split}_wanted_in_no_shard") for split in SPLITS}
    return "; ".join(
        f"{split}: {count} wanted images are in no shard of the source, as {summary[absent_figure(split)]}"
        for split, count in counts.items()
        if count
    )


class SplitLocations:
    """Where the stored images of a split lie: gathered shard by shard, given out by id."""

    def __init__(self, split: Split) -> None:
        self._split = split
        self._shards: list[str] = []
        self._ids: list[npt.NDArray[np.bytes_]] = [np.zeros(0, "S1")]
        self._rows: list[npt.NDArray[np.void]] = [np.zeros(0, _LOCATION)]

    def add(self, shard: str, rows: pa.Table) -> None:
        """Take the stored images of the catalog's rows of one shard; no id is stored twice."""
        stored = rows.filter(pc.equal(rows["status"], "stored"))
        found = np.zeros(stored.num_rows, _LOCATION)
        found["shard"] = len(self._shards)
        for name in ("stored_offset", "stored_size"):
            found[name] = stored[name].to_numpy()
        found["stored_xxh3"] = pc.fill_null(stored["stored_xxh3"], pa.scalar(0, pa.uint64())).to_numpy()
        found["digested"] = stored["stored_xxh3"].is_valid().to_numpy()
        self._shards.append(shard)
        self._ids.append(fixed_width(stored["id"]))
        self._rows.append(found)

    def sorted_parts(self) -> Iterator[pa.Table]:
        """Rows of `IMAGE_LOCATIONS` by id, `LOCATIONS_A_GROUP` together."""
        ids, rows = np.concatenate(self._ids), np.concatenate(self._rows)
        self._ids.clear()
        self._rows.clear()
        order = np.argsort(ids, kind="stable")
        shards = pa.array(self._shards, pa.string())
        for start in range(0, len(order), LOCATIONS_A_GROUP):
            at = order[start : start + LOCATIONS_A_GROUP]
            part = rows[at]
            columns = {
                "split": pa.repeat(pa.scalar(self._split, pa.string()), len(at)),
                "id": pa.array([key.decode() for key in ids[at].tolist()], pa.string()),
                "shard": shards.take(pa.array(part["shard"])),
                "stored_offset": pa.array(part["stored_offset"]),
                "stored_size": pa.array(part["stored_size"]),
                "stored_xxh3": pa.array(part["stored_xxh3"], mask=~part["digested"]),
            }
            yield pa.table(columns)


def write_locations(stored: Mapping[Split, SplitLocations], file: IO[bytes]) -> None:
    """Write `IMAGE_LOCATIONS` of all splits."""
    with TableWriter(IMAGE_LOCATIONS, file) as locations:
        for split in sorted(stored):  # keys ascend from split to split too
            for part in stored[split].sorted_parts():
                locations.append(part)


def _statuses(part: pa.Table) -> dict[str, int]:
    return {status: pc.sum(pc.equal(part["status"], status)).as_py() or 0 for status in STATUSES}


def _agree(receipt: Receipt, found: Mapping[str, int], repeated: int) -> None:
    """That what the catalog takes of a shard is what its ingest said it left."""
    told = _counts(receipt)
    expected = {**told, "stored": told["stored"] - repeated, "skipped": told["skipped"] + repeated}
    if any(found[status] != expected[status] for status in STATUSES):
        was = {**found, "stored": found["stored"] + repeated, "skipped": found["skipped"] - repeated}
        raise TableError(
            f"{receipt.name}: its index has {was}, its receipt tells of "
            f"{ {status: told[status] for status in STATUSES} }; remove the receipt and ingest the shard again"
        )


def catalog_parts(store: Store, split: Split, shards: Sequence[str]) -> Iterator[tuple[str, pa.Table, int]]:
    """The catalog's rows of each of a split's shards in order: (shard, rows, ids stored from an earlier shard).

    Of an id that is stored twice only the first in the order of shards and members counts as stored.
    """
    keys = sorted(shards)
    repeated = _repeated(store, split, keys)

    def part(key: str) -> tuple[str, pa.Table, int]:
        index = read_table(store, IMAGE_INDEX, IMAGE_INDEX.schema.names, split=split, shard=key)
        again = repeated.get(key)
        if again is not None:
            index = _skipped(index, again)
        places = [pa.repeat(pa.scalar(value, pa.string()), index.num_rows) for value in (split, key)]
        rows = pa.table(places + index.columns, names=IMAGE_CATALOG.schema.names)
        return key, rows, 0 if again is None else len(again)

    yield from ordered(part, keys, workers=AHEAD)


def _repeated(store: Store, split: Split, keys: Sequence[str]) -> dict[str, npt.NDArray[np.int64]]:
    """Of each shard that stored ids which an earlier one stores too, the rows of these."""

    def stored(key: str) -> tuple[npt.NDArray[np.bytes_], npt.NDArray[np.int64]]:
        index = read_table(store, IMAGE_INDEX, ["id", "status"], split=split, shard=key)
        mask = pc.equal(index["status"], "stored")
        return fixed_width(index["id"].filter(mask)), np.flatnonzero(mask.to_numpy())

    found = list(ordered(stored, keys, workers=AHEAD))
    if not found:
        return {}
    ids = np.concatenate([of_shard for of_shard, _ in found])
    places = later_repeats(ids)
    shards = np.repeat(np.arange(len(keys)), [len(rows) for _, rows in found])[places]
    rows = np.concatenate([rows for _, rows in found])[places]
    return {keys[number]: rows[shards == number] for number in np.unique(shards)}


def later_repeats(ids: npt.NDArray[np.bytes_]) -> npt.NDArray[np.int64]:
    """The places of values that stand earlier too, ascending."""
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    return np.sort(order[1:][ordered[1:] == ordered[:-1]])


def _skipped(index: pa.Table, rows: npt.NDArray[np.int64]) -> pa.Table:
    mask = np.zeros(index.num_rows, bool)
    mask[rows] = True
    for name, value in (("status", "skipped"), ("reason", REPEATED)):
        place = index.schema.get_field_index(name)
        column = pc.if_else(pa.array(mask), pa.scalar(value), index[name])
        index = index.set_column(place, index.schema.field(place), column)
    return index
