"""What a recogniser must beat: its network untrained, neighbours by difference hash, a vote of local features."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from threadpoolctl import threadpool_limits

from glr_assets.curation.diversity import hamming
from glr_assets.curation.fates import fates
from glr_assets.evaluation.metrics import Prediction
from glr_assets.images.reader import ImageReader
from glr_assets.ranges import ordered
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.answering import Witness
from glr_assets.retrieval.calibration import Calibration
from glr_assets.retrieval.embeddings import Embed, NonLandmarks, Vectors
from glr_assets.retrieval.index import build_index, searched_images
from glr_assets.retrieval.local import extracted
from glr_assets.retrieval.model import RecognitionModel
from glr_assets.retrieval.scoring import PenalisedIndex
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets.verification.matching import LEAST_MATCHES, Prepared

QUERY_BLOCK = 256
HASH_BITS = 64
#: Of the vote.
VOTE_FEATURES, VOTE_COSINE, VOTE_RESIDUAL, VOTERS = 500, 0.85, 6.0, 3


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
    non_landmarks = NonLandmarks(test.of(non_landmark_ids))
    index, _ = build_index(images, train, non_landmarks, recipe)
    return by_neighbours(index, non_landmarks, test.of(query_ids), recipe)


def by_neighbours(
    index: PenalisedIndex, non_landmarks: NonLandmarks, queries: Vectors, recipe: Retrieval
) -> list[Prediction]:
    """The answers of neighbours alone, as a recipe sums their scores."""
    plain = RecognitionModel(calibration=Calibration(slope=1, intercept=0))
    return by_witness(Witness(index, non_landmarks, recipe), plain, queries)


def by_witness(witness: Witness, model: RecognitionModel, queries: Vectors) -> list[Prediction]:
    """The answers of a model to what speaks for landmarks, local features left out."""
    answers = map(model.ranked, witness.of(queries))
    return [Prediction(found.id, found.landmark_id, found.score) for found, *_ in filter(None, answers)]


def _embedded(store: Store, split: Split, ids: list[str], embed: Embed) -> Vectors:
    reader = ImageReader.of_split(store, split, ids)
    present = reader.ids
    vectors = embed(reader.read(image_id) for image_id in present)
    return Vectors(present, np.asarray(vectors, np.float32))


def rootsift_votes(store: Store, manifest: pa.Table, query_ids: list[str], workers: int) -> list[Prediction]:
    """The landmark whose images agree most with a query by RootSIFT: no training, no embedder, every pair compared.

    Of each image the `VOTE_FEATURES` strongest features; mutual nearest neighbours of a cosine over `VOTE_COSINE`; the
    affine model of OpenCV's MAGSAC at `VOTE_RESIDUAL` pixels; a landmark's vote is the sum of its `VOTERS` images with
    the most inliers, and so is the confidence. Memory holds a block of queries; the time is that of all pairs.

    Args:
        store: of the stored images.
        manifest: `id, landmark_id` of the images that vote.
        query_ids: who asks.
        workers: threads.
    """
    extractor = RootSift(VOTE_FEATURES)
    train, test = (ImageReader.of_split(store, split) for split in ("train", "test"))
    landmark_of = dict(zip(manifest["id"].to_pylist(), manifest["landmark_id"].to_pylist(), strict=True))
    voters = [image_id for image_id in sorted(landmark_of) if image_id in train]
    asked = [image_id for image_id in sorted(query_ids) if image_id in test]
    found: list[Prediction] = []
    with threadpool_limits(1, user_api="blas"):
        for start in range(0, len(asked), QUERY_BLOCK):
            block = asked[start : start + QUERY_BLOCK]
            queries = list(ordered(lambda name: extracted(extractor, name, test.read(name)), block, workers=workers))

            def votes(name: str, queries: list[Prepared] = queries) -> list[int]:
                voter = extracted(extractor, name, train.read(name))
                return [_magsac_inliers(query, voter) for query in queries]

            inliers = np.array(list(ordered(votes, voters, workers=workers)), np.int64).reshape(-1, len(block))
            landmarks = np.array([landmark_of[name] for name in voters], np.int64)
            for number, query in enumerate(block):
                best = {
                    int(landmark): int(np.sort(inliers[landmarks == landmark, number])[-VOTERS:].sum())
                    for landmark in np.unique(landmarks)
                }
                if best:
                    landmark = min(best, key=lambda name: (-best[name], name))
                    found.append(Prediction(query, landmark, float(best[landmark])))
    return found


def _magsac_inliers(one: Prepared, other: Prepared) -> int:
    """Matches of two images that agree with one affine model; which image comes first decides nothing but the draw."""
    import cv2

    from glr_assets.verification import match_loops

    if not len(one.codes) or not len(other.codes):
        return 0
    products = one.codes @ other.codes.T
    first, second, _ = match_loops.mutual(products, one.inverse, other.inverse, np.float32(VOTE_COSINE))
    if len(first) < LEAST_MATCHES:
        return 0
    places = (one.places[first, :2], other.places[second, :2])
    try:
        _, mask = cv2.estimateAffine2D(*places, method=cv2.USAC_MAGSAC, ransacReprojThreshold=VOTE_RESIDUAL)
    except cv2.error:  # raised where every triple lies on a line
        return 0
    return 0 if mask is None else int(np.count_nonzero(mask))
