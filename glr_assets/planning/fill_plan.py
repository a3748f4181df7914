"""Which images of the full dataset fill small classes of the competition's set."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.metadata.schemas import COMPETITION_TRAIN, TRAIN_METADATA
from glr_assets.metadata.sorting import sorted_by, sorted_rows
from glr_assets.planning.schemas import CLASS_COUNTS, FILL_PLAN
from glr_assets.ranges import ordered
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Fill
from glr_assets.seeded import seeded_hash
from glr_assets.store import Store
from glr_assets.tables import Table, fixed_width, places, read_parts, read_table

CODE_VERSION = "2"
_HASHED_AT_ONCE = 2**14


#: Of `[fill]`, what decides which images are planned.
DECIDED_BY: Final = frozenset({"threshold", "reserves"})


def plan_fill(train: pa.Table, competition: pa.Table, counts: pa.Table, recipe: Fill, seed: int) -> pa.Table:
    """The images that fill each competition class up to the threshold, and its reserves, as `FILL_PLAN`.

    Candidates are a class's images of the full set that are not in the competition's, in a seeded order
    that no order of rows or shards can change. The first are extras, as many as the class needs; the
    next are reserves. A class that needs nothing has none.

    Args:
        train: `id, landmark_id` of the full train set; of it only the classes below the threshold matter.
        competition: `id` of the competition's set; of it only the images of these classes matter.
        counts: `CLASS_COUNTS`.
        recipe: threshold and reserves.
        seed: of the order.
    """
    landmarks, need = _below(counts, recipe)
    candidates = _of_classes(train, landmarks)
    known = places(fixed_width(competition["id"]), fixed_width(candidates["id"]))
    beside = np.ones(candidates.num_rows, bool)
    beside[known[known >= 0]] = False
    candidates = candidates.filter(pa.array(beside))
    by_id = pa.array(sorted_rows(candidates["id"])[0])
    ids, of_landmark = candidates["id"].combine_chunks().take(by_id), candidates["landmark_id"].take(by_id).to_numpy()
    row_of_class = np.searchsorted(landmarks, of_landmark)
    order = _by_class_and_hash(row_of_class, _hashes(ids, seed))
    row_of_class = row_of_class[order]
    starts = np.flatnonzero(np.r_[True, row_of_class[1:] != row_of_class[:-1]]) if len(order) else np.zeros(0, int)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    needed = need[row_of_class]
    planned = rank < needed + recipe.reserves
    is_reserve = (rank >= needed)[planned].astype(np.int8)
    return pa.table(
        {
            "id": ids.take(pa.array(order[planned])),
            "landmark_id": landmarks[row_of_class[planned]],
            "rank": rank[planned].astype(np.int64),
            "role": pa.array(["extra", "reserve"], pa.string()).take(pa.array(is_reserve)),
        }
    )


def _hashes(ids: pa.Array, seed: int) -> npt.NDArray[np.uint64]:
    """The seeded order's hash of each id, of so many at a time that their strings in Python need little memory."""
    parts = [
        seeded_hash(ids.slice(begin, _HASHED_AT_ONCE), seed, "fill") for begin in range(0, len(ids), _HASHED_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0, np.uint64)


def _by_class_and_hash(row_of_class: npt.NDArray[np.int64], hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The order by class, then hash, then place."""
    # A word of the class and the hash's first bits parts all but a few rows.
    bits = np.uint64(int(row_of_class.max(initial=0)).bit_length())
    classes = row_of_class.astype(np.uint64)
    return sorted_by([classes << (np.uint64(64) - bits) | hashes >> bits if bits else hashes, classes, hashes])[0]


def _below(counts: pa.Table, recipe: Fill) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The competition's classes with fewer images than the threshold, ascending, and how many fewer."""
    images = counts["competition_images"].to_numpy()
    below = (images > 0) & (images < recipe.threshold)
    landmarks, need = counts["landmark_id"].to_numpy()[below], recipe.threshold - images[below]
    order = np.argsort(landmarks)
    return landmarks[order], need[order]


def _of_classes(images: pa.Table, landmarks: npt.NDArray[np.int64]) -> pa.Table:
    """The rows of `images` whose `landmark_id` is one of these."""
    return images.filter(pa.array(np.isin(images["landmark_id"].to_numpy(), landmarks)))


def make_fill_plan(store: Store, recipe: Fill, seed: int) -> Made:
    """`fill_plan`: planned extras and reserves of every class below the threshold."""

    def build(writer: Writer) -> Summary:
        counts = read_table(store, CLASS_COUNTS)
        landmarks, need = _below(counts, recipe)

        def images(table: Table) -> pa.Table:
            parts = [_of_classes(part, landmarks) for part in read_parts(store, table, ["id", "landmark_id"])]
            return pa.concat_tables(parts or [table.empty().select(["id", "landmark_id"])])

        train, competition = ordered(images, (TRAIN_METADATA, COMPETITION_TRAIN), workers=2)
        plan = plan_fill(train, competition, counts, recipe, seed)
        writer.table(FILL_PLAN, plan)
        is_extra = pc.equal(plan["role"], "extra").to_numpy()
        extras = _each(landmarks, plan["landmark_id"].to_numpy()[is_extra])
        short = need - extras
        return {
            "rows": plan.num_rows,
            "extras": int(extras.sum()),
            "reserves": plan.num_rows - int(extras.sum()),
            "classes_below": len(landmarks),
            "classes_filled": int(np.count_nonzero(extras)),
            "classes_exhausted": int(np.count_nonzero(short)),
            "shortfall": int(short.sum()),
        }

    inputs = need_receipts(store, "train_metadata", "competition_train", "class_counts")
    parameters = recipe.model_dump(include=set(DECIDED_BY)) | {"seed": seed}
    return make(store, "fill_plan", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)


def _each(values: npt.NDArray[np.int64], ascending: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How often each of `values` stands in an ascending array."""
    return np.searchsorted(ascending, values, "right") - np.searchsorted(ascending, values, "left")
