"""How many inliers chance gives: what pairs of different landmarks reach, and the thresholds that follow.

Eleven inliers are no evidence by themselves. An image is verified by any pair that is accepted, so a foreign image has
as many chances as its class has other images, and the threshold rises with the class: of images that belong elsewhere
at most a wanted share stays, whatever the class. More putative matches give chance more to agree on, so each range of
them has thresholds of its own.
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
from glr_assets.verification.schemas import (
    DIFFERENT_PAIRS,
    FALSE_IMAGES,
    LOCAL_FEATURES,
    VERIFICATION_CALIBRATION,
)
from glr_assets.verification.tail import CONFIDENCE, ChanceRates, Floats, ForeignPairs

CODE_VERSION = "2"
CHART = "reports/verification_calibration.png"
PICTURE = "reports/verification_calibration_nearest.jpg"
SHOWN: Final = 5
#: Pairs of a range of putative matches, at least, and ranges at most.
PAIRS_A_RANGE: Final = 5000
MOST_RANGES: Final = 4
LEAST_IMAGES: Final = 200
#: A pair of so many inliers, and of this share of its putative matches, shows the same thing beyond doubt. Of 146,799
#: pairs of different landmarks, or of a landmark and none, none has more than 28 inliers, and of those with more than
#: 14 none more than a share of .27; of pairs of one landmark with 40 inliers more than half have a third.
SAME_THING_INLIERS: Final = 40
SAME_THING_SHARE: Final = 1 / 3
#: Class sizes that thresholds are judged for, beside the largest that is compared.
JUDGED_SIZES: Final = (10, 25, 100, 500)

Counts = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Thresholds:
    """Inliers wanted of a pair of a class, by its putative matches.

    Attributes:
        starts: [ranges] first number of putative matches of each range, ascending from 0.
        inliers: [ranges] inliers wanted.
    """

    starts: Counts
    inliers: Counts

    def __call__(self, putative: int) -> int:
        """Inliers wanted of a pair with so many putative matches."""
        return int(self.inliers[np.searchsorted(self.starts, putative, side="right") - 1])

    def of_all(self, putative: Counts) -> Counts:
        """Inliers wanted of pairs [n]."""
        return np.asarray(self.inliers[np.searchsorted(self.starts, putative, side="right") - 1])


@dataclass(frozen=True, eq=False)
class ClassThresholds:
    """Inliers wanted of a pair by its putative matches and by the images that its class compares.

    Attributes:
        starts: [ranges] first number of putative matches of each range, ascending from 0.
        images: [sizes] the largest class that each column is for, ascending.
        inliers: [ranges, sizes] inliers wanted, never fewer in a larger class.
    """

    starts: Counts
    images: Counts
    inliers: Counts

    @classmethod
    def of(cls, calibration: pa.Table) -> ClassThresholds:
        """Those of a `VERIFICATION_CALIBRATION`."""
        of_row, sizes, wanted = (calibration[name].to_numpy() for name in ("putative_from", "images_to", "threshold"))
        starts, images = np.unique(of_row), np.unique(sizes)
        inliers = np.empty((len(starts), len(images)), np.int64)
        for number, start in enumerate(starts):
            mine = np.flatnonzero(of_row == start)
            mine = mine[np.argsort(sizes[mine])]
            inliers[number] = wanted[mine][np.searchsorted(sizes[mine], images)]
        return cls(starts.astype(np.int64), images.astype(np.int64), inliers)

    def for_class(self, images: int) -> Thresholds:
        """Those of a class that compares so many images; of more than were calibrated for, those of the largest."""
        column = min(int(np.searchsorted(self.images, images)), len(self.images) - 1)
        return Thresholds(self.starts, self.inliers[:, column])


def pair_rate_of(image_rate: float, images: npt.NDArray[np.int64]) -> Floats:
    """The rate of false pairs at which a foreign image stays in a class of `images` [n] with `image_rate`.

    One of images - 1 independent pairs is accepted with 1 - (1 - p)^(images - 1). Where pairs of one image fail or
    succeed together it is less.
    """
    return -np.expm1(np.log1p(-min(image_rate, 1 - 1e-12)) / np.maximum(images - 1, 1))


def image_rate_of(pair_rate: Floats | float, images: npt.NDArray[np.int64] | int) -> Floats:
    """The rate at which a foreign image stays in a class of `images`, of a rate of false pairs."""
    return -np.expm1(np.log1p(-np.minimum(pair_rate, 1 - 1e-12)) * (np.asarray(images) - 1))


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


def halves_of(landmarks: Counts, seed: int) -> Counts:
    """The half, 0 or 1, of each image [n] by its landmark, drawn by seed: equally many landmarks, or one more in 0.

    Args:
        landmarks: [n] of each image.
        seed: of the draw.
    """
    names = np.unique(landmarks)
    order = np.argsort([derived_seed(seed, "half of the landmarks", name) for name in names.tolist()], kind="stable")
    half = np.empty(len(names), np.int64)
    half[order] = np.arange(len(names)) % 2
    return half[np.searchsorted(names, landmarks)]


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


def same_thing(putative: Counts, inliers: Counts, refused: Chosen) -> Chosen:
    """Pairs [n] that show the same thing beyond doubt.

    Args:
        putative: [n].
        inliers: [n].
        refused: [n], as a trap.
    """
    return (inliers >= SAME_THING_INLIERS) & (inliers >= SAME_THING_SHARE * putative) & ~refused


def overlapping(landmarks: Counts, putative: Counts, inliers: Counts, refused: Chosen) -> Chosen:
    """Pairs [n] of two landmarks of which some pair shows the same thing beyond doubt.

    Such landmarks overlap, or are one under two names: what their pairs reach is no chance.

    Args:
        landmarks: [n, 2].
        putative: [n].
        inliers: [n].
        refused: [n], as a trap.
    """
    certain = same_thing(putative, inliers, refused)
    names = np.sort(landmarks, axis=1)
    _, number = np.unique(names, axis=0, return_inverse=True)
    number = number.reshape(-1)
    return np.isin(number, number[certain])


@dataclass(frozen=True, eq=False)
class _Pairs:
    """`DIFFERENT_PAIRS` as arrays, without pairs of overlapping landmarks."""

    putative: Counts
    inliers: Counts
    refused: Chosen
    landmarks: Counts
    half: Counts

    @classmethod
    def of(cls, pairs: pa.Table) -> _Pairs:
        pairs = pairs.filter(pc.invert(pairs["overlap"]))
        return cls(
            pairs["putative"].to_numpy().astype(np.int64),
            pairs["inliers"].to_numpy().astype(np.int64),
            np.array([bool(reason) for reason in pairs["refusal"].to_pylist()], bool),
            np.stack([pairs[name].to_numpy() for name in ("first_landmark", "second_landmark")], axis=1),
            pc.fill_null(pairs["half"], -1).to_numpy().astype(np.int64),
        )

    def __len__(self) -> int:
        return len(self.putative)

    def only(self, chosen: Chosen) -> _Pairs:
        return _Pairs(*(column[chosen] for column in vars(self).values()))

    @property
    def starts(self) -> Counts:
        """The first number of putative matches of each range: equal shares of the pairs, each with enough of them."""
        ranges = max(1, min(MOST_RANGES, len(self) // PAIRS_A_RANGE))
        if not len(self):
            return np.zeros(1, np.int64)
        inner = np.quantile(self.putative, np.arange(1, ranges) / ranges, method="higher")
        return np.unique(np.array([0, *inner], np.int64))

    def ranges(self, starts: Counts) -> Counts:
        return np.asarray(np.searchsorted(starts, self.putative, side="right") - 1, np.int64)

    def rates(self, starts: Counts, largest: int) -> ChanceRates:
        counted = np.where(self.refused, 0, self.inliers)
        return ChanceRates.of(ForeignPairs(counted, self.ranges(starts), self.landmarks), len(starts), largest)


def _wanted(rates: ChanceRates, recipe: Verification) -> tuple[Counts, Counts]:
    """Class sizes from 2 on, and the inliers wanted in each, [ranges, sizes].

    They are the fewest whose rate is not more, with a confidence of 95 %, than the class can bear; `min_inliers` where
    there is no pair, since nothing is known then.
    """
    images = np.arange(2, recipe.cap + 1)
    borne = pair_rate_of(recipe.max_false_rate, images)
    wanted = np.full((len(rates.most), len(images)), recipe.min_inliers)
    if recipe.calibrate and rates.pairs:
        # The first number of inliers whose bound is not above what is borne.
        first = [np.searchsorted(-of_range, -borne, side="left") for of_range in rates.most]
        wanted = np.maximum(wanted, np.stack(first))
    return images, wanted


def calibrated(pairs: pa.Table, recipe: Verification) -> pa.Table:
    """`VERIFICATION_CALIBRATION` from `DIFFERENT_PAIRS`.

    Each threshold is the least, and no less than `min_inliers`, by which at most `max_false_rate` of foreign images
    stay in a class of that size, with a confidence of 95 %. Pairs refused as traps are not accepted whatever their
    inliers, and pairs of landmarks that overlap are left out.
    """
    found = _Pairs.of(pairs)
    starts = found.starts
    rates = found.rates(starts, recipe.max_features)
    images, wanted = _wanted(rates, recipe)
    of_range, rows = found.ranges(starts), []
    for number, start in enumerate(starts.tolist()):
        mine = of_range == number
        changes = np.flatnonzero(np.r_[np.diff(wanted[number]) > 0, True])
        first = int(images[0])
        for place in changes.tolist():
            threshold, last = int(wanted[number, place]), int(images[place])
            reached = mine & (found.inliers >= threshold)
            at = min(threshold, recipe.max_features + 1)
            rows.append(
                {
                    "putative_from": start,
                    "images_from": first,
                    "images_to": last,
                    "threshold": threshold,
                    "pairs": int(np.count_nonzero(mine)),
                    "refused": int(np.count_nonzero(reached & found.refused)),
                    "accepted": int(np.count_nonzero(reached & ~found.refused)),
                    "pair_rate": float(rates.likely[number, at]),
                    "image_rate": float(image_rate_of(rates.likely[number, at], last)),
                    "image_rate_most": float(image_rate_of(rates.most[number, at], last)),
                }
            )
            first = last + 1
    return VERIFICATION_CALIBRATION.rows(rows)


def judged(pairs: pa.Table, recipe: Verification) -> pa.Table:
    """`FALSE_IMAGES`: thresholds as one half of the landmarks chooses them, judged on pairs of the other.

    So it says how often the way of choosing goes wrong; the thresholds of all pairs rest on four times as many. Rates
    are those of the tail of the half that judges, since few of its pairs are accepted or none. There is no row where
    the landmarks of a half have no pair.

    Args:
        pairs: `DIFFERENT_PAIRS`.
        recipe: the bounds.
    """
    found = _Pairs.of(pairs)
    parts = [found.only(found.half == half) for half in (0, 1)]
    if not all(len(part) for part in parts):
        return FALSE_IMAGES.empty()
    chosen, judging = [], []
    for part, other in zip(parts, reversed(parts), strict=True):
        starts = part.starts
        images, wanted = _wanted(part.rates(starts, recipe.max_features), recipe)
        chosen.append(ClassThresholds(starts, images, wanted))
        judging.append(other.rates(starts, recipe.max_features).resampled)
    rows = []
    for size in sorted({*(size for size in JUDGED_SIZES if size < recipe.cap), recipe.cap}):
        accepted, wanted_of_all = 0, []
        rates: list[Floats] = []
        for of_half, other, resampled in zip(chosen, reversed(parts), judging, strict=True):
            thresholds = of_half.for_class(size)
            reached = other.inliers >= thresholds.of_all(other.putative)
            accepted += int(np.count_nonzero(reached & ~other.refused))
            shares = np.bincount(other.ranges(of_half.starts), minlength=len(of_half.starts)) / len(other)
            at = np.minimum(thresholds.inliers, recipe.max_features + 1)
            rates.append(resampled[:, np.arange(len(at)), at] @ shares)
            wanted_of_all.append(thresholds.inliers)
        draws = min(len(of_half) for of_half in rates)
        rate = np.mean([of_half[:draws] for of_half in rates], axis=0)
        least = min(float(np.quantile(rate[1:], 1 - CONFIDENCE)), float(rate[0]))
        rows.append(
            {
                "images": size,
                "threshold_least": int(np.concatenate(wanted_of_all).min()),
                "threshold_most": int(np.concatenate(wanted_of_all).max()),
                "landmarks": min(len(np.unique(part.landmarks)) for part in parts),
                "pairs": sum(len(part) for part in parts),
                "accepted": accepted,
                "image_rate": float(image_rate_of(float(rate[0]), size)),
                "image_rate_least": float(image_rate_of(least, size)),
            }
        )
    return FALSE_IMAGES.rows(rows)


def exceeding(pairs: pa.Table, recipe: Verification) -> int:
    """How many pairs of `DIFFERENT_PAIRS` the tail of inliers is fitted to; of few it is not known."""
    found = _Pairs.of(pairs)
    return found.rates(found.starts, recipe.max_features).exceeding


def make_verification_calibration(
    store: Store, wanted: Wanted, recipe: Verification, execution: Execution, seed: int
) -> Made:
    """`verification_calibration`, with a chart of all pairs and a picture of those that come nearest to acceptance.

    Beside the thresholds it keeps the pairs, and how the thresholds of one half of the landmarks do on the other.

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
        landmarks = images["landmark_id"].to_numpy()
        drawn = different_pairs(landmarks, ids, recipe.calibration_pairs, seed, alike)
        with single_threaded("blas"):
            found = list(
                in_batches(
                    lambda batch: [judge(prepared[one], prepared[other]) for one, other in batch],
                    drawn,
                    workers=execution.threads,
                )
            )
        pairs = _rows(drawn, ids, landmarks, halves_of(landmarks, seed), found)
        calibration, false_images = calibrated(pairs, recipe), judged(pairs, recipe)
        writer.table(VERIFICATION_CALIBRATION, calibration)
        writer.table(DIFFERENT_PAIRS, pairs)
        writer.table(FALSE_IMAGES, false_images)
        thresholds = ClassThresholds.of(calibration)
        _draw(store, writer, judge, features, pairs, thresholds, recipe)
        chance = pairs.filter(pc.invert(pairs["overlap"]))
        refused = np.array([bool(of.refusal) for of in found], bool)
        certain = same_thing(pairs["putative"].to_numpy(), pairs["inliers"].to_numpy(), refused)
        largest = false_images.filter(pc.equal(false_images["images"], recipe.cap))
        return {
            "rows": calibration.num_rows,
            "images": len(ids),
            "landmarks": len(np.unique(landmarks)),
            "pairs": len(drawn),
            "same_thing": int(np.count_nonzero(certain)),
            "overlapping": len(drawn) - chance.num_rows,
            "exceeding": exceeding(pairs, recipe),
            "accepted_by_min_inliers": pc.sum(pc.greater_equal(chance["inliers"], recipe.min_inliers)).as_py() or 0,
            "threshold_least": int(thresholds.inliers.min()),
            "threshold_most": int(thresholds.inliers.max()),
            "image_rate_most": pc.max(calibration["image_rate_most"]).as_py(),
            "judged_image_rate": largest["image_rate"][0].as_py() if largest.num_rows else None,
        }

    inputs = need_receipts(store, "label_conflicts", *(f"local_features/{shard}" for shard in shards))
    parameters = {
        "extractor": extractor.version,
        "max_features": recipe.max_features,
        "judge": judge.parameters,
        "min_inliers": recipe.min_inliers,
        "max_false_rate": recipe.max_false_rate,
        "pairs": recipe.calibration_pairs,
        "cap": recipe.cap,
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


def _rows(
    drawn: Sequence[tuple[int, int]],
    ids: Sequence[str],
    landmarks: Counts,
    half: Counts,
    found: Sequence[Evidence],
) -> pa.Table:
    pairs = np.array(drawn, np.int64).reshape(-1, 2)
    putative = np.array([evidence.putative for evidence in found], np.int64)
    inliers = np.array([evidence.inliers for evidence in found], np.int64)
    refused = np.array([bool(evidence.refusal) for evidence in found], bool)
    of_pair = half[pairs]
    return pa.table(
        {
            "first": pa.array([ids[one] for one, _ in drawn], pa.string()),
            "second": pa.array([ids[other] for _, other in drawn], pa.string()),
            "first_landmark": pa.array(landmarks[pairs[:, 0]], pa.int64()),
            "second_landmark": pa.array(landmarks[pairs[:, 1]], pa.int64()),
            "half": pa.array(of_pair[:, 0].astype(np.int8), mask=of_pair[:, 0] != of_pair[:, 1]),
            "putative": pa.array(putative.astype(np.int32)),
            "inliers": pa.array(inliers.astype(np.int32)),
            "refusal": pa.array([evidence.refusal for evidence in found], pa.string()),
            "overlap": pa.array(overlapping(landmarks[pairs], putative, inliers, refused)),
        },
        schema=DIFFERENT_PAIRS.schema,
    )


def _draw(
    store: Store,
    writer: Writer,
    judge: Judge,
    features: FeatureReader,
    pairs: pa.Table,
    thresholds: ClassThresholds,
    recipe: Verification,
) -> None:
    """The chart of all pairs beside thresholds, and the pairs of most inliers."""
    smallest = thresholds.for_class(recipe.min_class)
    levels = {
        f"inliers wanted in a class of {images}": thresholds.for_class(images).inliers
        for images in sorted({recipe.min_class, recipe.cap})
    }
    putative, inliers = pairs["putative"].to_numpy(), pairs["inliers"].to_numpy()
    told = f"{pairs.num_rows:,} pairs of different landmarks"
    labels = ("putative matches", "inliers")
    writer.write(CHART, steps_over_points(putative, inliers, told, smallest.starts, levels, labels))
    nearest = pairs.append_column("threshold", pa.array(smallest.of_all(putative)))
    nearest = nearest.sort_by([("inliers", "descending"), ("first", "ascending"), ("second", "ascending")])
    writer.write(PICTURE, pairs_picture(store, judge, features, nearest.slice(0, SHOWN)))
