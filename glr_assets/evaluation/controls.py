"""What a recogniser must beat: its network untrained, neighbours by pixels and by dhash, a vote of local features."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.concurrency import single_threaded
from glr_assets.curation.diversity import hamming
from glr_assets.curation.fates import fates
from glr_assets.evaluation.metrics import Prediction
from glr_assets.images.reader import ImageReader
from glr_assets.metadata.schemas import INDEX_METADATA
from glr_assets.ranges import ordered
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.answering import Witness
from glr_assets.retrieval.calibration import Calibration
from glr_assets.retrieval.embeddings import Embed, NonLandmarks, Vectors
from glr_assets.retrieval.index import build_index, searched_images
from glr_assets.retrieval.local import extracted
from glr_assets.retrieval.model import RecognitionModel
from glr_assets.retrieval.scoring import Floats, PenalisedIndex, retrieve
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.training.photographs import in_threads, square
from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets.verification.matching import LEAST_MATCHES, Prepared

QUERY_BLOCK = 256
HASH_BITS = 64
#: Pixels a side of a picture that is compared as it is.
PIXEL_SIDE = 16
#: Of the vote.
VOTE_FEATURES, VOTE_COSINE, VOTE_RESIDUAL, VOTERS = 500, 0.85, 6.0, 3


@dataclass(frozen=True)
class Asked:
    """What a control is asked, as the recogniser is.

    Attributes:
        recognition: test images whose landmark is asked for.
        retrieval: test images for which index images are; none where no solution of retrieval is published.
        retrieved: index images a query, at most.
    """

    recognition: list[str]
    retrieval: list[str]
    retrieved: int


@dataclass(frozen=True)
class Control:
    """What a control answers: landmarks, and ids of index images by query, the best first."""

    predictions: list[Prediction]
    retrieved: dict[str, list[str]]


def dhash_neighbours(store: Store, manifest: pa.Table, asked: Asked) -> Control:
    """The landmark of the train image whose dhash differs least, ties to the smaller id; surer, the fewer bits.

    Index images come in the order of differing bits, ties by id.
    """
    train = manifest.select(["id", "landmark_id"]).join(_hashes(store, "train"), "id", join_type="inner").sort_by("id")
    landmarks, hashes = train["landmark_id"].to_numpy(), train["dhash"].to_numpy()
    queries = _hashes(store, "test").sort_by("id")
    found: list[Prediction] = []
    for ids, bits in _bits(queries, asked.recognition, hashes):
        nearest = zip(ids, bits.argmin(axis=1).tolist(), bits.min(axis=1).tolist(), strict=True)
        found += [Prediction(query, int(landmarks[row]), float(HASH_BITS - least)) for query, row, least in nearest]
    index = _hashes(store, "index").sort_by("id")
    names = index["id"].to_pylist()
    retrieved: dict[str, list[str]] = {}
    for ids, bits in _bits(queries, asked.retrieval, index["dhash"].to_numpy()):
        for query, of_query in zip(ids, bits, strict=True):
            # Query by query: the places of a block's would be gigabytes at GLDv2's size.
            order = of_query.argsort(kind="stable")[: asked.retrieved].tolist()
            retrieved[query] = [names[row] for row in order]
    return Control(found, retrieved)


def _hashes(store: Store, split: Split) -> pa.Table:
    found = fates(store, split)
    return found.filter(pc.equal(found["status"], "stored")).select(["id", "dhash"])


def _bits(
    queries: pa.Table, wanted: Sequence[str], hashes: npt.NDArray[np.uint64]
) -> Iterator[tuple[list[str], npt.NDArray[np.uint8]]]:
    """Ids of some queries [q] and the bits in which they differ from each of `hashes` [n], [q, n], block by block."""
    here = queries.filter(pc.is_in(queries["id"], pa.array(wanted, pa.string())))
    ids, asked = here["id"].to_pylist(), here["dhash"].to_numpy()
    for start in range(0, len(ids) if len(hashes) else 0, QUERY_BLOCK):
        part = slice(start, start + QUERY_BLOCK)
        yield ids[part], hamming(asked[part], hashes)


def pixel_vectors(images: Iterable[bytes], threads: int) -> Floats:
    """Photographs squeezed to `PIXEL_SIDE`² RGB, less their mean, of unit length: float32 [n, 3 · `PIXEL_SIDE`²].

    Tiny images: Torralba et al. 2008 (IEEE TPAMI 30(11)).
    """

    def vector(image: bytes) -> Floats:
        values = square(image, PIXEL_SIDE).astype(np.float32).ravel()
        values -= values.mean()
        return values / max(float(np.linalg.norm(values)), 1.0)

    rows = list(in_threads(vector, images, threads))
    return np.stack(rows) if rows else np.zeros((0, 3 * PIXEL_SIDE**2), np.float32)


def neighbours_by(
    store: Store,
    manifest: pa.Table,
    asked: Asked,
    non_landmark_ids: list[str],
    embed: Embed,
    recipe: Retrieval,
    seed: int,
) -> Control:
    """What the neighbours of another embedder, as one that has learned nothing, answer: no model is fitted to it.

    Penalties that the recipe would learn are fixed here.
    """
    recipe = recipe.model_copy(update={"penalties": "off" if recipe.penalties == "off" else "fixed"})
    images = searched_images(manifest, recipe.per_landmark, seed)
    train = _embedded(store, "train", images["id"].to_pylist(), embed)
    test = _embedded(store, "test", sorted({*asked.recognition, *asked.retrieval, *non_landmark_ids}), embed)
    non_landmarks = NonLandmarks(test.of(non_landmark_ids))
    index, _ = build_index(images, train, non_landmarks, recipe)
    predictions = by_neighbours(index, non_landmarks, test.of(asked.recognition), recipe)
    if not asked.retrieval:
        return Control(predictions, {})
    listed = _embedded(store, "index", read_table(store, INDEX_METADATA, ["id"])["id"].to_pylist(), embed)
    queries = test.of(asked.retrieval)
    found = retrieve(listed.vectors, listed.ids, queries.vectors, asked.retrieved)
    return Control(predictions, dict(zip(queries.ids, found, strict=True)))


def by_neighbours(
    index: PenalisedIndex, non_landmarks: NonLandmarks, queries: Vectors, recipe: Retrieval
) -> list[Prediction]:
    """The answers of neighbours alone, as a recipe sums their scores."""
    plain = RecognitionModel(penalties=recipe.penalties, calibration=Calibration(slope=1, intercept=0))
    answers = map(plain.ranked, Witness(index, non_landmarks, recipe).of(queries))
    return [Prediction(found.id, found.landmark_id, found.score) for found, *_ in filter(None, answers)]


def _embedded(store: Store, split: Split, ids: list[str], embed: Embed) -> Vectors:
    reader = ImageReader.of_split(store, split, ids)
    present = reader.ids
    vectors = embed(reader.read_many(present))
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
    landmark_of = dict(zip(manifest["id"].to_pylist(), manifest["landmark_id"].to_pylist(), strict=True))
    train = ImageReader.of_split(store, "train", list(landmark_of))
    test = ImageReader.of_split(store, "test", query_ids)
    voters = [image_id for image_id in sorted(landmark_of) if image_id in train]
    asked = [image_id for image_id in sorted(query_ids) if image_id in test]
    found: list[Prediction] = []
    with single_threaded("blas"):
        for start in range(0, len(asked), QUERY_BLOCK):
            block = asked[start : start + QUERY_BLOCK]
            asking = zip(block, test.read_many(block), strict=True)
            queries = list(ordered(lambda image: extracted(extractor, *image), asking, workers=workers))

            def votes(image: tuple[str, bytes], queries: list[Prepared] = queries) -> list[int]:
                voter = extracted(extractor, *image)
                return [_magsac_inliers(query, voter) for query in queries]

            voting = zip(voters, train.read_many(voters), strict=True)
            inliers = np.array(list(ordered(votes, voting, workers=workers)), np.int64).reshape(-1, len(block))
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
