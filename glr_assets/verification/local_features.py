"""Local features of the images that are compared, shard by shard, and reading them back landmark by landmark.

A shard's features lie in one file in the order of `landmark_order`, with a table beside it: whatever the number of
buckets, a bucket's landmarks are one stretch of every shard's file.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from glr_assets.errors import MissingInputError, StoreError, TableError
from glr_assets.images.dataset import decoded as decoded_image
from glr_assets.images.reader import ImageReader
from glr_assets.ranges import RANGES_AHEAD, Place, ordered, read_ranges
from glr_assets.receipts import (
    Made,
    Receipt,
    Summary,
    Writer,
    digest_of,
    find_receipt,
    make,
    need_receipt,
    need_receipts,
)
from glr_assets.recipes import Execution, Verification
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_table
from glr_assets.verification import plan
from glr_assets.verification.extractors import open_extractor
from glr_assets.verification.extractors.base import Extractor, Pixels
from glr_assets.verification.features import Features, KeptFeatures, bytes_each, decoded, encoded
from glr_assets.verification.schemas import COMPARED_FEATURES, LOCAL_FEATURES, FeatureSet

CODE_VERSION = "1"
#: Images that extraction may be ahead of writing, for each thread: enough that none waits for a slow one before it.
AHEAD: Final = 4
NOT_STORED: Final = "not stored: it is not among the images of its shard"
#: Parameters of a receipt by which features may be compared with one another.
_COMPARABLE: Final = ("extractor", "dimensions", "signed", "max_features")


@dataclass(frozen=True, eq=False)
class Wanted:
    """The images that are compared, `id, landmark_id` by shard, in the order their features are kept in."""

    shards: Mapping[str, pa.Table]

    @classmethod
    def of(cls, store: Store, recipe: Verification, seed: int) -> Wanted:
        """Those of the set that the recipe cleans, as its plan bounds it.

        Raises:
            MissingInputError: the set, or the catalog, has not been made.
        """
        images = plan.comparison_plan(plan.set_to_clean(store, recipe), recipe, seed)
        return cls.among(images.filter(pc.equal(images["outcome"], plan.COMPARED)))

    @classmethod
    def among(cls, images: pa.Table) -> Wanted:
        """All of these: `id, landmark_id, shard`, in any order."""
        landmarks = images["landmark_id"].to_numpy()
        shards = fixed_width(images["shard"])
        order = np.lexsort((fixed_width(images["id"]), landmarks, plan.landmark_order(landmarks), shards))
        names, first = np.unique(shards[order], return_index=True)
        rows = images.select(["id", "landmark_id"]).take(pa.array(order)).combine_chunks()
        ends = np.append(first, len(order))[1:]
        parts = zip(names.tolist(), first.tolist(), ends.tolist(), strict=True)
        return cls({name.decode(): rows.slice(start, end - start) for name, start, end in parts})

    def of_shard(self, shard: str) -> pa.Table:
        """`id, landmark_id` of one shard's images."""
        none = pa.table({"id": pa.array([], pa.string()), "landmark_id": pa.array([], pa.int64())})
        return self.shards.get(shard, none)


def make_local_features(
    store: Store,
    shard: str,
    wanted: Wanted,
    recipe: Verification,
    execution: Execution,
    kept_as: FeatureSet = COMPARED_FEATURES,
) -> Made:
    """`local_features/<shard>`, or another set of features: those of a shard's images that are compared.

    What an earlier run found of the same stored image is taken over; the files are those of a run without it. An image
    that cannot be read or decoded is a row that says why, and `[execution] retry_failed` tries such once more.

    Args:
        store: where stored images are and features go.
        shard: of the set's split.
        wanted: the images that are compared; what changed elsewhere costs this shard nothing.
        recipe: the extractor.
        execution: threads and device, which change nothing.
        kept_as: asset, split and files.

    Raises:
        MissingInputError: the shard has not been ingested.
        ExtractorError: the extractor cannot be used; nothing is written.
    """
    began = time.monotonic()
    name = f"{kept_as.asset}/{shard}"
    extractor = open_extractor(recipe, execution.device)
    job = _Shard(store, kept_as, shard, wanted.of_shard(shard), extractor, execution.threads)
    parameters = {
        "extractor": job.extractor.version,
        "dimensions": job.extractor.dimensions,
        "signed": job.extractor.signed,
        "max_features": recipe.max_features,
    }
    figures: Summary = {}

    def build(writer: Writer) -> Summary:
        earlier = _Earlier.find(job, name, parameters)
        try:
            summary, carried = _written(job, writer, earlier)
        except _OutdatedError:
            summary, carried = _written(job, writer, _Earlier())
        seconds = time.monotonic() - began
        rate = round((job.wanted.num_rows - carried) / seconds, 1) if seconds else 0.0
        figures.update(carried=carried, seconds=round(seconds, 3), images_per_second=rate)
        return summary

    receipt = find_receipt(store, name)
    made = make(
        store,
        name,
        inputs=need_receipts(store, f"{kept_as.split}_images/{shard}") | {f"wanted:{shard}": job.digest},
        parameters=parameters,
        code_version=CODE_VERSION,
        build=build,
        again=execution.retry_failed and receipt is not None and bool(receipt.summary.get("failed")),
    )
    return made if made.reused else replace(made, run=figures)


@dataclass(frozen=True, eq=False)
class _Shard:
    """All that is needed to make one shard's features."""

    store: Store
    kept_as: FeatureSet
    key: str
    wanted: pa.Table
    extractor: Extractor
    threads: int

    @property
    def digest(self) -> str:
        """Of the images wanted and of their landmarks."""
        return digest_of([self.wanted["id"].to_pylist(), self.wanted["landmark_id"].to_pylist()])


@dataclass(frozen=True)
class _Outcome:
    """What became of an image: its features, encoded, or the reason why it has none."""

    reason: str = ""
    width: int = 0
    height: int = 0
    features: int = 0
    data: bytes = b""


class _OutdatedError(Exception):
    """What an earlier run left is not as its table says."""


class _Earlier:
    """What an earlier run by the same extractor left: for each image the row of its table."""

    def __init__(self, rows: pa.Table | None = None) -> None:
        self._rows = rows
        self._ids = np.zeros(0, "S1") if rows is None else fixed_width(rows["id"])

    @classmethod
    def find(cls, job: _Shard, name: str, parameters: Mapping[str, Any]) -> _Earlier:
        """What is left of a run with these parameters; nothing where there is none, or it is damaged."""
        try:
            receipt = need_receipt(job.store, name)
            if (receipt.parameters, receipt.code_version) != (dict(parameters), CODE_VERSION):
                return cls()
            rows = read_table(job.store, job.kept_as.table, shard=job.key)
        except (MissingInputError, TableError):
            return cls()
        return cls(rows.filter(pc.equal(rows["status"], "extracted")))

    def of(self, ids: pa.ChunkedArray, digests: Sequence[int | None]) -> list[Mapping[str, Any] | None]:
        """The row of each image whose stored bytes are those that were seen; None of the others."""
        if self._rows is None:
            return [None] * len(digests)
        at = places(fixed_width(ids), self._ids)
        rows = iter(self._rows.take(pa.array(at[at >= 0])).to_pylist())
        found = (next(rows) if row >= 0 else None for row in at)
        return [row if row and row["stored_xxh3"] == seen else None for row, seen in zip(found, digests, strict=True)]


def _written(job: _Shard, writer: Writer, earlier: _Earlier) -> tuple[Summary, int]:
    """Write features and table; gives the figures of them, and how many images were taken over."""
    reader = ImageReader.of_shard(job.store, job.kept_as.split, job.key)
    at = reader.places.rows(job.wanted["id"]).tolist()
    digests = [reader.places.xxh3(row) if row >= 0 else None for row in at]
    known = earlier.of(job.wanted["id"], digests)
    kept = _carried(job, [row for row in known if row is not None])
    fresh = _extracted(job, reader, [row for row, old in zip(at, known, strict=True) if old is None])
    rows: list[dict[str, Any]] = []
    offset = 0
    with writer.writing(job.kept_as.file.format(shard=job.key)) as file, _one_opencv_thread():
        for image, digest, old in zip(job.wanted.to_pylist(), digests, known, strict=True):
            outcome = next(fresh if old is None else kept)
            file.write(outcome.data)
            size = len(outcome.data)
            rows.append(
                image
                | {
                    "status": "failed" if outcome.reason else "extracted",
                    "reason": outcome.reason,
                    "stored_xxh3": digest,
                    "width": outcome.width,
                    "height": outcome.height,
                    "features": outcome.features,
                    "offset": offset,
                    "size": size,
                    "xxh3": xxhash.xxh3_64_intdigest(outcome.data),
                }
            )
            offset += size
    writer.table(job.kept_as.table, LOCAL_FEATURES.rows(rows), shard=job.key)
    return _summary(rows), sum(row is not None for row in known)


def _summary(rows: Sequence[Mapping[str, Any]]) -> Summary:
    failures = Counter(row["reason"].split(":")[0] for row in rows if row["status"] == "failed")
    return {
        "rows": len(rows),
        "extracted": sum(row["status"] == "extracted" for row in rows),
        "failed": failures.total(),
        "without_features": sum(row["status"] == "extracted" and not row["features"] for row in rows),
        "features": sum(row["features"] for row in rows),
        "bytes": sum(row["size"] for row in rows),
        **{f"failed: {reason}": count for reason, count in sorted(failures.items())},
    }


def _carried(job: _Shard, rows: Sequence[Mapping[str, Any]]) -> Iterator[_Outcome]:
    """What the earlier run found, in the order of these rows of its table.

    Raises:
        _OutdatedError: the bytes are not there, or not those that it wrote.
    """
    path = job.kept_as.file.format(shard=job.key)
    found = read_ranges(job.store, (Place(path, row["offset"], row["size"]) for row in rows))
    for row, data in zip(rows, found, strict=True):
        if isinstance(data, StoreError) or xxhash.xxh3_64_intdigest(data) != row["xxh3"]:
            raise _OutdatedError
        yield _Outcome("", row["width"], row["height"], row["features"], data)


def _extracted(job: _Shard, reader: ImageReader, at: Sequence[int]) -> Iterator[_Outcome]:
    """What becomes of the images at these rows of the reader, in their order; of row -1 that it is not stored."""
    fetched = _fetched(reader, at)
    if job.extractor.batch == 1:
        yield from ordered(
            lambda item: _features_of(job.extractor, [_pixels(item)])[0],
            fetched,
            workers=job.threads,
            ahead=AHEAD * job.threads,
            size=_size,
            quick=lambda item: isinstance(item, str),
        )
        return
    images = ordered(_pixels, fetched, workers=job.threads, ahead=AHEAD * job.threads, size=_size)
    for batch in _batches(images, job.extractor.batch):
        yield from _features_of(job.extractor, batch)


def _fetched(reader: ImageReader, at: Sequence[int]) -> Iterator[bytes | str]:
    """JPEG bytes in order, or why there are none; of a remote store several are on their way at once."""

    def read(row: int) -> bytes | str:
        if row < 0:
            return NOT_STORED
        try:
            return reader.read_row(row)
        except (StoreError, MissingInputError) as error:
            return f"unreadable: {error}"

    return map(read, at) if reader.store.is_local else ordered(read, at, workers=RANGES_AHEAD)


def _size(item: bytes | str) -> int:
    return len(item) if isinstance(item, bytes) else 0


def _pixels(item: bytes | str) -> Pixels | str:
    """RGB of JPEG bytes, or why there is none."""
    if isinstance(item, str):
        return item
    try:
        return decoded_image(item)
    except ValueError as error:
        return f"undecodable: {error}"


def _features_of(extractor: Extractor, images: Sequence[Pixels | str]) -> list[_Outcome]:
    """What becomes of each image; where the extractor refuses one of several, each is tried by itself."""
    pixels = [image for image in images if not isinstance(image, str)]
    try:
        found = iter(extractor.extract(pixels) if pixels else [])
        return [_Outcome(image) if isinstance(image, str) else _kept(next(found), extractor) for image in images]
    except ValueError as error:
        if len(images) == 1:
            return [_Outcome(f"refused: {error}")]
        return [_features_of(extractor, [image])[0] for image in images]


def _kept(features: Features, extractor: Extractor) -> _Outcome:
    data = encoded(features, extractor.signed)
    return _Outcome("", features.width, features.height, len(features.descriptors), data)


def _batches(items: Iterable[Pixels | str], most: int) -> Iterator[list[Pixels | str]]:
    batch: list[Pixels | str] = []
    for item in items:
        batch.append(item)
        if len(batch) == most:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def _one_opencv_thread() -> Iterator[None]:
    """Keep OpenCV from starting threads of its own inside each of ours."""
    import cv2

    usual = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(usual)


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
            raise StoreError(
                f"image {image_id}: the {row.size} bytes of its features in {row.where} are not those that were "
                "written; materialise local_features of the shard again"
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
        raise TableError(
            f"{store.full_url(kept_as.table.at(shard=shard))}: its places are not those of the {written} bytes in "
            f"{path}; materialise {kept_as.asset} of shard {shard} again"
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
            raise StoreError(f"local_features: {data}; materialise local_features of its shard again") from data
        for row in group:
            yield (
                row["id"],
                _Row(
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
