"""What each step of recognition adds, how far its confidence holds, and for which landmarks it works."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from glr_assets import markdown
from glr_assets.evaluation.metrics import (
    Prediction,
    global_average_precision,
    precision_recall,
    top1_accuracy,
)
from glr_assets.evaluation.score import RecognitionSolution
from glr_assets.metadata.schemas import LANDMARK_LABELS
from glr_assets.plots import bars, lines, reliability
from glr_assets.receipts import Summary, Writer
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.answering import Witness
from glr_assets.retrieval.embeddings import read_embeddings, read_non_landmarks
from glr_assets.retrieval.index import open_index
from glr_assets.retrieval.model import RecognitionModel, fit_model, fit_neighbours
from glr_assets.retrieval.recognition_model import (
    Fit,
    evidence_of_samples,
    fit_of,
    open_model,
    read_sample_queries,
    uses_model,
)
from glr_assets.retrieval.schemas import ANSWERS
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.training.group_map import expected_calibration_error
from glr_assets.training.held_out import CLASS_SIZES, range_of_size
from glr_assets.training.versions import open_centres

ABLATION = "reports/evaluation_ablation.json"
ABLATION_TABLE = "reports/evaluation_ablation.md"
ABLATION_PICTURE = "reports/evaluation_ablation.png"
CONFIDENCE_PICTURE = "reports/evaluation_reliability.png"
CURVE_PICTURE = "reports/evaluation_precision_recall.png"
KINDS_TABLE = "reports/evaluation_kinds.md"

#: Probabilities under which an answer may be withheld.
WITHHELD_UNDER: Final = (0.0, 0.5, 0.7, 0.9, 0.95)

#: The figures of a way of answering: GAP, GAP over queries that show a landmark, top-1.
Figures = dict[str, float]


def figures_of(predictions: Sequence[Prediction], solution: Mapping[str, frozenset[int]]) -> Figures:
    """The official figures of predictions for some of the solution's queries."""
    known = [found for found in predictions if found.id in solution]
    return {
        "gap": global_average_precision(known, solution),
        "gap_landmarks_only": global_average_precision(known, solution, landmarks_only=True),
        "top1": top1_accuracy(known, solution),
    }


@dataclass(frozen=True)
class Step:
    """A step of the ablation.

    Attributes:
        name: what it adds to the step before it.
        recipe: `[retrieval]` by which is searched.
        fit: fits the step's model.
    """

    name: str
    recipe: Retrieval
    fit: Fit


def steps_of(recipe: Retrieval, *, classes: bool) -> list[Step]:
    """The steps from the sum of the neighbors to the recipe's own way, each of which changes one thing.

    Neighbors are summed until the step `+ recognition model`, which changes the rule of scoring alone; steps after it
    add features to that model.

    Args:
        recipe: `[retrieval]`.
        classes: whether there are class logits.
    """
    off = recipe.model_copy(update={"penalties": "off"})
    once = off.model_copy(update={"expansion": 0})
    by_sum: Fit = partial(fit_neighbours, penalties="off")
    steps = [Step("neighbours", once, by_sum)]
    if recipe.expansion:
        steps.append(Step("+ query expansion", off, by_sum))
    by_model = uses_model(recipe, classes=classes)
    if by_model:
        steps.append(Step("+ recognition model", off, partial(fit_model, penalties="off", geometry=False)))
    if recipe.penalties != "off":
        fit = partial(fit_model, geometry=False) if by_model else fit_neighbours
        steps.append(Step(f"+ {recipe.penalties} penalties", recipe, partial(fit, penalties=recipe.penalties)))
    if classes:
        fit = partial(fit_model, penalties=recipe.penalties, classes=True, geometry=False)
        steps.append(Step("+ class logits", recipe, fit))
    if recipe.rerank:
        steps.append(Step("+ local features", recipe, fit_of(recipe, classes=classes)))
    return steps


def ablation(
    store: Store,
    embeddings: Sequence[str],
    recipe: Retrieval,
    predictions: Sequence[Prediction],
    solution: RecognitionSolution,
) -> tuple[dict[str, Figures], dict[str, RecognitionModel]]:
    """Figures and fitted models by step, each with all steps before it; the last are those of the submission.

    The model of every step is fitted on the same samples, those of `recognition_model`.

    Args:
        store: the store.
        embeddings: names of the train and test shards' embeddings.
        recipe: `[retrieval]`.
        predictions: of the submission.
        solution: the scored queries.
    """
    train, test = (
        [name for name in embeddings if name.startswith(f"{split}_embeddings/")] for split in ("train", "test")
    )
    queries = read_embeddings(store, test, solution.landmarks)
    index = open_index(store)
    gallery = read_non_landmarks(store, index.dimensions)
    centres = open_centres(store) if recipe.class_logits else None
    *steps, last = steps_of(recipe, classes=centres is not None)
    found: dict[str, list[Prediction]] = {step.name: [] for step in steps}
    models: dict[str, RecognitionModel] = {}
    # Steps that search alike differ in their models alone, and are answered in one pass.
    for _, alike in groupby(steps, key=lambda step: (step.recipe.penalties == "fixed", step.recipe.expansion)):
        together = list(alike)
        witness = Witness(index, gallery, together[0].recipe, centres=centres, every_candidate=True)
        fitted_on = evidence_of_samples(witness, read_sample_queries(store, train, witness))
        models |= {step.name: step.fit(fitted_on.evidence, fitted_on.shown) for step in together}
        for evidence in witness.of(queries):
            for step in together:
                best = next(iter(models[step.name].ranked(evidence)), None)
                if best is not None:
                    found[step.name].append(Prediction(best.id, best.landmark_id, best.score))
    found[last.name], models[last.name] = list(predictions), open_model(store)
    return {step: figures_of(answers, solution.landmarks) for step, answers in found.items()}, models


@dataclass(frozen=True, eq=False)
class Confidence:
    """The answers to queries that count: `probability` float64 [n], `right` and `landmark` (it shows one) bool [n]."""

    probability: npt.NDArray[np.float64]
    right: npt.NDArray[np.bool_]
    landmark: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, store: Store, solution: Mapping[str, frozenset[int]]) -> Confidence:
        """Those of the submission."""
        rows = read_table(store, ANSWERS, ["id", "rank", "landmark_id", "probability"])
        rows = rows.filter(pc.equal(rows["rank"], 1))
        counted = [row for row in rows.to_pylist() if row["id"] in solution]
        return cls(
            np.array([row["probability"] for row in counted], np.float64),
            np.array([row["landmark_id"] in solution[row["id"]] for row in counted], np.bool_),
            np.array([bool(solution[row["id"]]) for row in counted], np.bool_),
        )

    def withheld(self) -> list[dict[str, float | None]]:
        """What becomes of answers where those less probable than a bound are withheld, bound by bound."""
        rows: list[dict[str, float | None]] = []
        for bound in WITHHELD_UNDER:
            told = self.probability >= bound
            strangers = told[~self.landmark]
            rows.append(
                {
                    "bound": bound,
                    "answered": float(told[self.landmark].mean()) if self.landmark.any() else None,
                    "right_of_answered": float(self.right[told].mean()) if told.any() else None,
                    "non_landmarks_answered": float(strangers.mean()) if len(strangers) else None,
                }
            )
        return rows

    def document(self) -> dict[str, Any]:
        """The figures of them."""
        return {
            "answers": len(self.probability),
            "ece": expected_calibration_error(self.probability, self.right),
            "mean_probability": float(self.probability.mean()) if len(self.probability) else None,
            "right": float(self.right.mean()) if len(self.right) else None,
            "withheld": self.withheld(),
        }


def by_kind(
    store: Store, predictions: Sequence[Prediction], solution: Mapping[str, frozenset[int]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Figures of queries that show a landmark, by how many of its images are searched and by its supercategory.

    A query of several landmarks counts for the one with the most images. GAP is over the queries of a kind alone.
    """
    index = open_index(store)
    landmarks, counts = np.unique(index.landmark_ids, return_counts=True)
    images = dict(zip(landmarks.tolist(), counts.tolist(), strict=True))
    labels = read_table(store, LANDMARK_LABELS, ["landmark_id", "supercategory"]).to_pylist()
    category = {row["landmark_id"]: row["supercategory"] or "unknown" for row in labels}
    kinds: dict[str, dict[str, dict[str, frozenset[int]]]] = {"by_size": {}, "by_supercategory": {}}
    for query, shown in solution.items():
        if shown:
            most = max(sorted(shown), key=lambda landmark: images.get(landmark, 0))
            size = range_of_size(images.get(most, 0))
            kinds["by_size"].setdefault(size, {})[query] = shown
            kinds["by_supercategory"].setdefault(category.get(most, "unknown"), {})[query] = shown
    order = [range_of_size(least) for least in (0, *CLASS_SIZES)]
    found: dict[str, dict[str, dict[str, float]]] = {}
    for way, groups in kinds.items():
        names = sorted(groups, key=lambda name: (order.index(name), "") if name in order else (len(order), name))
        found[way] = {}
        for name in names:
            figures = figures_of(predictions, groups[name])
            found[way][name] = {"queries": len(groups[name]), "gap": figures["gap"], "top1": figures["top1"]}
    return found


def write_steps(
    store: Store,
    writer: Writer,
    embeddings: Sequence[str],
    recipe: Retrieval,
    predictions: Sequence[Prediction],
    solution: RecognitionSolution,
) -> tuple[dict[str, Any], Summary]:
    """Write the ablation, the reliability and the kinds; returns what the report and the summary tell of them.

    Arguments are those of `ablation`.
    """
    steps, models = ablation(store, embeddings, recipe, predictions, solution)
    confidence = Confidence.of(store, solution.landmarks)
    kinds = by_kind(store, predictions, solution.landmarks)
    writer.json(ABLATION, steps)
    writer.write(ABLATION_TABLE, f"{_ablation_table(steps)}\n".encode())
    drawn = {"GAP": "gap", "GAP, landmarks only": "gap_landmarks_only", "top-1": "top1"}
    writer.write(
        ABLATION_PICTURE,
        bars({label: {step: of[name] for step, of in steps.items()} for label, name in drawn.items()}, "score"),
    )
    writer.write(CONFIDENCE_PICTURE, reliability({"answers to queries": (confidence.probability, confidence.right)}))
    curve = precision_recall(predictions, solution.landmarks)
    writer.write(CURVE_PICTURE, lines({"submission": (curve.recall, curve.precision)}, "recall", "precision"))
    writer.write(KINDS_TABLE, f"{_kinds_table(kinds)}\n\n{_withheld_table(confidence)}\n".encode())
    told = confidence.document()
    gaps = [figures["gap"] for figures in steps.values()]
    summary: Summary = {"ece": told["ece"]}
    summary |= {f"gap by {step}": gap for step, gap in zip(steps, gaps, strict=True)}
    weights = {step: model.weights for step, model in models.items()}
    return {"ablation": steps, "ablation_weights": weights, "confidence": told, **kinds}, summary


def _ablation_table(steps: Mapping[str, Figures]) -> str:
    gaps = [figures["gap"] for figures in steps.values()]
    gains = [""] + [f"{after - before:+.3f}" for before, after in pairwise(gaps)]
    rows = [
        (step, f"{of['gap']:.3f}", gain, f"{of['gap_landmarks_only']:.3f}", f"{of['top1']:.3f}")
        for (step, of), gain in zip(steps.items(), gains, strict=True)
    ]
    return markdown.table(("step", "GAP", "adds", "GAP, landmarks only", "top-1"), rows)


def _kinds_table(kinds: Mapping[str, Mapping[str, Mapping[str, float]]]) -> str:
    titles = {"by_size": "searched images of the landmark", "by_supercategory": "supercategory"}
    return "\n\n".join(
        markdown.table(
            (titles[way], "queries", "GAP", "top-1"),
            [(name, int(of["queries"]), f"{of['gap']:.3f}", f"{of['top1']:.3f}") for name, of in groups.items()],
        )
        for way, groups in kinds.items()
    )


def _withheld_table(confidence: Confidence) -> str:
    header = ("withheld under", "queries of a landmark answered", "right of all answers", "non-landmarks answered")
    rows = confidence.withheld()
    return markdown.table(header, [["" if value is None else f"{value:.3f}" for value in row.values()] for row in rows])
