"""Stored images as a map-style dataset, which PyTorch's DataLoader takes as it is, from a folder or from S3.

It holds arrays of numbers only, so forked workers share its memory and spawned ones get it quickly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glr_assets.errors import StoreError, TableError
from glr_assets.images.reader import ImageReader
from glr_assets.source.base import Split
from glr_assets.store import Store

Pixels = npt.NDArray[np.uint8]
T = TypeVar("T")


class Example(NamedTuple, Generic[T]):
    """One image of a dataset: its id, its landmark and what the dataset's transform made of its bytes."""

    id: str
    landmark_id: int
    image: T


def decoded(jpeg: bytes) -> Pixels:
    """A stored JPEG as RGB uint8 [H, W, 3].

    Raises:
        ValueError: the bytes are no image that can be decoded.
    """
    import cv2

    pixels = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB) if jpeg else None
    if pixels is None:
        raise ValueError(f"its {len(jpeg)} bytes cannot be decoded")
    return np.asarray(pixels, dtype=np.uint8)


class StoredImages(Generic[T]):
    """The stored images of a manifest by number, as `Example`s.

    `transform` makes of an image's JPEG bytes what the dataset gives: `decoded` its pixels, `bytes` the bytes as they
    are; a function of one's own calls `decoded` and goes on from there. Spawned workers want one that can be
    pickled, as a function of a module can. A batch, which DataLoader asks for by `__getitems__`, is on S3 read
    with several requests on their way at once.
    """

    def __init__(
        self,
        reader: ImageReader,
        ids: Sequence[str] | pa.ChunkedArray,
        landmark_ids: Sequence[int] | npt.NDArray[np.int64],
        transform: Callable[[bytes], T],
    ) -> None:
        """A dataset of `ids`, in their order, and the landmark of each.

        Raises:
            TableError: there are not as many landmarks as ids.
            MissingInputError: an id is not stored.
        """
        if len(ids) != len(landmark_ids):
            raise TableError(f"dataset: {len(ids)} ids but {len(landmark_ids)} landmark ids; pass one each")
        self.reader = reader
        self.rows = reader.rows(ids)
        self.landmark_ids = np.asarray(landmark_ids, np.int64)
        self.transform = transform

    @classmethod
    def of_manifest(
        cls, store: Store, split: Split, manifest: pa.Table, transform: Callable[[bytes], T]
    ) -> StoredImages[T]:
        """A dataset of a table with the columns `id` and `landmark_id`, its images found through the catalog."""
        reader = ImageReader.of_split(store, split, manifest["id"])
        return cls(reader, manifest["id"], manifest["landmark_id"].to_numpy(), transform)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Example[T]:
        return self._example(number, self.reader.read_row(int(self.rows[number])))

    def __getitems__(self, numbers: Sequence[int]) -> list[Example[T]]:
        """Several at once, in the order asked for."""
        images = self.reader.read_rows(int(self.rows[number]) for number in numbers)
        return [self._example(number, jpeg) for number, jpeg in zip(numbers, images, strict=True)]

    def _example(self, number: int, jpeg: bytes) -> Example[T]:
        name = self.reader.places.name(int(self.rows[number]))
        try:
            image = self.transform(jpeg)
        except ValueError as error:
            raise StoreError(
                f"image {name} of {self.reader.store.url}: {error}; leave it out, or ingest its shard again"
            ) from error
        return Example(name, int(self.landmark_ids[number]), image)
