"""`non_landmark_filter`: the curated set without the photographs that show no landmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.chosen import FILTER_MANIFEST, chosen_inputs
from glr_assets.curation.galleries import Shown, shown_gallery
from glr_assets.curation.schemas import decision_counts
from glr_assets.filtering.classifier import SCORE_DECIMALS
from glr_assets.filtering.examples import photograph_name, verified_ids
from glr_assets.filtering.scores import scored_shards
from glr_assets.manifests import kept_images
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER, NON_LANDMARK_SCORES, NON_LANDMARK_VALIDATION
from glr_assets.plots import lines
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Filter
from glr_assets.seeded import derived_seed
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_table, taken
from glr_assets.verification.calibration import halves_of

ASSET: Final = "non_landmark_filter"
CODE_VERSION = "3"
CURVE_PICTURE: Final = "reports/non_landmark_filter.png"
CURVE_REPORT: Final = "reports/non_landmark_filter.json"
DROPPED_PICTURE: Final = "reports/non_landmark_filter_dropped.jpg"
BORDERLINE_PICTURE: Final = "reports/non_landmark_filter_borderline.jpg"
SPARED_PICTURE: Final = "reports/non_landmark_filter_spared.jpg"
LANDMARK: Final = "a landmark"
_SHOWN_COLUMNS, _SHOWN_ROWS = 6, 4
#: A score of 1 is the highest there is: nothing is dropped by this threshold.
NEVER: Final = 1.0 + 10.0**-SCORE_DECIMALS

#: A photograph of this score is as likely none of a landmark as one.
LEAST: Final = 0.5
#: Draws of landmarks with replacement for a lower bound of this confidence.
RESAMPLES: Final = 200
CONFIDENCE: Final = 0.95

Floats = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


def threshold_of(landmarks: Floats, max_false_rate: float) -> float:
    """The least score, in steps of its last decimal, which at most that share of held-out landmark photographs reach.

    It is `LEAST` or more: what is likelier a landmark than not is no matter of a few held-out photographs. It is
    `NEVER` where even the highest score is reached by more of them, or there are none.

    Args:
        landmarks: their scores [n].
        max_false_rate: in 0…1.
    """
    if not len(landmarks):
        return NEVER
    allowed = int(max_false_rate * len(landmarks))
    # The first score that is not allowed any more must stay under the threshold.
    falling = np.sort(landmarks)[::-1]
    if allowed >= len(landmarks):
        return LEAST
    return max(LEAST, round(float(falling[allowed]) + 10.0**-SCORE_DECIMALS, SCORE_DECIMALS))


@dataclass(frozen=True)
class DroppedShare:
    """Share of landmark photographs that thresholds drop.

    Attributes:
        share: of the photographs.
        least: what it is not less than, with a confidence of 95 %.
    """

    share: float
    least: float


def dropped_share(
    scores: Floats, landmarks: Counts, max_false_rate: float, threshold: float | None = None
) -> DroppedShare | None:
    """Share of held-out landmark photographs that a threshold drops which other landmarks chose.

    Each half of the landmarks chooses a threshold, and the photographs of the other half are judged by it. So the
    share says how the way of choosing does on photographs that it has not seen; of the photographs that chose a
    threshold it drops `max_false_rate` at most, however bad the scores are. The lower bound is a quantile over draws of
    landmarks with replacement (Efron and Tibshirani 1993, chapter 13), as photographs of a landmark are alike.

    Args:
        scores: float64 [n].
        landmarks: int64 [n], of each photograph.
        max_false_rate: in 0…1.
        threshold: that of the recipe, which no photograph chose; None where it is chosen.

    Returns:
        None where there are fewer than two landmarks.
    """
    half = halves_of(landmarks, 0)
    if len(np.unique(half)) < 2:
        return None
    chosen = [threshold_of(scores[half == number], max_false_rate) for number in (0, 1)]
    dropped = scores >= (np.array(chosen)[1 - half] if threshold is None else threshold)
    _, number = np.unique(landmarks, return_inverse=True)
    counts, of_landmark = np.bincount(number), np.bincount(number, dropped)
    random = np.random.default_rng(derived_seed("landmarks drawn with replacement", len(counts)))
    draws = (np.bincount(random.integers(0, len(counts), len(counts)), minlength=len(counts)) for _ in range(RESAMPLES))
    shares = [float((times @ of_landmark) / (times @ counts)) for times in draws]
    return DroppedShare(float(dropped.mean()), float(np.quantile(shares, 1 - CONFIDENCE)))


def curve_of(landmarks: Floats, others: Floats, steps: int = 101) -> dict[str, list[float]]:
    """What thresholds from 0 to 1 drop: shares of held-out landmark photographs and of held-out crops."""
    thresholds = np.linspace(0.0, 1.0, steps)

    def share(scores: Floats) -> list[float]:
        return [float((scores >= at).mean()) if len(scores) else 0.0 for at in thresholds]

    return {"threshold": thresholds.tolist(), "landmarks": share(landmarks), "crops": share(others)}


def decide(images: pa.Table, scores: pa.Table, verified: pa.Array, threshold: float, spare: bool) -> pa.Table:
    """`NON_LANDMARK_FILTER`.

    Args:
        images: `id, landmark_id, shard` of the set that is filtered, sorted by id.
        scores: `NON_LANDMARK_SCORES` of their shards, sorted by id.
        verified: ids that geometry verified.
        threshold: least score of a photograph without landmark.
        spare: whether verified ones stay whatever their score.
    """
    found = taken(scores, places(fixed_width(images["id"]), fixed_width(scores["id"])))
    sure = pc.is_in(images["id"], verified)
    reached = pc.fill_null(pc.greater_equal(found["score"], threshold), False)
    like = pc.binary_join_element_wise(
        "looks like ", pc.fill_null(found["category"], ""), ", not like a landmark: score ", _told(found["score"]), ""
    )
    wanted = f"{threshold:.{SCORE_DECIMALS}f}"
    missing = pc.fill_null(found["reason"], "not stored: it is not among the images of its shard")
    failed = pc.is_null(found["score"])
    dropped = pc.and_(reached, pc.invert(sure)) if spare else reached
    spared = pc.binary_join_element_wise("verified by geometry, though it ", like, "")
    under = pc.binary_join_element_wise("like a landmark: score ", _told(found["score"]), f", under {wanted}", "")
    over = pc.binary_join_element_wise(like, f", {wanted} or more", "")
    kept = pc.if_else(reached, spared, under)
    return pa.table(
        {
            "id": images["id"],
            "landmark_id": images["landmark_id"],
            "shard": images["shard"],
            "decision": pc.if_else(failed, "failed", pc.if_else(dropped, "dropped", "kept")),
            "reason": pc.if_else(failed, missing, pc.if_else(dropped, over, kept)),
            "score": found["score"],
            "category": found["category"],
            "verified": sure,
        }
    )


def _told(scores: pa.ChunkedArray) -> pa.Array:
    return pa.array([None if score is None else f"{score:.{SCORE_DECIMALS}f}" for score in scores.to_pylist()])


#: Of `[filter]`, what decides who stays.
DECIDED_BY: Final = frozenset({"manifest", "max_false_rate", "threshold", "spare_verified"})


def make_non_landmark_filter(store: Store, recipe: Filter) -> Made:
    """`non_landmark_filter`: who stays, by a threshold that is set on held-out pictures.

    With the curve of thresholds, and pictures of what is dropped, of what is nearest to the threshold, and of what
    geometry spared.

    Raises:
        MissingInputError: the set, the scores of a shard of it or the verified set have not been made.
    """
    images = kept_images(store, recipe.manifest)
    shards = pc.unique(images["shard"]).to_pylist()
    inputs = chosen_inputs(store, FILTER_MANIFEST, recipe.manifest)
    inputs |= need_receipts(store, "cleaned_manifest", "non_landmark_classifier")
    inputs |= scored_shards(store, shards)

    def build(writer: Writer) -> Summary:
        validation = read_table(store, NON_LANDMARK_VALIDATION)
        shows = np.asarray(pc.equal(validation["shown"], LANDMARK).to_numpy(zero_copy_only=False))
        sure = np.asarray(validation["verified"].to_numpy(zero_copy_only=False))
        held_out = validation["score"].to_numpy()
        of_landmarks = shows & sure if (shows & sure).any() else shows
        landmarks, others = held_out[of_landmarks], held_out[~shows]
        threshold = recipe.threshold or threshold_of(landmarks, recipe.max_false_rate)
        shown = _landmarks_of(validation["picture"].filter(pa.array(of_landmarks)), images)
        judged = dropped_share(landmarks, shown, recipe.max_false_rate, recipe.threshold)
        scores = pa.concat_tables(read_table(store, NON_LANDMARK_SCORES, shard=shard) for shard in sorted(shards))
        found = decide(images, scores.sort_by("id"), verified_ids(store), threshold, recipe.spare_verified)
        writer.table(NON_LANDMARK_FILTER, found)
        _draw(store, writer, found, landmarks, others, threshold)
        return {
            "requested": images.num_rows,
            **decision_counts(found),
            "spared": _spared(found, threshold).num_rows,
            "threshold": threshold,
            "held_out_landmarks": len(landmarks),
            "held_out_landmarks_dropped": judged.share if judged else None,
            "held_out_landmarks_dropped_least": judged.least if judged else None,
            "held_out_crops": len(others),
            "held_out_crops_dropped": float((others >= threshold).mean()) if len(others) else None,
        }

    parameters: dict[str, Any] = recipe.model_dump(mode="json", include=set(DECIDED_BY))
    return make(store, ASSET, inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)


def _landmarks_of(pictures: pa.ChunkedArray, images: pa.Table) -> Counts:
    """The landmark of each photograph [n] by its name among the examples; -1 of those that left the set since."""
    landmark_of = {
        photograph_name(image_id): landmark
        for image_id, landmark in zip(images["id"].to_pylist(), images["landmark_id"].to_pylist(), strict=True)
    }
    return np.array([landmark_of.get(name, -1) for name in pictures.to_pylist()], np.int64)


def _spared(found: pa.Table, threshold: float) -> pa.Table:
    kept = pc.equal(found["decision"], "kept")
    return found.filter(pc.and_(kept, pc.fill_null(pc.greater_equal(found["score"], threshold), False)))


def _draw(store: Store, writer: Writer, found: pa.Table, landmarks: Floats, others: Floats, threshold: float) -> None:
    curve = curve_of(landmarks, others)
    writer.json(CURVE_REPORT, {"chosen": threshold, **curve})
    drawn = {
        "held-out landmark photographs": (np.array(curve["threshold"]), np.array(curve["landmarks"])),
        "held-out crops": (np.array(curve["threshold"]), np.array(curve["crops"])),
        f"threshold {threshold:.{SCORE_DECIMALS}f}": (np.array([threshold, threshold]), np.array([0.0, 1.0])),
    }
    writer.write(CURVE_PICTURE, lines(drawn, "threshold", "share dropped"))
    scored = found.filter(pc.is_valid(found["score"]))
    distance = pc.abs(pc.subtract(scored["score"], threshold))
    nearest = scored.append_column("distance", distance).sort_by([("distance", "ascending"), ("id", "ascending")])
    most = [("score", "descending"), ("id", "ascending")]
    pictures = {
        DROPPED_PICTURE: found.filter(pc.equal(found["decision"], "dropped")).sort_by(most),
        BORDERLINE_PICTURE: nearest,
        SPARED_PICTURE: _spared(found, threshold).sort_by(most),
    }
    for path, rows in pictures.items():
        shown = rows.slice(0, _SHOWN_COLUMNS * _SHOWN_ROWS).to_pylist()
        if shown:
            writer.write(path, shown_gallery(store, _in_rows([_shown(row) for row in shown])))


def _shown(row: dict[str, Any]) -> Shown:
    return Shown("train", row["id"], f"{row['category']} {row['score']:.2f}", row["decision"] == "kept")


def _in_rows(shown: Sequence[Shown]) -> list[Sequence[Shown]]:
    return [shown[at : at + _SHOWN_COLUMNS] for at in range(0, len(shown), _SHOWN_COLUMNS)]
