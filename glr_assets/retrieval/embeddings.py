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
from glr_assets.receipts import Made, Summary, Writer, find_receipt, make, need_receipt, need_receipts
from glr_assets.retrieval.schemas import EMBEDDINGS, NON_LANDMARK_EMBEDDINGS
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "1"
Floats = npt.NDArray[np.float32]
#: Turns encoded images into float32 [n, D], L2-normalised, in their order.
Embed = Callable[[Iterable[bytes]], Floats]


@dataclass(frozen=True)
class Vectors:
    """Embeddings float32 [n, D] of `ids`, sorted by id."""

    ids: list[str]
    vectors: Floats

    def of(self, ids: Sequence[str]) -> Vectors:
        """Those of `ids` that are here, sorted by id."""
        row_of = {image_id: row for row, image_id in enumerate(self.ids)}
        present = sorted(set(ids) & row_of.keys())
        return Vectors(present, self.vectors[[row_of[image_id] for image_id in present]])


def as_table(vectors: Vectors) -> pa.Table:
    """The columns `id` and `vector` of `EMBEDDINGS`."""
    count, dimensions = vectors.vectors.shape
    flat = pa.array(vectors.vectors.reshape(-1), pa.float32())
    offsets = pa.array(np.arange(count + 1, dtype=np.int32) * dimensions)
    column = pa.ListArray.from_arrays(offsets, flat)
    return pa.table({"id": pa.array(vectors.ids, pa.string()), "vector": column})


def from_table(data: pa.Table) -> Vectors:
    """The vectors in a table of `EMBEDDINGS`' columns."""
    data = data.sort_by("id").combine_chunks()
    column = data["vector"].combine_chunks()
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return Vectors(data["id"].to_pylist(), flat.reshape(data.num_rows, -1 if data.num_rows else 0))


def make_embeddings(store: Store, split: Split, shard: str, embed: Callable[[], Embed]) -> Made:
    """`<split>_embeddings/<shard>`: the vectors of every image stored of a shard.

    Every stored image is embedded, whatever the manifests say today, so that another manifest needs no new
    embeddings. `embed` opens the embedder, and is not called where the work has been done.
    """

    def build(writer: Writer) -> Summary:
        reader = ImageReader.of_shard(store, split, shard)
        images = (reader.read(image_id) for image_id in reader.ids)
        vectors = embed()(images) if len(reader) else np.zeros((0, 0), np.float32)
        writer.table(EMBEDDINGS, as_table(Vectors(reader.ids, vectors)), split=split, shard=shard)
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


def read_embeddings(store: Store, names: Iterable[str]) -> Vectors:
    """The vectors of several shards, named as `embedded_shards` names them; of a repeated id the first shard's."""
    parts = []
    for name in sorted(names):
        asset, shard = name.split("/")
        parts.append(read_table(store, EMBEDDINGS, split=asset.removesuffix("_embeddings"), shard=shard))
    filled = [part for part in parts if part.num_rows]
    if not filled:
        return Vectors([], np.zeros((0, 0), np.float32))
    joined = pa.concat_tables(filled)
    rows = joined.append_column("row", pa.array(np.arange(joined.num_rows))).group_by("id", use_threads=False)
    return from_table(joined.take(rows.aggregate([("row", "min")])["row_min"]))


def make_non_landmark_embeddings(source: Source, store: Store, usage: Sequence[str]) -> Made:
    """`non_landmark_embeddings`: the vectors of test images known to show no landmark, of these Usages."""
    shards = embedded_shards(source, store, "test")

    def build(writer: Writer) -> Summary:
        solution = read_table(store, RECOGNITION_SOLUTION)
        none = pc.equal(pc.list_value_length(solution["landmark_ids"]), 0)
        chosen = solution.filter(pc.and_(none, pc.is_in(solution["usage"], pa.array(list(usage), pa.string()))))
        vectors = read_embeddings(store, shards).of(chosen["id"].to_pylist())
        writer.table(NON_LANDMARK_EMBEDDINGS, as_table(vectors))
        return {"rows": len(vectors.ids), "listed": chosen.num_rows}

    inputs = shards | need_receipts(store, "recognition_solution")
    return make(
        store,
        "non_landmark_embeddings",
        inputs=inputs,
        parameters={"usage": list(usage)},
        code_version=CODE_VERSION,
        build=build,
    )
