"""Galleries of pairs and groups of images, small enough to be shown in the UI."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from glr_assets.images.reader import ImageReader
from glr_assets.plots import Thumbnail, gallery
from glr_assets.source.base import Split
from glr_assets.store import Store

#: What the UI shows inside an asset's page; larger pictures it only names.
MAX_BYTES = 100_000
_QUALITIES = (60, 40, 25, 10)


@dataclass(frozen=True)
class Shown:
    """One image of a gallery: its split and id, what is told under its id, and whether it is marked kept or dropped."""

    split: Split
    id: str
    told: str
    kept: bool | None = None


def shown_gallery(store: Store, rows: Sequence[Sequence[Shown]]) -> bytes:
    """JPEG of less than `MAX_BYTES`: rows of stored images, each with its id and what is told of it.

    What is kept has a green frame, what is not a red one.
    """
    ids: dict[Split, list[str]] = {}
    for row in rows:
        for image in row:
            ids.setdefault(image.split, []).append(image.id)
    readers = {split: ImageReader.of_split(store, split, of_split) for split, of_split in ids.items()}
    thumbnails = [
        [Thumbnail(readers[image.split].read(image.id), f"{image.id}\n{image.told}", image.kept) for image in row]
        for row in rows
    ]
    for quality in _QUALITIES:
        picture = gallery(thumbnails, quality=quality)
        if len(picture) < MAX_BYTES:
            break
    return picture
