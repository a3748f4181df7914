"""The index: the train images that are searched, their penalties, and what turns a score into a confidence."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.errors import MissingInputError
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.calibration import Calibration, fit_calibration
from glr_assets.retrieval.embeddings import Floats, Vectors, embedded_shards, from_table, read_embeddings
from glr_assets.retrieval.schemas import CALIBRATION_FILE, FAISS_INDEX, INDEX_FILE, NON_LANDMARK_EMBEDDINGS
from glr_assets.retrieval.scoring import PenalisedIndex, penalties, recognise
from glr_assets.seeded import seeded_hash
from glr_assets.source import Source
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.verification.manifests import kept_images

CODE_VERSION = "1"


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
    images: pa.Table, train: Vectors, non_landmarks: Vectors, recipe: Retrieval
) -> tuple[PenalisedIndex, Floats]:
    """The index of `images` (`id, landmark_id`), and the penalty B of each of its rows, float32 [n].

    Raises:
        MissingInputError: an image has no embedding.
    """
    landmark_of = dict(zip(images["id"].to_pylist(), images["landmark_id"].to_pylist(), strict=True))
    chosen = train.of(list(landmark_of))
    if len(chosen.ids) < len(landmark_of):
        missing = sorted(landmark_of.keys() - set(chosen.ids))
        raise MissingInputError(
            f"{len(missing)} images of the manifest have no embedding, the first {missing[0]}: "
            "materialise train_embeddings of every shard"
        )
    of_images = penalties(
        chosen.vectors, chosen.ids, non_landmarks.vectors, non_landmarks.ids, recipe.train_penalty_top
    )
    landmarks = np.array([landmark_of[image_id] for image_id in chosen.ids], np.int64)
    return PenalisedIndex(chosen.ids, landmarks, chosen.vectors, of_images), of_images


def calibrate(
    index: PenalisedIndex,
    held_out: Vectors,
    landmark_of: dict[str, int],
    non_landmarks: Vectors,
    recipe: Retrieval,
) -> Calibration:
    """Fit the confidence on photographs the embedder did not learn from.

    The held-out train images ask for their landmark without finding themselves; non-landmarks ask too, and
    no answer to them is right. Both are compared with the non-landmarks other than themselves.
    """
    scores: list[float] = []
    correct: list[bool] = []
    for queries in (held_out, non_landmarks):
        if not queries.ids:
            continue
        own = penalties(
            queries.vectors, queries.ids, non_landmarks.vectors, non_landmarks.ids, recipe.query_penalty_top
        )
        for answer in recognise(index, queries.ids, queries.vectors, own, recipe.neighbours, leave_one_out=True):
            scores.append(answer.score)
            correct.append(landmark_of.get(answer.id) == answer.landmark_id)
    return fit_calibration(scores, correct)


def make_faiss_index(source: Source, store: Store, recipe: Retrieval, held_out_ids: Sequence[str], seed: int) -> Made:
    """`faiss_index`: the index file, its rows with landmarks and penalties, and the calibration.

    Args:
        source: whose shards count.
        store: the store.
        recipe: `[retrieval]`.
        held_out_ids: train images that the embedder did not learn from.
        seed: of the order in which a landmark's images are searched.
    """
    shards = embedded_shards(source, store, "train")

    def build(writer: Writer) -> Summary:
        manifest = kept_images(store, recipe.manifest)
        train = read_embeddings(store, shards)
        non_landmarks = from_table(read_table(store, NON_LANDMARK_EMBEDDINGS))
        if not non_landmarks.ids:
            non_landmarks = Vectors([], np.zeros((0, train.vectors.shape[1]), np.float32))
        index, of_images = build_index(
            searched_images(manifest, recipe.per_landmark, seed), train, non_landmarks, recipe
        )
        landmark_of = dict(zip(manifest["id"].to_pylist(), manifest["landmark_id"].to_pylist(), strict=True))
        calibration = calibrate(index, train.of(held_out_ids), landmark_of, non_landmarks, recipe)
        writer.write(INDEX_FILE, index.to_bytes())
        writer.write(CALIBRATION_FILE, calibration.to_json().encode())
        writer.table(
            FAISS_INDEX,
            pa.table({"id": index.ids, "landmark_id": index.landmark_ids, "penalty": pa.array(of_images)}),
        )
        return {
            "rows": len(index),
            "landmarks": len(pc.unique(pa.array(index.landmark_ids))),
            "dimensions": index.dimensions,
            "kind": "flat, exact",
            "non_landmarks": len(non_landmarks.ids),
            "calibration_slope": calibration.slope,
            "calibration_intercept": calibration.intercept,
            "calibration_samples": calibration.samples,
        }

    parameters = recipe.model_dump(exclude={"non_landmark_usage", "retrieved"}) | {
        "seed": seed,
        "held_out": sorted(held_out_ids),
    }
    inputs = shards | need_receipts(store, recipe.manifest, "non_landmark_embeddings", "embedder")
    return make(store, "faiss_index", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)


def open_index(store: Store) -> tuple[PenalisedIndex, Calibration]:
    """The index and the calibration that `make_faiss_index` wrote.

    Raises:
        MissingInputError: they have not been made.
    """
    rows = read_table(store, FAISS_INDEX, ["id", "landmark_id"])
    landmarks = rows["landmark_id"].to_numpy()
    index = PenalisedIndex.from_bytes(store.read(INDEX_FILE), rows["id"].to_pylist(), landmarks)
    return index, Calibration.from_json(store.read(CALIBRATION_FILE))
