"""Sorting millions of ids: by machine words, with the few that share a word parted afterwards."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.tables import fixed_width

_WORD = 8
_LONGEST = 64
"""Bytes; longer strings are left to Arrow, for every row would take as much memory as the longest."""


def sorted_rows(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """The rows of a column in ascending order, and which of them, in that order, have the value of the one before.

    Strings ascend by their bytes, as Arrow has them ascend; rows of one value keep their order. The column is of
    strings or integers, without absent values.

    Returns:
        int64 [n] and bool [n].
    """
    if not len(column):
        return np.zeros(0, np.int64), np.zeros(0, bool)
    if pa.types.is_integer(column.type):
        return sorted_by([column.to_numpy()])
    lengths = pc.binary_length(column).to_numpy()
    if lengths.max() > _LONGEST:
        order = pc.array_sort_indices(column).to_numpy().astype(np.int64)
        values = column.take(pa.array(order))
        return order, np.r_[False, pc.equal(values.slice(1), values.slice(0, len(values) - 1)).to_numpy()]
    keys = fixed_width(column)
    words = -(-keys.dtype.itemsize // _WORD)
    columns = keys.astype(f"S{words * _WORD}", copy=False).view(">u8").reshape(-1, words)
    # The length last: padded with NULs, a string and the same with a NUL at its end are alike.
    return sorted_by([columns[:, word].astype(np.uint64) for word in range(words)] + [lengths])


def sorted_by(words: list[npt.NDArray]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """As `sorted_rows`, for rows of several columns of numbers [n], the first foremost.

    It takes little more time than sorting by the first, where few rows share a value of that.
    """
    order = np.argsort(words[0], kind="stable")
    first = words[0][order]
    repeats = np.zeros(len(first), bool)
    repeats[1:] = first[1:] == first[:-1]
    shared = np.flatnonzero(repeats | np.r_[repeats[1:], False])
    if len(words) == 1 or not len(shared):
        return order, repeats
    rows = order[shared]
    order[shared] = rows = rows[np.lexsort([word[rows] for word in reversed(words)])]
    equal = [word[rows][1:] == word[rows][:-1] for word in words]
    repeats[shared] = np.r_[False, np.logical_and.reduce(equal)]
    return order, repeats
