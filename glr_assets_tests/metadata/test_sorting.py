"""Sorting against Python's own, on ids that share beginnings, end in NULs, are long or stand several times."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.metadata.sorting import sorted_by, sorted_rows

texts = st.text(st.sampled_from("ab0é\0"), max_size=20) | st.text(st.sampled_from("ab"), min_size=60, max_size=70)
values = st.lists(texts | st.sampled_from(["1e5", "100000", "00000000x", "00000000y"]), max_size=30)


def check(order: np.ndarray, repeats: np.ndarray, keys: list) -> None:
    expected = sorted(range(len(keys)), key=lambda row: (keys[row], row))
    assert order.tolist() == expected
    assert repeats.tolist() == [at > 0 and keys[expected[at - 1]] == keys[row] for at, row in enumerate(expected)]


@given(values, st.integers(0, 30))
def test_strings_ascend_by_their_bytes(texts: list[str], cut: int) -> None:
    column = pa.chunked_array([texts[:cut], texts[cut:]], pa.string())
    check(*sorted_rows(column), [text.encode() for text in texts])


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-2, 2), max_size=30))
def test_numbers_ascend(numbers: list[int]) -> None:
    check(*sorted_rows(pa.chunked_array([numbers], pa.int64())), numbers)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2), st.integers(0, 2)), max_size=30))
def test_rows_of_several_columns_ascend_by_the_first_foremost(rows: list[tuple[int, int, int]]) -> None:
    columns = np.array(rows, np.int64).reshape(-1, 3)
    check(*sorted_by(list(columns.T)), rows)


def test_many_ids_are_sorted_as_numpy_sorts_them() -> None:
    digits = np.random.default_rng(0).integers(0, 16, (50_000, 16))
    digits[:, :7] //= 8  # so that most share their first eight with others
    ids = ["".join(f"{digit:x}" for digit in row) for row in digits]
    order, repeats = sorted_rows(pa.chunked_array([ids], pa.string()))
    assert order.tolist() == np.argsort(np.array(ids, "S16"), kind="stable").tolist()
    assert not repeats.any()
