"""Score Kaggle submission files against solution files, by the official metrics.

The files are those of the Google Landmarks challenges. A submission of recognition has the columns
`id,landmarks` (`<landmark> <confidence>` or blank), one of retrieval `id,images` (index ids separated by
blanks, the best first); a solution has `Usage` (Public, Private or Ignored) besides. The reading follows
the organisers' `dataset_file_io.py` (github.com/tensorflow/models, delf): one pair a row and no more, empty
lines are skipped, a blank prediction is none, an answer to an unknown query is an error. It is stricter
where an id stands twice, which is an error also for blank predictions and ignored queries.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, get_args

from glr_assets.csv_structure import holds_line_break, key_pattern, refuse_swallowed_row, strict_rows
from glr_assets.errors import MetricError, TableError
from glr_assets.evaluation.metrics import (
    Prediction,
    global_average_precision,
    mean_average_precision,
    top1_accuracy,
    unknown,
)
from glr_assets.source.layout import Usage

CsvFile = str | Path | IO[bytes]
"""A CSV file's path, or the file opened for reading bytes."""

_IGNORED_IMAGES = "None"
"""What the retrieval solution has in the place of images for a query that is not scored."""
_INTEGER = re.compile(r"[+-]?[0-9]{1,18}")
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")


@dataclass(frozen=True, slots=True)
class RecognitionScores:
    """What a recognition submission is worth.

    `gap`, `gap_landmarks_only`, `top1` are over all queries that are not ignored, `gap_public` and
    `gap_private` over those of one Usage (None where that has no query with a landmark). `queries` counts
    the queries that are not ignored, `landmark_queries` those with a landmark, `predicted` the queries with
    a prediction.
    """

    gap: float
    gap_landmarks_only: float
    top1: float
    gap_public: float | None
    gap_private: float | None
    queries: int
    landmark_queries: int
    predicted: int


@dataclass(frozen=True, slots=True)
class RetrievalScores:
    """What a retrieval submission is worth: mAP@100 over all queries, and over those of one Usage.

    `queries` counts the queries that are not ignored, `predicted` those with an answer; a Usage without
    queries has None.
    """

    map100: float
    map100_public: float | None
    map100_private: float | None
    queries: int
    predicted: int


@dataclass(frozen=True, slots=True)
class RecognitionSolution:
    """The landmarks (or none) and the Usage of every query that counts, and the ids that do not count."""

    landmarks: Mapping[str, frozenset[int]]
    usage: Mapping[str, Usage]
    ignored: frozenset[str]


@dataclass(frozen=True, slots=True)
class RetrievalSolution:
    """The relevant images and the Usage of every query that counts, and the ids that do not count."""

    images: Mapping[str, frozenset[str]]
    usage: Mapping[str, Usage]
    ignored: frozenset[str]


def score_recognition(submission_csv: CsvFile, solution_csv: CsvFile) -> RecognitionScores:
    """The official scores of a recognition submission.

    Raises:
        MetricError: a file cannot be read, breaks its format (named with its line), answers an unknown
            query, or the solution has no query with a landmark.
    """
    solution = read_recognition_solution(solution_csv)
    return recognition_scores(read_recognition_submission(submission_csv, solution), solution)


def recognition_scores(predictions: Sequence[Prediction], solution: RecognitionSolution) -> RecognitionScores:
    """The official scores of predictions; see `score_recognition`."""
    landmarks, ignored = solution.landmarks, solution.ignored
    return RecognitionScores(
        gap=global_average_precision(predictions, landmarks, ignored=ignored),
        gap_landmarks_only=global_average_precision(predictions, landmarks, ignored=ignored, landmarks_only=True),
        top1=top1_accuracy(predictions, landmarks, ignored=ignored),
        gap_public=_gap_of_usage(predictions, solution, "Public"),
        gap_private=_gap_of_usage(predictions, solution, "Private"),
        queries=len(landmarks),
        landmark_queries=sum(1 for truth in landmarks.values() if truth),
        predicted=sum(1 for prediction in predictions if prediction.id in landmarks),
    )


def score_retrieval(submission_csv: CsvFile, solution_csv: CsvFile) -> RetrievalScores:
    """The official scores of a retrieval submission; a query of the solution with `None` is ignored.

    Raises:
        MetricError: a file cannot be read, breaks its format (named with its line), answers an unknown
            query, or the solution has no query that counts.
    """
    solution = read_retrieval_solution(solution_csv)
    return retrieval_scores(read_retrieval_submission(submission_csv, solution), solution)


def retrieval_scores(retrieved: Mapping[str, Sequence[str]], solution: RetrievalSolution) -> RetrievalScores:
    """The official scores of index image ids per query; see `score_retrieval`."""
    images = solution.images
    return RetrievalScores(
        map100=mean_average_precision(retrieved, images, ignored=solution.ignored),
        map100_public=_map_of_usage(retrieved, solution, "Public"),
        map100_private=_map_of_usage(retrieved, solution, "Private"),
        queries=len(images),
        predicted=sum(1 for query, answer in retrieved.items() if answer and query in images),
    )


def read_recognition_solution(solution_csv: CsvFile) -> RecognitionSolution:
    """The solution in a CSV with `id,landmarks,Usage`; raises MetricError naming file and line."""
    landmarks: dict[str, frozenset[int]] = {}
    usages: dict[str, Usage] = {}
    ignored = set()
    for at, (query, cell, usage) in _rows(solution_csv, ("id", "landmarks", "Usage")):
        truth = frozenset(_landmark(at, query, word) for word in cell.split())
        counted = _usage(at, query, usage)
        if counted == "Ignored":
            ignored.add(query)
        else:
            landmarks[query] = truth
            usages[query] = counted
    if not any(landmarks.values()):
        raise MetricError(
            f"{_name(solution_csv)}: no query that counts has a landmark, expected at least one"
            "; score with another solution"
        )
    return RecognitionSolution(landmarks, usages, frozenset(ignored))


def read_retrieval_solution(solution_csv: CsvFile) -> RetrievalSolution:
    """The solution in a CSV with `id,images,Usage`; raises MetricError naming file and line."""
    images: dict[str, frozenset[str]] = {}
    usages: dict[str, Usage] = {}
    ignored = set()
    for at, (query, cell, usage) in _rows(solution_csv, ("id", "images", "Usage")):
        counted = _usage(at, query, usage)
        if counted == "Ignored" or cell.strip() == _IGNORED_IMAGES:
            ignored.add(query)
        else:
            images[query] = frozenset(cell.split())
            usages[query] = counted
    if not images:
        raise MetricError(f"{_name(solution_csv)}: every query is ignored, expected at least one that counts")
    return RetrievalSolution(images, usages, frozenset(ignored))


def read_recognition_submission(
    submission_csv: CsvFile, solution: RecognitionSolution | None = None
) -> list[Prediction]:
    """The predictions in a CSV with `id,landmarks`, in the file's order, blank ones left out.

    Given the solution, a prediction for a query it does not know is an error and one for an ignored query
    is left out.

    Raises:
        MetricError: names file, line and id.
    """
    predictions = []
    for at, (query, cell) in _rows(submission_csv, ("id", "landmarks")):
        words = cell.split()
        if not words:
            continue
        if len(words) != 2:
            raise MetricError(
                f"{at}, id {query!r}: expected '<landmark> <confidence>' or nothing, "
                f"found {_shown(cell)}; "
                "write the best landmark alone"
            )
        prediction = Prediction(query, _landmark(at, query, words[0]), _confidence(at, query, words[1]))
        if solution is None or query in solution.landmarks:
            predictions.append(prediction)
        elif query not in solution.ignored:
            raise MetricError(f"{at}: {unknown(query)}")
    return predictions


def read_retrieval_submission(
    submission_csv: CsvFile, solution: RetrievalSolution | None = None
) -> dict[str, list[str]]:
    """The index image ids per query in a CSV with `id,images`, blank answers left out.

    Given the solution, an answer to a query it does not know is an error and one to an ignored query is left
    out, which keeps the memory to the queries that count: about 1 % of the published test set.

    Raises:
        MetricError: names file, line and id.
    """
    retrieved = {}
    for at, (query, cell) in _rows(submission_csv, ("id", "images")):
        if not cell or cell.isspace():
            continue
        if solution is None or query in solution.images:
            retrieved[query] = cell.split()
        elif query not in solution.ignored:
            raise MetricError(f"{at}: {unknown(query)}")
    return retrieved


def _gap_of_usage(predictions: Sequence[Prediction], solution: RecognitionSolution, usage: Usage) -> float | None:
    landmarks = {query: truth for query, truth in solution.landmarks.items() if solution.usage[query] == usage}
    if not any(landmarks.values()):
        return None
    return global_average_precision([p for p in predictions if p.id in landmarks], landmarks)


def _map_of_usage(retrieved: Mapping[str, Sequence[str]], solution: RetrievalSolution, usage: Usage) -> float | None:
    images = {query: truth for query, truth in solution.images.items() if solution.usage[query] == usage}
    if not images:
        return None
    return mean_average_precision({q: answer for q, answer in retrieved.items() if q in images}, images)


def _name(file: CsvFile) -> str:
    return str(file) if isinstance(file, str | Path) else str(getattr(file, "name", "the CSV file"))


@contextmanager
def _opened(file: CsvFile) -> Iterator[Iterable[bytes]]:
    """The lines of the file; a path that cannot be read is a MetricError."""
    if not isinstance(file, str | Path):
        yield file
        return
    try:
        with Path(file).open("rb") as lines:
            yield lines
    except OSError as error:
        raise MetricError(f"{file}: cannot be read: {error.strerror}; give the path of a CSV file") from error


def _rows(file: CsvFile, columns: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Each row's place for messages and its values of `columns`, the first of which names a row but once."""
    name = _name(file)
    with _opened(file) as lines:
        try:
            rows = strict_rows(lines, name)
            header = next(rows, (1, []))[1]
            places, width = _header(name, header, columns), len(header)
            seen: dict[str, int] = {}
            pattern = ""
            for line, row in rows:
                at = f"{name}, line {line}"
                if len(row) != width:
                    raise MetricError(
                        f"{at}, id {_shown(row[0])}: expected {width} fields as in the header, "
                        f"found {len(row)}; quote values that hold commas"
                    )
                pattern = pattern or key_pattern(row[0])
                for place, value in enumerate(row):
                    if not holds_line_break(value):
                        continue
                    if place in places:
                        raise MetricError(f"{at}: {header[place]} holds a line break; close the quote before it")
                    refuse_swallowed_row(value, header, place, pattern, at)
                key = row[places[0]]
                if not key:
                    raise MetricError(f"{at}: expected an id, found an empty one; fill it in or drop the row")
                if key in seen:
                    raise MetricError(f"{at}: id {key!r} stood on line {seen[key]} already; keep one row an id")
                seen[key] = line
                yield at, [row[place] for place in places]
        except TableError as error:
            raise MetricError(str(error)) from error


def _header(name: str, header: list[str], columns: Sequence[str]) -> list[int]:
    """Where `columns` stand in the header."""
    if not header:
        raise MetricError(f"{name}: empty, expected a CSV with the columns {','.join(columns)}")
    if any(header.count(column) != 1 for column in columns):
        raise MetricError(
            f"{name}, line 1: expected a header with the columns {','.join(columns)}, "
            f"found {_shown(','.join(header))}; correct the header"
        )
    return [header.index(column) for column in columns]


def _usage(at: str, query: str, value: str) -> Usage:
    for usage in get_args(Usage):
        if value == usage:
            return usage
    raise MetricError(f"{at}, id {query!r}: expected Usage Public, Private or Ignored, found {_shown(value)}")


def _landmark(at: str, query: str, word: str) -> int:
    if _INTEGER.fullmatch(word):
        return int(word)
    raise MetricError(f"{at}, id {query!r}: expected an integer landmark id, found {_shown(word)}")


def _confidence(at: str, query: str, word: str) -> float:
    confidence = float(word) if _NUMBER.fullmatch(word) else math.nan
    if math.isfinite(confidence):
        return confidence
    raise MetricError(f"{at}, id {query!r}: expected a finite number as confidence, found {_shown(word)}")


def _shown(value: str) -> str:
    return repr(value if len(value) <= 60 else f"{value[:57]}...")
