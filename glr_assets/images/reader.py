"""Any stored image by its id: one range read through the index."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.errors import MissingInputError
from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_INDEX, STORED_TAR
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import read_table

_PLACE = ["id", "status", "stored_offset", "stored_size"]


@dataclass(frozen=True)
class Place:
    """Where a stored image's bytes lie."""

    path: str
    offset: int
    size: int


class ImageReader:
    """JPEG bytes of stored images by id; usable from several threads and processes."""

    def __init__(self, store: Store, places: dict[str, Place]) -> None:
        self.store = store
        self.places = places

    @classmethod
    def of_split(cls, store: Store, split: Split, ids: Sequence[str] | None = None) -> ImageReader:
        """A reader of a split's stored images, or of these ids among them, through the catalog."""
        catalog = read_table(store, IMAGE_CATALOG, ["split", "shard", *_PLACE])
        mine = catalog.filter(pc.equal(catalog["split"], split))
        if ids is not None:
            mine = mine.filter(pc.is_in(mine["id"], pa.array(list(ids), pa.string())))
        return cls(store, _places(mine, split))

    @classmethod
    def of_shard(cls, store: Store, split: Split, shard: str) -> ImageReader:
        """A reader of one shard's stored images, through the shard's own index."""
        index = read_table(store, IMAGE_INDEX, _PLACE, split=split, shard=shard)
        column = pa.array([shard] * index.num_rows, pa.string())
        return cls(store, _places(index.append_column("shard", column), split))

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self.places

    @property
    def ids(self) -> list[str]:
        """The ids that can be read, sorted."""
        return sorted(self.places)

    def read(self, image_id: str) -> bytes:
        """The stored JPEG of an image.

        Raises:
            MissingInputError: it is not stored.
        """
        place = self.places.get(image_id)
        if place is None:
            raise MissingInputError(f"image {image_id} is not stored in {self.store.url}: see `glr why {image_id}`")
        return self.store.read(place.path, place.offset, place.size)


def _places(rows: pa.Table, split: Split) -> dict[str, Place]:
    stored = rows.filter(pc.equal(rows["status"], "stored"))
    columns = (stored[name].to_pylist() for name in ("id", "shard", "stored_offset", "stored_size"))
    return {
        image_id: Place(STORED_TAR.format(split=split, shard=shard), offset, size)
        for image_id, shard, offset, size in zip(*columns, strict=True)
    }
