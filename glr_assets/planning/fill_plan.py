"""Which images of the full dataset fill small classes of the competition's set."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.metadata.schemas import COMPETITION_TRAIN, TRAIN_METADATA
from glr_assets.planning.schemas import CLASS_COUNTS, FILL_PLAN
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Fill
from glr_assets.seeded import seeded_hash
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "1"


def plan_fill(train: pa.Table, competition: pa.Table, counts: pa.Table, recipe: Fill, seed: int) -> pa.Table:
    """The images that fill each competition class up to the threshold, and its reserves, as `FILL_PLAN`.

    Candidates are a class's images of the full set that are not in the competition's, in a seeded order
    that no order of rows or shards can change. The first are extras, as many as the class needs; the
    next are reserves. A class that needs nothing has none.

    Args:
        train: `id, landmark_id` of the full train set.
        competition: `id` of the competition's set.
        counts: `CLASS_COUNTS`.
        recipe: threshold and reserves.
        seed: of the order.
    """
    need = np.maximum(recipe.threshold - counts["competition_images"].to_numpy(), 0)
    filled = (counts["competition_images"].to_numpy() > 0) & (need > 0)
    landmarks, need = counts["landmark_id"].to_numpy()[filled], need[filled]
    candidates = train.filter(pc.is_in(train["landmark_id"], pa.array(landmarks)))
    candidates = candidates.filter(pc.invert(pc.is_in(candidates["id"], competition["id"].combine_chunks())))
    ids, of_landmark = candidates["id"].combine_chunks(), candidates["landmark_id"].to_numpy()
    # Sorted by id first, so that equal hashes are parted by id: lexsort is stable.
    by_id = pc.sort_indices(ids).to_numpy()
    ids, of_landmark = ids.take(pa.array(by_id)), of_landmark[by_id]
    order = np.lexsort((seeded_hash(ids, seed, "fill"), of_landmark))
    of_landmark = of_landmark[order]
    starts = np.flatnonzero(np.r_[True, of_landmark[1:] != of_landmark[:-1]]) if len(order) else np.zeros(0, int)
    sizes = np.diff(np.r_[starts, len(order)])
    rank = np.arange(len(order)) - np.repeat(starts, sizes)
    # landmarks is sorted, as class_counts is
    needed = need[np.searchsorted(landmarks, of_landmark)]
    planned = rank < needed + recipe.reserves
    plan = pa.table(
        {
            "id": ids.take(pa.array(order[planned])),
            "landmark_id": of_landmark[planned],
            "rank": rank[planned].astype(np.int64),
            "role": pa.array(np.where(rank < needed, "extra", "reserve")[planned].tolist(), pa.string()),
        }
    )
    return plan.sort_by([("landmark_id", "ascending"), ("rank", "ascending")])


def make_fill_plan(store: Store, recipe: Fill, seed: int) -> Made:
    """`fill_plan`: planned extras and reserves of every class below the threshold."""

    def build(writer: Writer) -> Summary:
        columns = ["id", "landmark_id"]
        counts = read_table(store, CLASS_COUNTS)
        plan = plan_fill(
            read_table(store, TRAIN_METADATA, columns),
            read_table(store, COMPETITION_TRAIN, columns),
            counts,
            recipe,
            seed,
        )
        writer.table(FILL_PLAN, plan)
        extras = pc.sum(pc.equal(plan["role"], "extra")).as_py() or 0
        competition_images = counts["competition_images"].to_numpy()
        wanted = np.maximum(recipe.threshold - competition_images, 0)[competition_images > 0].sum()
        return {
            "rows": plan.num_rows,
            "extras": extras,
            "reserves": plan.num_rows - extras,
            "classes_filled": len(pc.unique(plan["landmark_id"])),
            "shortfall": int(wanted) - extras,
        }

    inputs = need_receipts(store, "train_metadata", "competition_train", "class_counts")
    parameters = recipe.model_dump() | {"seed": seed}
    return make(store, "fill_plan", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)
