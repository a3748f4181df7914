"""Which images of a split are stored, and to which landmark they belong."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glr_assets.metadata.schemas import COMPETITION_TRAIN, INDEX_METADATA, TEST_METADATA, TRAIN_METADATA
from glr_assets.planning.schemas import FILL_PLAN
from glr_assets.receipts import need_receipts
from glr_assets.recipes import Images
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import Table, fixed_width, places, read_parts


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


def selection_tables(split: Split, recipe: Images) -> tuple[str, ...]:
    """The assets that `selection_for` reads: what a shard's images are decided by besides its bytes."""
    if split != "train":
        return (f"{split}_metadata",)
    return ("train_metadata",) if recipe.keep == "all" else ("train_metadata", "competition_train", "fill_plan")


def selection_for(store: Store, split: Split, recipe: Images) -> Selection:
    """What the recipe wants of a split: of train the competition's set and the fill plan, or all; else all.

    Raises:
        MissingInputError: a table it needs has not been made.
    """
    digests = need_receipts(store, *selection_tables(split, recipe))
    if split != "train":
        ids, _ = _sorted(store, {"index": INDEX_METADATA, "test": TEST_METADATA}[split], [])
        return Selection(ids, None, np.ones(len(ids), bool), digests)
    ids, columns = _sorted(store, TRAIN_METADATA, ["landmark_id"])
    if recipe.keep == "all":
        return Selection(ids, columns[0], np.ones(len(ids), bool), digests)
    wanted = np.zeros(len(ids), bool)
    for asked in (COMPETITION_TRAIN, FILL_PLAN):
        for part in read_parts(store, asked, ["id"]):
            rows = places(fixed_width(part["id"]), ids)
            wanted[rows[rows >= 0]] = True
    return Selection(ids, columns[0], wanted, digests)


def _sorted(store: Store, table: Table, names: list[str]) -> tuple[npt.NDArray[np.bytes_], list[npt.NDArray[np.int64]]]:
    """A table's ids, sorted, and columns of numbers in their order; a row group at a time is in memory as Arrow."""
    parts = [
        (fixed_width(part["id"]), [part[name].to_numpy() for name in names])
        for part in read_parts(store, table, ["id", *names])
    ]
    ids = np.concatenate([np.zeros(0, "S1"), *(keys for keys, _ in parts)])
    columns = [np.concatenate([np.zeros(0, np.int64), *(c[n] for _, c in parts)]) for n in range(len(names))]
    if (ids[1:] < ids[:-1]).any():
        order = np.argsort(ids, kind="stable")
        return ids[order], [column[order] for column in columns]
    return ids, columns
