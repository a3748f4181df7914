"""A photograph to its landmark, from one consistent set of what has been made: the answer that `submission` gives.

Pure: it opens a store and answers. What is made anew later is another `Recogniser`; see `live`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from glr_assets.recipes import Execution, Images, Retrieval, Verification
from glr_assets.retrieval.answering import Photographs, Witness
from glr_assets.retrieval.embeddings import Floats, Vectors
from glr_assets.retrieval.local import extracted
from glr_assets.retrieval.model import RecognitionModel
from glr_assets.retrieval.recognition_model import open_model, open_witness
from glr_assets.retrieval.scoring import Recognition
from glr_assets.serving.schemas import Answer, Landmark, Similar
from glr_assets.store import Store
from glr_assets.tables import Table, read_parts, read_table
from glr_assets.verification.extractors import open_extractor
from glr_assets.verification.extractors.base import Extractor
from glr_assets.verification.matching import Prepared
from glr_assets.verified import verified

#: What an answer is made from; all of it must be there and of one making.
MADE_FROM: Final = (
    "embedder",
    "faiss_index",
    "recognition_model",
    "non_landmark_embeddings",
    "image_catalog",
    "landmark_labels",
    "train_attribution",
)
LEAST_PROBABILITY: Final = 0.5
"""An answer is a landmark where it is more likely right than not."""

#: No image has such an id: ids have no blank.
_QUERY: Final = "photograph "
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


@dataclass(frozen=True, eq=False)
class Recogniser:
    """What answers photographs, all of it loaded.

    Attributes:
        version: digest of all it was made from.
        images: how a photograph is brought to what the embedder knows: ingest's recipe.
        reader: stored images of the index.
        witness: index, gallery and comparer of local features.
        model: from what speaks for a landmark to its probability.
        verification: how local features are compared.
        extractor: finds them.
    """

    version: str
    images: Images
    reader: ImageReader
    witness: Witness
    model: RecognitionModel
    verification: Verification
    extractor: Extractor
    _embed: Any
    _labels: Mapping[int, Mapping[str, Any]]
    _rights: pa.Table

    @classmethod
    def open(cls, store: Store) -> Recogniser:
        """Load what the store's receipts name.

        Raises:
            MissingInputError: something has not been made, is damaged, or the index is of another embedder or of other
                non-landmarks than those that are there.
            DamagedFileError: a file is not as its receipt says.
            GlrError: a file cannot be read.
        """
        receipts = {name: need_receipt(store, name) for name in MADE_FROM}
        _need_one_making(store, receipts)
        answered = receipts["recognition_model"]
        features = _feature_shards(answered)
        of_features = [f"{asset}/{shard}" for asset, shards in features.items() for shard in shards]
        # A file of the store that is cut while it is mapped would end the service.
        checked = verified(store, [*MADE_FROM, *of_features], maps_copies=True)
        compared = _known(Verification, answered.parameters.get("verification", {}))
        execution = Execution()
        witness = open_witness(checked, features, _known(Retrieval, answered.parameters), compared, execution)
        reader = ImageReader.of_split(checked, "train", witness.index.ids)
        extractor = open_extractor(compared, execution.device)
        if witness.comparer is not None:
            # While features are made anew, those of the index in use are found in its images.
            kept = replace(
                witness.comparer.features, found_anew=lambda name: extracted(extractor, name, reader.read(name))
            )
            witness = replace(witness, comparer=replace(witness.comparer, features=kept))
        return cls(
            version=version_of(receipts),
            images=_images_recipe(store),
            reader=reader,
            witness=witness,
            model=open_model(checked),
            verification=compared,
            extractor=extractor,
            _embed=_open_embedder(checked, str(receipts["embedder"].summary["folder"])),
            _labels=_labels(checked, witness.index.landmark_ids),
            _rights=_aligned(checked, TRAIN_ATTRIBUTION, witness.index.ids),
        )

    def __len__(self) -> int:
        return len(self.witness.index)

    @property
    def landmarks(self) -> int:
        """How many landmarks the index shows."""
        return len(np.unique(self.witness.index.landmark_ids))

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
            scores, rows = self.witness.search(vectors, top)
            return [
                self._answer(ranked[:top], of_photo[known := at >= 0], at[known])
                for ranked, of_photo, at in zip(found, scores, rows, strict=True)
            ]

    def ranked(self, photos: Sequence[StoredImage], vectors: Floats) -> list[list[Recognition]]:
        """Each photograph's landmarks with their scores, the best first: the best is what `submission` answers."""
        digests = np.array([xxhash.xxh3_64_intdigest(photo.jpeg) for photo in photos], np.uint64)
        queries = Vectors([f"{_QUERY}{number}" for number in range(len(photos))], vectors, digests)
        return [self.model.ranked(found) for found in self.witness.of(queries, self._photographs(queries.ids, photos))]

    def _photographs(self, ids: Sequence[str], photos: Sequence[StoredImage]) -> Photographs | None:
        """Their local features, found as they are asked for; none where they are not compared."""
        if self.witness.comparer is None:
            return None
        photo_of = dict(zip(ids, photos, strict=True))

        def found(asked: Sequence[str]) -> Iterator[Prepared | None]:
            for name in asked:
                try:
                    yield extracted(self.extractor, name, photo_of[name].jpeg)
                except ValueError:
                    yield None  # as of a stored image that the extractor refuses

        return found

    def _answer(
        self, ranked: Sequence[Recognition], scores: npt.NDArray[np.float64], rows: npt.NDArray[np.int64]
    ) -> Answer:
        probabilities = self.model.probabilities([found.score for found in ranked])
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
        landmark, image_id = int(self.witness.index.landmark_ids[row]), self.witness.index.ids[row]
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
        category = label["category"] if "://" in (label["category"] or "") else None
        return {"name": label["name"], "category": category, "kind": label["supercategory"] or None}


def version_of(receipts: Mapping[str, Receipt | None]) -> str:
    """Digest of what receipts say; where one is absent, of that."""
    return digest_of({name: receipt and receipt.digest for name, receipt in receipts.items()})[:12]


def _need_one_making(store: Store, receipts: Mapping[str, Receipt]) -> None:
    made_of = {"faiss_index": ("embedder", "non_landmark_embeddings")}
    made_of["recognition_model"] = ("faiss_index", "non_landmark_embeddings")
    for asset, names in made_of.items():
        for name in names:
            if receipts[asset].inputs.get(name) != receipts[name].digest:
                raise MissingInputError(
                    f"{asset} in {store.url} is of another {name} than the one there: materialise {asset} again"
                )


def _feature_shards(made: Receipt) -> dict[str, list[str]]:
    """The local features of train images that the model was made with: asset and shards."""
    found: dict[str, list[str]] = {}
    for name in sorted(made.inputs):
        asset, _, shard = name.partition("/")
        if asset in {"local_features", "search_features"}:
            found.setdefault(asset, []).append(shard)
    return found


def _open_embedder(store: Store, folder: str) -> Any:
    """Encoded images in, float32 [n, D] of unit length out."""
    from glr_assets.training.embedder import load_embedder

    return load_embedder(store, folder).embed


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
