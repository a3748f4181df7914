"""What a package holds: the images that a manifest keeps, each with its landmark and its rights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.errors import MissingInputError
from glr_assets.exports.order import Rows
from glr_assets.images.reader import ImageReader
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.manifests import MANIFESTS, kept_images
from glr_assets.metadata.schemas import LANDMARK_LABELS, TRAIN_ATTRIBUTION
from glr_assets.receipts import need_receipts
from glr_assets.store import Store
from glr_assets.tables import fixed_width, read_parts

#: What every package is made from, beside its manifest.
BESIDE: Final = ("image_catalog", "train_attribution", "landmark_labels")
NAMED_AT_MOST: Final = 20
_RIGHTS = ("url", "author", "license", "title")


class ExportImage(NamedTuple):
    """One image of a package; what is not published of it is empty.

    Attributes:
        id: its id.
        landmark_id: the landmark as published.
        label: the landmark's place among those of the package, from 0, by `landmark_id`.
        name: the landmark's readable name.
        url, author, license, title: where the photograph was published, by whom, under what licence, as what.
        width, height: pixels as stored.
    """

    id: str
    landmark_id: int
    label: int
    name: str
    url: str
    author: str
    license: str
    title: str
    width: int
    height: int


class Landmark(NamedTuple):
    """One landmark of a package, and how many images it has there."""

    label: int
    landmark_id: int
    name: str
    images: int


@dataclass(frozen=True, eq=False)
class ExportImages:
    """The images of a package, sorted by id, and where their bytes are.

    Attributes:
        table: a row an image, in the columns of `ExportImage` but `label` and `name`.
        labels: [n] the label of each.
        landmarks: by label.
        reader: of their stored bytes.
        rows: [n] of each in the reader.
    """

    table: pa.Table
    labels: npt.NDArray[np.int64]
    landmarks: list[Landmark]
    reader: ImageReader
    rows: Rows

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def without_rights(self) -> int:
        """How many images no author or no licence is published of."""
        told = [pc.not_equal(self.table[name], "") for name in ("author", "license")]
        return len(self) - int(pc.sum(pc.and_(*told)).as_py() or 0)

    def at(self, numbers: Rows) -> list[ExportImage]:
        """These images [k], by their place in the order of ids."""
        rows = self.table.take(pa.array(numbers)).to_pylist()
        landmarks = (self.landmarks[label] for label in self.labels[numbers].tolist())
        return [
            ExportImage(label=landmark.label, name=landmark.name, **row)
            for row, landmark in zip(rows, landmarks, strict=True)
        ]

    def in_parts(self, size: int = 10_000) -> Iterator[list[ExportImage]]:
        """All images by id, so many at a time."""
        for first in range(0, len(self), size):
            yield self.at(np.arange(first, min(first + size, len(self))))


def manifest_inputs(store: Store, manifest: str) -> dict[str, str]:
    """The digests of a manifest and of what else its package is made from.

    Args:
        store: the store.
        manifest: a key of `manifests.MANIFESTS`.

    Raises:
        MissingInputError: there is no such set, or one of them has not been made or is damaged.
    """
    if manifest not in MANIFESTS:
        raise MissingInputError(f"no manifest {manifest}: name one of {', '.join(sorted(MANIFESTS))}")
    return need_receipts(store, manifest, *BESIDE)


def export_images(store: Store, manifest: str) -> ExportImages:
    """The images that a manifest of train images keeps.

    Raises:
        MissingInputError: it keeps none, or some that are not stored; they are named.
    """
    kept = kept_images(store, manifest).drop_columns(["shard"])
    if not kept.num_rows:
        raise MissingInputError(f"{manifest} in {store.url}: it keeps no image, so there is nothing to export")
    reader = ImageReader.of_split(store, "train", kept["id"])
    rows = reader.places.rows(kept["id"])
    if (rows < 0).any():
        raise _not_stored(store, manifest, kept["id"].filter(pa.array(rows < 0)).to_pylist(), kept.num_rows)
    stored = (part.filter(pc.equal(part["status"], "stored")) for part in _catalog(store))
    keys = _as_keys(kept["id"])
    sizes = _beside(keys, stored, "id", ("width", "height"))
    rights = _beside(keys, read_parts(store, TRAIN_ATTRIBUTION, ["id", *_RIGHTS]), "id", _RIGHTS, absent="")
    table = pa.table({name: kept[name] for name in ("id", "landmark_id")} | rights | sizes)
    landmark_ids, labels, counts = np.unique(kept["landmark_id"].to_numpy(), return_inverse=True, return_counts=True)
    known = read_parts(store, LANDMARK_LABELS, ["landmark_id", "name"])
    names = _beside(landmark_ids, known, "landmark_id", ("name",), absent="")["name"].to_pylist()
    landmarks = [
        Landmark(label, landmark_id, name, images)
        for label, (landmark_id, name, images) in enumerate(
            zip(landmark_ids.tolist(), names, counts.tolist(), strict=True)
        )
    ]
    return ExportImages(table, labels, landmarks, reader, rows)


def _catalog(store: Store) -> Iterator[pa.Table]:
    return read_parts(store, IMAGE_CATALOG, ["id", "status", "width", "height"], {"split": "train"})


def _beside(
    keys: npt.NDArray, parts: Iterable[pa.Table], key: str, columns: Sequence[str], absent: str | None = None
) -> dict[str, pa.Array]:
    """Columns of a table's parts beside sorted `keys` [n], of `_as_keys`; `absent` where no row has the key."""
    found: dict[str, list[pa.Array]] = {column: [] for column in columns}
    places = [np.zeros(0, np.int64)]
    for part in parts:
        own = _as_keys(part[key])
        place = np.minimum(keys.searchsorted(own), len(keys) - 1)
        here = keys[place] == own
        for column, of_parts in found.items():
            values = part[column].filter(pa.array(here))
            # Text of all images together may be more than the 2 GiB that plain strings can count.
            of_parts.extend((values.cast(pa.large_string()) if pa.types.is_string(values.type) else values).chunks)
        places.append(place[here])
    rows = np.full(len(keys), -1, np.int64)
    rows[np.concatenate(places)] = np.arange(sum(map(len, places)))
    taken = pa.array(rows, mask=rows < 0)
    beside = {}
    for column in columns:  # one by one: at GLDv2's size each may be 100 MB, and a copy goes before the next
        of_parts = found.pop(column)
        values = pa.concat_arrays(of_parts).take(taken) if of_parts else pa.nulls(len(keys))
        beside[column] = values if absent is None else pc.fill_null(values.cast(pa.large_string()), absent)
    return beside


def _as_keys(column: pa.ChunkedArray) -> npt.NDArray:
    return fixed_width(column) if pa.types.is_string(column.type) else column.to_numpy()


def _not_stored(store: Store, manifest: str, missing: Sequence[str], of: int) -> MissingInputError:
    return MissingInputError(
        f"{len(missing)} of the {of} images that {manifest} keeps are not stored in {store.url}: {named(missing)}; "
        f"`glr why {missing[0]}` tells why; ingest their shards and materialise {manifest} again"
    )


def named(ids: Sequence[str]) -> str:
    """Ids for an error: all of a few, else the first and how many more."""
    more = len(ids) - NAMED_AT_MOST
    return ", ".join(ids[:NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
