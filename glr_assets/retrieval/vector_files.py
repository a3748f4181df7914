"""Vectors on disk: one float32 .npy file a shard, mapped where it is local, read by rows where it is remote.

Rows have a fixed width and 64-bit places, so no number of vectors is too many for an offset, and a vector is found by
file and row.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glr_assets.errors import DamagedFileError, MissingInputError, StoreError
from glr_assets.ranges import Place, read_ranges, stream
from glr_assets.receipts import Writer
from glr_assets.store import Store

Floats = npt.NDArray[np.float32]
Rows = npt.NDArray[np.int64]

#: Arrays of more bytes lie in a file without a name, of which the system keeps in memory what it has room for.
LARGE: Final = 512 * 2**20
#: What numpy writes in front of a matrix of float32, with version 1.0 of its format.
_HEADER: Final = 128
_AT_ONCE: Final = 16 * 2**20


def allocated(count: int, dimensions: int) -> Floats:
    """Zeros, float32 [count, dimensions], in memory or, if they are `LARGE`, in a temporary file without a name."""
    if 4 * count * dimensions <= LARGE:
        return np.zeros((count, dimensions), np.float32)
    with tempfile.TemporaryFile(prefix="glr-vectors-") as file:
        # The mapping keeps the file; unwritten parts of it take no room.
        file.truncate(4 * count * dimensions)
        return np.memmap(file, np.float32, "r+", shape=(count, dimensions))


def write_vectors(writer: Writer, path: str, vectors: Floats) -> None:
    """Write float32 [n, D] as .npy, a few rows at a time.

    Args:
        writer: of the asset that the file belongs to.
        path: ends in .npy.
        vectors: may be mapped from another file.
    """
    with writer.writing(path) as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": vectors.shape}
        np.lib.format.write_array_header_1_0(file, header)
        step = max(1, _AT_ONCE // max(1, 4 * vectors.shape[1]))
        for start in range(0, len(vectors), step):
            file.write(np.ascontiguousarray(vectors[start : start + step], "<f4").tobytes())


@dataclass(frozen=True, eq=False)
class VectorFile:
    """A stored .npy of float32 [rows, dimensions].

    Attributes:
        store: where it is.
        path: its name there.
        rows: vectors.
        dimensions: numbers of each.
        mapped: its content, where the store is local; else absent.
    """

    store: Store
    path: str
    rows: int
    dimensions: int
    mapped: Floats | None = None

    @classmethod
    def open(cls, store: Store, path: str) -> VectorFile:
        """Look at a file's header; its vectors are read as they are needed.

        Raises:
            MissingInputError: there is none.
            DamagedFileError: it is no .npy of float32 in rows, or, locally, not as long as its header says.
            StoreError: it cannot be read.
        """
        where, mend = store.full_url(path), "materialise its asset again"
        try:
            if store.is_mappable:
                with store.mappable(path) as local:
                    found = np.load(local, mmap_mode="r", allow_pickle=False)
                if found.dtype != np.dtype("<f4") or found.ndim != 2 or not found.flags.c_contiguous:
                    raise ValueError(f"{found.dtype} of shape {found.shape}")
                return cls(store, path, found.shape[0], found.shape[1], found)
            rows, dimensions = _shape(store.head(path, _HEADER))
            return cls(store, path, rows, dimensions)
        except FileNotFoundError as error:
            raise MissingInputError(f"{where} is missing: materialise the asset that writes it first") from error
        except (ValueError, EOFError, OSError) as error:
            raise DamagedFileError(
                f"{where}: expected a .npy file of float32 in rows, found {error}; {mend}", path
            ) from error

    def read(self) -> Floats:
        """All vectors, float32 [rows, dimensions]: mapped where they are local, else copied once.

        Raises:
            StoreError: the file cannot be read.
        """
        if self.mapped is not None:
            return self.mapped
        found = allocated(self.rows, self.dimensions)
        target, done = found.reshape(-1), 0
        size = _HEADER + 4 * self.rows * self.dimensions
        rest = b""
        for number, block in enumerate(stream(self.store, self.path, size)):
            rest += block if number else block[_HEADER:]
            whole = len(rest) // 4
            target[done : done + whole] = np.frombuffer(rest, "<f4", whole)
            done, rest = done + whole, rest[4 * whole :]
        return found


def _shape(header: bytes) -> tuple[int, int]:
    """The rows and columns that a header of numpy's tells of float32 in rows."""
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
    if version != (1, 0) or fortran_order or dtype != np.dtype("<f4") or len(shape) != 2 or file.tell() != _HEADER:
        raise ValueError(f"version {version}, {dtype} of shape {shape}")
    return int(shape[0]), int(shape[1])


@dataclass(frozen=True, eq=False)
class LocatedVectors:
    """Where the vectors of images lie: some bytes an image, whatever the length of a vector.

    Attributes:
        ids: of the images.
        digests: uint64 [n], XXH3 of the images' stored bytes, 0 where it is not known.
        files: in which the vectors lie.
        file: int32 [n], which of them.
        row: int64 [n], and its row there.
        dimensions: numbers of a vector; 0 where there is no file with any.
    """

    ids: list[str]
    digests: npt.NDArray[np.uint64]
    files: Sequence[VectorFile]
    file: npt.NDArray[np.int32]
    row: Rows
    dimensions: int

    def __len__(self) -> int:
        return len(self.ids)

    def rows(self, rows: Rows) -> LocatedVectors:
        """Those of some rows, int64 [m], in that order."""
        ids = [self.ids[row] for row in rows.tolist()]
        return LocatedVectors(ids, self.digests[rows], self.files, self.file[rows], self.row[rows], self.dimensions)

    def fill(self, target: Floats, at: Rows | None = None) -> None:
        """Copy the vectors to rows of `target`, float32 [m, dimensions], file by file; it is the only copy.

        Args:
            target: what is written to.
            at: int64 [n], the row of each; in their order from the first on where not given.

        Raises:
            StoreError: a file cannot be read.
        """
        to = np.arange(len(self)) if at is None else at
        order = np.lexsort((self.row, self.file))
        step = max(1, _AT_ONCE // max(1, 4 * self.dimensions))
        mapped = [file.mapped for file in self.files if file.mapped is not None]
        if len(mapped) == len(self.files):
            bounds = np.searchsorted(self.file[order], np.arange(len(mapped) + 1))
            for vectors, first, end in zip(mapped, bounds[:-1].tolist(), bounds[1:].tolist(), strict=True):
                for start in range(first, end, step):
                    part = order[start : min(start + step, end)]
                    target[to[part]] = vectors[self.row[part]]
            return
        # Neighboring rows are fetched by one request.
        width = 4 * self.dimensions
        asked = (
            Place(self.files[file].path, _HEADER + width * row, width)
            for file, row in zip(self.file[order].tolist(), self.row[order].tolist(), strict=True)
        )
        with closing(read_ranges(self.files[0].store, asked)) as found:
            for place, data in zip(to[order].tolist(), found, strict=True):
                if isinstance(data, StoreError):
                    raise data
                target[place] = np.frombuffer(data, "<f4")
