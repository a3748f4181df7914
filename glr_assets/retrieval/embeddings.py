"""Embeddings: a shard's stored images as vectors, and reading them back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.errors import MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.metadata.schemas import RECOGNITION_SOLUTION
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER
from glr_assets.query_labels import record_query_labels
from glr_assets.receipts import Made, Summary, Writer, find_receipt, make, need_receipt, need_receipts
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.schemas import EMBEDDINGS, NON_LANDMARK_EMBEDDINGS
from glr_assets.retrieval.scoring import Gallery
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "3"
NON_LANDMARKS_CODE_VERSION = "4"
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

    def penalties(self, images: Vectors, top: int) -> Floats:
        """B or C of each image, as `Gallery.penalties`."""
        return self.gallery.penalties(images.vectors, self.known_as(images), top)


def as_table(images: Vectors) -> pa.Table:
    """The columns of `EMBEDDINGS`."""
    count, dimensions = images.vectors.shape
    flat = pa.array(images.vectors.reshape(-1), pa.float32())
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * dimensions)
    column = pa.ListArray.from_arrays(offsets, flat)
    digests = np.zeros(count, np.uint64) if images.digests is None else images.digests
    stored = pa.array(digests, pa.uint64(), mask=digests == 0)
    return pa.table({"id": pa.array(images.ids, pa.string()), "vector": column, "stored_xxh3": stored})


def from_table(data: pa.Table) -> Vectors:
    """The vectors in a table of `EMBEDDINGS`' columns."""
    data = data.sort_by("id").combine_chunks()
    column = data["vector"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    digests = pc.fill_null(data["stored_xxh3"], pa.scalar(0, pa.uint64())).to_numpy()
    return Vectors(data["id"].to_pylist(), flat.reshape(data.num_rows, -1 if data.num_rows else 0), digests)


def make_embeddings(store: Store, split: Split, shard: str, embed: Callable[[], Embed]) -> Made:
    """`<split>_embeddings/<shard>`: the vectors of every image stored of a shard.

    Every stored image is embedded, whatever the manifests say today, so that another manifest needs no new
    embeddings. `embed` opens the embedder, and is not called where the work has been done.
    """

    def build(writer: Writer) -> Summary:
        reader = ImageReader.of_shard(store, split, shard)
        vectors = embed()(reader.read_many(reader.ids)) if len(reader) else np.zeros((0, 0), np.float32)
        digests = np.array([reader.places.xxh3(row) or 0 for row in range(len(reader))], np.uint64)
        writer.table(EMBEDDINGS, as_table(Vectors(reader.ids, vectors, digests)), split=split, shard=shard)
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


def read_embeddings(store: Store, names: Iterable[str], ids: Iterable[str]) -> Vectors:
    """The vectors of those of `ids` that are in some shards, sorted by id; of a repeated id the first shard's.

    Memory is that of what is wanted and of one shard.

    Args:
        store: the store.
        names: of the shards' embeddings, as `embedded_shards` names them.
        ids: of images.
    """
    wanted = pa.array(sorted(set(ids)), pa.string())
    parts = []
    for name in sorted(names):
        asset, shard = name.split("/")
        rows = read_table(store, EMBEDDINGS, split=asset.removesuffix("_embeddings"), shard=shard)
        parts.append(rows.filter(pc.is_in(rows["id"], wanted)))
    filled = [part for part in parts if part.num_rows]
    if not filled:
        return Vectors([], np.zeros((0, 0), np.float32), np.zeros(0, np.uint64))
    joined = pa.concat_tables(filled)
    rows = joined.append_column("row", pa.array(np.arange(joined.num_rows))).group_by("id", use_threads=False)
    return from_table(joined.take(rows.aggregate([("row", "min")])["row_min"]))


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
        known = read_embeddings(store, shards, chosen["id"].to_pylist())
        surest = surest_filtered(store, recipe.filtered_gallery) if of_train else []
        filtered = read_embeddings(store, of_train, surest)
        parts = [
            as_table(found).append_column("split", pa.repeat(pa.scalar(split), len(found)))
            for split, found in (("test", known), ("train", filtered))
            if len(found)
        ]
        rows = [part for part in parts if part.num_rows] or [NON_LANDMARK_EMBEDDINGS.empty()]
        joined = pa.concat_tables([part.select(NON_LANDMARK_EMBEDDINGS.schema.names) for part in rows])
        different = joined.take(pa.array(first_of_bytes(joined), pa.int64())).sort_by("id")
        writer.table(NON_LANDMARK_EMBEDDINGS, different.combine_chunks())
        # A twin that is left out was chosen by its label all the same.
        labels = record_query_labels(writer, "non_landmark_embeddings", chosen["id"].to_pylist())
        return labels | {
            "rows": different.num_rows,
            "listed": chosen.num_rows,
            "filtered": len(filtered),
            "twins": joined.num_rows - different.num_rows,
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


def first_of_bytes(images: pa.Table) -> list[int]:
    """Rows of `id, stored_xxh3` that are the first of their id and of their bytes; unknown bytes are like none."""
    seen: set[object] = set()
    rows = []
    for row, (image_id, digest) in enumerate(
        zip(images["id"].to_pylist(), images["stored_xxh3"].to_pylist(), strict=True)
    ):
        if image_id not in seen and (digest is None or digest not in seen):
            rows.append(row)
            seen |= {image_id} if digest is None else {image_id, digest}
    return rows


def read_non_landmarks(store: Store, dimensions: int) -> NonLandmarks:
    """The gallery that `make_non_landmark_embeddings` wrote.

    Args:
        store: the store.
        dimensions: of a vector where there is none.
    """
    found = from_table(read_table(store, NON_LANDMARK_EMBEDDINGS))
    return NonLandmarks(found if len(found) else Vectors([], np.zeros((0, dimensions), np.float32)))
