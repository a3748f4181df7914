"""What a trained recogniser must beat: the same network untrained, and neighbours by difference hash."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.diversity import hamming
from glr_assets.curation.fates import fates
from glr_assets.evaluation.metrics import Prediction
from glr_assets.images.reader import ImageReader
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.embeddings import Embed, Vectors
from glr_assets.retrieval.index import build_index, searched_images
from glr_assets.retrieval.submission import answer
from glr_assets.source.base import Split
from glr_assets.store import Store

QUERY_BLOCK = 256
HASH_BITS = 64


def dhash_neighbours(store: Store, manifest: pa.Table, query_ids: list[str]) -> list[Prediction]:
    """The landmark of the train image whose dhash differs least, ties to the smaller id; surer, the fewer bits."""
    train = manifest.select(["id", "landmark_id"]).join(_hashes(store, "train"), "id", join_type="inner").sort_by("id")
    queries = _hashes(store, "test")
    queries = queries.filter(pc.is_in(queries["id"], pa.array(query_ids, pa.string()))).sort_by("id")
    landmarks, hashes = train["landmark_id"].to_numpy(), train["dhash"].to_numpy()
    ids, asked = queries["id"].to_pylist(), queries["dhash"].to_numpy()
    found: list[Prediction] = []
    for start in range(0, len(ids) if len(hashes) else 0, QUERY_BLOCK):
        bits = hamming(asked[start : start + QUERY_BLOCK], hashes)
        nearest = bits.argmin(axis=1)
        found += [
            Prediction(query, int(landmarks[row]), float(HASH_BITS - distance))
            for query, row, distance in zip(
                ids[start : start + QUERY_BLOCK], nearest, bits.min(axis=1).tolist(), strict=True
            )
        ]
    return found


def _hashes(store: Store, split: Split) -> pa.Table:
    found = fates(store, split)
    return found.filter(pc.equal(found["status"], "stored")).select(["id", "dhash"])


def untrained_neighbours(
    store: Store,
    manifest: pa.Table,
    query_ids: list[str],
    non_landmark_ids: list[str],
    embed: Embed,
    recipe: Retrieval,
    seed: int,
) -> list[Prediction]:
    """What the same search and penalties answer with another embedder, as one that has learnt nothing."""
    images = searched_images(manifest, recipe.per_landmark, seed)
    train = _embedded(store, "train", images["id"].to_pylist(), embed)
    test = _embedded(store, "test", sorted({*query_ids, *non_landmark_ids}), embed)
    non_landmarks = test.of(non_landmark_ids)
    index, _ = build_index(images, train, non_landmarks, recipe)
    answers = answer(index, test.of(query_ids), non_landmarks, recipe)
    return [Prediction(found.id, found.landmark_id, found.score) for found in answers]


def _embedded(store: Store, split: Split, ids: list[str], embed: Embed) -> Vectors:
    reader = ImageReader.of_split(store, split, ids)
    present = reader.ids
    vectors = embed(reader.read(image_id) for image_id in present)
    return Vectors(present, np.asarray(vectors, np.float32))
