"""The index: the train images that are searched, and their penalties."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.chosen import GALLERY_MANIFEST, chosen_inputs
from glr_assets.errors import MissingInputError
from glr_assets.manifests import kept_images
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.embeddings import (
    Floats,
    NonLandmarks,
    Vectors,
    embedded_shards,
    locate_embeddings,
    read_non_landmarks,
)
from glr_assets.retrieval.proposers import Kind, Proposer, bytes_of, chosen, opened_faiss, tuned
from glr_assets.retrieval.schemas import FAISS_INDEX, INDEX_FILE, INDEX_INFO, ROWS_FILE
from glr_assets.retrieval.scoring import Flat, PenalisedIndex
from glr_assets.retrieval.vector_files import VectorFile, allocated, write_vectors
from glr_assets.seeded import seeded_hash
from glr_assets.source import Source
from glr_assets.store import Store
from glr_assets.tables import fixed_width, read_table

CODE_VERSION = "5"
#: An approximate index is measured by how many of so many nearest it finds, for so many images.
NEAREST: Final = 5
ASKED: Final = 400
_TIMED: Final = 30
_BLOCK: Final = 16_384


def searched_images(manifest: pa.Table, per_landmark: int, seed: int) -> pa.Table:
    """The images of a manifest that are searched: all, or `per_landmark` of each landmark in a seeded order."""
    if not per_landmark:
        return manifest
    landmarks = manifest["landmark_id"].to_numpy()
    order = np.lexsort((seeded_hash(manifest["id"], seed, "index"), landmarks))
    ordered = landmarks[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(ordered) else np.zeros(0, int)
    rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    return manifest.take(pa.array(np.sort(order[rank < per_landmark])))


def build_index(
    images: pa.Table, train: Vectors, non_landmarks: NonLandmarks, recipe: Retrieval
) -> tuple[PenalisedIndex, Floats]:
    """The exact index of `images` (`id, landmark_id`), and the penalty B of each of its rows, float32 [n].

    Raises:
        MissingInputError: an image has no embedding, or there is no image.
    """
    chosen = train.of(images["id"].to_pylist())
    landmarks = landmarks_of(images, chosen.ids)
    if not len(chosen):
        raise MissingInputError("the index has no image; materialise the embeddings of a manifest that holds some")
    flat = Flat.allocated(len(chosen), chosen.vectors.shape[1] + 1)
    flat.rows[:, :-1] = chosen.vectors
    of_images = penalise(flat.rows, chosen.ids, chosen.digests, non_landmarks, recipe.train_penalty_top)
    return PenalisedIndex.of_filled(flat, chosen.ids, landmarks), of_images


def landmarks_of(images: pa.Table, embedded: Sequence[str]) -> npt.NDArray[np.int64]:
    """The landmark of each embedded image, int64 [n].

    Args:
        images: `id, landmark_id`.
        embedded: ids of those that have an embedding, in any order.

    Raises:
        MissingInputError: an image has none.
    """
    landmark_of = dict(zip(images["id"].to_pylist(), images["landmark_id"].to_pylist(), strict=True))
    if len(embedded) < len(landmark_of):
        missing = sorted(landmark_of.keys() - set(embedded))
        raise MissingInputError(
            f"{len(missing)} images of the manifest have no embedding, the first {missing[0]}: "
            "materialise train_embeddings of every shard"
        )
    return np.array([landmark_of[image_id] for image_id in embedded], np.int64)


def penalise(
    rows: Floats,
    ids: Sequence[str],
    digests: npt.NDArray[np.uint64] | None,
    non_landmarks: NonLandmarks,
    top: int,
) -> Floats:
    """Set the last number of each row to -B, a block of rows after another; returns B, float32 [n].

    Args:
        rows: float32 [n, D + 1] that begin with the images' vectors; they may be mapped from a file.
        ids: of the images.
        digests: of the images' bytes, where they are known.
        non_landmarks: the distractors.
        top: cosines to them of which B is the mean.

    Raises:
        EmbedderError: a value is not finite.
    """
    of_images = np.zeros(len(rows), np.float32)
    for start in range(0, len(rows), _BLOCK):
        part = slice(start, start + _BLOCK)
        of_part = None if digests is None else digests[part]
        block = Vectors(list(ids[part]), np.ascontiguousarray(rows[part, :-1]), of_part)
        of_images[part] = non_landmarks.penalties(block, top)
        rows[part, -1] = -of_images[part]
    return of_images


#: Of `[retrieval]`, what decides what is searched and how.
DECIDED_BY: Final = frozenset(
    {"manifest", "per_landmark", "train_penalty_top", "index", "index_memory", "index_recall", "penalties"}
)


def make_faiss_index(source: Source, store: Store, recipe: Retrieval, seed: int) -> Made:
    """`faiss_index`: the index file, and its rows with landmarks and penalties.

    Args:
        source: whose shards count.
        store: the store.
        recipe: `[retrieval]`.
        seed: of the order in which a landmark's images are searched.
    """
    shards = embedded_shards(source, store, "train")

    def build(writer: Writer) -> Summary:
        images = searched_images(kept_images(store, recipe.manifest), recipe.per_landmark, seed)
        train = locate_embeddings(store, shards, images["id"].to_pylist())
        landmarks = landmarks_of(images, train.ids)
        non_landmarks = read_non_landmarks(store, train.dimensions)
        width = train.dimensions + 1
        kind = chosen(recipe.index, len(train), width, recipe.index_memory * 2**20)
        # Every vector is copied once, to where it is searched or written from.
        flat = Flat.allocated(len(train), width) if kind == "flat" else None
        rows = allocated(len(train), width) if flat is None else flat.rows
        train.fill(rows[:, :-1])
        of_images = penalise(rows, train.ids, train.digests, non_landmarks, recipe.train_penalty_top)
        exact = PenalisedIndex.of_filled(rows if flat is None else flat, train.ids, landmarks)
        weight = 1.0 if recipe.penalties == "fixed" else 0.0
        index, recall = (exact, 1.0) if kind == "flat" else approximate(exact, kind, recipe.index_recall, seed, weight)
        with writer.writing(INDEX_FILE) as file:
            index.write(file)
        if index.proposer is not None:
            write_vectors(writer, ROWS_FILE, index.rows)
        told: Summary = {
            "kind": kind,
            "effort": index.proposer.effort if index.proposer is not None else 0,
            "recall": recall,
            "bytes": writer.outputs[INDEX_FILE].size,
            "bytes_flat": bytes_of("flat", len(exact), width),
        }
        writer.json(INDEX_INFO, told)
        writer.table(
            FAISS_INDEX,
            pa.table({"id": index.ids, "landmark_id": index.landmark_ids, "penalty": pa.array(of_images)}),
        )
        figures.update(milliseconds_a_query=milliseconds_a_query(index))
        return told | {
            "rows": len(index),
            "landmarks": len(pc.unique(pa.array(index.landmark_ids))),
            "dimensions": index.dimensions,
            "non_landmarks": len(non_landmarks.images),
        }

    figures: Summary = {}
    made = make(
        store,
        "faiss_index",
        inputs=shards
        | chosen_inputs(store, GALLERY_MANIFEST, recipe.manifest)
        | need_receipts(store, "non_landmark_embeddings", "embedder"),
        parameters=recipe.model_dump(mode="json", include=set(DECIDED_BY)) | {"seed": seed},
        code_version=CODE_VERSION,
        build=build,
    )
    return made if made.reused else replace(made, run=figures)


def approximate(
    exact: PenalisedIndex, kind: Kind, wanted: float, seed: int, penalty_weight: float = 1.0
) -> tuple[PenalisedIndex, float]:
    """The same rows searched by an index of that kind, looking as hard as its recall wants, and the recall that it has.

    Recall is the share of the `NEAREST` best of images of the index, drawn by seed, that it finds, themselves left out.
    `ASKED` of them, or half of a smaller index, choose the effort; as many others give the recall that is returned.

    Args:
        exact: what is searched.
        kind: not flat.
        wanted: recall.
        seed: of the draw.
        penalty_weight: with which it will be searched, as `PenalisedIndex.search`.
    """
    ids = pa.array(exact.ids, pa.string())
    order = np.lexsort((fixed_width(ids), seeded_hash(ids, seed, "recall of the index")))[: 2 * ASKED]
    choosing = _RecallOf.of(exact, order[: (len(order) + 1) // 2], penalty_weight)
    judging = _RecallOf.of(exact, order[(len(order) + 1) // 2 :], penalty_weight)

    def blocks() -> Iterator[Floats]:
        return (exact.rows[start : start + _BLOCK] for start in range(0, len(exact), _BLOCK))

    index = exact.proposed_by(tuned(Proposer.build(kind, len(exact), blocks), choosing.of_proposer, wanted))
    return index, judging(index)


@dataclass(frozen=True, eq=False)
class _RecallOf:
    """Images of an index that search it without finding themselves, and their nearest [n, NEAREST] by exact search."""

    exact: PenalisedIndex
    queries: Floats
    names: list[str]
    truth: npt.NDArray[np.int64]
    penalty_weight: float

    @classmethod
    def of(cls, exact: PenalisedIndex, rows: npt.NDArray[np.int64], penalty_weight: float) -> _RecallOf:
        """Those of these rows."""
        queries, names = exact.rows[rows, :-1], [exact.ids[row] for row in rows]
        _, truth = exact.search(queries, NEAREST, names, penalty_weight=penalty_weight)
        return cls(exact, queries, names, truth, penalty_weight)

    def __call__(self, index: PenalisedIndex) -> float:
        """The share of the nearest that an index of the same rows finds; 1 where there is none."""
        _, found = index.search(self.queries, NEAREST, self.names, penalty_weight=self.penalty_weight)
        known = self.truth >= 0
        same = (found[:, :, None] == self.truth[:, None, :]).any(axis=1)
        return float(same[known].mean()) if known.any() else 1.0

    def of_proposer(self, proposer: Proposer) -> float:
        """The same of the rows searched by a proposer."""
        return self(self.exact.proposed_by(proposer))


def milliseconds_a_query(index: PenalisedIndex) -> float:
    """How long a query of its own takes, searched by itself, the median of some."""
    took = []
    for row in range(min(_TIMED, len(index))):
        began = time.perf_counter()
        index.search(index.rows[row : row + 1, :-1], NEAREST)
        took.append(time.perf_counter() - began)
    return round(1000 * statistics.median(took), 3)


def open_index(store: Store) -> PenalisedIndex:
    """The index that `make_faiss_index` wrote; its files are mapped where they can be, and read where they are needed.

    Raises:
        MissingInputError: it has not been made.
        DamagedFileError: the store compares its files, and one is not as it was written.
        StoreError: its files are damaged or not of one making.
    """
    table = read_table(store, FAISS_INDEX, ["id", "landmark_id"])
    ids, landmarks = table["id"].to_pylist(), table["landmark_id"].to_numpy()
    told = store.read_json(INDEX_INFO)
    if store.is_mappable:
        with store.mappable(INDEX_FILE) as path:
            index = opened_faiss(path)
    else:
        with store.open(INDEX_FILE) as file:
            index = opened_faiss(file)
    if told["kind"] == "flat":
        return PenalisedIndex.of_flat(index, ids, landmarks)
    rows = VectorFile.open(store, ROWS_FILE).read()
    return PenalisedIndex.of_rows(rows, ids, landmarks, Proposer.opened(told["kind"], told["effort"], index))
