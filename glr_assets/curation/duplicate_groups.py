"""Groups of near-duplicates among stored images of a split, for splits of them that must not part a group."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.fates import stored_images
from glr_assets.grouped_split import ImageTraits, near_duplicate_groups
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, taken

#: Variance of the Laplacian under which a picture is blank, so that its hash tells nothing.
LEAST_SHARPNESS: Final = 1.0


def duplicate_groups(store: Store, images: pa.Table, split: Split = "train") -> npt.NDArray[np.int64]:
    """The group of each image [n]: the row of the first of its near-duplicates of the same landmark, by id.

    They are told by the dhash that ingest stored (`grouped_split.near_duplicate_groups`). An image that is not stored
    is a group of its own. The catalog's hashes of the split are held at once, some 30 bytes an image.

    Args:
        store: the store.
        images: `id, landmark_id`, each id once.
        split: that they are of.

    Raises:
        MissingInputError: the catalog has not been made.
    """
    ids = fixed_width(images["id"])
    stored = stored_images(store, split, ("dhash", "sharpness"))
    found = taken(stored, places(ids, fixed_width(stored["id"])))
    sharp = pc.greater_equal(pc.fill_null(found["sharpness"], 0.0), LEAST_SHARPNESS)
    hashed = pc.and_(pc.is_valid(found["dhash"]), sharp)
    order = np.argsort(ids, kind="stable")
    traits = ImageTraits(
        pc.fill_null(found["dhash"], pa.scalar(0, pa.uint64())).to_numpy()[order],
        np.asarray(hashed.to_numpy(zero_copy_only=False), np.bool_)[order],
    )
    groups = near_duplicate_groups(images["landmark_id"].to_numpy()[order], traits)
    of_row = np.empty(len(order), np.int64)
    of_row[order] = order[groups]
    return of_row
