"""The figures of steps, confidence and kinds, on a small store and by worked examples."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from glr_assets.curation.duplicate_groups import duplicate_groups
from glr_assets.evaluation.metrics import Prediction
from glr_assets.evaluation.score import read_recognition_submission
from glr_assets.evaluation.scored import scored_recognition
from glr_assets.evaluation.steps import (
    ABLATION,
    ABLATION_TABLE,
    KINDS_TABLE,
    WITHHELD_UNDER,
    Confidence,
    Step,
    by_kind,
    figures_of,
    steps_of,
    write_steps,
)
from glr_assets.manifests import kept_images
from glr_assets.metadata.schemas import LANDMARK_LABELS
from glr_assets.receipts import Writer, receipt_path
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.answering import Evidence
from glr_assets.retrieval.embeddings import embedded_shards, make_embeddings, make_non_landmark_embeddings
from glr_assets.retrieval.index import open_index
from glr_assets.retrieval.local import Comparer
from glr_assets.retrieval.model import fit_model, fit_neighbours
from glr_assets.retrieval.recognition_model import Fit, open_model
from glr_assets.retrieval.schemas import (
    EMBEDDING_VECTORS,
    EMBEDDINGS,
    FAISS_INDEX,
    NON_LANDMARK_EMBEDDINGS,
    NON_LANDMARK_VECTORS,
    RECOGNITION_SAMPLES,
)
from glr_assets.retrieval.submission import SUBMISSION, make_submission
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS
from glr_assets.tables import read_table
from glr_assets.training.held_out import range_of_size
from glr_assets.training.versions import open_centres, open_embedder
from glr_assets.verification.matching import Prepared
from glr_assets_tests.lineage import index
from glr_assets_tests.retrieval.conftest import Embedded, embedded_once, headed, headed_once, indexed, indexed_once

__all__ = ["embedded_once", "headed", "headed_once", "indexed", "indexed_once"]


Solution = Mapping[str, frozenset[int]]


def confidence() -> Confidence:
    return Confidence(
        np.array([0.99, 0.92, 0.75, 0.6, 0.3, 0.8]),
        np.array([True, True, False, True, True, False]),
        np.array([True, True, True, True, True, False]),
    )


def test_withholding_a_worked_example() -> None:
    rows = confidence().withheld()
    assert [row["bound"] for row in rows] == list(WITHHELD_UNDER)
    by_bound = {row["bound"]: row for row in rows}
    assert by_bound[0.0] == {
        "bound": 0.0,
        "answered": 1.0,
        "right_of_answered": pytest.approx(4 / 6),
        "non_landmarks_answered": 1.0,
    }
    assert by_bound[0.7]["answered"] == pytest.approx(3 / 5)
    assert by_bound[0.7]["right_of_answered"] == pytest.approx(2 / 4)
    assert by_bound[0.9]["non_landmarks_answered"] == 0
    assert by_bound[0.95]["right_of_answered"] == 1


def test_nothing_withheld_of_nothing() -> None:
    none = np.zeros(0)
    rows = Confidence(none, none.astype(bool), none.astype(bool)).withheld()
    assert all(row["answered"] is None and row["right_of_answered"] is None for row in rows)


def test_figures_are_of_the_queries_asked_alone() -> None:
    predictions = [Prediction("a", 1, 0.9), Prediction("b", 2, 0.8), Prediction("c", 3, 0.7)]
    figures = figures_of(predictions, {"a": frozenset({1}), "c": frozenset({4})})
    assert figures == {"gap": 0.5, "gap_landmarks_only": 0.5, "top1": 0.5}


def gap_by_definition(found: Sequence[tuple[str, int, float]], solution: Mapping[str, frozenset[int]]) -> float:
    """GAP of (query, landmark, score), from its definition."""
    right, total = 0, 0.0
    for rank, (query, landmark, _) in enumerate(sorted(found, key=lambda one: (-one[2], one[0])), 1):
        right += landmark in solution[query]
        total += (landmark in solution[query]) * right / rank
    return total / sum(bool(shown) for shown in solution.values())


class BruteForce:
    """Evidence by numpy alone: every cosine of a query with every searched image, its penalties, its class logits."""

    def __init__(self, found: Embedded) -> None:
        store = found.store
        rows = read_table(store, FAISS_INDEX).to_pylist()
        self.vectors = self._read(found, "train")
        self.tests = self._read(found, "test")
        self.images = [(row["id"], row["landmark_id"]) for row in rows]
        self.gallery = self._read_gallery(found)
        self.centres = open_centres(store)
        self.recipe = found.recipe.retrieval
        none = [(image, 0) for image in self.gallery]
        self.near = {"train": self._near(found, "train", self.images), "test": self._near(found, "test", none)}

    @staticmethod
    def _near(found: Embedded, split: Split, images: list[tuple[str, int]]) -> dict[str, frozenset[str]]:
        """Each image and its near-duplicates."""
        table = pa.table(
            {"id": [name for name, _ in images], "landmark_id": pa.array([of for _, of in images], pa.int64())}
        )
        groups = duplicate_groups(found.store, table, split).tolist()
        return {
            name: frozenset(other for (other, _), its in zip(images, groups, strict=True) if its == own)
            for (name, _), own in zip(images, groups, strict=True)
        }

    @staticmethod
    def _read(found: Embedded, split: str) -> dict[str, np.ndarray]:
        vectors = {}
        for shard in found.source.shards(split):  # type: ignore[arg-type]
            rows = read_table(found.store, EMBEDDINGS, split=split, shard=shard)
            stored = np.load(found.store.path(EMBEDDING_VECTORS.format(split=split, shard=shard)))
            vectors |= {row["id"]: stored[row["row"]].astype(np.float64) for row in rows.to_pylist()}
        return vectors

    @staticmethod
    def _read_gallery(found: Embedded) -> dict[str, np.ndarray]:
        rows = read_table(found.store, NON_LANDMARK_EMBEDDINGS).to_pylist()
        stored = np.load(found.store.path(NON_LANDMARK_VECTORS))
        return {row["id"]: vector.astype(np.float64) for row, vector in zip(rows, stored, strict=True)}

    def _likeness(self, vector: np.ndarray, top: int, without: frozenset[str]) -> float:
        others = sorted((float(vector @ other) for other_id, other in self.gallery.items() if other_id not in without))
        return float(np.mean(others[-top:])) if others else 0.0

    def _evidence(
        self,
        name: str,
        vector: np.ndarray,
        of_b: float,
        without: frozenset[str] = frozenset(),
        hidden: int | None = None,
    ) -> Evidence:
        found = []
        for image, landmark in self.images:
            if image not in without and landmark != hidden:
                top, own = self.recipe.train_penalty_top, self.vectors[image]
                own_b = min(self._likeness(own, top, frozenset([image])), self._likeness(own, top, without | {image}))
                found.append((float(vector @ self.vectors[image]) - of_b * own_b, image, landmark, own_b))
        found.sort(key=lambda one: (-round(one[0], 6), one[1]))
        found = found[: max(self.recipe.neighbours, self.recipe.rerank)]
        landmarks = np.array(sorted({landmark for _, _, landmark, _ in found}), np.int64)
        near, best, own, logits = [], [], [], []
        for landmark in landmarks:
            mine = [score for score, _, of, _ in found[: self.recipe.neighbours] if of == landmark]
            positive = sum(score for score in mine if score > 0)
            near.append(-np.inf if not mine else positive if max(mine) > 0 else max(mine))
            score, _, _, own_b = next(one for one in found if one[2] == landmark)
            best.append(score)
            own.append(own_b)
            if self.centres is not None:
                at = np.flatnonzero(self.centres.landmark_ids == landmark)
                logits.append(float((self.centres.vectors[at[0]] @ vector).max()) if len(at) else np.nan)
        classes = None if self.centres is None else np.array(logits)
        c = self._likeness(vector, self.recipe.query_penalty_top, without | {name})
        return Evidence(name, c, landmarks, np.array(near), np.array(best), np.array(own), None, classes)

    def __call__(self, found: Embedded, fit: Fit, of_b: float, solution: Solution) -> tuple[float, dict[str, float]]:
        """GAP and weights of a model that is fitted on the samples of the recognition model, by brute force."""
        rows = read_table(found.store, RECOGNITION_SAMPLES).to_pylist()
        vectors = {"train": self.vectors, "test": self.gallery}
        evidence = []
        for row in rows:
            name, split = row["id"], row["split"]
            hidden = row["landmark_id"] if row["hidden"] else None
            evidence.append(self._evidence(name, vectors[split][name], of_b, self.near[split][name], hidden))
        model = fit(evidence, [None if row["hidden"] else row["landmark_id"] for row in rows])
        ranked = [model.ranked(self._evidence(name, self.tests[name], of_b)) for name in sorted(solution)]
        answers = [(one.id, one.landmark_id, one.score) for one, *_ in filter(None, ranked)]
        return gap_by_definition(answers, solution), model.weights


def blurred(found: Embedded, noise: float) -> Embedded:
    """The same, every image embedded with noise that its bytes decide: answers that are not all right."""
    embed = open_embedder(found.store, found.recipe.execution)

    def noisy(images: Iterable[bytes]) -> np.ndarray:
        images = list(images)
        own = [np.random.default_rng(list(hashlib.sha256(image).digest())) for image in images]
        vectors = embed(images)
        mixed = vectors + noise * np.stack([random.normal(size=vectors.shape[1]) for random in own])
        return np.asarray(mixed / np.linalg.norm(mixed, axis=1, keepdims=True), np.float32)

    for split in SPLITS:
        for shard in found.source.shards(split):
            found.store.remove(receipt_path(f"{split}_embeddings/{shard}"))
            make_embeddings(found.store, split, shard, lambda: noisy)
    make_non_landmark_embeddings(found.source, found.store, found.recipe.retrieval)
    return found


Stepped = tuple[Embedded, dict[str, dict[str, float]], dict[str, dict[str, float]], Solution]


def stepped(found: Embedded, **retrieval: object) -> Stepped:
    """Figures and weights of a recipe's steps, everything after the embeddings made by it, and the scored queries."""
    found = replace(found, recipe=found.recipe.overridden({"retrieval": retrieval}))
    store = found.store
    index(found.source, store, found.recipe)
    make_submission(found.source, store, found.recipe)
    solution, _ = scored_recognition(store)
    predictions = read_recognition_submission(store_file(found), solution)
    names = [name for split in ("train", "test") for name in embedded_shards(found.source, store, split)]  # type: ignore[arg-type]
    told, summary = write_steps(store, Writer(store), names, found.recipe.retrieval, predictions, solution)
    steps = told["ablation"]
    assert json.loads(store.read(ABLATION)) == steps
    assert all(summary[f"gap by {step}"] == of["gap"] for step, of in steps.items())
    *_, last = steps
    assert steps[last] == figures_of(predictions, solution.landmarks)
    assert all(f"| {step} |" in store.read(ABLATION_TABLE).decode() for step in steps)
    return found, steps, told["ablation_weights"], solution.landmarks


def bare(penalties: str, classes: bool = False) -> Fit:
    return partial(fit_model, penalties=penalties, classes=classes, geometry=False)  # type: ignore[arg-type]


def plant_inliers(found: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let local features agree between images of one landmark alone, as the smooth photographs of tests do not."""
    solution, _ = scored_recognition(found.store)
    shown = {query: set(landmarks) for query, landmarks in solution.landmarks.items()}
    train = {row["id"]: row["landmark_id"] for row in kept_images(found.store, "train_manifest").to_pylist()}
    shown |= {image: {landmark} for image, landmark in train.items()}

    def inliers(self: Comparer, queries: list[Prepared | None], candidates: list[list[str]]) -> list[np.ndarray]:
        asked = [set() if query is None else shown.get(query.id, set()) for query in queries]
        return [
            np.array([20 * (train[image] in mine) for image in ids], np.int32)
            for mine, ids in zip(asked, candidates, strict=True)
        ]

    monkeypatch.setattr(Comparer, "__call__", inliers)


def test_every_step_is_fitted_anew_on_the_same_samples(headed: Embedded, monkeypatch: pytest.MonkeyPatch) -> None:
    make_submission(headed.source, headed.store, headed.recipe)
    plant_inliers(headed, monkeypatch)
    found, steps, weights, solution = stepped(blurred(headed, 0.1))
    names = ["neighbours", "+ recognition model", "+ learned penalties", "+ class logits", "+ local features"]
    assert list(steps) == names
    brute = BruteForce(found)
    fits = [partial(fit_neighbours, penalties="off"), bare("off"), bare("learned"), bare("learned", classes=True)]
    for name, fit in zip(names, fits, strict=False):
        gap, expected = brute(found, fit, 0.0, solution)
        assert steps[name]["gap"] == pytest.approx(gap, abs=1e-9), name
        assert weights[name] == pytest.approx(expected, abs=1e-3), name
    # The submission's model without its inliers is another one.
    last = open_model(found.store).weights
    assert weights["+ local features"] == last
    of_classes = weights["+ class logits"]
    assert of_classes != pytest.approx({name: last[name] for name in of_classes}, abs=1e-2)


def test_fixed_penalties_change_the_search_and_come_after_the_rule_of_scoring(indexed: Embedded) -> None:
    found, steps, weights, solution = stepped(blurred(indexed, 0.25), penalties="fixed")
    assert list(steps) == ["neighbours", "+ recognition model", "+ fixed penalties", "+ local features"]
    brute = BruteForce(found)
    for name, penalties, weight in (("+ recognition model", "off", 0.0), ("+ fixed penalties", "fixed", 1.0)):
        gap, expected = brute(found, bare(penalties), weight, solution)
        assert steps[name]["gap"] == pytest.approx(gap, abs=1e-9), name
        assert weights[name] == pytest.approx(expected, abs=1e-3), name


@pytest.mark.parametrize(
    ("retrieval", "names"),
    [
        ({"rerank": 0, "penalties": "off"}, ["neighbours"]),
        ({"rerank": 0, "penalties": "fixed"}, ["neighbours", "+ fixed penalties"]),
        (
            {"rerank": 0, "penalties": "learned", "expansion": 2},
            ["neighbours", "+ query expansion", "+ recognition model", "+ learned penalties"],
        ),
    ],
)
def test_a_step_the_recipe_does_without_is_left_out(
    indexed: Embedded, retrieval: dict[str, object], names: list[str]
) -> None:
    found, steps, _, solution = stepped(blurred(indexed, 0.25), **retrieval)
    assert list(steps) == names
    # The last one, which is read from the submission, is what its own model gives by brute force.
    by_model = retrieval["penalties"] == "learned"
    if not retrieval.get("expansion"):
        fit = bare("learned") if by_model else partial(fit_neighbours, penalties=retrieval["penalties"])  # type: ignore[arg-type]
        weight = float(retrieval["penalties"] == "fixed")
        gap, _ = BruteForce(found)(found, fit, weight, solution)
        assert steps[names[-1]]["gap"] == pytest.approx(gap, abs=1e-9)


def test_consecutive_steps_differ_in_one_thing() -> None:
    for recipe in (Retrieval(), Retrieval(expansion=3), Retrieval(penalties="fixed"), Retrieval(rerank=0)):
        for classes in (True, False):
            steps = steps_of(recipe, classes=classes)
            assert steps[-1].recipe == recipe

            def aspects(step: Step) -> dict[str, object]:
                fit = step.fit
                assert isinstance(fit, partial)
                return {
                    "rule": fit.func.__name__,
                    "penalties": step.recipe.penalties,
                    "expansion": step.recipe.expansion,
                    "classes": fit.keywords.get("classes", False),
                    # Without a model inliers have nothing to speak in.
                    "geometry": fit.func is fit_model and fit.keywords.get("geometry", True),
                }

            for before, after in pairwise(map(aspects, steps)):
                assert sum(before[name] != after[name] for name in before) == 1, (before, after)
            assert all(step.fit.keywords["penalties"] == step.recipe.penalties for step in steps)  # type: ignore[attr-defined]


def test_the_confidence_is_of_the_scored_answers(indexed: Embedded) -> None:
    store = indexed.store
    make_submission(indexed.source, store, indexed.recipe)
    solution, _ = scored_recognition(store)
    predictions = read_recognition_submission(store_file(indexed), solution)
    names = [name for split in ("train", "test") for name in embedded_shards(indexed.source, store, split)]  # type: ignore[arg-type]
    told, _ = write_steps(store, Writer(store), names, indexed.recipe.retrieval, predictions, solution)
    assert "supercategory" in store.read(KINDS_TABLE).decode()
    found = told["confidence"]
    assert found["answers"] == len(solution.landmarks)
    assert 0 <= found["ece"] <= 1
    assert found["mean_probability"] == pytest.approx(np.mean(Confidence.of(store, solution.landmarks).probability))


def test_kinds_part_the_queries_that_show_a_landmark(indexed: Embedded) -> None:
    store = indexed.store
    make_submission(indexed.source, store, indexed.recipe)
    solution, _ = scored_recognition(store)
    predictions = read_recognition_submission(store_file(indexed), solution)
    kinds = by_kind(store, predictions, solution.landmarks)
    shown = {query: landmarks for query, landmarks in solution.landmarks.items() if landmarks}
    right = sum(found.landmark_id in shown.get(found.id, ()) for found in predictions)
    for groups in kinds.values():
        assert sum(of["queries"] for of in groups.values()) == len(shown)
        assert sum(of["queries"] * of["top1"] for of in groups.values()) == pytest.approx(right)
    counts = np.bincount(np.unique(open_index(store).landmark_ids, return_inverse=True)[1])
    assert set(kinds["by_size"]) <= {range_of_size(int(count)) for count in counts} | {"0"}
    categories = {row["supercategory"] or "unknown" for row in read_table(store, LANDMARK_LABELS).to_pylist()}
    assert set(kinds["by_supercategory"]) <= categories
    assert all(not math.isnan(of["gap"]) for groups in kinds.values() for of in groups.values())


def store_file(indexed: Embedded):  # type: ignore[no-untyped-def]
    import io

    return io.BytesIO(indexed.store.read(SUBMISSION))
