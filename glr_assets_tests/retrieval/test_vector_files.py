"""Vectors in files of rows: numpy's format, more numbers than 32 bits count, damage, S3, one copy."""

from __future__ import annotations

import io
import tracemalloc
import uuid
from pathlib import Path

import numpy as np
import pytest

from glr_assets.errors import MissingInputError, StoreError
from glr_assets.receipts import Writer
from glr_assets.retrieval import vector_files
from glr_assets.retrieval.vector_files import LocatedVectors, VectorFile, allocated, write_vectors
from glr_assets.store import Store
from glr_assets_tests.faulty_s3 import FaultyS3


def located(files: list[VectorFile], file: list[int], row: list[int]) -> LocatedVectors:
    ids = [str(number) for number in range(len(row))]
    none = np.zeros(len(row), np.uint64)
    return LocatedVectors(ids, none, files, np.array(file, np.int32), np.array(row, np.int64), files[0].dimensions)


def filled(vectors: LocatedVectors) -> np.ndarray:
    target = np.full((len(vectors), vectors.dimensions), np.nan, np.float32)
    vectors.fill(target)
    return target


@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (1, 1), (300, 7)])
def test_files_are_numpys_own(shape: tuple[int, int], store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_files, "_AT_ONCE", 100)
    vectors = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    write_vectors(Writer(store), "some.npy", vectors)
    expected = io.BytesIO()
    np.save(expected, vectors)
    assert store.read("some.npy") == expected.getvalue()
    found = VectorFile.open(store, "some.npy")
    assert (found.rows, found.dimensions) == shape
    np.testing.assert_array_equal(found.read(), vectors)


def test_more_numbers_than_32_bits_count(store: Store) -> None:
    rows, dimensions = 4_300_000, 512  # 2.2 thousand million numbers, of which the disk holds three rows
    path = Path(store.path("large.npy"))
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dimensions)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
        for row in (0, 2**31 // dimensions + 1, rows - 1):
            file.seek(start + 4 * dimensions * row)
            file.write(np.full(dimensions, row, "<f4").tobytes())
    assert path.stat().st_blocks * 512 < 2**20
    found = VectorFile.open(store, "large.npy")
    assert (found.rows, found.dimensions) == (rows, dimensions)
    far = located([found], [0, 0, 0, 0], [rows - 1, 5, 2**31 // dimensions + 1, 0])
    assert filled(far)[:, [0, -1]].tolist() == [[rows - 1] * 2, [0, 0], [2**31 // dimensions + 1] * 2, [0, 0]]


def test_rows_of_a_server_are_fetched_together(proxy: FaultyS3) -> None:
    store = Store(f"s3://vectors-{uuid.uuid4().hex}/below", {"endpoint_url": proxy.url})
    store.fs.mkdir(store.root.partition("/")[0])
    random = np.random.default_rng(0)
    each = [random.normal(size=(400, 64)).astype(np.float32) for _ in range(3)]
    for number, vectors in enumerate(each):
        write_vectors(Writer(store), f"{number}.npy", vectors)
    files = [VectorFile.open(store, f"{number}.npy") for number in range(3)]
    proxy.calm()
    row = random.permutation(400)[:300]
    file = random.integers(0, 3, 300)
    found = filled(located(files, file.tolist(), row.tolist()))
    np.testing.assert_array_equal(found, np.stack([each[f][r] for f, r in zip(file, row, strict=True)]))
    assert len(proxy.ranges(".npy")) == 3
    np.testing.assert_array_equal(files[1].read(), each[1])


def test_large_arrays_lie_on_disk_and_go_with_their_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vector_files, "LARGE", 1000)
    monkeypatch.setattr(vector_files.tempfile, "tempdir", str(tmp_path))
    small, large = allocated(10, 25), allocated(1000, 25)
    assert not isinstance(small, np.memmap)
    assert isinstance(large, np.memmap)
    assert not large.any()
    large[-1] = 7
    assert large[-1].sum() == 175
    assert list(tmp_path.iterdir()) == []


def test_a_fill_makes_no_copy_of_its_own(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    write_vectors(Writer(store), "some.npy", np.ones((20_000, 64), np.float32))
    monkeypatch.setattr(vector_files, "_AT_ONCE", 2**16)
    vectors = located([VectorFile.open(store, "some.npy")], [0] * 20_000, list(range(20_000)))
    target = np.zeros((20_000, 64), np.float32)
    tracemalloc.start()
    try:
        vectors.fill(target)
        assert tracemalloc.get_traced_memory()[1] < target.nbytes / 4
    finally:
        tracemalloc.stop()
    assert target.all()


@pytest.mark.parametrize("remote", [False, True])
@pytest.mark.parametrize("damage", ["nonsense", "cut", "float64", "columns first"])
def test_what_is_no_file_of_vectors_is_named(damage: str, remote: bool, store: Store) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}") if remote else store
    file = io.BytesIO()
    vectors = np.ones((5, 3), np.float64 if damage == "float64" else np.float32)
    np.save(file, np.asfortranarray(vectors) if damage == "columns first" else vectors)
    data = b"nonsense" if damage == "nonsense" else file.getvalue()[:-4] if damage == "cut" else file.getvalue()
    store.write("some.npy", data)
    with pytest.raises(StoreError, match=r"some\.npy.*; (materialise|it was cut)"):
        filled(located([VectorFile.open(store, "some.npy")], [0, 0], [4, 1]))
    with pytest.raises(MissingInputError, match="other"):
        VectorFile.open(store, "other.npy")
