"""The order in which a package holds its images, and the borders of its files."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glr_assets.recipes import ExportOrder
from glr_assets.seeded import seeded_hash
from glr_assets.tables import fixed_width

Rows = npt.NDArray[np.int64]


def export_order(
    ids: pa.Array | pa.ChunkedArray, landmark_ids: npt.NDArray[np.int64], order: ExportOrder, seed: int
) -> Rows:
    """The rows of `ids` [n], each once, in the order of a package; it depends on no order that the rows come in.

    - `id`: by id.
    - `shuffled`: by a keyed hash of the id.
    - `balanced`: shuffled, with each landmark spread over the whole. Of a landmark with n images the k-th drawn
      stands at a random place of the k-th n-th of the way, so that a file or a batch holds of each landmark its share
      of the whole, give or take one at either end. Landmarks of one size take turns: none comes again before all have.

    Args:
        ids: image ids, each once.
        landmark_ids: [n] the landmark of each.
        order: which of the three.
        seed: of `shuffled` and `balanced`.
    """
    by_id = np.argsort(fixed_width(ids), kind="stable")
    if order == "id":
        return by_id
    hashes = seeded_hash(ids, seed, "export")[by_id]
    if order == "shuffled":
        return by_id[np.argsort(hashes, kind="stable")]
    landmarks = np.asarray(landmark_ids)[by_id]
    drawn = np.lexsort((hashes, landmarks))
    _, first, count = np.unique(landmarks[drawn], return_index=True, return_counts=True)
    sizes = np.repeat(count, count)
    turn = np.arange(len(drawn)) - np.repeat(first, count)
    # Drawn afresh: within a landmark the first hash orders, so it is no uniform place inside a turn.
    within = seeded_hash(ids, seed, "export within a turn")[by_id][drawn] >> np.uint64(11)
    place = (turn + within / 2.0**53) / sizes
    return by_id[drawn[np.lexsort((drawn, place))]]


def file_borders(images: int, images_per_file: int) -> list[tuple[int, int]]:
    """First and past-the-last image of each file: as few files as can be, of sizes that differ by one at most."""
    files = -(-images // images_per_file)
    borders = [number * images // files for number in range(files)] + [images]
    return list(pairwise(borders))
