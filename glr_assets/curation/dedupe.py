"""The competition's set without near-duplicates, its large classes reduced to their most diverse images."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.diversity import Method, Rows, chosen, class_starts, extreme_rows, nearest_chosen
from glr_assets.curation.fates import asked, fates
from glr_assets.curation.galleries import Shown, shown_gallery
from glr_assets.curation.leaks import leaks_into_test
from glr_assets.curation.near_duplicates import leaders
from glr_assets.curation.schemas import DEDUPED_MANIFEST, decision_counts
from glr_assets.metadata.schemas import COMPETITION_TRAIN
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Dedupe
from glr_assets.seeded import seeded_hash
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_table, taken

CODE_VERSION = "3"
PAIRS_PICTURE = "reports/deduped_manifest_pairs.jpg"
GROUPS_PICTURE = "reports/deduped_manifest_near_duplicates.jpg"
PAIRS_SHOWN = 6
GROUPS_SHOWN, GROUP_SHOWN = 6, 5
#: What dedupe reads of an image beside what became of it.
COLUMNS = ("source_xxh3", "source_width", "source_height", "sharpness", "dhash")

_KEPT: dict[Method, str] = {
    "max_min": "among the {keep} most diverse of its class",
    "farthest_pairs": "among the {keep} images of the farthest pairs of its class",
    "random": "among {keep} drawn at random of its class",
}
_LEFT: dict[Method, str] = {
    "max_min": "less diverse than the {keep} kept of its class",
    "farthest_pairs": "not among the {keep} images of the farthest pairs of its class",
    "random": "not among {keep} drawn at random of its class",
}


class Why(IntEnum):
    """For what an image is in or out."""

    FAILED = 0
    KEPT = 1
    LEAK = 2
    NEAR_DUPLICATE = 3
    LESS_DIVERSE = 4
    NOT_COMPARED = 5


@dataclass(frozen=True, eq=False)
class Deduped:
    """The decisions as `DEDUPED_MANIFEST`, sorted by id, and for what each image is in or out: `Why` [n]."""

    manifest: pa.Table
    why: npt.NDArray[np.int8]

    @property
    def counts(self) -> dict[str, int]:
        """Images by what they were dropped for."""
        reasons = {"near_duplicates": Why.NEAR_DUPLICATE, "leaks": Why.LEAK, "less_diverse": Why.LESS_DIVERSE}
        return {
            name: int(np.count_nonzero(self.why == why))
            for name, why in (reasons | {"not_compared": Why.NOT_COMPARED}).items()
        }


@dataclass(frozen=True)
class Pair:
    """Two images of one landmark and the bits between their hashes."""

    first: str
    second: str
    distance: int


def dedupe(images: pa.Table, recipe: Dedupe, seed: int, leaks: pa.Table | None = None) -> Deduped:
    """Decide on each image of the competition's set.

    Of near-duplicates of a class the one of the most source pixels stays, of as large ones the sharpest, of as sharp
    ones that of the smallest id. A class with at most `keep` images left stays whole. Of a larger one, `sample` images
    in a seeded order are compared and exactly `keep` of them kept.

    Args:
        images: `id, landmark_id, shard, status, reason` and `COLUMNS`, one row an image; not all are stored.
        recipe: how.
        seed: of the order.
        leaks: `id, partner, distance, same_file` of images that are dropped for being like a test image.
    """
    images = images.take(pa.array(np.argsort(fixed_width(images["id"]), kind="stable"))).combine_chunks()
    reasons = _Reasons(images)
    stored = pc.equal(images["status"], "stored").to_numpy(zero_copy_only=False)
    if leaks is not None:
        at = places(fixed_width(images["id"]), fixed_width(leaks["id"]))
        leaked = np.flatnonzero(stored & (at >= 0))
        reasons.leaks(leaked, taken(leaks, at[leaked]))
        stored[leaked] = False
    quality = _Quality.of(images)
    # Class by class, the best image first.
    landmarks = images["landmark_id"].to_numpy()
    rows = np.flatnonzero(stored)
    rows = rows[np.lexsort((rows, -quality.sharpness[rows], -quality.pixels[rows], landmarks[rows]))]
    hashes = images["dhash"].fill_null(0).to_numpy()
    if recipe.collapse:
        found = leaders(hashes[rows], class_starts(landmarks[rows]), recipe.near_duplicate_bits)
        leads = found.leader == np.arange(len(rows))
        follow = np.flatnonzero(~leads)
        reasons.follow(rows[follow], rows[found.leader[follow]], found.distance[follow], quality)
        rows = rows[leads]
    starts = class_starts(landmarks[rows])
    draw = _draw(images["id"], rows, starts, recipe.keep, seed)
    compared = np.zeros(len(rows), bool)
    compared[draw[_place(starts) < recipe.sample]] = True
    renumbered = np.cumsum(compared) - 1
    marked = np.zeros(len(rows), bool)
    marked[compared] = chosen(
        recipe.method,
        hashes[rows[compared]],
        class_starts(landmarks[rows[compared]]),
        renumbered[draw[compared[draw]]],
        recipe.keep,
    )
    nearest, distance = nearest_chosen(hashes[rows], starts, marked)
    large = np.repeat(np.diff(starts) > recipe.keep, np.diff(starts))
    keep = recipe.keep
    reasons.say(rows[~large], Why.KEPT, f"whole class: at most {keep} images")
    reasons.say(rows[large & marked], Why.KEPT, _KEPT[recipe.method].format(keep=keep))
    reasons.say(rows[compared & ~marked], Why.LESS_DIVERSE, _LEFT[recipe.method].format(keep=keep))
    reasons.say(rows[~compared], Why.NOT_COMPARED, f"not among the {recipe.sample} images of its class compared")
    reasons.near(rows[~marked], rows[nearest[~marked]], distance[~marked])
    return Deduped(reasons.table(), reasons.why)


def _draw(ids: pa.ChunkedArray, rows: Rows, starts: Rows, keep: int, seed: int) -> Rows:
    """Places in `rows`, class by class; of classes larger than `keep` in a seeded order, which no other needs."""
    sizes = np.diff(starts)
    large = np.flatnonzero(np.repeat(sizes > keep, sizes))
    draw = np.arange(len(rows))
    number = np.repeat(np.arange(len(sizes)), sizes)
    order = seeded_hash(ids.take(pa.array(rows[large])), seed, "dedupe")
    draw[large] = large[np.lexsort((rows[large], order, number[large]))]
    return draw


def _place(starts: Rows) -> Rows:
    """The place of each row in its class."""
    return np.arange(starts[-1]) - np.repeat(starts[:-1], np.diff(starts))


@dataclass(frozen=True)
class _Quality:
    """By what one of two near-duplicates is better, for every image."""

    pixels: npt.NDArray[np.int64]
    sharpness: npt.NDArray[np.float32]
    files: npt.NDArray[np.uint64]

    @classmethod
    def of(cls, images: pa.Table) -> _Quality:
        width, height = (images[f"source_{side}"].cast(pa.int64()) for side in ("width", "height"))
        return cls(
            pc.fill_null(pc.multiply(width, height), 0).to_numpy(),
            pc.fill_null(images["sharpness"], -1).to_numpy(),
            pc.fill_null(images["source_xxh3"], pa.scalar(0, pa.uint64())).to_numpy(),
        )

    def better(self, one: Rows, other: Rows) -> tuple[npt.NDArray[np.intp], list[str]]:
        """Why of each pair `one` is dropped for `other`: the number of a word, and the words."""
        words = ["near-duplicate of an image as good", "near-duplicate of a sharper image"]
        words += ["near-duplicate of a larger image", "the same file as another image"]
        number = np.where(self.sharpness[other] > self.sharpness[one], 1, 0)
        number[self.pixels[other] > self.pixels[one]] = 2
        number[(self.files[other] == self.files[one]) & (self.files[one] > 0)] = 3
        return number, words


class _Reasons:
    """Gathers, for all images at once, why each is in or out: a word, its particulars, the partner, the distance."""

    def __init__(self, images: pa.Table) -> None:
        count = images.num_rows
        self.why = np.full(count, Why.FAILED, np.int8)
        self._images = images
        self._words: list[str | None] = [None]
        self._word = np.zeros(count, np.int32)
        self._partner = np.full(count, -1)
        self._distance = np.full(count, -1, np.int32)
        #: Partners of another split, beside the ids of this table.
        self._strangers: pa.ChunkedArray = pa.chunked_array([], pa.string())

    def say(self, rows: Rows, why: Why, word: str) -> None:
        self.why[rows] = why
        self._word[rows] = len(self._words)
        self._words.append(word)

    def near(self, rows: Rows, partners: Rows, distance: npt.NDArray[np.integer]) -> None:
        self._partner[rows], self._distance[rows] = partners, distance

    def follow(self, rows: Rows, partners: Rows, distance: npt.NDArray[np.integer], quality: _Quality) -> None:
        number, words = quality.better(rows, partners)
        for place, word in enumerate(words):
            self.say(rows[number == place], Why.NEAR_DUPLICATE, word)
        self.near(rows, partners, distance)

    def leaks(self, rows: Rows, leaks: pa.Table) -> None:
        same = leaks["same_file"].to_numpy()
        for mask, word in ((same, "the same file as a test image"), (~same, "near-duplicate of a test image")):
            self.say(rows[mask], Why.LEAK, word)
        self._strangers = leaks["partner"]
        self.near(rows, len(self._word) + np.arange(len(rows)), leaks["distance"].to_numpy())

    def table(self) -> pa.Table:
        """`DEDUPED_MANIFEST`."""
        images, why = self._images, self.why
        names = pa.chunked_array([*images["id"].chunks, *self._strangers.chunks], pa.string())
        partner = names.take(pa.array(self._partner, mask=self._partner < 0))
        distance = pa.array(self._distance, mask=self._distance < 0)
        word = pa.array(self._words, pa.string()).take(pa.array(self._word))
        told = pc.binary_join_element_wise(word, ": ", partner, ", ", distance.cast(pa.string()), " bits apart", "")
        reason = pc.if_else(pa.array((why == Why.LEAK) | (why == Why.NEAR_DUPLICATE)), told, word)
        decision = np.where(why == Why.KEPT, 0, np.where(why == Why.FAILED, 2, 1))
        return pa.table(
            {
                "id": images["id"],
                "landmark_id": images["landmark_id"],
                "shard": images["shard"],
                "decision": pa.array(["kept", "dropped", "failed"]).take(pa.array(decision)),
                "reason": pc.if_else(pa.array(why == Why.FAILED), images["reason"], reason),
                "partner": partner,
                "distance": distance,
            }
        )


def extreme_pairs(images: pa.Table, shown: int) -> tuple[list[Pair], list[Pair]]:
    """The closest and the farthest pair of each class, the `shown` most extreme of each kind.

    Args:
        images: `id, landmark_id, dhash` of stored images, sorted by id.
        shown: pairs of each kind.
    """
    landmarks = images["landmark_id"].to_numpy()
    rows = np.argsort(landmarks, kind="stable")
    kinds = extreme_rows(images["dhash"].to_numpy()[rows], class_starts(landmarks[rows]))
    found = []
    for sign, pairs in zip((1, -1), kinds, strict=True):
        pairs = pairs[pairs[:, 0] >= 0]
        first, second = rows[pairs[:, 0]], rows[pairs[:, 1]]
        best = np.lexsort((first, sign * pairs[:, 2]))[:shown]
        names = [images["id"].take(pa.array(side[best])).to_pylist() for side in (first, second)]
        found.append([Pair(*pair) for pair in zip(*names, pairs[best, 2].tolist(), strict=True)])
    return found[0], found[1]


def near_duplicate_groups(deduped: Deduped, groups: int, images: int) -> list[tuple[str, list[str]]]:
    """Groups of near-duplicates as (the image that led, the nearest of those dropped for it), the largest first.

    Args:
        deduped: the decisions.
        groups: how many at most.
        images: of a group at most, the one that led included.
    """
    dropped = deduped.manifest.filter(pa.array(deduped.why == Why.NEAR_DUPLICATE))
    sizes = dropped.group_by("partner", use_threads=False).aggregate([([], "count_all")])
    largest = sizes.sort_by([("count_all", "descending"), ("partner", "ascending")]).slice(0, groups)
    found = []
    for leader in largest["partner"].to_pylist():
        mine = dropped.filter(pc.equal(dropped["partner"], leader))
        mine = mine.sort_by([("distance", "ascending"), ("id", "ascending")])
        found.append((leader, mine["id"].slice(0, images - 1).to_pylist()))
    return found


def _pairs_shown(images: pa.Table) -> list[list[Shown]]:
    return [
        [Shown("train", name, f"{word} {pair.distance} bits") for pair in pairs for name in (pair.first, pair.second)]
        for word, pairs in zip(("closest", "farthest"), extreme_pairs(images, PAIRS_SHOWN), strict=True)
    ]


def _groups_shown(deduped: Deduped) -> list[list[Shown]]:
    rows = []
    for leader, followers in near_duplicate_groups(deduped, GROUPS_SHOWN, GROUP_SHOWN):
        of_group = deduped.manifest.filter(pc.is_in(deduped.manifest["id"], pa.array([leader, *followers])))
        by_id = {row["id"]: row for row in of_group.to_pylist()}
        decision = by_id[leader]["decision"]
        followed = [Shown("train", name, f"dropped, {by_id[name]['distance']} bits", False) for name in followers]
        rows.append([Shown("train", leader, decision, decision == "kept"), *followed])
    return rows


def competition_images(store: Store) -> pa.Table:
    """The competition's set with what became of each image, as `dedupe` reads it."""
    return asked(read_table(store, COMPETITION_TRAIN), fates(store, "train", COLUMNS))


def make_deduped_manifest(store: Store, recipe: Dedupe, seed: int) -> Made:
    """`deduped_manifest`, with galleries of the closest and farthest pairs and of near-duplicates."""

    def build(writer: Writer) -> Summary:
        images = competition_images(store)
        deduped = dedupe(images, recipe, seed, leaks_into_test(store) if recipe.remove_leaks else None)
        writer.table(DEDUPED_MANIFEST, deduped.manifest)
        pairs = _pairs_shown(images.filter(pc.equal(images["status"], "stored")))
        writer.write(PAIRS_PICTURE, shown_gallery(store, pairs))
        writer.write(GROUPS_PICTURE, shown_gallery(store, _groups_shown(deduped)))
        return {"requested": images.num_rows, **decision_counts(deduped.manifest), **deduped.counts}

    inputs = need_receipts(store, "competition_train", "image_catalog", "train_test_leaks")
    parameters = recipe.model_dump() | {"seed": seed}
    return make(store, "deduped_manifest", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)
