"""Local features of the images that are compared, shard by shard.

A shard's features lie in one file in the order of `landmark_order`, with a table beside it, from which `feature_reader`
reads them back.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from glr_assets.concurrency import single_threaded
from glr_assets.errors import GlrError, MissingInputError, StoreError, TableError
from glr_assets.images.dataset import decoded as decoded_image
from glr_assets.images.reader import ImageReader
from glr_assets.ranges import Place, ordered, read_ranges
from glr_assets.receipts import (
    Made,
    Summary,
    Writer,
    digest_of,
    find_receipt,
    is_forced,
    make,
    need_receipt,
    need_receipts,
)
from glr_assets.recipes import Execution, Verification
from glr_assets.snapshot import kept_by
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_table
from glr_assets.verification import plan
from glr_assets.verification.extractors import open_extractor
from glr_assets.verification.extractors.base import Extractor, Pixels
from glr_assets.verification.features import Features, encoded
from glr_assets.verification.schemas import COMPARED_FEATURES, LOCAL_FEATURES, FeatureSet

CODE_VERSION = "1"
#: Images that extraction may be ahead of writing, for each thread: enough that none waits for a slow one before it.
AHEAD: Final = 4
NOT_STORED: Final = "not stored: it is not among the images of its shard"


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

        def read() -> Wanted:
            images = plan.comparison_plan(plan.set_to_clean(store, recipe), recipe, seed)
            return cls.among(images.filter(pc.equal(images["outcome"], plan.COMPARED)))

        return kept_by(store, ("compared images", recipe.model_dump_json(), seed), read)

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
        earlier = _Earlier() if is_forced(name) else _Earlier.find(job, name, parameters)
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
    with writer.writing(job.kept_as.file.format(shard=job.key)) as file, single_threaded("opencv"):
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
    found = reader.try_rows(row for row in at if row >= 0)
    for row in at:
        data: bytes | GlrError | str = next(found) if row >= 0 else NOT_STORED
        yield f"unreadable: {data}" if isinstance(data, GlrError) else data


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
