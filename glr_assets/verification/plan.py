"""Which images are compared with which: those of one landmark, of the set that is cleaned, as the recipe bounds it.

It follows from the manifest alone, so every shard and every bucket knows it without the others.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.chosen import VERIFICATION_MANIFEST, chosen_inputs
from glr_assets.curation.fates import fates
from glr_assets.curation.kept import kept_rows
from glr_assets.curation.schemas import DEDUPED_MANIFEST, TRAIN_MANIFEST
from glr_assets.recipes import Verification
from glr_assets.seeded import seeded_hash
from glr_assets.store import Store
from glr_assets.tables import fixed_width

COMPARED: Final = "compared"
TOO_SMALL: Final = "class too small"
BEYOND_CAP: Final = "beyond the cap"


def set_to_clean(store: Store, recipe: Verification) -> pa.Table:
    """`id, landmark_id, shard` of the images of `[verification] manifest`, sorted by id.

    Raises:
        MissingInputError: the set has not been made, or `verification_manifest` is of another one.
    """
    chosen_inputs(store, VERIFICATION_MANIFEST, recipe.manifest)
    if recipe.manifest != "stored":
        return kept_rows(store, TRAIN_MANIFEST if recipe.manifest == "train_manifest" else DEDUPED_MANIFEST)
    found = fates(store, "train", ("landmark_id",))
    stored = pc.and_(pc.equal(found["status"], "stored"), pc.is_valid(found["landmark_id"]))
    return found.filter(stored).select(["id", "landmark_id", "shard"])


def comparison_plan(images: pa.Table, recipe: Verification, seed: int) -> pa.Table:
    """The images with a column `outcome`: `COMPARED`, `TOO_SMALL` or `BEYOND_CAP`.

    Of a landmark with more than `cap` images those that come first in a seeded order are compared, which no other
    image's presence changes.

    Args:
        images: `id, landmark_id, shard`, sorted by id.
        recipe: `min_class` and `cap`.
        seed: of the order.
    """
    landmarks = images["landmark_id"].to_numpy()
    _, number, sizes = np.unique(landmarks, return_inverse=True, return_counts=True)
    outcome = np.where(sizes[number] < recipe.min_class, 1, 0)
    large = np.flatnonzero((outcome == 0) & (sizes[number] > recipe.cap))
    if len(large):
        ids = images["id"].take(pa.array(large))
        order = large[np.lexsort((fixed_width(ids), seeded_hash(ids, seed, "verification"), number[large]))]
        starts = np.flatnonzero(np.r_[True, np.diff(number[order]) > 0])
        place = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
        outcome[order[place >= recipe.cap]] = 2
    words = pa.array([COMPARED, TOO_SMALL, BEYOND_CAP]).take(pa.array(outcome))
    return images.append_column("outcome", words)


def landmark_order(landmark_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """An order of landmarks [n] by which any number of buckets is made of stretches of it (SplitMix64 of the id)."""
    from pandas.util import hash_array

    return hash_array(np.ascontiguousarray(landmark_ids, np.int64), categorize=False)


def buckets_of(landmark_ids: npt.NDArray[np.int64], buckets: int) -> npt.NDArray[np.int64]:
    """The bucket of each landmark [n], from 0: equal stretches of `landmark_order`."""
    high = landmark_order(landmark_ids) >> np.uint64(32)
    return ((high * np.uint64(buckets)) >> np.uint64(32)).astype(np.int64)


def bucket_keys(buckets: int) -> list[str]:
    """The keys of the buckets, which are partitions: `00`, `01` and on, all as long as the last."""
    width = max(2, len(str(buckets - 1)))
    return [f"{number:0{width}d}" for number in range(buckets)]
