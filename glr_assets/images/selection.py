"""Which images of a split are stored, and to which landmark they belong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.metadata.schemas import COMPETITION_TRAIN, INDEX_METADATA, TEST_METADATA, TRAIN_METADATA
from glr_assets.planning.schemas import FILL_PLAN
from glr_assets.receipts import need_receipts
from glr_assets.recipes import Images
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import fixed_width, read_table


@dataclass(frozen=True)
class Selection:
    """The listed ids of a split, sorted, with landmark (train only) and whether each is wanted.

    `digests` identify the tables it was made from.
    """

    ids: npt.NDArray[np.bytes_]
    landmark_ids: npt.NDArray[np.int64] | None
    wanted: npt.NDArray[np.bool_]
    digests: dict[str, str]

    def row(self, image_id: str) -> int | None:
        """The row of an id, or None where the split's table does not list it."""
        key = np.bytes_(image_id.encode())
        row = int(np.searchsorted(self.ids, key))
        return row if row < len(self.ids) and self.ids[row] == key else None

    def landmark(self, row: int) -> int | None:
        """The train landmark of a row; None in splits without."""
        return None if self.landmark_ids is None else int(self.landmark_ids[row])


def selection_for(store: Store, split: Split, recipe: Images) -> Selection:
    """What the recipe wants of a split: of train the competition's set and the fill plan, or all; else all.

    Raises:
        MissingInputError: a table it needs has not been made.
    """
    if split != "train":
        table, asset = {
            "index": (INDEX_METADATA, "index_metadata"),
            "test": (TEST_METADATA, "test_metadata"),
        }[split]
        ids = read_table(store, table, ["id"])["id"]
        return _selection(ids, None, np.ones(len(ids), bool), need_receipts(store, asset))
    train = read_table(store, TRAIN_METADATA, ["id", "landmark_id"])
    if recipe.keep == "all":
        wanted = np.ones(train.num_rows, bool)
        digests = need_receipts(store, "train_metadata")
    else:
        parts = [read_table(store, table, ["id"])["id"] for table in (COMPETITION_TRAIN, FILL_PLAN)]
        asked = pa.chunked_array([chunk for part in parts for chunk in part.chunks], pa.string())
        wanted = pc.is_in(train["id"], asked.combine_chunks()).to_numpy()
        digests = need_receipts(store, "train_metadata", "competition_train", "fill_plan")
    return _selection(train["id"], train["landmark_id"].to_numpy(), wanted, digests)


def _selection(
    ids: pa.ChunkedArray,
    landmark_ids: npt.NDArray[np.int64] | None,
    wanted: npt.NDArray[np.bool_],
    digests: dict[str, str],
) -> Selection:
    keys = fixed_width(ids)
    order = np.argsort(keys, kind="stable")
    return Selection(keys[order], None if landmark_ids is None else landmark_ids[order], wanted[order], digests)
