"""Embeddings: a shard's stored images as vectors, in a table of ids and a file of rows, and reading them back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.errors import MissingInputError, TableError
from glr_assets.images.reader import ImageReader
from glr_assets.metadata.schemas import RECOGNITION_SOLUTION
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER
from glr_assets.query_labels import record_query_labels
from glr_assets.ranges import RANGES_AHEAD, ordered
from glr_assets.receipts import Made, Summary, Writer, find_receipt, make, need_receipt, need_receipts
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.schemas import (
    EMBEDDING_VECTORS,
    EMBEDDINGS,
    NON_LANDMARK_EMBEDDINGS,
    NON_LANDMARK_VECTORS,
)
from glr_assets.retrieval.scoring import Excluded, Gallery
from glr_assets.retrieval.vector_files import LocatedVectors, VectorFile, allocated, write_vectors
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_table

CODE_VERSION = "4"
NON_LANDMARKS_CODE_VERSION = "5"
Floats = npt.NDArray[np.float32]
#: Turns encoded images into float32 [n, D], L2-normalised, in their order.
Embed = Callable[[Iterable[bytes]], Floats]


@dataclass(frozen=True)
class Vectors:
    """Embeddings float32 [n, D] of `ids`, sorted by id.

    `digests` uint64 [n] are the XXH3 of the images' stored bytes, 0 where it is not known; absent where none is.
    """

    ids: list[str]
    vectors: Floats
    digests: npt.NDArray[np.uint64] | None = None

    def of(self, ids: Iterable[str]) -> Vectors:
        """Those of `ids` that are here, sorted by id."""
        row_of = {image_id: row for row, image_id in enumerate(self.ids)}
        return self.rows([row_of[image_id] for image_id in sorted(set(ids) & row_of.keys())])

    def rows(self, rows: Sequence[int]) -> Vectors:
        """These rows."""
        at = np.array(rows, np.int64)
        digests = None if self.digests is None else self.digests[at]
        return Vectors([self.ids[row] for row in rows], self.vectors[at], digests)

    def __len__(self) -> int:
        return len(self.ids)


#: Of an image's id, the ids of other images that are no evidence about it: its near-duplicates.
LeaveOut = Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class NonLandmarks:
    """The gallery of the penalties: photographs known to show no landmark, no two of the same bytes."""

    images: Vectors

    @functools.cached_property
    def gallery(self) -> Gallery:
        """They, indexed."""
        return Gallery(self.images.ids, self.images.vectors)

    def known_as(self, images: Vectors) -> list[str]:
        """The id that the gallery has for each image, so that none is compared with itself.

        It is that of the non-landmark of the same bytes, be it itself or a twin, and else its own.
        """
        if images.digests is None:
            return images.ids
        return [self._of_bytes.get(int(digest), name) for name, digest in zip(images.ids, images.digests, strict=True)]

    @functools.cached_property
    def _of_bytes(self) -> dict[int, str]:
        digests = self.images.digests
        return {} if digests is None else {int(d): n for d, n in zip(digests, self.images.ids, strict=True) if d}

    def penalties(self, images: Vectors, top: int, leave_out: LeaveOut | None = None) -> Floats:
        """B or C of each image, as `Gallery.penalties`; `leave_out` names what else it is not compared with."""
        return self.gallery.penalties(images.vectors, self.left_out(images, leave_out), top)

    def left_out(self, images: Vectors, leave_out: LeaveOut | None = None) -> list[Excluded]:
        """What each image is not compared with: its own id or that of its twin, and what `leave_out` names."""
        known = self.known_as(images)
        if leave_out is None:
            return list(known)
        return [(name, *leave_out.get(own, ())) for own, name in zip(images.ids, known, strict=True)]


def table_of(images: Vectors) -> pa.Table:
    """The columns of `EMBEDDINGS`, for vectors whose rows are written in their order."""
    digests = np.zeros(len(images), np.uint64) if images.digests is None else images.digests
    return pa.table(
        {
            "id": pa.array(images.ids, pa.string()),
            "row": pa.array(np.arange(len(images))),
            "stored_xxh3": pa.array(digests, pa.uint64(), mask=digests == 0),
        }
    )


def write_embeddings(writer: Writer, split: Split, shard: str, images: Vectors) -> None:
    """Write the vectors of a shard, and the table that tells which image each of them is of."""
    write_vectors(writer, EMBEDDING_VECTORS.format(split=split, shard=shard), images.vectors)
    writer.table(EMBEDDINGS, table_of(images), split=split, shard=shard)


def make_embeddings(store: Store, split: Split, shard: str, embed: Callable[[], Embed]) -> Made:
    """`<split>_embeddings/<shard>`: the vectors of every image stored of a shard.

    Every stored image is embedded, whatever the manifests say today, so that another manifest needs no new
    embeddings. `embed` opens the embedder, and is not called where the work has been done.
    """

    def build(writer: Writer) -> Summary:
        reader = ImageReader.of_shard(store, split, shard)
        vectors = np.zeros((0, 0), np.float32)
        if len(reader):
            # As they lie in the shard, so that neighbors are fetched together.
            order = reader.places.in_file_order()
            vectors = np.empty_like(embedded := embed()(reader.read_rows(order.tolist())))
            vectors[order] = embedded
        digests = np.array([reader.places.xxh3(row) or 0 for row in range(len(reader))], np.uint64)
        write_embeddings(writer, split, shard, Vectors(reader.ids, vectors, digests))
        return {"rows": len(reader), "dimensions": vectors.shape[1]}

    inputs = need_receipts(store, "embedder", f"{split}_images/{shard}")
    return make(
        store,
        f"{split}_embeddings/{shard}",
        inputs=inputs,
        parameters={},
        code_version=CODE_VERSION,
        build=build,
    )


def opened_once(open_embedder: Callable[[], Embed]) -> Callable[[], Embed]:
    """`open_embedder`, called at the first need alone."""
    return functools.cache(open_embedder)


def embedded_shards(source: Source, store: Store, split: Split) -> dict[str, str]:
    """The digests of a split's embeddings, `{"train_embeddings/000": …}`: of every shard that was ingested.

    Raises:
        MissingInputError: a shard was ingested but not embedded, or by an earlier embedder.
    """
    embedder = need_receipt(store, "embedder").digest
    found = {}
    for shard in source.shards(split):
        if find_receipt(store, f"{split}_images/{shard}") is None:
            continue
        receipt = need_receipt(store, f"{split}_embeddings/{shard}")
        if receipt.inputs.get("embedder") != embedder:
            raise MissingInputError(
                f"{split}_embeddings of shard {shard} in {store.url} are of another embedder: materialise them again"
            )
        found[receipt.name] = receipt.digest
    return found


def locate_embeddings(store: Store, names: Iterable[str], ids: Iterable[str]) -> LocatedVectors:
    """Where the vectors of those of `ids` lie that are in some shards, by id; of a repeated id the first shard's.

    Args:
        store: the store.
        names: of the shards' embeddings, as `embedded_shards` names them.
        ids: of images.

    Raises:
        MissingInputError, StoreError, TableError: the embeddings of a shard are missing or damaged.
    """
    wanted = np.unique(fixed_width(pa.array(list(ids), pa.string())))
    file = np.full(len(wanted), -1, np.int32)
    row, digests = np.zeros(len(wanted), np.int64), np.zeros(len(wanted), np.uint64)
    files: list[VectorFile] = []
    for found, keys, rows, of_rows in _opened(store, sorted(names) if len(wanted) else []):
        at = places(keys, wanted)
        known = np.flatnonzero(at >= 0)
        new = known[file[at[known]] < 0]
        if len(new):
            file[at[new]], row[at[new]], digests[at[new]] = len(files), rows[new], of_rows[new]
            files.append(found)
    here = file >= 0
    if len({found.dimensions for found in files}) > 1:
        raise MissingInputError(
            f"embeddings in {store.url} have {sorted({found.dimensions for found in files})} dimensions, expected one "
            "number: materialise the embeddings of all shards again"
        )
    names_here = [key.decode() for key in wanted[here].tolist()]
    dimensions = files[0].dimensions if files else 0
    return LocatedVectors(names_here, digests[here], files, file[here], row[here], dimensions)


def _opened(
    store: Store, names: Sequence[str]
) -> Iterator[tuple[VectorFile, npt.NDArray[np.bytes_], npt.NDArray[np.int64], npt.NDArray[np.uint64]]]:
    """The vectors of each shard with the ids, rows and digests of its table; of a remote store some are read ahead."""

    def opened(name: str) -> tuple[VectorFile, npt.NDArray[np.bytes_], npt.NDArray[np.int64], npt.NDArray[np.uint64]]:
        asset, shard = name.split("/")
        split = asset.removesuffix("_embeddings")
        table = read_table(store, EMBEDDINGS, split=split, shard=shard)
        found = VectorFile.open(store, EMBEDDING_VECTORS.format(split=split, shard=shard))
        rows = table["row"].to_numpy()
        if len(rows) and not (rows.min() >= 0 and rows.max() < found.rows):
            raise TableError(
                f"{store.full_url(found.path)}: has {found.rows} rows, its table names row {rows.max()}; "
                f"materialise {name} again"
            )
        digests = pc.fill_null(table["stored_xxh3"], pa.scalar(0, pa.uint64())).to_numpy()
        return found, fixed_width(table["id"]), rows, digests

    workers = 1 if store.is_local else RANGES_AHEAD
    yield from ordered(opened, names, workers=workers)


def read_vectors(located: LocatedVectors) -> Vectors:
    """Vectors that were located, in their order: one copy of them, on disk where they are many."""
    vectors = allocated(len(located), located.dimensions)
    located.fill(vectors)
    return Vectors(located.ids, vectors, located.digests)


def read_embeddings(store: Store, names: Iterable[str], ids: Iterable[str]) -> Vectors:
    """The vectors of those of `ids` that are in some shards, sorted by id; as `locate_embeddings`."""
    return read_vectors(locate_embeddings(store, names, ids))


def make_non_landmark_embeddings(source: Source, store: Store, recipe: Retrieval) -> Made:
    """`non_landmark_embeddings`: the vectors of test images known to show no landmark, of the recipe's Usages.

    With `filtered_gallery` the train images that `non_landmark_filter` dropped with the highest scores are among them.
    Of images of the same stored bytes the one of the smallest id is taken, of the test set before the train set: who
    is one of them shall meet none.

    Raises:
        MissingInputError: embeddings, solution or the filter have not been made.
    """
    shards = embedded_shards(source, store, "test")
    inputs = shards | need_receipts(store, "recognition_solution")
    of_train: dict[str, str] = {}
    if recipe.filtered_gallery:
        of_train = embedded_shards(source, store, "train")
        inputs |= of_train | need_receipts(store, "non_landmark_filter")

    def build(writer: Writer) -> Summary:
        solution = read_table(store, RECOGNITION_SOLUTION)
        none = pc.equal(pc.list_value_length(solution["landmark_ids"]), 0)
        usage = pa.array(list(recipe.non_landmark_usage), pa.string())
        chosen = solution.filter(pc.and_(none, pc.is_in(solution["usage"], usage)))
        known = locate_embeddings(store, shards, chosen["id"].to_pylist())
        filtered = locate_embeddings(
            store, of_train, surest_filtered(store, recipe.filtered_gallery) if of_train else []
        )
        ids = [*known.ids, *filtered.ids]
        different = first_of_bytes(ids, np.concatenate([known.digests, filtered.digests]))
        kept = np.array(sorted(different, key=ids.__getitem__), np.int64)
        digests = np.zeros(len(kept), np.uint64)
        vectors = allocated(len(kept), known.dimensions or filtered.dimensions)
        of_test = kept < len(known)
        for part, mine, first in ((known, of_test, 0), (filtered, ~of_test, len(known))):
            chosen_here = part.rows(kept[mine] - first)
            chosen_here.fill(vectors, np.flatnonzero(mine))
            digests[mine] = chosen_here.digests
        rows = table_of(Vectors([ids[row] for row in kept.tolist()], vectors, digests))
        rows = rows.append_column("split", pa.array(np.where(of_test, "test", "train").tolist(), pa.string()))
        write_vectors(writer, NON_LANDMARK_VECTORS, vectors)
        writer.table(NON_LANDMARK_EMBEDDINGS, rows.select(NON_LANDMARK_EMBEDDINGS.schema.names))
        # A twin that is left out was chosen by its label all the same.
        labels = record_query_labels(writer, "non_landmark_embeddings", chosen["id"].to_pylist())
        return labels | {
            "rows": len(kept),
            "listed": chosen.num_rows,
            "filtered": len(filtered),
            "twins": len(ids) - len(kept),
        }

    return make(
        store,
        "non_landmark_embeddings",
        inputs=inputs,
        parameters={"usage": list(recipe.non_landmark_usage), "filtered_gallery": recipe.filtered_gallery},
        code_version=NON_LANDMARKS_CODE_VERSION,
        build=build,
    )


def surest_filtered(store: Store, most: int) -> list[str]:
    """The train images that `non_landmark_filter` dropped with the highest scores, ties by id."""
    rows = read_table(store, NON_LANDMARK_FILTER, ["id", "decision", "score"])
    rows = rows.filter(pc.equal(rows["decision"], "dropped"))
    ids: list[str] = rows.sort_by([("score", "descending"), ("id", "ascending")])["id"].slice(0, most).to_pylist()
    return ids


def first_of_bytes(ids: Sequence[str], digests: npt.NDArray[np.uint64]) -> list[int]:
    """Rows that are the first of their id and of their bytes; bytes of digest 0 are not known, and are like none."""
    seen: set[object] = set()
    rows = []
    for row, (image_id, digest) in enumerate(zip(ids, digests.tolist(), strict=True)):
        if image_id not in seen and (not digest or digest not in seen):
            rows.append(row)
            seen |= {image_id, digest} if digest else {image_id}
    return rows


def read_non_landmarks(store: Store, dimensions: int) -> NonLandmarks:
    """The gallery that `make_non_landmark_embeddings` wrote.

    Args:
        store: the store.
        dimensions: of a vector where there is none.
    """
    table = read_table(store, NON_LANDMARK_EMBEDDINGS)
    if not table.num_rows:
        return NonLandmarks(Vectors([], np.zeros((0, dimensions), np.float32)))
    found = VectorFile.open(store, NON_LANDMARK_VECTORS)
    if found.rows != table.num_rows:
        raise TableError(
            f"{store.full_url(found.path)}: has {found.rows} rows, its table {table.num_rows}; "
            "materialise non_landmark_embeddings again"
        )
    digests = pc.fill_null(table["stored_xxh3"], pa.scalar(0, pa.uint64())).to_numpy()
    ids = table["id"].to_pylist()
    if found.mapped is not None:
        return NonLandmarks(Vectors(ids, found.mapped, digests))
    files, rows = np.zeros(len(ids), np.int32), np.arange(len(ids))
    return NonLandmarks(read_vectors(LocatedVectors(ids, digests, [found], files, rows, found.dimensions)))
