"""Stores of GLDv2's size as the assets before curation leave them: invented images, without their pixels.

Hashes are difference hashes of random smooth luma, which agree as often as those of photographs do. Near-duplicates,
blank images, images under a wrong landmark, leaks, images that fail and images that no shard holds are planted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.images.catalog import receipt_name
from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_INDEX, STORED_TAR
from glr_assets.metadata.schemas import COMPETITION_TRAIN
from glr_assets.planning.schemas import CLASS_COUNTS, FILL_PLAN
from glr_assets.receipts import Summary, Writer, make
from glr_assets.recipes import Fill
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS, shard_path
from glr_assets.store import Store
from glr_assets.tables import Table, TableWriter, fixed_width, places, read_table, write_table
from glr_assets_tests.benchmarks.full_size import Size, TrainImages, index_ids, query_ids, train_images

FILL = Fill()
#: Members of a shard, with which GLDv2 has 500, 100 and 20 shards.
MEMBERS: Mapping[Split, int] = {"train": 8_266, "index": 7_618, "test": 5_879}
MEAN_SOURCE_BYTES, MEAN_STORED_BYTES = 112_000, 33_000
STATUSES = pa.array(["stored", "skipped", "failed"])
REASONS = pa.array(["", "not wanted by the plan", "undecodable: Corrupt JPEG data: premature end of data segment"])
STORED, SKIPPED, FAILED = range(3)
SHARE_FAILED, SHARE_MISSING = 1e-3, 2e-4

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True, eq=False)
class Members:
    """What a split's shards hold, in their order: one row an image.

    Attributes:
        split: the split.
        ids: strings [n].
        landmarks: train landmarks, int64 [n]; none of the other splits.
        status: places in `STATUSES`, int8 [n].
        hashes: difference hashes, uint64 [n].
    """

    split: Split
    ids: pa.Array
    landmarks: npt.NDArray[np.int64] | None
    status: npt.NDArray[np.int8]
    hashes: Hashes

    def __len__(self) -> int:
        return len(self.ids)

    def at(self, rows: slice | npt.NDArray[np.intp]) -> Members:
        """Some of its rows."""
        taken = self.ids[rows] if isinstance(rows, slice) else self.ids.take(pa.array(rows))
        landmarks = None if self.landmarks is None else self.landmarks[rows]
        return Members(self.split, taken, landmarks, self.status[rows], self.hashes[rows])


def smooth_hashes(count: int, seed: int) -> Hashes:
    """Difference hashes of 9x8 luma that is smooth and has some detail, as photographs are."""
    random = np.random.default_rng(seed)
    y, x = np.mgrid[0:8, 0:9] / 8.0
    waves = [np.cos(np.pi * (u * x + v * y)) / (1 + u + v) for u in range(5) for v in range(5) if u + v]
    basis = np.stack(waves).reshape(len(waves), -1).astype(np.float32)
    found = np.empty(count, np.uint64)
    for start in range(0, count, 2**17):
        part = slice(start, min(start + 2**17, count))
        rows = part.stop - start
        luma = random.standard_normal((rows, len(waves)), np.float32) @ basis
        luma = (luma + 0.25 * random.standard_normal((rows, 72), np.float32)).reshape(rows, 8, 9)
        found[part] = np.packbits(luma[:, :, 1:] > luma[:, :, :-1]).view(">u8")
    return found


def flipped(hashes: Hashes, most: int, random: np.random.Generator) -> Hashes:
    """The hashes with up to `most` bits turned over."""
    for _ in range(most):
        turned = np.uint64(1) << random.integers(0, 64, len(hashes)).astype(np.uint64)
        hashes = np.where(random.random(len(hashes)) < 0.6, hashes ^ turned, hashes)
    return hashes


def with_near_duplicates(hashes: Hashes, random: np.random.Generator) -> Hashes:
    """The hashes, every twelfth of them a few bits from the one before it."""
    copies = np.flatnonzero(random.random(max(len(hashes) - 1, 0)) < 1 / 12)
    hashes = hashes.copy()
    hashes[copies + 1] = flipped(hashes[copies], 3, random)
    return hashes


def members(size: Size, train: TrainImages, planned: npt.NDArray[np.intp]) -> list[Members]:
    """What the shards of all splits hold when the competition's set and the `planned` rows of train are wanted."""
    random = np.random.default_rng(0)
    wanted = train.competition.copy()
    wanted[planned] = True
    status = np.where(wanted, np.where(random.random(size.train) < SHARE_FAILED, FAILED, STORED), SKIPPED)
    stored = status == STORED
    hashes = smooth_hashes(size.train, 1)
    # Near-duplicates stand in the same class; some are of another class, some blank.
    by_class = np.flatnonzero(stored)[np.argsort(train.landmark[stored], kind="stable")]
    hashes[by_class] = with_near_duplicates(hashes[by_class], random)
    strays = random.choice(by_class, (2, len(by_class) // 2000), replace=False)
    hashes[strays[0]] = flipped(hashes[strays[1]], 3, random)
    hashes[random.choice(by_class, len(by_class) // 500)] = 0
    found = []
    for split, ids, seed in (("index", index_ids(size), 2), ("test", query_ids(size), 3)):
        others = smooth_hashes(len(ids), seed)
        leaking = random.choice(len(others), len(others) // 100, replace=False)
        others[leaking] = flipped(hashes[random.choice(by_class, len(leaking))], 3, random)
        found.append(Members(split, ids, None, np.full(len(ids), STORED, np.int8), others))  # type: ignore[arg-type]
    found.append(Members("train", train.ids, train.landmark_ids, status.astype(np.int8), hashes))
    return [held.at(np.flatnonzero(random.random(len(held)) >= SHARE_MISSING)) for held in found]


def shards(held: Members) -> Iterator[tuple[str, Members]]:
    """A split's members shard by shard, each with its key."""
    most = MEMBERS[held.split]
    for number, start in enumerate(range(0, len(held), most)):
        yield f"{number:03d}", held.at(slice(start, start + most))


def index_rows(held: Members, shard: str, random: np.random.Generator) -> pa.Table:
    """`IMAGE_INDEX` of one shard, with sizes and places invented."""
    count, stored = len(held), held.status == STORED
    absent = ~stored
    source_size = random.gamma(4, MEAN_SOURCE_BYTES / 4, count).astype(np.int64) + 1000
    stored_size = np.where(stored, random.gamma(4, MEAN_STORED_BYTES / 4, count).astype(np.int64) + 1000, 0)
    wide, high = random.integers(600, 801, count), random.integers(500, 601, count)
    digits = [pc.utf8_slice_codeunits(held.ids, place, place + 1) for place in range(3)]
    status = pa.array(held.status)

    def where_stored(values: np.ndarray | str, kind: pa.DataType) -> pa.Array:
        values = np.full(count, values, object) if isinstance(values, str) else values
        return pa.array(values, kind, mask=absent)

    columns = {
        "id": held.ids,
        "landmark_id": pa.nulls(count, pa.int64()) if held.landmarks is None else pa.array(held.landmarks),
        "status": STATUSES.take(status),
        "reason": REASONS.take(status),
        "member": pc.binary_join_element_wise(
            *digits, pc.binary_join_element_wise(held.ids, pa.scalar(".jpg"), ""), "/"
        ),
        "kind": pa.repeat("file", count),
        "source_path": pa.repeat(shard_path(held.split, shard), count),
        "source_offset": pa.array(_offsets(source_size)),
        "source_size": pa.array(source_size),
        "source_xxh3": pa.array(random.integers(1, 2**64, count, np.uint64)),
        "source_format": where_stored("JPEG", pa.string()),
        "source_width": where_stored(wide, pa.int32()),
        "source_height": where_stored(high, pa.int32()),
        "stored_offset": where_stored(_offsets(stored_size), pa.int64()),
        "stored_size": where_stored(stored_size, pa.int64()),
        "stored_xxh3": where_stored(random.integers(0, 2**64, count, np.uint64), pa.uint64()),
        "pixel_path": where_stored("planes-1", pa.string()),
        "width": where_stored(wide * 384 // high, pa.int32()),
        "height": where_stored(np.full(count, 384), pa.int32()),
        "sharpness": where_stored(random.gamma(2, 400, count), pa.float32()),
        "dhash": where_stored(held.hashes, pa.uint64()),
        "dhash_path": where_stored("luma-1", pa.string()),
    }
    return pa.table(columns).select(IMAGE_INDEX.schema.names).cast(IMAGE_INDEX.schema)


def _offsets(sizes: np.ndarray) -> np.ndarray:
    """Where members of these sizes begin in a TAR: a header of 512 bytes before each, padded to 512; none of 0."""
    blocks = np.where(sizes > 0, 512 + (sizes + 511) // 512 * 512, 0)
    return np.concatenate([[0], np.cumsum(blocks)[:-1]]) + 512


def list_shard(bucket: Path, split: Split, shard: str) -> None:
    """A bucket's shard for whoever lists the bucket; it holds nothing."""
    path = bucket / shard_path(split, shard)
    path.parent.mkdir(exist_ok=True)
    path.touch()


def leave_shard(store: Store, split: Split, shard: str, index: pa.Table) -> None:
    """A shard's index and receipt, as its ingest leaves them, and a stored TAR that holds nothing."""

    def build(writer: Writer) -> Summary:
        writer.write(STORED_TAR.format(split=split, shard=shard), bytes(1024))
        writer.table(IMAGE_INDEX, index, split=split, shard=shard)
        counts = {word: pc.sum(pc.equal(index["status"], word)).as_py() or 0 for word in STATUSES.to_pylist()}
        return {"seen": index.num_rows, **counts}

    make(store, receipt_name(split, shard), inputs={}, parameters={}, code_version="0", build=build)


def write_shards(bucket: Path, store: Store, size: Size) -> None:
    """The indexes and receipts of all shards for the store's fill plan, and the shards in the bucket's listing."""
    train = train_images(size)
    plan = places(fixed_width(read_table(store, FILL_PLAN, ["id"])["id"]), fixed_width(train.ids))
    for held in members(size, train, plan):
        random = np.random.default_rng([10, SPLITS.index(held.split)])
        for shard, part in shards(held):
            list_shard(bucket, held.split, shard)
            leave_shard(store, held.split, shard, index_rows(part, shard, random))


def write_store(store: Store, size: Size) -> None:
    """The tables that dedupe, leaks and filling read, without receipts."""
    train = train_images(size)
    plan = _plan(train.landmark_ids, train.competition)
    _write(store, COMPETITION_TRAIN, {"id": train.ids, "landmark_id": train.landmark_ids}, train.competition)
    in_competition = np.bincount(train.landmark[train.competition], minlength=size.landmarks)
    counts = {"landmark_id": train.classes.landmark_ids, "train_images": train.classes.images}
    counts |= {"competition_images": in_competition, "extra_images": train.classes.images - in_competition}
    _write(store, CLASS_COUNTS, counts)
    _write(store, FILL_PLAN, {"id": train.ids.take(pa.array(plan["row"])), **{n: plan[n] for n in plan if n != "row"}})
    with store.writing(IMAGE_CATALOG.path) as file, TableWriter(IMAGE_CATALOG, file) as catalog:
        for held in members(size, train, plan["row"]):
            random = np.random.default_rng([10, SPLITS.index(held.split)])
            for shard, part in shards(held):
                rows = index_rows(part, shard, random)
                place = [pa.repeat(pa.scalar(value), len(part)) for value in (held.split, shard)]
                catalog.append(pa.table([*place, *rows.columns], names=IMAGE_CATALOG.schema.names))


def _plan(landmarks: npt.NDArray[np.int64], competition: npt.NDArray[np.bool_]) -> dict[str, np.ndarray]:
    """A fill plan in the order of rows: `row, landmark_id, rank, role`."""
    order = np.lexsort((~competition, landmarks))
    starts = np.flatnonzero(np.r_[True, np.diff(landmarks[order]) > 0])
    sizes = np.diff(np.r_[starts, len(order)])
    have = np.add.reduceat(competition[order], starts, dtype=np.int64)
    rank = np.arange(len(order)) - np.repeat(starts + have, sizes)
    need = np.repeat(np.where(have > 0, np.maximum(FILL.threshold - have, 0), 0), sizes)
    planned = (rank >= 0) & (need > 0) & (rank < need + FILL.reserves)
    role = np.where(rank < need, "extra", "reserve")[planned]
    return {"row": order[planned], "landmark_id": landmarks[order][planned], "rank": rank[planned], "role": role}


def _write(
    store: Store, table: Table, columns: Mapping[str, object], rows: npt.NDArray[np.bool_] | None = None
) -> None:
    data = pa.table({name: pa.array(values) for name, values in columns.items()})
    data = data if rows is None else data.filter(pa.array(rows))
    with store.writing(table.path) as file:
        write_table(table, data.select(table.schema.names).cast(table.schema), file)
