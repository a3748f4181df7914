"""The parts that images are obtained in: which there are, and which images each asks for."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.openimages.boxes import USABLE
from glr_assets.openimages.schemas import OPENIMAGES_ANNOTATIONS
from glr_assets.seeded import seeded_hash
from glr_assets.store import Store
from glr_assets.tables import read_parts

_REQUEST = (
    "image_id",
    "subset",
    "url",
    "landing_url",
    "author",
    "license",
    "title",
    "original_md5",
    "original_size",
    "rotation",
)


def part_keys(parts: int) -> list[str]:
    """The keys of the parts, which are partitions: `00`, `01` and on, all as long as the last."""
    width = max(2, len(str(parts - 1)))
    return [f"{number:0{width}d}" for number in range(parts)]


def parts_of(image_ids: pa.ChunkedArray, parts: int) -> npt.NDArray[np.int64]:
    """The part of each image [n], from 0: by a hash of its id, so that parts are of about one size."""
    high = seeded_hash(image_ids, 0, "openimages part") >> np.uint64(32)
    return ((high * np.uint64(parts)) >> np.uint64(32)).astype(np.int64)


def requests(store: Store, part: int | None = None, parts: int = 1) -> pa.Table:
    """One row per image that has a usable box, of one part or all, sorted by id, with what its image table says.

    Raises:
        MissingInputError: `openimages_annotations` has not been made.
    """
    found = []
    for rows in read_parts(store, OPENIMAGES_ANNOTATIONS, _REQUEST, {"status": USABLE}):
        if part is not None:
            rows = rows.filter(pa.array(parts_of(rows["image_id"], parts) == part))
        found.append(_firsts(rows))
    schema = pa.schema([OPENIMAGES_ANNOTATIONS.schema.field(name).with_nullable(True) for name in _REQUEST])
    return _firsts(pa.concat_tables([schema.empty_table(), *found]))


def _firsts(rows: pa.Table) -> pa.Table:
    """Of sorted rows the first of each image."""
    ids = rows["image_id"]
    new = pc.not_equal(ids.slice(1), ids.slice(0, max(len(ids) - 1, 0)))
    return rows.filter(pa.array(np.r_[np.ones(min(len(ids), 1), bool), new.to_numpy()]))
