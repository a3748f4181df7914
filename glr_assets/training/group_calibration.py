"""`group_calibration`: what the groups' classifiers say of images they did not train on, and the map fitted to it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.duplicate_groups import duplicate_groups
from glr_assets.errors import MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.metadata.schemas import RECOGNITION_SOLUTION
from glr_assets.plots import bars, reliability
from glr_assets.query_labels import need_unused, record_query_labels
from glr_assets.receipts import Made, Summary, Writer, digest_of, make, need_receipt, need_receipts
from glr_assets.recipes import Execution, Recipe
from glr_assets.seeded import seeded_hash
from glr_assets.store import Store
from glr_assets.tables import fixed_width, read_table
from glr_assets.training.group_classifiers import open_classifier
from glr_assets.training.group_map import (
    NO_LANDMARK,
    Answers,
    Floats,
    GroupCalibration,
    GroupScores,
    Numbers,
    expected_calibration_error,
    fit_group_calibration,
    raw_answers,
)
from glr_assets.training.groups import CALIBRATION, VALIDATION, group_keys
from glr_assets.training.schemas import GROUP_CALIBRATION, TRAINING_GROUPS

CODE_VERSION = "3"
REPORT = "reports/group_calibration.json"
PICTURE = "reports/group_calibration.png"
RELIABILITY_PICTURE = "reports/group_calibration_reliability.png"
CALIBRATION_NAME = "calibration.json"

#: Images that are decoded at once and shown to every group.
_CHUNK = 256

#: Ids, answers, confidences and what is shown (`NO_LANDMARK` where none) to named scores, GAP among them.
Score = Callable[[Sequence[str], Numbers, Floats, Numbers], dict[str, float]]


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

    def scores(self, images: Iterable[bytes]) -> dict[str, GroupScores]:
        """What each says of encoded images; every image is read and decoded once.

        Memory is that of `_CHUNK` images and their logits of one group, and of three numbers an image and group.

        Raises:
            EmbedderError: an image that cannot be decoded.
        """
        from glr_assets.training.photographs import in_threads, square

        sizes = sorted({found.config.image_size for found in self.by_group.values()})
        parts: dict[str, list[GroupScores]] = {key: [] for key in self.by_group}
        for chunk in _chunks(images):
            squares = {
                size: list(in_threads(partial(square, size=size), chunk, self.execution.threads)) for size in sizes
            }
            for key, found in self.by_group.items():
                logits = found.logits(squares[found.config.image_size], self.execution)
                parts[key].append(GroupScores.of_logits(found.config.landmark_ids, logits))
        return {key: GroupScores.concatenated(of_group) for key, of_group in parts.items()}


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
            record_query_labels(writer, "group_calibration", [])
            return {"rows": 0, "calibrated": False, "reason": reason}
        readers = {
            split: ImageReader.of_split(store, split, images.filter(pc.equal(images["split"], split))["id"].to_pylist())
            for split in ("train", "test")
        }
        found = classifiers.scores(_read_in_order(readers, images))
        shown = pc.fill_null(images["landmark_id"], NO_LANDMARK).to_numpy().astype(np.int64)
        calibrates = np.asarray(pc.equal(images["fold"], CALIBRATION).to_numpy(zero_copy_only=False))
        part = {key: scores.rows(calibrates) for key, scores in found.items()}
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
        judged = table.filter(pc.equal(table["fold"], VALIDATION))
        fitted_on = images.filter(pc.equal(images["fold"], CALIBRATION))
        need_unused(judged["id"].to_pylist(), fitted_on["id"].to_pylist(), "group_calibration")
        tests = fitted_on.filter(pc.equal(fitted_on["split"], "test"))["id"].to_pylist()
        labels = record_query_labels(writer, "group_calibration", tests)
        report = report_of(judged, score)
        writer.json(f"{folder}/{CALIBRATION_NAME}", calibration.model_dump(mode="json"))
        writer.table(GROUP_CALIBRATION, table)
        writer.json(REPORT, report)
        _draw(writer, judged, report)
        figures = {f"{name} {way}": report[way][name] for way in ("calibrated", "raw") for name in report[way]}
        return (
            {"folder": folder, "rows": table.num_rows, "fitted_on": calibration.samples}
            | labels
            | figures
            | report["reject"]
        )

    return make(
        store,
        "group_calibration",
        inputs=inputs,
        parameters=parameters,
        code_version=CODE_VERSION,
        build=build,
        keep_earlier=True,
    )


def _read_in_order(readers: Mapping[str, ImageReader], images: pa.Table) -> Iterator[bytes]:
    """The images of a table of `id, split` in its order, those of each split read ahead."""
    ids = {split: images.filter(pc.equal(images["split"], split))["id"].to_pylist() for split in readers}
    found = {split: reader.read_many(ids[split]) for split, reader in readers.items()}
    return (next(found[split]) for split in images["split"].to_pylist())


def _nothing_to_calibrate(classifiers: Classifiers, images: pa.Table) -> str:
    """Why there is nothing to do, in words; empty where there is."""
    if not classifiers.by_group:
        return "no group has a classifier"
    folds = set(images.filter(pc.is_valid(images["landmark_id"]))["fold"].to_pylist())
    missing = [fold for fold in (CALIBRATION, VALIDATION) if fold not in folds]
    return f"no image of a landmark is held out for {' and '.join(missing)}" if missing else ""


def held_out_images(store: Store, recipe: Recipe) -> pa.Table:
    """`id, split, fold, landmark_id, group` of what the groups are shown, sorted by id.

    Of each fold at most `[groups] calibrating` images of landmarks, as a seed draws them, and as many at most of the
    test images known to show none, about half of which are in each fold. Near-duplicates are in one fold.
    """
    rows = read_table(store, TRAINING_GROUPS, ["id", "fold", "landmark_id", "group"])
    folds = (CALIBRATION, VALIDATION)
    held = pa.concat_tables(_drawn(rows.filter(pc.equal(rows["fold"], fold)), recipe) for fold in folds)
    held = held.append_column("split", pa.array(["train"] * held.num_rows, pa.string()))
    solution = read_table(store, RECOGNITION_SOLUTION, ["id", "landmark_ids", "usage"])
    usage = pa.array(list(recipe.retrieval.non_landmark_usage), pa.string())
    nothing = pc.equal(pc.list_value_length(solution["landmark_ids"]), 0)
    ids = solution.filter(pc.and_(nothing, pc.is_in(solution["usage"], usage)))["id"].to_pylist()
    stored = ImageReader.of_split(store, "test", ids)
    others = pa.array([image_id for image_id in ids if image_id in stored], pa.string())
    none = pa.table({"id": others, "landmark_id": pa.array(np.zeros(len(others), np.int64))})
    first = others.take(pa.array(duplicate_groups(store, none, "test")))
    even = seeded_hash(first, recipe.seed, "group calibration") % np.uint64(2) == 0
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
    parts = [held, *(_drawn(more.filter(pc.equal(more["fold"], fold)), recipe) for fold in folds)]
    return pa.concat_tables(part.select(names) for part in parts).sort_by("id")


def _drawn(rows: pa.Table, recipe: Recipe) -> pa.Table:
    """At most `[groups] calibrating` of these rows, in a seeded order."""
    order = np.lexsort((fixed_width(rows["id"]), seeded_hash(rows["id"], recipe.seed, "group calibration")))
    return rows.take(pa.array(order[: recipe.groups.calibrating]))


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
        found = classifiers.scores(images)
        return calibration.answers(found), raw_answers(found)

    return answer
