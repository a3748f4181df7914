"""The planned extras that came through, topped up from the reserves."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.fates import asked, fates
from glr_assets.curation.schemas import TRAIN_EXTRA, decision_counts
from glr_assets.metadata.schemas import COMPETITION_TRAIN
from glr_assets.planning.schemas import FILL_PLAN
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "1"


def fill(plan: pa.Table, stored_competition: pa.Table, threshold: int) -> pa.Table:
    """Decide on each planned image, as `TRAIN_EXTRA` sorted by id.

    In the plan's order, a class takes stored images until those of the competition's set that are stored
    and the extras together reach the threshold; so reserves stand in for corrupt images of either kind.

    Args:
        plan: `FILL_PLAN` with `shard, status, reason` of each image.
        stored_competition: `landmark_id` of the stored images of the competition's set.
        threshold: images a class is filled up to.
    """
    plan = plan.sort_by([("landmark_id", "ascending"), ("rank", "ascending")])
    landmarks = plan["landmark_id"].to_numpy()
    stored = pc.equal(plan["status"], "stored").to_numpy()
    present = _count(stored_competition["landmark_id"].to_numpy(), landmarks)
    # Stored images of the class up to and with this one, along the plan.
    running = np.cumsum(stored)
    starts = np.flatnonzero(np.r_[True, landmarks[1:] != landmarks[:-1]]) if len(landmarks) else np.zeros(0, int)
    before = (running - stored)[starts]
    sizes = np.diff(np.r_[starts, len(landmarks)])
    position = running - np.repeat(before, sizes)
    kept = stored & (present + position <= threshold)
    used = {"extra": f"fills its class up to {threshold}", "reserve": "reserve in the place of a corrupt image"}
    unused = {"extra": f"extra beyond {threshold} images of its class", "reserve": "reserve that was not needed"}
    words = [
        reason if not is_stored else (used if is_kept else unused)[role]
        for role, is_kept, is_stored, reason in zip(
            plan["role"].to_pylist(), kept, stored, plan["reason"].to_pylist(), strict=True
        )
    ]
    decision = np.where(kept, "kept", np.where(stored, "dropped", "failed"))
    return pa.table(
        {
            "id": plan["id"],
            "landmark_id": plan["landmark_id"],
            "shard": plan["shard"],
            "decision": pa.array(decision.tolist(), pa.string()),
            "reason": pa.array(words, pa.string()),
        }
    ).sort_by("id")


def _count(values: npt.NDArray[np.int64], wanted: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """How often each of `wanted` stands in `values`."""
    ordered = np.sort(values)
    return np.searchsorted(ordered, wanted, "right") - np.searchsorted(ordered, wanted, "left")


def make_train_extra(store: Store, threshold: int) -> Made:
    """`train_extra`; its summary tells how many images the classes are still short of the threshold."""

    def build(writer: Writer) -> Summary:
        found = fates(store, "train")
        competition = asked(read_table(store, COMPETITION_TRAIN), found)
        present = competition.filter(pc.equal(competition["status"], "stored"))
        extra = fill(asked(read_table(store, FILL_PLAN), found), present, threshold)
        writer.table(TRAIN_EXTRA, extra)
        classes = pc.unique(competition["landmark_id"]).to_numpy()
        kept = extra.filter(pc.equal(extra["decision"], "kept"))
        filled = _count(present["landmark_id"].to_numpy(), classes) + _count(kept["landmark_id"].to_numpy(), classes)
        short = np.maximum(threshold - filled, 0)
        return {
            "requested": extra.num_rows,
            **decision_counts(extra),
            "classes_short": int(np.count_nonzero(short)),
            "shortfall": int(short.sum()),
        }

    inputs = need_receipts(store, "competition_train", "fill_plan", "image_catalog")
    parameters = {"threshold": threshold}
    return make(store, "train_extra", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)
