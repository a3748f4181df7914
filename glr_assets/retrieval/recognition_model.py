"""`recognition_model`: learns, where the landmark is known, how far what speaks for an answer can be trusted."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.errors import MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.manifests import kept_images
from glr_assets.plots import reliability
from glr_assets.query_labels import record_query_labels
from glr_assets.ranges import ordered
from glr_assets.receipts import Made, Summary, Writer, make, need_receipt, need_receipts
from glr_assets.recipes import Execution, Recipe, Retrieval, Verification
from glr_assets.retrieval.answering import Evidence, Photographs, Witness
from glr_assets.retrieval.embeddings import NonLandmarks, Vectors, embedded_shards, read_embeddings, read_non_landmarks
from glr_assets.retrieval.index import open_index
from glr_assets.retrieval.local import Comparer, StoredFeatures, extracted
from glr_assets.retrieval.model import RecognitionModel, fit_model, fit_neighbours
from glr_assets.retrieval.schemas import MODEL_FILE, NON_LANDMARK_EMBEDDINGS, RECOGNITION_SAMPLES
from glr_assets.seeded import seeded_hash
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import fixed_width, read_table
from glr_assets.training.group_map import expected_calibration_error
from glr_assets.training.versions import open_centres
from glr_assets.verification.extractors import open_extractor
from glr_assets.verification.matching import Prepared

CODE_VERSION = "3"
RELIABILITY_PICTURE = "reports/recognition_model_reliability.png"
#: Parts in which samples are told apart, each answered by a model fitted on the others.
FOLDS: Final = 5
#: Of `[retrieval]`, what decides on evidence once index and gallery are there.
DECIDED_BY: Final = frozenset(
    {
        "penalties",
        "query_penalty_top",
        "neighbours",
        "top_per_landmark",
        "clip",
        "expansion",
        "expansion_power",
        "class_logits",
        "rerank",
        "calibrating",
        "manifest",
    }
)


#: Fits a model to the evidence of photographs and what each shows.
Fit = Callable[[Sequence[Evidence], Sequence[int | None]], RecognitionModel]


def uses_model(recipe: Retrieval, *, classes: bool) -> bool:
    """Whether a recipe answers by the conditional logit, and not by the sum of the neighbors alone.

    Args:
        recipe: `[retrieval]`.
        classes: whether there are class logits.
    """
    return bool(recipe.rerank) or classes or recipe.penalties == "learned"


def fit_of(recipe: Retrieval, *, classes: bool) -> Fit:
    """How the model of a recipe is fitted; arguments are those of `uses_model`."""
    if uses_model(recipe, classes=classes):
        return partial(fit_model, penalties=recipe.penalties, classes=classes, geometry=bool(recipe.rerank))
    return partial(fit_neighbours, penalties=recipe.penalties)


@dataclass(frozen=True, eq=False)
class Samples:
    """Photographs whose landmark is known: the evidence of each, its split, and what it shows (None: no landmark)."""

    split: list[Split]
    evidence: list[Evidence]
    shown: list[int | None]


def feature_shards(shards: Mapping[str, str]) -> dict[str, list[str]]:
    """The local features of train images by asset, of the shards of these train embeddings."""
    keys = [name.split("/")[1] for name in sorted(shards)]
    return {"local_features": keys, "search_features": keys}


def feature_receipts(store: Store, assets: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """The digests of local features, by name of asset and shard."""
    return need_receipts(store, *(f"{asset}/{shard}" for asset, keys in assets.items() for shard in keys))


def open_witness(
    store: Store,
    shards: Mapping[str, Sequence[str]],
    recipe: Retrieval,
    verification: Verification,
    execution: Execution,
) -> Witness:
    """What answers, as it was made last.

    Args:
        store: the store.
        shards: of local features of train images by asset, as `feature_shards` gives them.
        recipe: `[retrieval]`; local features are compared where it re-ranks.
        verification: how they are compared.
        execution: with how many threads.

    Raises:
        MissingInputError: index, gallery or features have not been made.
    """
    index = open_index(store)
    comparer = Comparer.open(store, shards, verification, execution) if recipe.rerank else None
    centres = open_centres(store) if recipe.class_logits else None
    return Witness(index, read_non_landmarks(store, index.dimensions), recipe, comparer, centres)


def stored_photographs(
    store: Store, split: Split, features: StoredFeatures, verification: Verification, execution: Execution
) -> Photographs:
    """The features of stored images: kept ones, and of an image that has none they are found in its pixels.

    An image that is not stored, or cannot be decoded, has none.
    """
    extractor = functools.cache(lambda: open_extractor(verification, execution.device))

    def extract(image: tuple[str, bytes]) -> Prepared | None:
        try:
            return extracted(extractor(), *image)
        except ValueError:
            return None

    def extracted_anew(ids: Sequence[str]) -> Iterator[Prepared | None]:
        if not ids:
            return
        # Those that take images in batches run a network, which has threads of its own.
        workers = execution.threads if extractor().batch == 1 else 1
        reader = ImageReader.of_split(store, split, ids)
        stored = [image_id for image_id in ids if image_id in reader]
        images = zip(stored, reader.read_many(stored), strict=True)
        with closing(ordered(extract, images, workers=workers)) as found:
            for image_id in ids:
                yield next(found) if image_id in reader else None

    def photographs(ids: Sequence[str]) -> Iterator[Prepared | None]:
        fresh = extracted_anew([image_id for image_id in ids if image_id not in features])
        for image_id, kept in zip(ids, features.prepared(ids), strict=True):
            yield kept if image_id in features else next(fresh)

    return photographs


def make_recognition_model(source: Source, store: Store, recipe: Recipe, held_out_ids: Sequence[str]) -> Made:
    """`recognition_model`: the model, the samples it was fitted on, and how far its confidence holds.

    The samples are train images that the embedder did not learn from, which ask for their landmark without finding
    themselves, and the gallery's photographs of no landmark, which meet the others of the gallery.

    Args:
        source: whose shards count.
        store: the store.
        recipe: `[retrieval]`, `[verification]`, `[execution]` and the seed.
        held_out_ids: train images that the embedder did not learn from.

    Raises:
        MissingInputError: index, gallery, embeddings or features have not been made.
    """
    shards = embedded_shards(source, store, "train")
    names = [recipe.training.manifest, "embedder", "faiss_index", "non_landmark_embeddings"]
    inputs = shards | need_receipts(store, *names)
    need_same_gallery(store)
    parameters: dict[str, Any] = recipe.retrieval.model_dump(mode="json", include=set(DECIDED_BY))
    parameters |= {"held_out": sorted(held_out_ids), "seed": recipe.seed}
    of_train, of_test = feature_shards(shards), {"test_features": shards_of_tests(source, store)}
    if recipe.retrieval.rerank:
        inputs |= feature_receipts(store, of_train) | feature_receipts(store, of_test)
        parameters |= {"verification": compared_by(recipe.verification)}

    def build(writer: Writer) -> Summary:
        witness = open_witness(store, of_train, recipe.retrieval, recipe.verification, recipe.execution)
        samples = gathered(store, recipe, witness, shards, held_out_ids, of_test)
        fit = fit_of(recipe.retrieval, classes=witness.centres is not None)
        model = fit(samples.evidence, samples.shown)
        writer.write(MODEL_FILE, model.model_dump_json(indent=2).encode() + b"\n")
        told = cross_validated(samples, fit, recipe.seed)
        writer.table(RECOGNITION_SAMPLES, told)
        tests = [one.id for one, split in zip(samples.evidence, samples.split, strict=True) if split == "test"]
        labels = record_query_labels(writer, "recognition_model", tests)
        probability, right = told["probability"].to_numpy(), told["right"].to_numpy(zero_copy_only=False)
        writer.write(RELIABILITY_PICTURE, reliability({"samples, each by a model of the others": (probability, right)}))
        figures: Summary = {f"weight of {name}": value for name, value in model.weights.items()}
        if not model.weights:
            figures = {"slope": model.calibration.slope, "intercept": model.calibration.intercept}
        return (
            figures
            | labels
            | {
                "rows": told.num_rows,
                "landmarks": sum(landmark is not None for landmark in samples.shown),
                "right": int(right.sum()),
                "ece": expected_calibration_error(probability, right),
            }
        )

    return make(
        store, "recognition_model", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build
    )


def need_model_of(store: Store, recipe: Recipe) -> None:
    """Refuse a model of another recipe, or of another index or gallery than those that are there.

    Raises:
        MissingInputError: it is.
    """
    model = need_receipt(store, "recognition_model")
    wanted = recipe.retrieval.model_dump(mode="json", include=set(DECIDED_BY))
    if recipe.retrieval.rerank:
        wanted |= {"verification": compared_by(recipe.verification)}
    for name, value in wanted.items():
        if model.parameters.get(name) != value:
            raise MissingInputError(
                f"recognition_model in {store.url} is of {name} = {model.parameters.get(name)!r}, the recipe says "
                f"{value!r}: materialise recognition_model again"
            )
    for name in ("faiss_index", "non_landmark_embeddings"):
        if model.inputs.get(name) != need_receipt(store, name).digest:
            raise MissingInputError(
                f"recognition_model in {store.url} is of another {name} than the one there: "
                "materialise recognition_model again"
            )


def compared_by(recipe: Verification) -> dict[str, Any]:
    """Of `[verification]`, what decides how two images compare."""
    decides = {
        "extractor",
        "module",
        "max_features",
        "min_cosine",
        "residual",
        "geometry",
        "min_inliers",
        "refuse_traps",
    }
    return recipe.model_dump(mode="json", include=decides)


def shards_of_tests(source: Source, store: Store) -> list[str]:
    """The test shards that were embedded."""
    return [name.split("/")[1] for name in sorted(embedded_shards(source, store, "test"))]


def need_same_gallery(store: Store) -> None:
    """Refuse an index whose penalties are of other non-landmarks than those that are there.

    Raises:
        MissingInputError: they are.
    """
    index, gallery = (need_receipt(store, name) for name in ("faiss_index", "non_landmark_embeddings"))
    if index.inputs.get(gallery.name) != gallery.digest:
        raise MissingInputError(
            f"faiss_index in {store.url} is of another {gallery.name} than the one there: materialise faiss_index again"
        )


def gathered(
    store: Store,
    recipe: Recipe,
    witness: Witness,
    train: Iterable[str],
    held_out_ids: Sequence[str],
    of_test: Mapping[str, Sequence[str]],
) -> Samples:
    """The evidence of the held-out train images, of which at most `[retrieval] calibrating`, and of the gallery's.

    Args:
        store: the store.
        recipe: `[retrieval]`, `[verification]`, `[execution]` and the seed.
        witness: what tells the evidence.
        train: names of the train shards' embeddings.
        held_out_ids: train images that the embedder did not learn from.
        of_test: the test shards' local features, by asset.
    """
    kept = kept_images(store, recipe.training.manifest)
    landmark_of = dict(zip(kept["id"].to_pylist(), kept["landmark_id"].to_pylist(), strict=True))
    held_out = read_embeddings(store, train, landmark_of.keys() & set(drawn_samples(held_out_ids, recipe)))
    gallery = read_table(store, NON_LANDMARK_EMBEDDINGS, ["id", "split"])
    # Whether a filtered image shows no landmark is not known, but thought.
    known = gallery.filter(pc.equal(gallery["split"], "test"))["id"].to_pylist()
    others = witness.non_landmarks.images.of(known)
    photographs: dict[Split, Photographs | None] = {}
    if witness.comparer is not None:
        more = (recipe.verification, recipe.execution)
        photographs["train"] = stored_photographs(store, "train", witness.comparer.features, *more)
        photographs["test"] = stored_photographs(store, "test", StoredFeatures.of(store, of_test), *more)
    return evidence_of_samples(witness, {"train": held_out, "test": others}, landmark_of, photographs)


def evidence_of_samples(
    witness: Witness,
    queries: Mapping[Split, Vectors],
    landmark_of: Mapping[str, int],
    photographs: Mapping[Split, Photographs | None] = {},
) -> Samples:
    """The evidence of samples, none of which finds itself.

    Args:
        witness: what tells the evidence.
        queries: train images with a landmark, and test images that show none.
        landmark_of: of the train images.
        photographs: their local features, where they are compared.
    """
    found = Samples([], [], [])
    for split in sorted(queries, reverse=True):
        of = list(witness.of(queries[split], photographs.get(split), leave_one_out=True))
        found.split.extend([split] * len(of))
        found.evidence.extend(of)
        found.shown.extend(landmark_of[one.id] if split == "train" else None for one in of)
    return found


def read_sample_queries(
    store: Store, train: Iterable[str], non_landmarks: NonLandmarks
) -> tuple[dict[Split, Vectors], dict[str, int]]:
    """The samples that the current model was fitted on, by split, and the landmark of each train image.

    Args:
        store: the store.
        train: names of the train shards' embeddings.
        non_landmarks: among which the test images are.
    """
    rows = read_table(store, RECOGNITION_SAMPLES, ["id", "split", "landmark_id"])
    of_train = rows.filter(pc.equal(rows["split"], "train"))
    landmark_of = dict(zip(of_train["id"].to_pylist(), of_train["landmark_id"].to_pylist(), strict=True))
    tests = rows.filter(pc.equal(rows["split"], "test"))["id"].to_pylist()
    queries: dict[Split, Vectors] = {"train": read_embeddings(store, train, landmark_of)}
    return queries | {"test": non_landmarks.images.of(tests)}, landmark_of


def drawn_samples(ids: Sequence[str], recipe: Recipe) -> list[str]:
    """At most `[retrieval] calibrating` of these ids, by a seeded order."""
    column = pa.array(sorted(ids), pa.string())
    order = np.lexsort((fixed_width(column), seeded_hash(column, recipe.seed, "recognition model")))
    return column.take(pa.array(order[: recipe.retrieval.calibrating])).to_pylist()


def cross_validated(samples: Samples, fit: Fit, seed: int) -> pa.Table:
    """`RECOGNITION_SAMPLES`: each sample answered by a model that was fitted on the other folds."""
    ids = pa.array([found.id for found in samples.evidence], pa.string())
    fold = seeded_hash(ids, seed, "folds of samples") % np.uint64(FOLDS)
    rows = []
    for number in range(FOLDS):
        mine = np.flatnonzero(fold == number).tolist()
        others = np.flatnonzero(fold != number).tolist()
        model = fit([samples.evidence[row] for row in others], [samples.shown[row] for row in others])
        for row in mine:
            answers = model.ranked(samples.evidence[row])
            answer = answers[0].landmark_id if answers else None
            rows.append(
                {
                    "id": samples.evidence[row].id,
                    "split": samples.split[row],
                    "landmark_id": samples.shown[row],
                    "answer": answer,
                    "right": answer is not None and answer == samples.shown[row],
                    "probability": float(model.calibration.probability([answers[0].score])[0]) if answers else 0.0,
                }
            )
    return RECOGNITION_SAMPLES.rows(rows).sort_by("id")


def open_model(store: Store) -> RecognitionModel:
    """The model that `make_recognition_model` wrote.

    Raises:
        MissingInputError: it has not been made.
    """
    need_receipt(store, "recognition_model")
    return RecognitionModel.from_json(store.read(MODEL_FILE))
