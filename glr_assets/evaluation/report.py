"""How good the submissions are, beside what they must beat, with pictures of the best and worst answers."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.chosen import GALLERY_MANIFEST, chosen_inputs
from glr_assets.evaluation.comparison import VERSIONS, evaluated_folder, write_scores
from glr_assets.evaluation.confusion import embeddings_of, write_errors
from glr_assets.evaluation.controls import (
    Asked,
    Control,
    dhash_neighbours,
    neighbours_by,
    pixel_vectors,
    rootsift_votes,
)
from glr_assets.evaluation.metrics import Prediction
from glr_assets.evaluation.pictures import told_of, without_picture
from glr_assets.evaluation.score import (
    RecognitionScores,
    RecognitionSolution,
    RetrievalSolution,
    read_recognition_submission,
    read_retrieval_submission,
    recognition_scores,
    retrieval_scores,
)
from glr_assets.evaluation.scored import queries_digest, scored_recognition, scored_retrieval, unscored_reason
from glr_assets.evaluation.steps import write_steps
from glr_assets.images.reader import ImageReader
from glr_assets.metadata.schemas import LANDMARK_LABELS
from glr_assets.plots import Thumbnail, bars, gallery
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Recipe
from glr_assets.retrieval.embeddings import Embed
from glr_assets.retrieval.recognition_model import need_model_of
from glr_assets.retrieval.schemas import FAISS_INDEX, NON_LANDMARK_EMBEDDINGS
from glr_assets.retrieval.submission import RETRIEVAL_SUBMISSION, SUBMISSION
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.verified import verified

CODE_VERSION = "7"
REPORT = "reports/evaluation.json"
SCORES_PICTURE = "reports/evaluation_scores.png"
ANSWERS_PICTURE = "reports/evaluation_answers.jpg"
RETRIEVED_PICTURE = "reports/evaluation_retrieved.jpg"
SHOWN = 7
#: Of a submission's confidence, which is 1/2 where the probability is.
LEAST_CONFIDENCE = 0.5
QUERIES_SHOWN = 5


def make_evaluation(store: Store, recipe: Recipe, untrained: Callable[[], Embed]) -> Made:
    """`evaluation`: `reports/evaluation.json` and pictures.

    Where no query can be scored (no solution is published, or fits used labels of every Usage) the report has
    `"scored": false` and the reason. Queries whose picture is not stored are counted there, and scored as the challenge
    does, as answered wrong; the scores without them stand beside.

    Args:
        store: the store.
        recipe: `[retrieval]`, `[verification]` and `[evaluation]`.
        untrained: opens the untrained embedder; called only where controls are asked for.

    Raises:
        MissingInputError: an input has not been made, or the recognition model is of another recipe.
        DamagedFileError: a file of an input is not as it was written.
    """

    def build(writer: Writer) -> Summary:
        checked = verified(store, inputs)
        solution, unscored = scored_recognition(checked)
        reason = unscored_reason(solution, unscored)
        if reason:
            writer.json(REPORT, {"scored": False, "reason": reason, "left_out": [part.as_json() for part in unscored]})
            return {"scored": False, "reason": reason}
        predictions = read_recognition_submission(io.BytesIO(checked.read(SUBMISSION)), solution)
        scores = {"embedder": recognition_scores(predictions, solution)}
        searched = read_table(checked, FAISS_INDEX, ["id", "landmark_id"])
        retrieval, _ = scored_retrieval(checked)
        asks_index = any(retrieval.images.values())
        maps: dict[str, float | None] = {}
        if recipe.evaluation.controls:
            asked = sorted(retrieval.images) if asks_index else []
            controls = control_answers(checked, recipe, searched, sorted(solution.landmarks), asked, untrained())
            scores |= {name: recognition_scores(found.predictions, solution) for name, found in controls.items()}
            if asks_index:
                maps = {name: retrieval_scores(of.retrieved, retrieval).map100 for name, of in controls.items()}
        if recipe.evaluation.vote:
            votes = rootsift_votes(checked, searched, sorted(solution.landmarks), recipe.execution.threads)
            scores |= {"RootSIFT vote": recognition_scores(votes, solution)}
        retrieved = read_retrieval_submission(io.BytesIO(checked.read(RETRIEVAL_SUBMISSION)), retrieval)
        map100 = retrieval_scores(retrieved, retrieval).map100 if asks_index else None
        told, steps = write_steps(checked, writer, list(embeddings), recipe.retrieval, predictions, solution)
        document = _document(scores, maps | {"embedder": map100}) | told
        document |= {"left_out": [part.as_json() for part in unscored], "queries_digest": queries_digest(solution)}
        lost = without_picture(store, solution)
        document |= told_of(lost, predictions, solution, retrieved, retrieval)
        writer.json(REPORT, document)
        write_scores(writer, folder, document, recipe.retrieval)
        writer.write(SCORES_PICTURE, _bars(scores))
        writer.write(ANSWERS_PICTURE, _answers(checked, predictions, solution))
        writer.write(RETRIEVED_PICTURE, _retrieved(checked, retrieved, retrieval))
        errors = write_errors(checked, writer, predictions, solution.landmarks, searched, embeddings, folder)
        figures = {
            f"{figure}{'' if name == 'embedder' else f' of {name}'}": getattr(found, figure)
            for name, found in scores.items()
            for figure in ("gap", "gap_landmarks_only", "top1")
        }
        figures |= {f"map100 of {name}": value for name, value in maps.items()}
        totals: Summary = {"scored": True, "map100": map100, "queries": len(solution.landmarks)}
        totals |= {"left_out": "; ".join(part.reason for part in unscored) or None}
        totals |= {"queries_without_picture": len(lost.ids), "unanswerable": lost.problem or None}
        return totals | figures | steps | errors

    names = ["submission", "retrieval_submission", "recognition_solution", "retrieval_solution", "landmark_labels"]
    names += ["image_catalog", "index_metadata", "embedder", "faiss_index", "non_landmark_embeddings"]
    names += ["recognition_model"]
    parameters: dict[str, Any] = {
        "evaluation": recipe.evaluation.model_dump(),
        "retrieval": recipe.retrieval.model_dump(),
    }
    if recipe.evaluation.controls:
        parameters |= {"embedder": recipe.embedder.model_dump(), "seed": recipe.seed}
    embeddings = embeddings_of(store)
    need_model_of(store, recipe)
    inputs = (
        need_receipts(store, *names) | chosen_inputs(store, GALLERY_MANIFEST, recipe.retrieval.manifest) | embeddings
    )
    folder = evaluated_folder(store)
    return make(
        store,
        "evaluation",
        inputs=inputs,
        parameters=parameters,
        code_version=CODE_VERSION,
        build=build,
        # The scores of earlier versions of the embedder stay with them.
        keep_earlier=VERSIONS,
    )


def control_answers(
    store: Store, recipe: Recipe, searched: pa.Table, recognition: list[str], retrieval: list[str], untrained: Embed
) -> dict[str, Control]:
    """The answers of each control to the scored queries, from the images that the recogniser searches."""
    asked = Asked(recognition, retrieval, recipe.retrieval.retrieved)
    gallery = read_table(store, NON_LANDMARK_EMBEDDINGS, ["id", "split"])
    non_landmark_ids = gallery.filter(pc.equal(gallery["split"], "test"))["id"].to_pylist()

    def by(embed: Embed) -> Control:
        return neighbours_by(store, searched, asked, non_landmark_ids, embed, recipe.retrieval, recipe.seed)

    return {
        "untrained embedder": by(untrained),
        "pixel neighbours": by(lambda images: pixel_vectors(images, recipe.execution.threads)),
        "dhash neighbours": dhash_neighbours(store, searched, asked),
    }


def _document(scores: dict[str, RecognitionScores], maps: dict[str, float | None]) -> dict[str, Any]:
    from dataclasses import asdict

    main, *controls = ((name, asdict(found) | {"map100": maps.get(name)}) for name, found in scores.items())
    return {"scored": True, **main[1], "controls": dict(controls)}


def _bars(scores: dict[str, RecognitionScores]) -> bytes:
    figures = {"GAP": "gap", "GAP, landmarks only": "gap_landmarks_only", "top-1": "top1"}
    return bars(
        {label: {name: getattr(found, figure) for name, found in scores.items()} for label, figure in figures.items()},
        "score",
    )


def _answers(store: Store, predictions: Sequence[Prediction], solution: RecognitionSolution) -> bytes:
    """Rows of answers, the surest first: right, wrong, non-landmarks taken for a landmark, and landmarks rejected.

    Rejected is what is more likely wrong than right.
    """
    rows = read_table(store, LANDMARK_LABELS, ["landmark_id", "name"])
    names = dict(zip(rows["landmark_id"].to_pylist(), rows["name"].to_pylist(), strict=True))
    right: list[Prediction] = []
    wrong: list[Prediction] = []
    none: list[Prediction] = []
    rejected: list[Prediction] = []
    for found in sorted(predictions, key=lambda prediction: (-prediction.confidence, prediction.id)):
        truth = solution.landmarks.get(found.id)
        if truth is not None:
            accepted = right if found.landmark_id in truth else wrong
            kind = none if not truth else accepted if found.confidence > LEAST_CONFIDENCE else rejected
            kind.append(found)
    shown = [row[:SHOWN] for row in (right, wrong, none, rejected)]
    reader = ImageReader.of_split(store, "test", [found.id for row in shown for found in row])
    return gallery(
        [[_thumbnail(found, names, solution, reader) for found in row if found.id in reader] for row in shown]
    )


def _retrieved(store: Store, retrieved: Mapping[str, Sequence[str]], solution: RetrievalSolution) -> bytes:
    """Rows of a query and the index images found for it, those that show the same landmark marked right."""
    queries = [query for query in sorted(solution.images) if solution.images[query] and retrieved.get(query)]
    test = ImageReader.of_split(store, "test", queries)
    shown = {query: retrieved[query][: SHOWN - 1] for query in queries if query in test}
    shown = dict(list(shown.items())[:QUERIES_SHOWN])
    index = ImageReader.of_split(store, "index", [image_id for ids in shown.values() for image_id in ids])
    return gallery(
        [
            [Thumbnail(test.read(query), f"query\n{query}")]
            + [
                Thumbnail(index.read(image_id), f"{rank}.\n{image_id}", image_id in solution.images[query])
                for rank, image_id in enumerate(ids, 1)
                if image_id in index
            ]
            for query, ids in shown.items()
        ]
    )


def _thumbnail(
    found: Prediction, names: dict[int, str], solution: RecognitionSolution, reader: ImageReader
) -> Thumbnail:
    truth = solution.landmarks[found.id]
    answer = names.get(found.landmark_id, str(found.landmark_id))
    is_right = found.landmark_id in truth
    actual = ", ".join(names.get(landmark, str(landmark)) for landmark in sorted(truth)) or "no landmark"
    caption = f"{found.confidence:.2f} {answer}"
    return Thumbnail(reader.read(found.id), caption if is_right else f"{caption}\nis {actual}", is_right)
