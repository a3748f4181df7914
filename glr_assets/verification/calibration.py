"""How many inliers chance gives: what pairs of different landmarks reach, and the threshold that follows.

Eleven inliers are no evidence by themselves. Of pairs that cannot show the same thing at most a wanted share may be
accepted; since more putative matches give chance more to agree on, each range of them has a threshold of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.concurrency import single_threaded
from glr_assets.curation.schemas import LABEL_CONFLICTS
from glr_assets.plots import steps_over_points
from glr_assets.ranges import in_batches
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Execution, Verification
from glr_assets.seeded import derived_seed, seeded_hash
from glr_assets.store import Store
from glr_assets.tables import fixed_width, read_table
from glr_assets.verification.evidence import Evidence, Judge
from glr_assets.verification.extractors import open_extractor
from glr_assets.verification.feature_reader import FeatureReader, need_extractor
from glr_assets.verification.local_features import Wanted
from glr_assets.verification.matching import Prepared
from glr_assets.verification.pictures import pairs_picture
from glr_assets.verification.schemas import DIFFERENT_PAIRS, LOCAL_FEATURES, VERIFICATION_CALIBRATION

CODE_VERSION = "1"
CHART = "reports/verification_calibration.png"
PICTURE = "reports/verification_calibration_nearest.jpg"
SHOWN: Final = 5
#: A range of putative matches has as many pairs as let this many be accepted, and there are at most so many ranges.
ACCEPTED_A_RANGE: Final = 5
MOST_RANGES: Final = 4
CONFIDENCE: Final = 0.95
LEAST_IMAGES: Final = 200

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Inliers wanted of a pair, by its putative matches.

    Attributes:
        starts: [ranges] first number of putative matches of each range, ascending from 0.
        inliers: [ranges] inliers wanted, never fewer than in the range before.
    """

    starts: Counts
    inliers: Counts

    @classmethod
    def of(cls, calibration: pa.Table) -> Thresholds:
        """Those of a `VERIFICATION_CALIBRATION`."""
        return cls(calibration["putative_from"].to_numpy(), calibration["threshold"].to_numpy())

    def __call__(self, putative: int) -> int:
        """Inliers wanted of a pair with so many putative matches."""
        return int(self.inliers[np.searchsorted(self.starts, putative, side="right") - 1])

    def of_all(self, putative: Counts) -> Counts:
        """Inliers wanted of pairs [n]."""
        return np.asarray(self.inliers[np.searchsorted(self.starts, putative, side="right") - 1])


def images_to_compare(images: pa.Table, pairs: int, seed: int) -> pa.Table:
    """The images whose pairs are drawn: of as many landmarks as there are, by a seeded order.

    Args:
        images: `id, landmark_id` and more, of images with features.
        pairs: to be drawn of them; three times as many images are taken as these pairs need, so that no image
            counts often.
        seed: of the order.
    """
    wanted = max(LEAST_IMAGES, int(3 * np.sqrt(2 * pairs)))
    order = np.lexsort((fixed_width(images["id"]), seeded_hash(images["id"], seed, "calibration")))
    landmarks = images["landmark_id"].to_numpy()[order]
    by_landmark = np.argsort(landmarks, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(landmarks[by_landmark]) != 0])
    place = np.empty(len(order), np.int64)
    place[by_landmark] = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    rows = order[np.argsort(place, kind="stable")[:wanted]]
    return images.take(pa.array(rows)).sort_by("id")


def different_pairs(
    landmarks: Counts, ids: Sequence[str], pairs: int, seed: int, alike: set[tuple[str, str]]
) -> list[tuple[int, int]]:
    """Pairs of images of different landmarks, drawn by seed, each once, in order; all of them where there are fewer.

    Args:
        landmarks: [n] of each image.
        ids: [n], sorted.
        pairs: at most.
        seed: of the draw.
        alike: ids of near-duplicates under different landmarks, either way round: they do show the same thing.
    """
    first, second = np.triu_indices(len(ids), 1)
    different = np.flatnonzero(landmarks[first] != landmarks[second])
    random = np.random.default_rng(derived_seed(seed, "different pairs"))
    if len(different) > pairs:
        different = np.sort(random.choice(different, pairs, replace=False))
    drawn = zip(first[different].tolist(), second[different].tolist(), strict=True)
    return [(i, j) for i, j in drawn if (ids[i], ids[j]) not in alike and (ids[j], ids[i]) not in alike]


def calibrated(pairs: pa.Table, recipe: Verification) -> pa.Table:
    """`VERIFICATION_CALIBRATION` from `DIFFERENT_PAIRS`.

    Each range's threshold is the least that accepts at most `max_false_rate` of its pairs, and no less than
    `min_inliers` or than that of the range before. Pairs refused as traps are not accepted whatever their inliers.
    """
    putative, inliers = pairs["putative"].to_numpy(), pairs["inliers"].to_numpy()
    refused = np.array([bool(reason) for reason in pairs["refusal"].to_pylist()], bool)
    starts = _starts(putative, recipe.max_false_rate)
    rows, threshold = [], recipe.min_inliers
    for start, end in zip(starts, [*starts[1:], np.inf], strict=True):
        mine = (putative >= start) & (putative < end)
        count = int(np.count_nonzero(mine))
        counted = np.sort(inliers[mine & ~refused])[::-1]
        allowed = int(count * recipe.max_false_rate)
        if recipe.calibrate and len(counted) > allowed:
            threshold = max(threshold, int(counted[allowed]) + 1)
        accepted = int(np.count_nonzero(counted >= threshold))
        rows.append(
            {
                "putative_from": start,
                "pairs": count,
                "refused": int(np.count_nonzero(mine & refused & (inliers >= threshold))),
                "accepted": accepted,
                "threshold": threshold,
                "false_rate": accepted / count if count else 0.0,
                "false_rate_most": most_likely_share(accepted, count),
            }
        )
    return VERIFICATION_CALIBRATION.rows(rows)


def _starts(putative: Counts, rate: float) -> list[int]:
    """The first number of each range: equal shares of the pairs, each with enough of them."""
    ranges = max(1, min(MOST_RANGES, int(len(putative) * rate / ACCEPTED_A_RANGE)))
    inner = np.quantile(putative, np.arange(1, ranges) / ranges, method="higher").tolist() if len(putative) else []
    return sorted({0, *(int(value) for value in inner)})


def most_likely_share(accepted: int, of: int) -> float:
    """The share that is not exceeded with a confidence of 95 %, one-sided (Clopper and Pearson, 1934); 1 of none."""
    if accepted >= of:
        return 1.0
    from scipy.stats import beta

    return float(beta.ppf(CONFIDENCE, accepted + 1, of - accepted))


def make_verification_calibration(
    store: Store, wanted: Wanted, recipe: Verification, execution: Execution, seed: int
) -> Made:
    """`verification_calibration`, with a chart of all pairs and a picture of those that come nearest to acceptance.

    Raises:
        MissingInputError: features of a shard have not been made, or are of another extractor.
    """
    extractor = open_extractor(recipe, execution.device)
    judge = Judge.of(recipe, extractor.min_cosine, extractor.oriented)
    shards = list(wanted.shards)

    def build(writer: Writer) -> Summary:
        names = ["id", "landmark_id", "features"]
        tables = [read_table(store, LOCAL_FEATURES, names, shard=shard) for shard in shards]
        rows = pa.concat_tables([LOCAL_FEATURES.empty().select(names), *tables], promote_options="permissive")
        images = images_to_compare(rows.filter(pc.greater(rows["features"], 0)), recipe.calibration_pairs, seed)
        ids = images["id"].to_pylist()
        features = FeatureReader.of_images(store, shards, ids)
        need_extractor(features, extractor, recipe)
        prepared = [Prepared.of(image_id, features[image_id]) for image_id in ids]
        conflicts = read_table(store, LABEL_CONFLICTS, ["id", "partner"])
        alike = set(zip(conflicts["id"].to_pylist(), conflicts["partner"].to_pylist(), strict=True))
        drawn = different_pairs(images["landmark_id"].to_numpy(), ids, recipe.calibration_pairs, seed, alike)
        with single_threaded("blas"):
            found = list(
                in_batches(
                    lambda batch: [judge(prepared[one], prepared[other]) for one, other in batch],
                    drawn,
                    workers=execution.threads,
                )
            )
        pairs = _rows(drawn, ids, found)
        calibration = calibrated(pairs, recipe)
        writer.table(VERIFICATION_CALIBRATION, calibration)
        writer.table(DIFFERENT_PAIRS, pairs)
        putative, inliers = pairs["putative"].to_numpy(), pairs["inliers"].to_numpy()
        thresholds = Thresholds.of(calibration)
        names_told = (f"{len(drawn):,} pairs of different landmarks", "inliers wanted")
        labels = ("putative matches", "inliers")
        writer.write(
            CHART, steps_over_points(putative, inliers, thresholds.starts, thresholds.inliers, names_told, labels)
        )
        nearest = pairs.append_column("threshold", pa.array(thresholds.of_all(putative)))
        nearest = nearest.sort_by([("inliers", "descending"), ("first", "ascending"), ("second", "ascending")])
        writer.write(PICTURE, pairs_picture(store, judge, features, nearest.slice(0, SHOWN)))
        accepted = pc.sum(calibration["accepted"]).as_py()
        return {
            "rows": calibration.num_rows,
            "images": len(ids),
            "pairs": len(drawn),
            "accepted": accepted,
            "refused": pc.sum(calibration["refused"]).as_py(),
            "false_rate": accepted / len(drawn) if drawn else None,
            "false_rate_most": most_likely_share(accepted, len(drawn)),
            "accepted_by_min_inliers": int(np.count_nonzero(inliers >= recipe.min_inliers)),
            "threshold_least": int(thresholds.inliers.min()),
            "threshold_most": int(thresholds.inliers.max()),
        }

    inputs = need_receipts(store, "label_conflicts", *(f"local_features/{shard}" for shard in shards))
    parameters = {
        "extractor": extractor.version,
        "max_features": recipe.max_features,
        "judge": judge.parameters,
        "min_inliers": recipe.min_inliers,
        "max_false_rate": recipe.max_false_rate,
        "pairs": recipe.calibration_pairs,
        "calibrate": recipe.calibrate,
        "seed": seed,
    }
    return make(
        store,
        "verification_calibration",
        inputs=inputs,
        parameters=parameters,
        code_version=CODE_VERSION,
        build=build,
    )


def _rows(drawn: Sequence[tuple[int, int]], ids: Sequence[str], found: Sequence[Evidence]) -> pa.Table:
    return pa.table(
        {
            "first": pa.array([ids[one] for one, _ in drawn], pa.string()),
            "second": pa.array([ids[other] for _, other in drawn], pa.string()),
            "putative": pa.array([evidence.putative for evidence in found], pa.int32()),
            "inliers": pa.array([evidence.inliers for evidence in found], pa.int32()),
            "refusal": pa.array([evidence.refusal for evidence in found], pa.string()),
        }
    )
