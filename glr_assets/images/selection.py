"""Which images of a split are stored, and to which landmark they belong."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glr_assets.errors import MissingInputError
from glr_assets.metadata.schemas import COMPETITION_TRAIN, INDEX_METADATA, TEST_METADATA, TRAIN_METADATA
from glr_assets.planning.schemas import FILL_PLAN
from glr_assets.receipts import need_receipts
from glr_assets.recipes import Images
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import Table, fixed_width, places, read_parts


@dataclass(frozen=True)
class _Rows:
    """The listed ids of a split, sorted, with landmark (train only) and whether each is wanted."""

    ids: npt.NDArray[np.bytes_]
    landmark_ids: npt.NDArray[np.int64] | None
    wanted: npt.NDArray[np.bool_]


class Selection:
    """The listed ids of a split, sorted, with landmark (train only) and whether each is wanted.

    The tables are read at the first need: finished work is known by their digests.

    Attributes:
        digests: of the tables that it is made from, by asset.
    """

    def __init__(self, digests: Mapping[str, str], read: Callable[[], _Rows]) -> None:
        self.digests = dict(digests)
        self._read = read
        self._lock = threading.Lock()
        self._rows: _Rows | None = None

    @classmethod
    def of(
        cls,
        ids: npt.NDArray[np.bytes_],
        landmark_ids: npt.NDArray[np.int64] | None,
        wanted: npt.NDArray[np.bool_],
        digests: Mapping[str, str],
    ) -> Selection:
        """A selection of rows that are in memory: ids [n], sorted, and by row the landmark and whether it is wanted."""
        return cls(digests, lambda: _Rows(ids, landmark_ids, wanted))

    @property
    def _all(self) -> _Rows:
        if self._rows is None:
            with self._lock:  # decoding threads ask at once
                if self._rows is None:
                    self._rows = self._read()
        return self._rows

    @property
    def ids(self) -> npt.NDArray[np.bytes_]:
        """The listed ids [n], sorted."""
        return self._all.ids

    @property
    def landmark_ids(self) -> npt.NDArray[np.int64] | None:
        """The train landmark of each id [n]; None in splits without."""
        return self._all.landmark_ids

    @property
    def wanted(self) -> npt.NDArray[np.bool_]:
        """Whether each id is wanted [n]."""
        return self._all.wanted

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
    tables = selection_tables(split, recipe)
    digests = need_receipts(store, *tables)

    def read() -> _Rows:
        rows = _rows(store, split, recipe)
        if need_receipts(store, *tables) != digests:
            raise MissingInputError(
                f"{' or '.join(tables)} in {store.url} was made again while a run read it; start the run again"
            )
        return rows

    return Selection(digests, read)


def _rows(store: Store, split: Split, recipe: Images) -> _Rows:
    if split != "train":
        ids, _ = _sorted(store, {"index": INDEX_METADATA, "test": TEST_METADATA}[split], [])
        return _Rows(ids, None, np.ones(len(ids), bool))
    ids, columns = _sorted(store, TRAIN_METADATA, ["landmark_id"])
    if recipe.keep == "all":
        return _Rows(ids, columns[0], np.ones(len(ids), bool))
    wanted = np.zeros(len(ids), bool)
    for asked in (COMPETITION_TRAIN, FILL_PLAN):
        for part in read_parts(store, asked, ["id"]):
            rows = places(fixed_width(part["id"]), ids)
            wanted[rows[rows >= 0]] = True
    return _Rows(ids, columns[0], wanted)


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
