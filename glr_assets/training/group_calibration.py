"""`group_calibration`: what makes the answers of separately trained groups comparable, with "none of them" among them.

A softmax tells how sure a classifier is among its own landmarks, and says nothing of an image that shows none of
them: of several, the surest is often the one that knows least. So each group's classifier is shown held-out images of
all groups, and of no landmark, and learns from them how likely its answer is to be right (Platt 1999, on two features:
the log odds of its best landmark and the energy of Liu et al. 2020, arXiv 2010.03759). As an image shows the landmark
of one group or of none, the groups' odds then share one probability.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict

from glr_assets.errors import ClassifierError, MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.metadata.schemas import RECOGNITION_SOLUTION
from glr_assets.plots import bars, reliability
from glr_assets.receipts import Made, Summary, Writer, digest_of, make, need_receipt, need_receipts
from glr_assets.recipes import Execution, Recipe
from glr_assets.seeded import seeded_hash
from glr_assets.store import Store
from glr_assets.tables import fixed_width, read_table
from glr_assets.training.group_classifiers import open_classifier
from glr_assets.training.groups import CALIBRATION, VALIDATION, group_keys
from glr_assets.training.schemas import GROUP_CALIBRATION, TRAINING_GROUPS

CODE_VERSION = "1"
REPORT = "reports/group_calibration.json"
PICTURE = "reports/group_calibration.png"
RELIABILITY_PICTURE = "reports/group_calibration_reliability.png"
CALIBRATION_NAME = "calibration.json"

#: What is shown by an image of no landmark, where landmarks are numbers.
NO_LANDMARK: Final = -1
#: A group's weights and intercept are drawn to those of all groups together as by a normal distribution of this
#: precision, a deviation of 0.18: three right answers, as a small group has, teach little, and thousands overrule it.
#: Of 1, 10, 30 and 100 it gave the best GAP on the validation folds of photographs in two splits.
PRECISION: Final = 30.0
#: Of the weights of all groups together, to none: it keeps them finite.
POOLED_PRECISION: Final = 1.0
#: Images that are decoded at once and shown to every group.
_CHUNK = 256

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.int64]
#: Ids, answers, confidences and what is shown (`NO_LANDMARK` where none) to named scores, GAP among them.
Score = Callable[[Sequence[str], Numbers, Floats, Numbers], dict[str, float]]


@dataclass(frozen=True, eq=False)
class GroupLogits:
    """What one group's classifier gives for images.

    Attributes:
        landmark_ids: the landmark of each class.
        logits: float [n, classes]; one column more where the classifier has a class for none of them.
    """

    landmark_ids: tuple[int, ...]
    logits: npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Answers:
    """One answer an image: `landmark_ids` int64 [n], `probability` float64 [n] of each, `none` float64 [n].

    `none` is the probability that the answer of no group is right.
    """

    landmark_ids: Numbers
    probability: Floats
    none: Floats


class GroupMap(BaseModel):
    """How likely a group's answer is to be right, by its features: log odds = weights · standardised + intercept."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mean: tuple[float, float]
    spread: tuple[float, float]
    weights: tuple[float, float]
    intercept: float
    prior: float
    """share of images whose landmark the group's answer is"""
    right: int
    """how many of these there were"""

    def log_odds(self, features: Floats) -> Floats:
        """Log odds [n] of features [n, 2]."""
        standard = (features - np.array(self.mean)) / np.array(self.spread)
        return np.asarray(standard @ np.array(self.weights) + self.intercept, np.float64)


class GroupCalibration(BaseModel):
    """The map of each group, by key, and the share of images that no group's answer is right of."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    groups: dict[str, GroupMap]
    none: float
    samples: int
    """images it was fitted on"""

    def answers(self, found: Mapping[str, GroupLogits]) -> Answers:
        """The most probable landmark of each image, over all groups.

        With the posterior odds o of each group's answer by itself and its prior p, the probability is
        o (1 - p) / (p_none + Σ o (1 - p)) by Bayes' rule, where the groups' features are independent given what is
        right; so the answers of all groups and "none of them" sum to 1.

        Args:
            found: of each group that the calibration knows, in the same order of images.

        Raises:
            ClassifierError: other groups than it was fitted on.
        """
        if found.keys() != self.groups.keys():
            raise ClassifierError(
                f"group calibration: of the groups {sorted(self.groups)}, found logits of {sorted(found)}; "
                "materialise group_calibration again"
            )
        keys = sorted(self.groups)
        best = np.stack([_best(found[key]) for key in keys], axis=1)
        odds = [self.groups[key].log_odds(features(found[key])) + math.log1p(-self.groups[key].prior) for key in keys]
        shares = np.stack([np.full(len(best), math.log(self.none)), *odds], axis=1)
        shares = np.exp(shares - shares.max(axis=1, keepdims=True, initial=-np.inf))
        shares /= shares.sum(axis=1, keepdims=True)
        group = np.argmax(shares[:, 1:], axis=1)
        rows = np.arange(len(best))
        return Answers(best[rows, group], shares[rows, group + 1], shares[:, 0])


def features(found: GroupLogits) -> Floats:
    """Of each image, [n, 2]: the log odds of the best landmark's softmax, and the log of the landmarks' summed exp."""
    from scipy.special import logsumexp

    logits = np.asarray(found.logits, np.float64)
    classes = len(found.landmark_ids)
    best = np.argmax(logits[:, :classes], axis=1)
    rows = np.arange(len(logits))
    others = logits.copy()
    others[rows, best] = -np.inf
    margin = logits[rows, best] - logsumexp(others, axis=1)
    return np.stack([margin, logsumexp(logits[:, :classes], axis=1)], axis=1)


def _best(found: GroupLogits) -> Numbers:
    classes = np.array(found.landmark_ids, np.int64)
    return classes[np.argmax(found.logits[:, : len(classes)], axis=1)]


def raw_answers(found: Mapping[str, GroupLogits]) -> Answers:
    """The earlier system's answer: the landmark of the highest softmax of any group, as it is."""
    keys = sorted(found)
    best = np.stack([_best(found[key]) for key in keys], axis=1)
    softmax = np.stack([0.5 * (1 + np.tanh(0.5 * features(found[key])[:, 0])) for key in keys], axis=1)
    group = np.argmax(softmax, axis=1)
    rows = np.arange(len(best))
    return Answers(best[rows, group], softmax[rows, group], 1 - softmax[rows, group])


def fit_group_calibration(found: Mapping[str, GroupLogits], shown: Numbers) -> GroupCalibration:
    """Learn how likely each group's answer is to be right, on images that none of them learned from.

    Platt's targets, (N₊ + 1)/(N₊ + 2) and 1/(N₋ + 2), keep weights finite where features tell right from wrong
    without fail. What all groups have in common, in features standardised in each, is found first; each is drawn
    to it.

    Args:
        found: of each group, in the same order of images.
        shown: the landmark of each image [n], `NO_LANDMARK` where it shows none.

    Raises:
        ClassifierError: no group has a classifier, or there is no image to learn from.
    """
    if not found:
        raise ClassifierError(
            "group calibration: no group has a classifier, expected one or more; set other [groups] bounds"
        )
    if not len(shown):
        raise ClassifierError(
            "group calibration: no image is held out to calibrate; raise [groups] validation_first and validation_last"
        )
    keys = sorted(found)
    raw = {key: features(found[key]) for key in keys}
    mean = {key: raw[key].mean(axis=0) for key in keys}
    # Of a group that gives the same for every image nothing can be learned but how often it is right.
    spread = {key: np.maximum(raw[key].std(axis=0), 1e-6) for key in keys}
    standard = {key: (raw[key] - mean[key]) / spread[key] for key in keys}
    right = {key: _best(found[key]) == shown for key in keys}
    # The intercept of all groups together is free.
    free = np.array([POOLED_PRECISION, POOLED_PRECISION, 0.0])
    pooled = _platt(np.concatenate(list(standard.values())), np.concatenate(list(right.values())), np.zeros(3), free)
    total = len(shown) + 0.5 * (len(keys) + 1)
    maps = {}
    for key in keys:
        weights = _platt(standard[key], right[key], pooled, np.full(3, PRECISION))
        maps[key] = GroupMap(
            mean=(float(mean[key][0]), float(mean[key][1])),
            spread=(float(spread[key][0]), float(spread[key][1])),
            weights=(float(weights[0]), float(weights[1])),
            intercept=float(weights[2]),
            # Jeffreys' prior: half an image of each outcome beside those that were seen.
            prior=(int(right[key].sum()) + 0.5) / total,
            right=int(right[key].sum()),
        )
    none = 1 - sum(group.prior for group in maps.values())
    return GroupCalibration(groups=maps, none=none, samples=len(shown))


def _platt(standard: Floats, right: npt.NDArray[np.bool_], prior: Floats, precision: Floats) -> Floats:
    """Two weights and an intercept, drawn to `prior` by `precision`, [3] each: the least penalised cross-entropy."""
    from scipy.optimize import minimize

    positives = int(right.sum())
    targets = np.where(right, (positives + 1) / (positives + 2), 1 / (len(right) - positives + 2))
    design = np.concatenate([standard, np.ones((len(standard), 1))], axis=1)
    base = float(targets.mean())

    def loss(weights: Floats) -> tuple[float, Floats]:
        odds = design @ weights
        away = weights - prior
        value = float((np.logaddexp(0.0, odds) - targets * odds).sum() + 0.5 * away @ (precision * away))
        return value, design.T @ (0.5 * (1 + np.tanh(0.5 * odds)) - targets) + precision * away

    start = np.array([*prior[:2], math.log(base / (1 - base))])
    return np.asarray(minimize(loss, start, jac=True, method="BFGS", options={"gtol": 1e-7}).x, np.float64)


def expected_calibration_error(confidence: Floats, right: npt.NDArray[np.bool_], bins: int = 15) -> float:
    """Mean distance of confidence and share right over equal ranges of confidence (Guo et al. 2017), 0 of no answer."""
    number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(number, confidence - right, bins)
    return float(np.abs(gaps).sum() / max(len(confidence), 1))


@dataclass(frozen=True)
class Classifiers:
    """The current classifiers of the groups that have one, by key."""

    by_group: dict[str, Any]
    execution: Execution

    @classmethod
    def open(cls, store: Store, keys: Iterable[str], execution: Execution) -> Classifiers:
        """Those of these groups.

        Raises:
            MissingInputError: a group has not been made.
        """
        opened = {key: open_classifier(store, key) for key in keys}
        return cls({key: found for key, found in opened.items() if found.module is not None}, execution)

    def logits(self, images: Iterable[bytes]) -> dict[str, GroupLogits]:
        """What each gives for encoded images; every image is read and decoded once.

        Raises:
            EmbedderError: an image that cannot be decoded.
        """
        from glr_assets.training.photographs import in_threads, square

        sizes = sorted({found.config.image_size for found in self.by_group.values()})
        parts: dict[str, list[npt.NDArray[np.float32]]] = {key: [] for key in self.by_group}
        for chunk in _chunks(images):
            squares = {
                size: list(in_threads(partial(square, size=size), chunk, self.execution.threads)) for size in sizes
            }
            for key, found in self.by_group.items():
                parts[key].append(found.logits(squares[found.config.image_size], self.execution))
        return {
            key: GroupLogits(
                found.config.landmark_ids,
                np.concatenate(parts[key] or [np.zeros((0, found.config.classes), np.float32)]),
            )
            for key, found in self.by_group.items()
        }


def _chunks(images: Iterable[bytes]) -> Iterator[list[bytes]]:
    images = iter(images)
    while chunk := list(itertools.islice(images, _CHUNK)):
        yield chunk


def make_group_calibration(store: Store, recipe: Recipe, score: Score) -> Made:
    """`group_calibration`: the calibration, fitted on one fold, and on the other what it is worth.

    Where no group has a classifier, or nothing is held out, it is finished with an empty table and says so.
    The images of no landmark are test images of the recipe's Usage, half in each fold.

    Args:
        store: the store.
        recipe: `[groups]`, `[retrieval] non_landmark_usage`, `[execution]` and the seed.
        score: the metrics of answers.

    Raises:
        MissingInputError: a group's classifier has not been made, or of other groups.
    """
    keys = group_keys(recipe.groups)
    inputs = need_receipts(store, "training_groups", "image_catalog", "recognition_solution")
    for key in keys:
        receipt = need_receipt(store, f"group_classifiers/{key}")
        if receipt.inputs.get("training_groups") != inputs["training_groups"]:
            raise MissingInputError(
                f"group_classifiers/{key} in {store.url} is of earlier training_groups: materialise it again"
            )
        inputs[receipt.name] = receipt.digest
    parameters = {
        "calibrating": recipe.groups.calibrating,
        "min_probability": recipe.groups.min_probability,
        "usage": list(recipe.retrieval.non_landmark_usage),
        "seed": recipe.seed,
    }
    folder = f"models/group_calibration/{digest_of([CODE_VERSION, inputs, parameters])[:12]}"

    def build(writer: Writer) -> Summary:
        classifiers = Classifiers.open(store, keys, recipe.execution)
        images = held_out_images(store, recipe)
        reason = _nothing_to_calibrate(classifiers, images)
        if reason:
            writer.table(GROUP_CALIBRATION, GROUP_CALIBRATION.empty())
            writer.json(REPORT, {"calibrated": False, "reason": reason})
            return {"rows": 0, "calibrated": False, "reason": reason}
        readers = {
            split: ImageReader.of_split(store, split, images.filter(pc.equal(images["split"], split))["id"].to_pylist())
            for split in ("train", "test")
        }
        places = zip(images["split"].to_pylist(), images["id"].to_pylist(), strict=True)
        found = classifiers.logits(readers[s].read(i) for s, i in places)
        shown = pc.fill_null(images["landmark_id"], NO_LANDMARK).to_numpy().astype(np.int64)
        calibrates = np.asarray(pc.equal(images["fold"], CALIBRATION).to_numpy(zero_copy_only=False))
        part = {key: GroupLogits(one.landmark_ids, one.logits[calibrates]) for key, one in found.items()}
        calibration = fit_group_calibration(part, shown[calibrates])
        answers, raw = calibration.answers(found), raw_answers(found)
        rejected = answers.probability < recipe.groups.min_probability
        table = images.drop_columns("split")
        for name, values in (
            ("answer", answers.landmark_ids),
            ("probability", answers.probability),
            ("none", answers.none),
            ("rejected", rejected),
            ("raw_answer", raw.landmark_ids),
            ("raw_softmax", raw.probability),
        ):
            table = table.append_column(name, pa.array(values))
        report = report_of(table.filter(pc.equal(table["fold"], VALIDATION)), score)
        writer.json(f"{folder}/{CALIBRATION_NAME}", calibration.model_dump(mode="json"))
        writer.table(GROUP_CALIBRATION, table)
        writer.json(REPORT, report)
        _draw(writer, table.filter(pc.equal(table["fold"], VALIDATION)), report)
        figures = {f"{name} {way}": report[way][name] for way in ("calibrated", "raw") for name in report[way]}
        return {"folder": folder, "rows": table.num_rows, "fitted_on": calibration.samples} | figures | report["reject"]

    return make(
        store,
        "group_calibration",
        inputs=inputs,
        parameters=parameters,
        code_version=CODE_VERSION,
        build=build,
        keep_earlier=True,
    )


def _nothing_to_calibrate(classifiers: Classifiers, images: pa.Table) -> str:
    """Why there is nothing to do, in words; empty where there is."""
    if not classifiers.by_group:
        return "no group has a classifier"
    folds = set(images.filter(pc.is_valid(images["landmark_id"]))["fold"].to_pylist())
    missing = [fold for fold in (CALIBRATION, VALIDATION) if fold not in folds]
    return f"no image of a landmark is held out for {' and '.join(missing)}" if missing else ""


def held_out_images(store: Store, recipe: Recipe) -> pa.Table:
    """`id, split, fold, landmark_id, group` of what the groups are shown, sorted by id.

    Of each fold at most `[groups] calibrating` images of landmarks, as a seed draws them, and of the test images
    known to show none about half.
    """
    rows = read_table(store, TRAINING_GROUPS, ["id", "fold", "landmark_id", "group"])
    parts = []
    for fold in (CALIBRATION, VALIDATION):
        of_fold = rows.filter(pc.equal(rows["fold"], fold))
        order = np.lexsort((fixed_width(of_fold["id"]), seeded_hash(of_fold["id"], recipe.seed, "group calibration")))
        parts.append(of_fold.take(pa.array(order[: recipe.groups.calibrating])))
    held = pa.concat_tables(parts)
    held = held.append_column("split", pa.array(["train"] * held.num_rows, pa.string()))
    solution = read_table(store, RECOGNITION_SOLUTION, ["id", "landmark_ids", "usage"])
    usage = pa.array(list(recipe.retrieval.non_landmark_usage), pa.string())
    nothing = pc.equal(pc.list_value_length(solution["landmark_ids"]), 0)
    ids = solution.filter(pc.and_(nothing, pc.is_in(solution["usage"], usage)))["id"].to_pylist()
    stored = ImageReader.of_split(store, "test", ids)
    others = pa.array([image_id for image_id in ids if image_id in stored], pa.string())
    even = seeded_hash(others, recipe.seed, "group calibration") % np.uint64(2) == 0
    more = pa.table(
        {
            "id": others,
            "fold": pa.array(np.where(even, CALIBRATION, VALIDATION).tolist(), pa.string()),
            "landmark_id": pa.nulls(len(others), pa.int64()),
            "group": pa.nulls(len(others), pa.string()),
            "split": pa.array(["test"] * len(others), pa.string()),
        }
    )
    names = ["id", "split", "fold", "landmark_id", "group"]
    return pa.concat_tables([held.select(names), more.select(names)]).sort_by("id")


def report_of(rows: pa.Table, score: Score) -> dict[str, Any]:
    """What answers are worth, calibrated and raw: over all images, by group, and with the reject.

    Args:
        rows: of `GROUP_CALIBRATION`, those that fitted nothing.
        score: the metrics of answers.
    """
    shown = pc.fill_null(rows["landmark_id"], NO_LANDMARK).to_numpy()
    ids, groups = rows["id"].to_pylist(), np.array(rows["group"].to_pylist(), object)
    report: dict[str, Any] = {"images": len(ids), "non_landmarks": int((shown == NO_LANDMARK).sum())}
    by_group: dict[str, dict[str, float]] = {}
    for way, answer, confidence in (("calibrated", "answer", "probability"), ("raw", "raw_answer", "raw_softmax")):
        given, sure = rows[answer].to_numpy(), rows[confidence].to_numpy()
        right = given == shown
        report[way] = score(ids, given, sure, shown) | {"ece": expected_calibration_error(sure, right)}
        for group in sorted(set(groups) - {None}):
            of_group = groups == group
            found = by_group.setdefault(group, {"images": int(of_group.sum())})
            found |= {f"{way} top1": float(right[of_group].mean())}
            found |= {f"{way} ece": expected_calibration_error(sure[of_group], right[of_group])}
    report["groups"] = by_group
    rejected = np.asarray(rows["rejected"].to_numpy(zero_copy_only=False))
    right = rows["answer"].to_numpy() == shown
    accepted = int((~rejected).sum())
    strangers = shown == NO_LANDMARK
    report["reject"] = {
        "accepted": accepted,
        "accepted_right": float(right[~rejected].mean()) if accepted else None,
        "non_landmarks_rejected": float(rejected[strangers].mean()) if strangers.any() else None,
    }
    return report


def _draw(writer: Writer, rows: pa.Table, report: Mapping[str, Any]) -> None:
    shown = pc.fill_null(rows["landmark_id"], NO_LANDMARK).to_numpy()
    ways = {"calibrated": ("answer", "probability"), "raw maximum softmax": ("raw_answer", "raw_softmax")}
    found = {
        name: (rows[confidence].to_numpy(), rows[answer].to_numpy() == shown)
        for name, (answer, confidence) in ways.items()
    }
    writer.write(RELIABILITY_PICTURE, reliability(found))
    figures = {"GAP": "gap", "top-1": "top1", "calibration\nerror": "ece"}
    drawn = {
        label: {"calibrated": report["calibrated"][name], "raw maximum softmax": report["raw"][name]}
        for label, name in figures.items()
    }
    for group, values in report["groups"].items():
        drawn[f"top-1\n{group}"] = {
            "calibrated": values["calibrated top1"],
            "raw maximum softmax": values["raw top1"],
        }
    writer.write(PICTURE, bars(drawn, "over images that fitted nothing"))


def open_groups(store: Store, recipe: Recipe) -> Callable[[Iterable[bytes]], tuple[Answers, Answers]]:
    """The current groups as one recogniser: encoded images in, calibrated and raw answers out.

    Raises:
        MissingInputError: the calibration, or a group's classifier, has not been made, or there was nothing to.
    """
    summary = need_receipt(store, "group_calibration").summary
    folder = summary.get("folder")
    if folder is None:
        raise MissingInputError(
            f"group_calibration in {store.url} calibrated nothing: {summary.get('reason')}; set other [groups] bounds"
        )
    calibration = GroupCalibration.model_validate_json(store.read(f"{folder}/{CALIBRATION_NAME}"))
    classifiers = Classifiers.open(store, group_keys(recipe.groups), recipe.execution)

    def answer(images: Iterable[bytes]) -> tuple[Answers, Answers]:
        found = classifiers.logits(images)
        return calibration.answers(found), raw_answers(found)

    return answer
