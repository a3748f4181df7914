"""The competition's set with its large classes reduced to their most diverse images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.diversity import extreme_rows, hamming, most_diverse
from glr_assets.curation.fates import asked, fates
from glr_assets.curation.schemas import DEDUPED_MANIFEST, decision_counts
from glr_assets.images.reader import ImageReader
from glr_assets.metadata.schemas import COMPETITION_TRAIN
from glr_assets.plots import Thumbnail, gallery
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Dedupe
from glr_assets.seeded import seeded_hash
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "1"
PICTURE = "reports/deduped_manifest.jpg"
PAIRS_SHOWN = 6


@dataclass(frozen=True)
class Pair:
    """Two images of one landmark and the bits between their hashes."""

    first: str
    second: str
    distance: int


def dedupe(images: pa.Table, recipe: Dedupe, seed: int) -> pa.Table:
    """Decide on each image of the competition's set, as `DEDUPED_MANIFEST` sorted by id.

    A class of at most `keep` stored images stays whole. Of a larger one, `sample` images in a seeded order
    are compared and exactly `keep` of them kept.

    Args:
        images: `id, landmark_id, shard, status, reason, dhash`, one row an image; not all are stored.
        recipe: `keep` and `sample`.
        seed: of the order.
    """
    images = images.sort_by("id")
    stored = pc.equal(images["status"], "stored").to_numpy()
    decision = np.where(stored, "kept", "failed").astype(object)
    reason = np.array(images["reason"].to_pylist(), dtype=object)
    reason[stored] = f"whole class: at most {recipe.keep} images"
    partner = np.full(len(stored), None, dtype=object)
    distance = np.full(len(stored), -1, np.int32)
    ids = np.array(images["id"].to_pylist(), dtype=object)
    hashes = pc.fill_null(images["dhash"], 0).to_numpy()
    order = seeded_hash(images["id"], seed, "dedupe")
    for rows in _classes(images["landmark_id"].to_numpy(), np.flatnonzero(stored)):
        if len(rows) <= recipe.keep:
            continue
        drawn = rows[np.lexsort((rows, order[rows]))][: recipe.sample]
        kept = drawn[most_diverse(hashes[drawn], recipe.keep)]
        left = np.setdiff1d(rows, kept)
        bits = hamming(hashes[left], hashes[kept])
        nearest = bits.argmin(axis=1)
        decision[left] = "dropped"
        partner[left] = ids[kept[nearest]]
        distance[left] = bits.min(axis=1)
        reason[kept] = f"among the {recipe.keep} most diverse of its class"
        reason[left] = f"less diverse than the {recipe.keep} kept of its class"
        reason[np.setdiff1d(left, drawn)] = f"not among the {recipe.sample} images of its class compared"
    return pa.table(
        {
            "id": images["id"],
            "landmark_id": images["landmark_id"],
            "shard": images["shard"],
            "decision": pa.array(decision.tolist(), pa.string()),
            "reason": pa.array(reason.tolist(), pa.string()),
            "partner": pa.array(partner.tolist(), pa.string()),
            "distance": pa.array(distance, mask=distance < 0),
        }
    )


def _classes(landmark_ids: npt.NDArray[np.int64], rows: npt.NDArray[np.intp]) -> list[npt.NDArray[np.intp]]:
    """`rows` parted by landmark."""
    by_class = rows[np.argsort(landmark_ids[rows], kind="stable")]
    borders = np.flatnonzero(np.diff(landmark_ids[by_class])) + 1
    return np.split(by_class, borders) if len(by_class) else []


def extreme_pairs(images: pa.Table, shown: int) -> tuple[list[Pair], list[Pair]]:
    """The closest and the farthest pair of each class, the `shown` most extreme of each kind."""
    stored = images.filter(pc.equal(images["status"], "stored")).sort_by("id")
    ids, hashes = stored["id"].to_pylist(), stored["dhash"].to_numpy()
    closest: list[Pair] = []
    farthest: list[Pair] = []
    for rows in _classes(stored["landmark_id"].to_numpy(), np.arange(stored.num_rows)):
        if len(rows) < 2:
            continue
        for found, pair in zip((closest, farthest), extreme_rows(hashes[rows]), strict=True):
            found.append(Pair(ids[rows[pair.first]], ids[rows[pair.second]], pair.distance))
    closest.sort(key=lambda pair: (pair.distance, pair.first))
    farthest.sort(key=lambda pair: (-pair.distance, pair.first))
    return closest[:shown], farthest[:shown]


def pair_gallery(reader: ImageReader, closest: list[Pair], farthest: list[Pair]) -> bytes:
    """Two rows of pairs side by side: the closest above, the farthest below."""
    rows = [
        [
            Thumbnail(reader.read(image_id), f"{image_id}\n{word} {pair.distance} bits")
            for pair in pairs
            for image_id in (pair.first, pair.second)
        ]
        for word, pairs in (("closest", closest), ("farthest", farthest))
    ]
    return gallery(rows)


def make_deduped_manifest(store: Store, recipe: Dedupe, seed: int) -> Made:
    """`deduped_manifest`, with a gallery of the closest and farthest pairs."""

    def build(writer: Writer) -> Summary:
        images = asked(read_table(store, COMPETITION_TRAIN), fates(store, "train"))
        manifest = dedupe(images, recipe, seed)
        writer.table(DEDUPED_MANIFEST, manifest)
        pairs = extreme_pairs(images, PAIRS_SHOWN)
        shown = [image_id for side in pairs for pair in side for image_id in (pair.first, pair.second)]
        writer.write(PICTURE, pair_gallery(ImageReader.of_split(store, "train", shown), *pairs))
        return {"requested": manifest.num_rows, **decision_counts(manifest)}

    inputs = need_receipts(store, "competition_train", "image_catalog")
    parameters = recipe.model_dump() | {"seed": seed}
    return make(store, "deduped_manifest", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)
