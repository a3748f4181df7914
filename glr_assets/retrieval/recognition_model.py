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

from glr_assets.curation.chosen import TRAINING_MANIFEST, chosen_inputs
from glr_assets.curation.duplicate_groups import duplicate_groups
from glr_assets.errors import MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.manifests import kept_images
from glr_assets.plots import reliability
from glr_assets.query_labels import record_query_labels
from glr_assets.ranges import ordered
from glr_assets.receipts import Made, Summary, Writer, make, need_receipt, need_receipts
from glr_assets.recipes import Execution, Recipe, Retrieval, Verification
from glr_assets.retrieval.answering import Evidence, Photographs, Witness
from glr_assets.retrieval.embeddings import LeaveOut, Vectors, embedded_shards, read_embeddings, read_non_landmarks
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

CODE_VERSION = "4"
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
class SampleQueries:
    """Photographs of one kind that a model is fitted on, before they are asked.

    Attributes:
        split: that they are of.
        vectors: of each, by id.
        landmark_of: what train images show; test images show none.
        group_of: the first id of each one's near-duplicates, itself where it has none.
        leave_out: the other near-duplicates of each in index and gallery.
        hidden: whether the landmark of each is left out of what it finds, so that "none of them" is right.
    """

    split: Split
    vectors: Vectors
    landmark_of: Mapping[str, int]
    group_of: Mapping[str, str]
    leave_out: LeaveOut
    hidden: bool = False


@dataclass(frozen=True, eq=False)
class Samples:
    """Photographs whose landmark is known, an entry each.

    Attributes:
        split: that it is of.
        evidence: what speaks for landmarks.
        landmark: what it shows; None where it shows none.
        hidden: whether that landmark was left out of what it finds.
        group: the first id of its near-duplicates.
    """

    split: list[Split]
    evidence: list[Evidence]
    landmark: list[int | None]
    hidden: list[bool]
    group: list[str]

    @property
    def shown(self) -> list[int | None]:
        """The landmark that is right to answer; None where none is."""
        return [None if hidden else shows for shows, hidden in zip(self.landmark, self.hidden, strict=True)]


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
    themselves, and the gallery's photographs of no landmark, which meet the others of the gallery. No sample meets its
    near-duplicates, nor do its penalties count itself. Where fewer photographs of no landmark are known than train
    images are held out, some of these stand in for them, asked once more with their landmark left out of the index.

    Args:
        source: whose shards count.
        store: the store.
        recipe: `[retrieval]`, `[verification]`, `[execution]` and the seed.
        held_out_ids: train images that the embedder did not learn from.

    Raises:
        MissingInputError: index, gallery, embeddings or features have not been made.
    """
    shards = embedded_shards(source, store, "train")
    names = ["embedder", "faiss_index", "non_landmark_embeddings", "image_catalog"]
    inputs = shards | chosen_inputs(store, TRAINING_MANIFEST, recipe.training.manifest) | need_receipts(store, *names)
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
                "landmarks_left_out": sum(samples.hidden),
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


#: Of `[verification]`, what decides how two images compare.
COMPARED_BY: Final = frozenset(
    {
        "extractor",
        "module",
        "max_features",
        "min_cosine",
        "residual",
        "geometry",
        "min_inliers",
        "refuse_traps",
    }
)


def compared_by(recipe: Verification) -> dict[str, Any]:
    """Of `[verification]`, what decides how two images compare."""
    return recipe.model_dump(mode="json", include=set(COMPARED_BY))


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
    known = {name: landmark_of[name] for name in drawn_samples(held_out_ids, recipe) if name in landmark_of}
    gallery = read_table(store, NON_LANDMARK_EMBEDDINGS, ["id", "split"])
    # Whether a filtered image shows no landmark is not known, but thought.
    others = gallery.filter(pc.equal(gallery["split"], "test"))["id"].to_pylist()
    hidden = stand_ins(sorted(known), len(others), recipe.seed)
    queries = sample_queries(store, train, witness, known, others, hidden)
    photographs: dict[Split, Photographs | None] = {}
    if witness.comparer is not None:
        more = (recipe.verification, recipe.execution)
        photographs["train"] = stored_photographs(store, "train", witness.comparer.features, *more)
        photographs["test"] = stored_photographs(store, "test", StoredFeatures.of(store, of_test), *more)
    return evidence_of_samples(witness, queries, photographs)


def stand_ins(held_out_ids: Sequence[str], non_landmarks: int, seed: int) -> list[str]:
    """The train images that stand in for non-landmarks: as many as are fewer known than there are held-out images.

    Each is asked once more with its landmark left out of the index, as a photograph of something that is not searched.

    Args:
        held_out_ids: the train images among the samples.
        non_landmarks: test images known to show none.
        seed: of the draw.
    """
    column = pa.array(sorted(held_out_ids), pa.string())
    order = np.lexsort((fixed_width(column), seeded_hash(column, seed, "landmark left out")))
    return sorted(column.take(pa.array(order[: max(0, len(column) - non_landmarks)])).to_pylist())


def sample_queries(
    store: Store,
    train: Iterable[str],
    witness: Witness,
    landmark_of: Mapping[str, int],
    non_landmarks: Sequence[str],
    hidden: Sequence[str],
) -> list[SampleQueries]:
    """The samples of a fit, with the near-duplicates that none of them may meet.

    Args:
        store: the store, with the catalog's hashes.
        train: names of the train shards' embeddings.
        witness: with index and gallery.
        landmark_of: the train images among the samples, and what they show.
        non_landmarks: test images of the gallery.
        hidden: train images that are asked once more with their landmark left out.
    """
    held_out = read_embeddings(store, train, landmark_of)
    group_of, leave_out = _near_duplicates(store, "train", _of_their_landmarks(witness, landmark_of))
    found = [SampleQueries("train", held_out, landmark_of, group_of, leave_out)]
    if hidden:
        found.append(SampleQueries("train", held_out.of(hidden), landmark_of, group_of, leave_out, hidden=True))
    none = pa.table({"id": pa.array(non_landmarks, pa.string()), "landmark_id": np.zeros(len(non_landmarks), np.int64)})
    others = witness.non_landmarks.images.of(non_landmarks)
    return [*found, SampleQueries("test", others, {}, *_near_duplicates(store, "test", none))]


def _of_their_landmarks(witness: Witness, landmark_of: Mapping[str, int]) -> pa.Table:
    """`id, landmark_id` of these images and of all that are searched of their landmarks."""
    index = witness.index
    asked = np.unique(np.fromiter(landmark_of.values(), np.int64, len(landmark_of)))
    rows = np.flatnonzero(np.isin(index.landmark_ids, asked)).tolist()
    found = dict(landmark_of) | {index.ids[row]: int(index.landmark_ids[row]) for row in rows}
    return pa.table({"id": pa.array(list(found), pa.string()), "landmark_id": np.array(list(found.values()), np.int64)})


def _near_duplicates(store: Store, split: Split, images: pa.Table) -> tuple[dict[str, str], dict[str, tuple[str, ...]]]:
    """Of each image the first id of its group, and the other ids of it."""
    ids = images["id"].to_pylist()
    groups: dict[int, list[str]] = {}
    for name, first in zip(ids, duplicate_groups(store, images, split).tolist(), strict=True):
        groups.setdefault(first, []).append(name)
    group_of = {name: ids[first] for first, names in groups.items() for name in names}
    several = [sorted(names) for names in groups.values() if len(names) > 1]
    return group_of, {name: tuple(n for n in names if n != name) for names in several for name in names}


def evidence_of_samples(
    witness: Witness, queries: Sequence[SampleQueries], photographs: Mapping[Split, Photographs | None] = {}
) -> Samples:
    """The evidence of samples, none of which finds itself or a near-duplicate of its own.

    Args:
        witness: what tells the evidence.
        queries: the samples.
        photographs: their local features by split, where they are compared.
    """
    found = Samples([], [], [], [], [])
    for kind in queries:
        hidden = {name: kind.landmark_of[name] for name in kind.vectors.ids} if kind.hidden else {}
        of = list(witness.of(kind.vectors, photographs.get(kind.split), leave_out=kind.leave_out, hidden=hidden))
        found.split.extend([kind.split] * len(of))
        found.evidence.extend(of)
        found.landmark.extend(kind.landmark_of.get(one.id) for one in of)
        found.hidden.extend([kind.hidden] * len(of))
        found.group.extend(kind.group_of[one.id] for one in of)
    return found


def read_sample_queries(store: Store, train: Iterable[str], witness: Witness) -> list[SampleQueries]:
    """The samples that the current model was fitted on.

    Args:
        store: the store.
        train: names of the train shards' embeddings.
        witness: with index and gallery.
    """
    rows = read_table(store, RECOGNITION_SAMPLES, ["id", "split", "landmark_id", "hidden"])
    of_train = rows.filter(pc.equal(rows["split"], "train"))
    landmark_of = dict(zip(of_train["id"].to_pylist(), of_train["landmark_id"].to_pylist(), strict=True))
    tests = rows.filter(pc.equal(rows["split"], "test"))["id"].to_pylist()
    hidden = of_train.filter(of_train["hidden"])["id"].to_pylist()
    return sample_queries(store, train, witness, landmark_of, tests, hidden)


def drawn_samples(ids: Sequence[str], recipe: Recipe) -> list[str]:
    """At most `[retrieval] calibrating` of these ids, by a seeded order."""
    column = pa.array(sorted(ids), pa.string())
    order = np.lexsort((fixed_width(column), seeded_hash(column, recipe.seed, "recognition model")))
    return column.take(pa.array(order[: recipe.retrieval.calibrating])).to_pylist()


def cross_validated(samples: Samples, fit: Fit, seed: int) -> pa.Table:
    """`RECOGNITION_SAMPLES`: each sample answered by a model that was fitted on the other folds.

    Near-duplicates are in one fold, and so are both samples of one photograph.
    """
    groups = pa.array(samples.group, pa.string())
    fold = seeded_hash(groups, seed, "folds of samples") % np.uint64(FOLDS)
    shown, rows = samples.shown, []
    for number in range(FOLDS):
        mine = np.flatnonzero(fold == number).tolist()
        others = np.flatnonzero(fold != number).tolist()
        model = fit([samples.evidence[row] for row in others], [shown[row] for row in others])
        for row in mine:
            answers = model.ranked(samples.evidence[row])
            answer = answers[0].landmark_id if answers else None
            rows.append(
                {
                    "id": samples.evidence[row].id,
                    "split": samples.split[row],
                    "landmark_id": samples.landmark[row],
                    "hidden": samples.hidden[row],
                    "answer": answer,
                    "right": answer is not None and answer == shown[row],
                    "probability": float(model.calibration.probability([answers[0].score])[0]) if answers else 0.0,
                }
            )
    return RECOGNITION_SAMPLES.rows(rows).sort_by([("id", "ascending"), ("hidden", "ascending")])


def open_model(store: Store) -> RecognitionModel:
    """The model that `make_recognition_model` wrote.

    Raises:
        MissingInputError: it has not been made.
    """
    need_receipt(store, "recognition_model")
    return RecognitionModel.from_json(store.read(MODEL_FILE))
