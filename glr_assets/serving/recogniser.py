"""A photograph to its landmark, from one consistent set of what has been made: the answer that `submission` gives.

Pure: it opens a store and answers. What is made anew later is another `Recogniser`; see `live`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from glr_assets.errors import MissingInputError
from glr_assets.images.pixels import StoredImage
from glr_assets.images.reader import ImageReader
from glr_assets.metadata.schemas import LANDMARK_LABELS, TRAIN_ATTRIBUTION
from glr_assets.receipts import Receipt, digest_of, find_receipt, need_receipt
from glr_assets.recipes import Images, Retrieval
from glr_assets.retrieval.calibration import Calibration
from glr_assets.retrieval.embeddings import Floats, Vectors, from_table
from glr_assets.retrieval.index import open_index
from glr_assets.retrieval.schemas import NON_LANDMARK_EMBEDDINGS
from glr_assets.retrieval.scoring import SCORE_DECIMALS, PenalisedIndex, Recognition, ranked_landmarks
from glr_assets.serving.schemas import Answer, Landmark, Similar
from glr_assets.store import Store
from glr_assets.tables import Table, read_parts, read_table

#: What an answer is made from; all of it must be there and of one making.
MADE_FROM: Final = (
    "embedder",
    "faiss_index",
    "non_landmark_embeddings",
    "image_catalog",
    "landmark_labels",
    "train_attribution",
)
LEAST_PROBABILITY: Final = 0.5
"""An answer is a landmark where it is more likely right than not."""

#: No image has it: ids have no blank.
_QUERY: Final = "the photograph"
_RIGHTS: Final = ("author", "license", "title", "url")


@dataclass
class Timings:
    """Seconds by step, in the order they were taken."""

    seconds: dict[str, float]

    @contextmanager
    def of(self, step: str) -> Iterator[None]:
        """Add what the block takes to a step."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + time.perf_counter() - began


class Gallery:
    """The non-landmarks that a query is compared with for its penalty C, indexed once.

    It gives what `scoring.penalties` gives, which builds its index at every call.
    """

    def __init__(self, vectors: Vectors, id_of: Mapping[int, str]) -> None:
        """Index them.

        Args:
            vectors: of the non-landmarks.
            id_of: their ids by the XXH3 of their stored bytes: a photograph that is one of them is known as such.
        """
        nothing = np.zeros(len(vectors.ids), np.int64)
        self._index = (
            PenalisedIndex(vectors.ids, nothing, vectors.vectors, nothing.astype(np.float32)) if vectors.ids else None
        )
        self._id_of = id_of

    def __len__(self) -> int:
        return len(self._index) if self._index is not None else 0

    def id_of(self, photo: StoredImage) -> str:
        """The id of the non-landmark that a photograph is byte for byte; of another one no id that any image has."""
        return self._id_of.get(xxhash.xxh3_64_intdigest(photo.jpeg), _QUERY)

    def penalties(self, vectors: Floats, ids: Sequence[str], top: int) -> Floats:
        """C of each photograph, float32 [n]: the mean of its `top` best cosines to non-landmarks other than itself."""
        if self._index is None:
            return np.zeros(len(vectors), np.float32)
        cosines, rows = self._index.search(vectors, top, ids)
        others = rows >= 0
        mean = np.where(others, cosines, 0.0).sum(axis=1) / np.maximum(others.sum(axis=1), 1)
        return mean.round(SCORE_DECIMALS).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Recogniser:
    """What answers photographs, all of it loaded.

    Attributes:
        version: digest of all it was made from.
        images: how a photograph is brought to what the embedder knows: ingest's recipe.
        reader: stored images of the index.
    """

    version: str
    images: Images
    reader: ImageReader
    _recipe: Retrieval
    _embed: Any
    _index: PenalisedIndex
    _calibration: Calibration
    _gallery: Gallery
    _labels: Mapping[int, Mapping[str, Any]]
    _rights: pa.Table

    @classmethod
    def open(cls, store: Store) -> Recogniser:
        """Load what the store's receipts name.

        Raises:
            MissingInputError: something has not been made, is damaged, or the index is of another embedder or of other
                non-landmarks than those that are there.
            GlrError: a file cannot be read.
        """
        receipts = {name: need_receipt(store, name) for name in MADE_FROM}
        _need_one_making(store, receipts)
        index, calibration = open_index(store)
        gallery = from_table(read_table(store, NON_LANDMARK_EMBEDDINGS))
        stored = ImageReader.of_split(store, "test", gallery.ids)
        digests = {stored.places.xxh3(row): stored.places.name(row) for row in range(len(stored))}
        return cls(
            version=version_of(receipts),
            images=_images_recipe(store),
            reader=ImageReader.of_split(store, "train", index.ids),
            _recipe=_known(Retrieval, receipts["faiss_index"].parameters),
            _embed=_open_embedder(store, str(receipts["embedder"].summary["folder"])),
            _index=index,
            _calibration=calibration,
            _gallery=Gallery(gallery, {digest: name for digest, name in digests.items() if digest is not None}),
            _labels=_labels(store, index.landmark_ids),
            _rights=_aligned(store, TRAIN_ATTRIBUTION, index.ids),
        )

    def __len__(self) -> int:
        return len(self._index)

    @property
    def landmarks(self) -> int:
        """How many landmarks the index shows."""
        return len(np.unique(self._index.landmark_ids))

    def shows(self, image_id: str) -> bool:
        """Whether an image is in the index, and may be shown."""
        return image_id in self.reader

    def recognise(self, photos: Sequence[StoredImage], top: int, timings: Timings) -> list[Answer]:
        """What each photograph shows.

        Args:
            photos: as ingest makes them.
            top: landmarks and look-alikes that are listed at most.
            timings: takes the seconds of `embed` and `search`; answers hold none.

        Raises:
            EmbedderError: the embedder gives no finite vector.
        """
        with timings.of("embed"):
            vectors = self._embed([photo.jpeg for photo in photos])
        with timings.of("search"):
            found = self.ranked(photos, vectors)
            scores, rows = self._index.search(vectors, top)
            return [
                self._answer(ranked[:top], of_photo[known := at >= 0], at[known])
                for ranked, of_photo, at in zip(found, scores, rows, strict=True)
            ]

    def ranked(self, photos: Sequence[StoredImage], vectors: Floats) -> list[list[Recognition]]:
        """Each photograph's landmarks with their raw scores, the best first: the best is what `submission` answers."""
        ids = [self._gallery.id_of(photo) for photo in photos]
        own = self._gallery.penalties(vectors, ids, self._recipe.query_penalty_top)
        return ranked_landmarks(self._index, ids, vectors, own, self._recipe.neighbours)

    def _answer(
        self, ranked: Sequence[Recognition], scores: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]
    ) -> Answer:
        probabilities = one_right(self._calibration.probability([found.score for found in ranked]))
        landmarks = [
            Landmark(landmark_id=found.landmark_id, **self._name(found.landmark_id), probability=probability)
            for found, probability in zip(ranked, probabilities, strict=True)
        ]
        return Answer(
            is_landmark=bool(landmarks) and landmarks[0].probability > LEAST_PROBABILITY,
            landmarks=landmarks,
            similar=[self._similar(row, score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)],
            timings={},
        )

    def _similar(self, row: int, score: float) -> Similar:
        landmark, image_id = int(self._index.landmark_ids[row]), self._index.ids[row]
        rights = {name: self._rights[name][row].as_py() or None for name in _RIGHTS}
        return Similar(
            id=image_id,
            landmark_id=landmark,
            name=self._name(landmark)["name"],
            score=score,
            licence=rights["license"],
            author=rights["author"],
            title=rights["title"],
            source=rights["url"],
            image=f"/image/train/{image_id}",
        )

    def _name(self, landmark: int) -> dict[str, Any]:
        label = self._labels.get(landmark)
        if label is None:
            return {"name": f"landmark {landmark}"}
        return {"name": label["name"], "category": label["category"], "kind": label["supercategory"]}


def one_right(probabilities: Sequence[float] | npt.NDArray[np.float64]) -> list[float]:
    """Probabilities of ranked answers of which at most one is right.

    Each is calibrated as that of a best answer. The second can only be right where the first is wrong, and so on: the
    k-th is p_k (1 - p_1) … (1 - p_(k-1)), which leaves the first as it is and never adds up to more than 1.
    """
    found, left = [], 1.0
    for probability in probabilities:
        found.append(float(probability) * left)
        left *= 1.0 - float(probability)
    return found


def version_of(receipts: Mapping[str, Receipt | None]) -> str:
    """Digest of what receipts say; where one is absent, of that."""
    return digest_of({name: receipt and receipt.digest for name, receipt in receipts.items()})[:12]


def _need_one_making(store: Store, receipts: Mapping[str, Receipt]) -> None:
    for name in ("embedder", "non_landmark_embeddings"):
        if receipts["faiss_index"].inputs.get(name) != receipts[name].digest:
            raise MissingInputError(
                f"faiss_index in {store.url} is of another {name} than the one there: materialise faiss_index again"
            )


def _open_embedder(store: Store, folder: str) -> Any:
    """Encoded images in, float32 [n, D] of unit length out."""
    from glr_assets.training.embedder import embed, load_embedder

    loaded = load_embedder(store, folder)
    size, precision = loaded.config.image_size, loaded.config.recipe.precision
    return lambda images: embed(loaded.module, images, size, precision=precision)


def _images_recipe(store: Store) -> Images:
    """How the train images were stored, by the receipt of a shard of them."""
    for name in store.names("receipts/train_images"):
        receipt = find_receipt(store, f"train_images/{name.removesuffix('.json')}")
        if receipt is not None:
            return _known(Images, receipt.parameters)
    raise MissingInputError(f"train_images of no shard have been made in {store.url}: materialise them first")


def _known(section: type[Any], parameters: Mapping[str, Any]) -> Any:
    """A section of a recipe from the parameters of a receipt, which has others beside."""
    return section.model_validate({name: value for name, value in parameters.items() if name in section.model_fields})


def _labels(store: Store, landmark_ids: npt.NDArray[np.int64]) -> dict[int, dict[str, Any]]:
    """Name, category and supercategory of the landmarks in the index that have them."""
    wanted = pa.array(np.unique(landmark_ids))
    columns = ["landmark_id", "name", "category", "supercategory"]
    rows = read_table(store, LANDMARK_LABELS, columns)
    rows = rows.filter(pc.is_in(rows["landmark_id"], wanted))
    return {row["landmark_id"]: row for row in rows.to_pylist()}


def _aligned(store: Store, table: Table, ids: Sequence[str]) -> pa.Table:
    """The rows of a table whose key is `id` in the order of `ids`, with absent values where it has none."""
    wanted = pa.array(ids, pa.string())
    columns = ["id", *_RIGHTS]
    parts = [part.filter(pc.is_in(part["id"], wanted)) for part in read_parts(store, table, columns)]
    found = pa.concat_tables(parts) if parts else table.empty().select(columns)
    found = found.combine_chunks()
    return found.take(pc.index_in(wanted, found["id"]))
