"""The planned extras that came through, topped up from the reserves, and the classes that stay short."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.diversity import class_starts
from glr_assets.curation.fates import asked, fates
from glr_assets.curation.leaks import leaks_into_test
from glr_assets.curation.near_duplicates import leaders
from glr_assets.curation.schemas import DEDUPED_MANIFEST, FILL_SHORTFALL, TRAIN_EXTRA, decision_counts
from glr_assets.planning.schemas import CLASS_COUNTS, FILL_PLAN
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Dedupe, Fill
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_table, taken

CODE_VERSION = "2"
#: For `near_duplicate_bits`: nothing is a near-duplicate.
NO_BITS = -1


def fill(
    plan: pa.Table, present: pa.Table, threshold: int, bits: int = NO_BITS, leaks: pa.Table | None = None
) -> pa.Table:
    """Decide on each planned image, as `TRAIN_EXTRA` sorted by id.

    In the plan's order a class takes stored images until those of the competition's set that train and the extras
    together reach the threshold; so reserves stand in for images of either kind that are corrupt, superfluous or
    leak. An image is passed over when it is at most `bits` from one of its class that trains already: it is never
    taken, and where nothing else is left the class stays short.

    Args:
        plan: `FILL_PLAN` with `shard, status, reason, dhash` of each image.
        present: `id, landmark_id, dhash` of the images of the competition's set that train.
        threshold: images a class is filled up to.
        bits: bits within which two are near-duplicates; `NO_BITS` of nothing is.
        leaks: `id, partner, distance, same_file` of images that are passed over for being like a test image.
    """
    landmarks, rank = plan["landmark_id"].to_numpy(), plan["rank"].to_numpy()
    plan = plan.take(pa.array(np.lexsort((rank, landmarks)))).combine_chunks()
    landmarks = plan["landmark_id"].to_numpy()
    ids = fixed_width(plan["id"])
    stored = pc.equal(plan["status"], "stored").to_numpy()
    leaked = np.zeros(len(ids), bool)
    leak = None
    if leaks is not None:
        at = np.where(stored, places(ids, fixed_width(leaks["id"])), -1)
        leaked, leak = at >= 0, taken(leaks, at)
    asked_for = np.flatnonzero(stored & ~leaked)
    present = present.filter(pc.is_in(present["landmark_id"], pc.unique(plan["landmark_id"]))).sort_by("id")
    leader, distance = _leaders(present, plan.take(pa.array(asked_for)), threshold, bits)
    # Of each planned image its leader, numbered as those that train are and then those asked for.
    own, follows, bits_apart = np.full(len(ids), -2), np.full(len(ids), -1), np.full(len(ids), -1, np.int32)
    own[asked_for], follows[asked_for] = present.num_rows + np.arange(len(asked_for)), leader
    kept = follows == own
    near = (follows >= 0) & ~kept
    bits_apart[asked_for] = distance
    bits_apart[~near] = -1
    names = pa.chunked_array([*present["id"].chunks, *plan["id"].take(pa.array(asked_for)).chunks], pa.string())
    partner = names.take(pa.array(follows, mask=~near))
    if leak is not None:
        partner = pc.coalesce(partner, leak["partner"])
        bits_apart = np.where(leaked, pc.fill_null(leak["distance"], -1).to_numpy(), bits_apart)
    extra = pc.equal(plan["role"], "extra").to_numpy()
    number = np.select([~stored, leaked, near, kept & extra, kept, extra], range(6), 6)
    words = [
        None,
        "like a test image",
        "near-duplicate of an image that trains",
        f"fills its class up to {threshold}",
        "reserve in the place of an image that cannot be used",
        f"extra beyond {threshold} images of its class",
        "reserve that was not needed",
    ]
    word = pa.array(words, pa.string()).take(pa.array(number))
    apart = pa.array(bits_apart, mask=bits_apart < 0)
    told = pc.binary_join_element_wise(word, ": ", partner, ", ", apart.cast(pa.string()), " bits apart", "")
    reason = pc.if_else(pa.array(leaked | near), told, word)
    decision = np.where(kept, 0, np.where(stored, 1, 2))
    table = pa.table(
        {
            "id": plan["id"],
            "landmark_id": plan["landmark_id"],
            "shard": plan["shard"],
            "decision": pa.array(["kept", "dropped", "failed"]).take(pa.array(decision)),
            "reason": pc.if_else(pa.array(stored), reason, plan["reason"]),
            "partner": partner,
            "distance": apart,
        }
    )
    return table.take(pa.array(np.argsort(ids, kind="stable")))


def _leaders(
    present: pa.Table, candidates: pa.Table, threshold: int, bits: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """`near_duplicates.leaders` of the candidates, in their order, beside those of their class that train.

    Leaders are numbered as the rows of `present` and then of `candidates`.
    """
    given = present.num_rows
    landmarks, hashes = (
        np.concatenate(parts)
        for parts in (
            (present["landmark_id"].to_numpy(), candidates["landmark_id"].to_numpy()),
            (_hashes(present), _hashes(candidates)),
        )
    )
    order = np.argsort(landmarks, kind="stable")
    starts = class_starts(landmarks[order])
    trains = order < given
    before = np.concatenate([[0], np.cumsum(trains)])
    room = np.maximum(threshold - (before[starts[1:]] - before[starts[:-1]]), 0)
    found = leaders(hashes[order], starts, bits, given=trains, room=room)
    leader, distance = np.empty(len(order), np.int64), np.empty(len(order), np.uint8)
    leader[order] = np.where(found.leader < 0, -1, order[found.leader])
    distance[order] = found.distance
    return leader[given:], distance[given:]


def _hashes(images: pa.Table) -> npt.NDArray[np.uint64]:
    return pc.fill_null(images["dhash"], pa.scalar(0, pa.uint64())).to_numpy()


def shortfall(deduped: pa.Table, extra: pa.Table, counts: pa.Table, threshold: int) -> pa.Table:
    """`FILL_SHORTFALL`: each class of the competition that has fewer images that train than the threshold.

    Args:
        deduped: `id, landmark_id, decision` of `DEDUPED_MANIFEST`.
        extra: the same of `TRAIN_EXTRA`.
        counts: `CLASS_COUNTS`.
        threshold: images a class should have.
    """
    landmarks = np.unique(deduped["landmark_id"].to_numpy())
    kept, extras = _count(deduped, landmarks, "kept"), _count(extra, landmarks, "kept")
    short = np.maximum(threshold - kept - extras, 0)
    at = np.searchsorted(counts["landmark_id"].to_numpy(), landmarks)
    unplanned = counts["extra_images"].to_numpy()[at] - _count(extra, landmarks)
    table = pa.table(
        {
            "landmark_id": landmarks,
            "from_competition": kept,
            "extras": extras,
            "short": short,
            "failed": _count(deduped, landmarks, "failed") + _count(extra, landmarks, "failed"),
            "passed_over": _count(extra, landmarks, "dropped"),
            "unplanned": unplanned,
            "exhausted": unplanned == 0,
        }
    )
    return table.filter(pa.array(short > 0))


def _count(rows: pa.Table, landmarks: npt.NDArray[np.int64], decision: str | None = None) -> npt.NDArray[np.int64]:
    """How many rows, or rows of that decision, each landmark has."""
    chosen = rows if decision is None else rows.filter(pc.equal(rows["decision"], decision))
    ordered = np.sort(chosen["landmark_id"].to_numpy())
    return np.searchsorted(ordered, landmarks, "right") - np.searchsorted(ordered, landmarks, "left")


def make_train_extra(store: Store, recipe: Fill, dedupe: Dedupe) -> Made:
    """`train_extra`; its summary tells how many images the classes are still short of the threshold."""

    def build(writer: Writer) -> Summary:
        found = fates(store, "train")
        deduped = read_table(store, DEDUPED_MANIFEST, ["id", "landmark_id", "decision"])
        kept = deduped.filter(pc.equal(deduped["decision"], "kept")).drop_columns(["decision"])
        bits = dedupe.near_duplicate_bits if recipe.variety else NO_BITS
        leaks = leaks_into_test(store) if dedupe.remove_leaks else None
        extra = fill(asked(read_table(store, FILL_PLAN), found), asked(kept, found), recipe.threshold, bits, leaks)
        writer.table(TRAIN_EXTRA, extra)
        landmarks = np.unique(deduped["landmark_id"].to_numpy())
        trains = _count(deduped, landmarks, "kept") + _count(extra, landmarks, "kept")
        short = np.maximum(recipe.threshold - trains, 0)
        passed_over = pc.and_(pc.equal(extra["decision"], "dropped"), pc.is_valid(extra["partner"]))
        return {
            "requested": extra.num_rows,
            **decision_counts(extra),
            "passed_over": pc.sum(passed_over).as_py() or 0,
            "classes_short": int(np.count_nonzero(short)),
            "shortfall": int(short.sum()),
        }

    inputs = need_receipts(store, "deduped_manifest", "fill_plan", "image_catalog", "train_test_leaks")
    parameters = {
        "threshold": recipe.threshold,
        "variety": recipe.variety,
        "near_duplicate_bits": dedupe.near_duplicate_bits,
        "remove_leaks": dedupe.remove_leaks,
    }
    return make(store, "train_extra", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)


def make_fill_shortfall(store: Store, threshold: int) -> Made:
    """`fill_shortfall`; its summary tells what is lacking in all, and how much of it more reserves could fill."""

    def build(writer: Writer) -> Summary:
        columns = ["id", "landmark_id", "decision"]
        deduped, extra = (read_table(store, table, columns) for table in (DEDUPED_MANIFEST, TRAIN_EXTRA))
        short = shortfall(deduped, extra, read_table(store, CLASS_COUNTS), threshold)
        writer.table(FILL_SHORTFALL, short)
        mendable = short.filter(pc.invert(short["exhausted"]))
        return {
            "rows": short.num_rows,
            "classes": len(pc.unique(deduped["landmark_id"])),
            "shortfall": pc.sum(short["short"]).as_py() or 0,
            "exhausted": short.num_rows - mendable.num_rows,
            "shortfall_more_reserves_could_fill": int(
                np.minimum(mendable["short"].to_numpy(), mendable["unplanned"].to_numpy()).sum()
            ),
        }

    inputs = need_receipts(store, "class_counts", "deduped_manifest", "train_extra")
    parameters = {"threshold": threshold}
    return make(store, "fill_shortfall", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)
