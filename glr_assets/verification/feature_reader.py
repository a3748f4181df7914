"""Reading kept local features back, landmark by landmark or image by image.

Whatever the number of buckets, a bucket's landmarks are one stretch of every shard's file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from glr_assets.errors import DamagedFileError, DamagedTableError, MissingInputError, StoreError, TableError, about
from glr_assets.ranges import RANGES_AHEAD, Place, ordered, read_ranges
from glr_assets.receipts import (
    Receipt,
    need_receipt,
)
from glr_assets.recipes import Verification
from glr_assets.store import Store
from glr_assets.tables import fixed_width, read_table
from glr_assets.verification import plan
from glr_assets.verification.extractors.base import Extractor
from glr_assets.verification.features import KeptFeatures, bytes_each, decoded
from glr_assets.verification.schemas import COMPARED_FEATURES, FeatureSet

#: Parameters of a receipt by which features may be compared with one another.
_COMPARABLE: Final = ("extractor", "dimensions", "signed", "max_features")


class ClassFeatures(NamedTuple):
    """The features of a landmark's images, in the order of their ids."""

    landmark_id: int
    ids: list[str]
    features: list[KeptFeatures]


@dataclass(frozen=True, eq=False)
class FeatureReader:
    """The kept features of some images: their bytes are in memory, and decoded as they are asked for.

    Iterated over it gives landmark after landmark; `reader[id]` is one image's.

    Attributes:
        extractor: the version of the extractor they are all of; empty where there is no shard.
        max_features: that were asked for of an image.
        dimensions: of a descriptor.
        signed: whether codes have values below zero.
        ids: of the images that have features, be it none, in the order of landmarks and then of ids.
        landmark_ids: [n] of each of them.
        failed: of the images asked for, why they have none, by id.
    """

    extractor: str
    max_features: int
    dimensions: int
    signed: bool
    ids: list[str]
    landmark_ids: npt.NDArray[np.int64]
    failed: dict[str, str]
    _rows: dict[str, _Row]

    @classmethod
    def of_bucket(cls, store: Store, shards: Sequence[str], bucket: int, buckets: int) -> FeatureReader:
        """The images of a bucket's landmarks, of each shard read as one range.

        Args:
            store: where features are kept.
            shards: all train shards whose images are compared.
            bucket: from 0.
            buckets: how many there are.

        Raises:
            MissingInputError: a shard's features have not been made, are damaged, or are of another extractor.
            StoreError: they cannot be read.
            TableError: a shard's table is not of its file.
        """

        def wanted(rows: pa.Table) -> npt.NDArray[np.bool_]:
            return plan.buckets_of(rows["landmark_id"].to_numpy(), buckets) == bucket

        return cls._read(store, shards, wanted, together=True)

    @classmethod
    def of_images(cls, store: Store, shards: Sequence[str], ids: Sequence[str]) -> FeatureReader:
        """These images, each read by itself.

        Raises:
            MissingInputError: an id is in none of the shards' tables; else as `of_bucket`.
        """
        asked = pa.array(list(ids), pa.string())
        reader = cls._read(store, shards, lambda rows: pc.is_in(rows["id"], asked).to_numpy(), together=False)
        absent = [image_id for image_id in ids if image_id not in reader and image_id not in reader.failed]
        if absent:
            raise MissingInputError(
                f"local_features in {store.url}: {len(absent)} images have no row, the first {absent[0]}; "
                "materialise local_features of their shards again"
            )
        return reader

    def __len__(self) -> int:
        return len(self.ids)

    def __contains__(self, image_id: str) -> bool:
        return image_id in self._rows

    def __getitem__(self, image_id: str) -> KeptFeatures:
        """The features of an image.

        Raises:
            KeyError: it was not asked for, or failed.
            StoreError: its bytes are not those that were written.
        """
        row = self._rows[image_id]
        data = memoryview(row.data)[row.offset : row.offset + row.size]
        if xxhash.xxh3_64_intdigest(data) != row.xxh3:
            raise DamagedFileError(
                f"image {image_id}: the {row.size} bytes of its features in {row.where} are not those that were "
                "written; materialise local_features of the shard again",
                row.path,
            )
        return decoded(data, row.features, self.dimensions, self.signed, row.width, row.height)

    def __iter__(self) -> Iterator[ClassFeatures]:
        """Landmark after landmark, in `landmark_order`.

        Raises:
            StoreError: as `reader[id]`.
        """
        edges = np.flatnonzero(np.diff(self.landmark_ids)) + 1
        for first, end in zip(np.r_[0, edges], np.r_[edges, len(self)], strict=True):
            ids = self.ids[first:end]
            if ids:
                yield ClassFeatures(int(self.landmark_ids[first]), ids, [self[image_id] for image_id in ids])

    @classmethod
    def _read(
        cls,
        store: Store,
        shards: Sequence[str],
        wanted: Callable[[pa.Table], npt.NDArray[np.bool_]],
        *,
        together: bool,
    ) -> FeatureReader:
        receipts: list[Receipt] = []
        tables = []
        # Each is a few requests of a remote store, which wait for one another else.
        workers = 1 if store.is_local else RANGES_AHEAD
        for receipt, rows in ordered(lambda shard: opened(store, shard, wanted), shards, workers=workers):
            receipts.append(receipt)
            tables.append(rows)
        need_one_extractor(store, receipts)
        found: dict[str, _Row] = {}
        failed: dict[str, str] = {}
        landmarks: list[npt.NDArray[np.int64]] = [np.zeros(0, np.int64)]
        extracted = []
        for rows in tables:
            of_shard = rows.filter(pc.equal(rows["status"], "extracted"))
            extracted.append(of_shard)
            bad = rows.filter(pc.equal(rows["status"], "failed"))
            failed |= dict(zip(bad["id"].to_pylist(), bad["reason"].to_pylist(), strict=True))
            landmarks.append(of_shard["landmark_id"].to_numpy())
        for image_id, row in _fetched_rows(store, shards, extracted, together):
            if image_id in found:
                raise TableError(
                    f"local_features in {store.url}: image {image_id} is in {found[image_id].where} and {row.where}; "
                    "materialise both shards again"
                )
            found[image_id] = row
        landmark_ids = np.concatenate(landmarks)
        ids = list(found)
        order = np.lexsort((fixed_width(pa.array(ids, pa.string())), landmark_ids, plan.landmark_order(landmark_ids)))
        values = receipts[0].parameters if receipts else {}
        return cls(
            extractor=values.get("extractor", ""),
            max_features=values.get("max_features", 0),
            dimensions=values.get("dimensions", 0),
            signed=values.get("signed", False),
            ids=[ids[number] for number in order],
            landmark_ids=landmark_ids[order],
            failed=failed,
            _rows=found,
        )


def need_extractor(features: FeatureReader, extractor: Extractor, recipe: Verification) -> None:
    """Refuse features of another extractor than the recipe's, or of another number.

    Raises:
        MissingInputError: they are.
    """
    wanted = (extractor.version, recipe.max_features)
    if len(features) and (features.extractor, features.max_features) != wanted:
        raise MissingInputError(
            f"local_features are of {features.extractor} with {features.max_features} features, the recipe wants "
            f"{wanted[0]} with {wanted[1]}: materialise them again"
        )


@dataclass(frozen=True, eq=False)
class _Row:
    """Where an image's features are in memory, and what is known of them."""

    path: str
    where: str
    data: bytes
    offset: int
    size: int
    xxh3: int
    features: int
    width: int
    height: int


def opened(
    store: Store,
    shard: str,
    wanted: Callable[[pa.Table], npt.NDArray[np.bool_]],
    kept_as: FeatureSet = COMPARED_FEATURES,
) -> tuple[Receipt, pa.Table]:
    """A shard's receipt and the rows of its table that are wanted, once they have shown to be of its file.

    Raises:
        MissingInputError: the shard's features have not been made, or are damaged.
        TableError: the table is not of the file.
    """
    receipt = need_receipt(store, f"{kept_as.asset}/{shard}")
    path = kept_as.file.format(shard=shard)
    rows = read_table(store, kept_as.table, shard=shard)
    sizes, offsets = rows["size"].to_numpy(), rows["offset"].to_numpy()
    written = receipt.outputs[path].size if path in receipt.outputs else -1
    each = bytes_each(receipt.parameters.get("dimensions", 0))
    if (
        (offsets != np.cumsum(sizes) - sizes).any()
        or (sizes != rows["features"].to_numpy() * each).any()
        or int(sizes.sum()) != written
    ):
        raise DamagedTableError(
            f"{store.full_url(kept_as.table.at(shard=shard))}: its places are not those of the {written} bytes in "
            f"{path}; materialise {kept_as.asset} of shard {shard} again",
            kept_as.table.at(shard=shard),
            path,
        )
    return receipt, rows.filter(pa.array(wanted(rows)))


def need_one_extractor(store: Store, receipts: Sequence[Receipt]) -> None:
    """Refuse features that cannot be compared.

    Raises:
        MissingInputError: two shards are of different extractors.
    """
    said = {receipt.name: {name: receipt.parameters.get(name) for name in _COMPARABLE} for receipt in receipts}
    first = next(iter(said), "")
    for name, values in said.items():
        if values != said[first]:
            raise MissingInputError(
                f"{name} in {store.url} is of {_told(values)}, {first} of {_told(said[first])}: "
                "materialise the features of both shards again"
            )


def _told(values: Mapping[str, Any]) -> str:
    return f"{values['extractor']} with {values['max_features']} features"


def _fetched_rows(
    store: Store, shards: Sequence[str], tables: Sequence[pa.Table], together: bool
) -> Iterator[tuple[str, _Row]]:
    """The bytes of these rows of each shard's table: by one range a shard, or each by its own.

    Raises:
        StoreError: a range cannot be read.
    """
    asked: list[tuple[Place, int, list[dict[str, Any]]]] = []
    for shard, rows in zip(shards, tables, strict=True):
        values = rows.to_pylist()
        for group in [values] if together else [[row] for row in values]:
            if group:
                first, end = group[0]["offset"], group[-1]["offset"] + group[-1]["size"]
                asked.append((Place(COMPARED_FEATURES.file.format(shard=shard), first, end - first), first, group))
    found = read_ranges(store, (place for place, _, _ in asked))
    for (place, first, group), data in zip(asked, found, strict=True):
        if isinstance(data, StoreError):
            raise about("local_features", data) from data
        for row in group:
            yield (
                row["id"],
                _Row(
                    place.name,
                    store.full_url(place.name),
                    data,
                    row["offset"] - first,
                    row["size"],
                    row["xxh3"],
                    row["features"],
                    row["width"],
                    row["height"],
                ),
            )
