"""The pairs of a bucket of landmarks: tried until each image is verified or has none left, each with its evidence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.concurrency import single_threaded
from glr_assets.errors import MissingInputError, RecipeError, TableError
from glr_assets.ranges import ordered
from glr_assets.receipts import Made, Summary, Writer, digest_of, make, need_receipt, need_receipts
from glr_assets.recipes import Execution, Verification
from glr_assets.snapshot import kept_by
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_table, taken
from glr_assets.verification import classes
from glr_assets.verification.calibration import ClassThresholds, Thresholds
from glr_assets.verification.classes import Outcome, Pair, TriedPairs
from glr_assets.verification.evidence import Evidence, Judge
from glr_assets.verification.extractors import open_extractor
from glr_assets.verification.feature_reader import ClassFeatures, FeatureReader, need_extractor
from glr_assets.verification.local_features import Wanted
from glr_assets.verification.matching import Prepared
from glr_assets.verification.pictures import pairs_picture
from glr_assets.verification.plan import bucket_keys, buckets_of
from glr_assets.verification.schemas import LOCAL_FEATURES, VERIFICATION_CALIBRATION, VERIFIED_IMAGES, VERIFIED_PAIRS

CODE_VERSION = "3"
PICTURE = "reports/verified_pairs_{bucket}.jpg"
#: Pairs of each kind in the picture.
SHOWN: Final = 2

Known = Mapping[tuple[str, str], Evidence]
"""Evidence by ids, the smaller first."""


@dataclass(frozen=True, eq=False)
class VerifiedClass:
    """A landmark's rows of `VERIFIED_PAIRS` and `VERIFIED_IMAGES`, and how many pairs were tried anew."""

    pairs: pa.Table
    images: pa.Table
    compared: int


@dataclass(frozen=True)
class ClassVerifier:
    """Verifies the images of one landmark after the other.

    Attributes:
        judge: compares two images.
        thresholds: inliers wanted, by the images that a class compares.
        recipe: which pairs are tried, and which images stay.
        known: what has been compared before.
    """

    judge: Judge
    thresholds: ClassThresholds
    recipe: Verification
    known: Known

    def __call__(self, of_landmark: ClassFeatures) -> VerifiedClass:
        """The rows of a landmark's images that have features."""
        ids = of_landmark.ids
        images = [Prepared.of(name, kept) for name, kept in zip(ids, of_landmark.features, strict=True)]
        tried, compared = self._pairs(images, self.thresholds.for_class(len(images)))
        order = classes.likely_first(self._likeness(images))
        exhaustive = self.recipe.exhaustive
        verified = classes.try_all(tried, len(images)) if exhaustive else classes.verify(tried, order)
        if self.recipe.component != "all" and not exhaustive:
            classes.connect(tried, verified, order)
        component = classes.components(len(ids), tried.accepted)
        among = verified & (component == 0) if self.recipe.component == "largest" else verified
        chosen, degree, connecting = self._chosen(tried, among, order, ids)
        # Trying them may have connected groups that were apart.
        component = classes.components(len(ids), tried.accepted)
        pairs = sorted(tried.outcomes)
        count = np.bincount(np.array(pairs, np.int64).reshape(-1), minlength=len(ids))
        return VerifiedClass(
            _pair_rows(of_landmark.landmark_id, ids, pairs, tried.outcomes, connecting),
            pa.table(
                {
                    "id": pa.array(ids, pa.string()),
                    "tried": count.astype(np.int32),
                    "verified": verified,
                    "component": pa.array(component.astype(np.int32), mask=component < 0),
                    "degree": pa.array(degree, pa.int32()),
                    "chosen": chosen,
                }
            ),
            len(compared),
        )

    def _pairs(self, images: Sequence[Prepared], wanted: Thresholds) -> tuple[TriedPairs, list[Pair]]:
        """The class' pairs, and a list that grows by each pair that had not been compared before."""
        compared: list[Pair] = []

        def compare(one: int, other: int) -> Outcome:
            first, second = sorted((images[one].id, images[other].id))
            evidence = self.known.get((first, second))
            if evidence is None:
                compared.append((one, other))
                evidence = self.judge(images[one], images[other])
            return evidence.outcome(wanted(evidence.putative))

        return TriedPairs(compare), compared

    def _likeness(self, images: Sequence[Prepared]) -> npt.NDArray[np.float64]:
        alike = np.zeros((len(images), len(images)))
        for one in range(len(images)):
            for other in range(one):
                alike[one, other] = alike[other, one] = self.judge.matcher.likeness(images[one], images[other])
        return alike

    def _chosen(
        self, tried: TriedPairs, among: npt.NDArray[np.bool_], order: npt.NDArray[np.int64], ids: Sequence[str]
    ) -> tuple[npt.NDArray[np.bool_], list[int | None], set[Pair]]:
        """Which images stay, the degree of each where there are too many, and the pairs that told it."""
        if np.count_nonzero(among) <= self.recipe.keep:
            return among, [None] * len(among), set()
        connecting = classes.connecting_pairs(among, order, self.recipe.connections)
        outcomes = {pair: tried(*pair) for pair in connecting}
        chosen, degree = classes.best_connected(among, outcomes, ids, self.recipe.keep)
        return (
            chosen,
            [value if of else None for value, of in zip(degree.tolist(), among, strict=True)],
            set(connecting),
        )


def _pair_rows(
    landmark_id: int, ids: Sequence[str], pairs: Sequence[Pair], outcomes: Mapping[Pair, Outcome], connecting: set[Pair]
) -> pa.Table:
    tried = [outcomes[pair] for pair in pairs]
    return pa.table(
        {
            "landmark_id": pa.array([landmark_id] * len(pairs), pa.int64()),
            "first": pa.array([min(ids[one], ids[other]) for one, other in pairs], pa.string()),
            "second": pa.array([max(ids[one], ids[other]) for one, other in pairs], pa.string()),
            "putative": pa.array([outcome.putative for outcome in tried], pa.int32()),
            "inliers": pa.array([outcome.inliers for outcome in tried], pa.int32()),
            "threshold": pa.array([outcome.threshold for outcome in tried], pa.int32()),
            "accepted": pa.array([outcome.accepted for outcome in tried], pa.bool_()),
            "refusal": pa.array([outcome.refusal for outcome in tried], pa.string()),
            "connecting": pa.array([pair in connecting for pair in pairs], pa.bool_()),
            "model": pa.array([outcome.model for outcome in tried], pa.list_(pa.float32(), 6)),
        },
        schema=VERIFIED_PAIRS.schema,
    )


def make_verified_pairs(store: Store, key: str, wanted: Wanted, recipe: Verification, execution: Execution) -> Made:
    """`verified_pairs/{key}`: the pairs tried of the bucket's landmarks, and what became of its images.

    What an earlier run found of two images whose features have not changed is taken from it.

    Args:
        store: the store.
        key: the bucket's.
        wanted: which images are compared.
        recipe: how.
        execution: with how many threads.

    Raises:
        RecipeError: the recipe has no such bucket.
        MissingInputError: features of a shard, or the calibration, have not been made, or are not those of the images
            and the extractor that are wanted.
    """
    name, bucket = f"verified_pairs/{key}", _number(key, recipe.buckets)
    inputs = need_receipts(store, "verification_calibration")
    seen = bucket_images(store, wanted, bucket, recipe.buckets)
    inputs["features"] = digest_of(seen.to_pydict())
    extractor = open_extractor(recipe, execution.device)
    judge = Judge.of(recipe, extractor.min_cosine, extractor.oriented)
    of_pairs = {"extractor": extractor.version, "max_features": recipe.max_features, **judge.parameters}
    parameters = {
        "pairs": of_pairs,
        "exhaustive": recipe.exhaustive,
        "keep": recipe.keep,
        "connections": recipe.connections,
        "component": recipe.component,
        "buckets": recipe.buckets,
    }
    figures: Summary = {}

    def build(writer: Writer) -> Summary:
        features = FeatureReader.of_bucket(store, list(wanted.shards), bucket, recipe.buckets)
        need_extractor(features, extractor, recipe)
        thresholds = ClassThresholds.of(read_table(store, VERIFICATION_CALIBRATION))
        verifier = ClassVerifier(judge, thresholds, recipe, _known(store, name, key, of_pairs, seen))
        nothing = pa.schema([VERIFIED_IMAGES.schema.field(name).with_nullable(True) for name in _FATES]).empty_table()
        pairs, images, compared = [VERIFIED_PAIRS.empty()], [nothing], 0
        with single_threaded("blas"):
            for done in ordered(verifier, features, workers=execution.threads, size=_memory):
                pairs.append(done.pairs)
                images.append(done.images)
                compared += done.compared
        tried = pa.concat_tables(pairs).sort_by([("first", "ascending"), ("second", "ascending")])
        told = _told(seen, pa.concat_tables(images))
        writer.table(VERIFIED_PAIRS, tried, bucket=key)
        writer.table(VERIFIED_IMAGES, told, bucket=key)
        writer.write(PICTURE.format(bucket=key), pairs_picture(store, judge, features, _worth_seeing(tried)))
        figures.update({"pairs_compared": compared, "pairs_known": tried.num_rows - compared})
        return {
            "rows": tried.num_rows,
            "pairs_of_all": _all_pairs(told),
            "accepted": pc.sum(tried["accepted"]).as_py() or 0,
            "refused": pc.sum(pc.not_equal(tried["refusal"], "")).as_py() or 0,
            "landmarks": pc.count_distinct(told["landmark_id"]).as_py(),
            "images": told.num_rows,
            "verified": pc.sum(told["verified"]).as_py() or 0,
            "chosen": pc.sum(told["chosen"]).as_py() or 0,
        }

    made = make(store, name, inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)
    return made if made.reused else replace(made, run=figures)


def _number(key: str, buckets: int) -> int:
    keys = bucket_keys(buckets)
    if key not in keys:
        raise RecipeError(
            f"verified_pairs: there is no bucket {key} of {buckets}, they are {keys[0]} to {keys[-1]}; "
            "`glr shards sync` registers those of the recipe"
        )
    return keys.index(key)


def bucket_images(store: Store, wanted: Wanted, bucket: int, buckets: int) -> pa.Table:
    """`id, landmark_id, stored_xxh3, reason` of the features of a bucket's images, sorted by id.

    Raises:
        MissingInputError: a shard's features have not been made, or not of the images that are wanted of it.
    """
    names = ["id", "landmark_id", "stored_xxh3", "reason"]
    parts = [pa.schema([LOCAL_FEATURES.schema.field(name) for name in names]).empty_table()]
    for shard in wanted.shards:
        need_receipt(store, f"local_features/{shard}")
        rows = kept_by(store, ("features of", shard), partial(read_table, store, LOCAL_FEATURES, names, shard=shard))
        of_bucket = [
            part.filter(pa.array(buckets_of(part["landmark_id"].to_numpy(), buckets) == bucket))
            for part in (rows, wanted.of_shard(shard))
        ]
        if not of_bucket[0].select(["id", "landmark_id"]).equals(of_bucket[1].select(["id", "landmark_id"])):
            raise MissingInputError(
                f"local_features/{shard} has {of_bucket[0].num_rows} images of bucket {bucket}, "
                f"{of_bucket[1].num_rows} are wanted, or others: the set has changed; materialise it again"
            )
        parts.append(of_bucket[0])
    return pa.concat_tables(parts, promote_options="permissive").sort_by("id")


_FATES = ("id", "tried", "verified", "component", "degree", "chosen")


def _told(seen: pa.Table, fates: pa.Table) -> pa.Table:
    """`VERIFIED_IMAGES`: an image without features was tried in no pair."""
    fate = taken(fates, places(fixed_width(seen["id"]), fixed_width(fates["id"])))
    columns = {name: fate[name] for name in _FATES[1:]} | {name: seen[name] for name in seen.column_names}
    columns["tried"] = pc.fill_null(fate["tried"], 0)
    for name in ("verified", "chosen"):
        columns[name] = pc.fill_null(fate[name], False)
    return pa.table({name: columns[name] for name in VERIFIED_IMAGES.schema.names})


def _known(store: Store, name: str, key: str, of_pairs: Mapping[str, object], seen: pa.Table) -> Known:
    """The evidence that an earlier run, which compared alike, left of images whose features are the same."""
    try:
        receipt = need_receipt(store, name)
        # What two images give is versioned by itself (`evidence.CODE_VERSION`, in `of_pairs`).
        if receipt.parameters.get("pairs") != of_pairs:
            return {}
        then = read_table(store, VERIFIED_IMAGES, ["id", "stored_xxh3"], bucket=key)
        pairs = read_table(store, VERIFIED_PAIRS, bucket=key)
    except (MissingInputError, TableError):
        return {}
    before = taken(then, places(fixed_width(seen["id"]), fixed_width(then["id"])))
    same = pc.fill_null(pc.equal(before["stored_xxh3"], seen["stored_xxh3"]), False)
    unchanged = seen["id"].filter(same).combine_chunks()
    both = pc.and_(pc.is_in(pairs["first"], unchanged), pc.is_in(pairs["second"], unchanged))
    return {
        (row["first"], row["second"]): Evidence(row["putative"], row["inliers"], row["refusal"], tuple(row["model"]))
        for row in pairs.filter(both).to_pylist()
    }


def _memory(of_landmark: ClassFeatures) -> int:
    return sum(kept.codes.nbytes for kept in of_landmark.features)


def _worth_seeing(tried: pa.Table) -> pa.Table:
    """A few pairs: accepted ones of the fewest inliers, refused ones, and rejected ones of the most."""
    refused = pc.not_equal(tried["refusal"], "")
    rejected = pc.and_(pc.invert(tried["accepted"]), pc.invert(refused))
    by_ids = [("first", "ascending"), ("second", "ascending")]
    parts = [
        tried.filter(rows).sort_by([("inliers", way), *by_ids]).slice(0, SHOWN)
        for rows, way in ((tried["accepted"], "ascending"), (refused, "descending"), (rejected, "descending"))
    ]
    return pa.concat_tables(parts)


def _all_pairs(images: pa.Table) -> int:
    """Pairs within landmarks, of images that have features."""
    landmarks = images.filter(pc.equal(images["reason"], ""))["landmark_id"].to_numpy()
    _, sizes = np.unique(landmarks, return_counts=True)
    return int((sizes * (sizes - 1) // 2).sum())
