"""What is taken for what: confused landmarks, the best and the worst of them, and errors beside what was answered.

Asked are the queries of the submission, and the photographs that were held out of the embedder's training, each by
its nearest photograph alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.evaluation.metrics import Prediction
from glr_assets.evaluation.schemas import CONFUSED_LANDMARKS, LANDMARK_ACCURACY
from glr_assets.images.reader import ImageReader
from glr_assets.markdown import table
from glr_assets.metadata.schemas import LANDMARK_LABELS
from glr_assets.plots import Thumbnail, bars, confusion, gallery, shares
from glr_assets.receipts import Summary, Writer, need_receipt, need_receipts
from glr_assets.retrieval.embeddings import read_embeddings
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.training.held_out import by_class_size
from glr_assets.training.schemas import HELD_OUT_ANSWERS

QUERIES: Final = "queries"
HELD_OUT: Final = "held-out"
NO_ANSWER: Final = -1
MATRIX_PICTURE = "reports/confusion_{asked}.png"
LANDMARKS_PICTURE = "reports/landmarks_best_worst.png"
SIZES_PICTURE = "reports/class_sizes.png"
ERRORS_PICTURE = "reports/errors_{asked}.jpg"
TOLD = "reports/errors.md"
#: Landmarks of a matrix; landmarks of each end of the best and worst; pairs and errors that are shown.
IN_MATRIX, AT_EACH_END, PAIRS_TOLD, ERRORS_SHOWN = 12, 10, 15, 8
SIDE = 112

Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Judged:
    """Answers to photographs of known landmarks.

    Attributes:
        asked: `QUERIES` or `HELD_OUT`.
        ids: [n] the photographs.
        shown: [n] the landmark of each; of several that one shows, the answered one, or else the first.
        answers: [n] what was answered, `NO_ANSWER` where nothing was.
        sureness: [n] by which answers are ranked.
        train_images: images of each landmark that the answers came from.
    """

    asked: str
    ids: tuple[str, ...]
    shown: Numbers
    answers: Numbers
    sureness: npt.NDArray[np.float64]
    train_images: Mapping[int, int]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Whether each answer is right, [n]."""
        return np.asarray(self.shown == self.answers)


@dataclass(frozen=True)
class LandmarkFigure:
    """How often photographs of a landmark were told right."""

    landmark_id: int
    images: int
    right: int

    @property
    def share(self) -> float:
        """Told right, of those asked."""
        return self.right / self.images


@dataclass(frozen=True)
class Confused:
    """How often photographs of one landmark were taken for another."""

    landmark_id: int
    answer: int
    images: int
    share: float


def judged_queries(
    predictions: Iterable[Prediction], solution: Mapping[str, frozenset[int]], train_images: Mapping[int, int]
) -> Judged:
    """The answers to the queries that show a landmark, in the order of their ids."""
    answered = {found.id: found for found in predictions}
    ids = tuple(sorted(query for query, truth in solution.items() if truth))
    answers = [answered[query].landmark_id if query in answered else NO_ANSWER for query in ids]
    shown = [
        answer if answer in solution[query] else min(solution[query])
        for query, answer in zip(ids, answers, strict=True)
    ]
    sureness = [answered[query].confidence if query in answered else -np.inf for query in ids]
    return Judged(
        QUERIES, ids, np.array(shown, np.int64), np.array(answers, np.int64), np.array(sureness), train_images
    )


def judged_held_out(rows: pa.Table) -> Judged:
    """The embedder's answers to what it did not learn from, from `HELD_OUT_ANSWERS`."""
    shown, trained = rows["landmark_id"].to_numpy(), rows["train_images"].to_pylist()
    return Judged(
        HELD_OUT,
        tuple(rows["id"].to_pylist()),
        shown,
        rows["answer"].to_numpy(),
        rows["cosine"].to_numpy().astype(np.float64),
        dict(zip(shown.tolist(), trained, strict=True)),
    )


def by_landmark(judged: Judged) -> list[LandmarkFigure]:
    """A figure of each landmark that was asked of, by its id."""
    asked = Counter(judged.shown.tolist())
    right = Counter(judged.shown[judged.right].tolist())
    return [LandmarkFigure(landmark, asked[landmark], right[landmark]) for landmark in sorted(asked)]


def confused_pairs(judged: Judged) -> list[Confused]:
    """What was taken for what, the most often first, then the largest share, then by ids; unanswered is left out."""
    asked = Counter(judged.shown.tolist())
    wrong = ~judged.right & (judged.answers != NO_ANSWER)
    pairs = Counter(zip(judged.shown[wrong].tolist(), judged.answers[wrong].tolist(), strict=True))
    found = [Confused(shown, answer, count, count / asked[shown]) for (shown, answer), count in pairs.items()]
    return sorted(found, key=lambda pair: (-pair.images, -pair.share, pair.landmark_id, pair.answer))


def confusion_matrix(judged: Judged, most: int = IN_MATRIX) -> tuple[Numbers, tuple[int, ...]]:
    """What the landmarks with most errors were taken for.

    Returns:
        counts [landmarks, landmarks + 2] and the landmarks; the last columns are any other landmark, and no answer.
    """
    wrong = [figure for figure in by_landmark(judged) if figure.right < figure.images]
    wrong.sort(key=lambda figure: (figure.right - figure.images, figure.share, figure.landmark_id))
    chosen = [figure.landmark_id for figure in wrong[:most]]
    # Beside the landmarks that they are taken for, as far as these are here.
    place = {landmark: number for number, landmark in enumerate(chosen)}
    counts = np.zeros((len(chosen), len(chosen) + 2), np.int64)
    for shown, answer in zip(judged.shown.tolist(), judged.answers.tolist(), strict=True):
        if shown in place:
            column = len(chosen) + 1 if answer == NO_ANSWER else place.get(answer, len(chosen))
            counts[place[shown], column] += 1
    return counts, tuple(chosen)


def best_and_worst(judged: Judged, each: int = AT_EACH_END) -> tuple[list[LandmarkFigure], list[LandmarkFigure]]:
    """The landmarks told right most and least often; of equal shares those asked more often first. None is in both."""
    figures = by_landmark(judged)
    worst = sorted(figures, key=lambda f: (f.share, -f.images, f.landmark_id))[: min(each, (len(figures) + 1) // 2)]
    best = sorted(figures, key=lambda f: (-f.share, -f.images, f.landmark_id))[: min(each, len(figures) // 2)]
    taken = {figure.landmark_id for figure in worst}
    return [figure for figure in best if figure.landmark_id not in taken], worst


@dataclass(frozen=True)
class Mistake:
    """A photograph that was told wrong, and the nearest photographs of what was answered and of what it shows."""

    id: str
    shown: int
    answer: int
    sureness: float
    answered_image: str | None
    own_image: str | None


def surest_mistakes(judged: Judged, most: int = ERRORS_SHOWN) -> Numbers:
    """The rows of the surest wrong answers, of each confused pair of landmarks one."""
    wrong = np.flatnonzero(~judged.right & (judged.answers != NO_ANSWER))
    order = sorted(wrong.tolist(), key=lambda row: (-judged.sureness[row], judged.ids[row]))
    seen: dict[tuple[int, int], int] = {}
    for row in order:
        seen.setdefault((int(judged.shown[row]), int(judged.answers[row])), row)
    return np.array(list(seen.values())[:most], np.int64)


def mistakes_of_queries(store: Store, judged: Judged, searched: pa.Table, embeddings: Iterable[str]) -> list[Mistake]:
    """The surest mistakes, each with the nearest searched photographs by the embeddings of the store.

    Args:
        store: the store.
        judged: the queries.
        searched: `id, landmark_id` of the images that are searched.
        embeddings: names of the shards' embeddings, as `embeddings_of` gives them.
    """
    rows = surest_mistakes(judged)
    wanted = {int(landmark) for row in rows for landmark in (judged.shown[row], judged.answers[row])}
    candidates = searched.filter(pc.is_in(searched["landmark_id"], pa.array(sorted(wanted), pa.int64())))
    landmark_of = dict(zip(candidates["id"].to_pylist(), candidates["landmark_id"].to_pylist(), strict=True))
    names = sorted(embeddings)
    train = _vectors(store, "train", names, set(landmark_of))
    asked = _vectors(store, "test", names, {judged.ids[row] for row in rows})

    def nearest(query: str, landmark: int) -> str | None:
        images = sorted(image for image, of in landmark_of.items() if of == landmark and image in train)
        if query not in asked or not images:
            return None
        # Rounded, so that noise of the last bits decides nothing that an id can decide.
        cosines = np.round(np.stack([train[image] for image in images]) @ asked[query], 4)
        return images[int(cosines.argmax())]

    return [
        Mistake(
            query,
            int(judged.shown[row]),
            int(judged.answers[row]),
            float(judged.sureness[row]),
            nearest(query, int(judged.answers[row])),
            nearest(query, int(judged.shown[row])),
        )
        for row in rows
        for query in (judged.ids[row],)
    ]


def mistakes_of_held_out(judged: Judged, rows: pa.Table) -> list[Mistake]:
    """The surest mistakes among `HELD_OUT_ANSWERS`, with the photographs that the table names."""
    told = rows.select(["nearest", "own_nearest"]).to_pylist()
    return [
        Mistake(
            judged.ids[row],
            int(judged.shown[row]),
            int(judged.answers[row]),
            float(judged.sureness[row]),
            told[row]["nearest"],
            told[row]["own_nearest"],
        )
        for row in surest_mistakes(judged).tolist()
    ]


def embeddings_of(store: Store) -> dict[str, str]:
    """The digests of the train and test embeddings that the submission was made from, as inputs of what reads them.

    Raises:
        MissingInputError: the submission, the index or an embedding has not been made.
    """
    inputs = {name for asset in ("submission", "faiss_index") for name in need_receipt(store, asset).inputs}
    return need_receipts(store, *sorted(n for n in inputs if n.startswith(("test_embeddings/", "train_embeddings/"))))


def _vectors(store: Store, split: Split, names: Iterable[str], ids: set[str]) -> dict[str, npt.NDArray[np.float32]]:
    """The embeddings of a few images by id."""
    shards = [name for name in names if name.startswith(f"{split}_embeddings/")]
    found = read_embeddings(store, shards if ids else [], ids)
    return dict(zip(found.ids, found.vectors, strict=True))


def write_errors(
    store: Store,
    writer: Writer,
    predictions: Iterable[Prediction],
    solution: Mapping[str, frozenset[int]],
    searched: pa.Table,
    embeddings: Iterable[str],
    folder: str,
) -> Summary:
    """What is confused with what: two tables, pictures and a text, of the queries and of held-out photographs.

    Args:
        store: the store.
        writer: of `evaluation`.
        predictions: the submission.
        solution: the landmarks of each query that counts.
        searched: `id, landmark_id` of the images that are searched.
        embeddings: names of the shards' embeddings, as `embeddings_of` gives them.
        folder: of the embedder's version.

    Returns:
        Figures for the summary.
    """
    held_out = read_table(store, HELD_OUT_ANSWERS, version=folder.rsplit("/", 1)[-1])
    sizes = Counter(searched["landmark_id"].to_pylist())
    judged = {QUERIES: judged_queries(predictions, solution, sizes), HELD_OUT: judged_held_out(held_out)}
    judged = {asked: found for asked, found in judged.items() if found.ids}
    names = landmark_names(store, {int(i) for found in judged.values() for i in (*found.shown, *found.answers)})
    writer.table(CONFUSED_LANDMARKS, _confused_table(judged, names))
    writer.table(LANDMARK_ACCURACY, _accuracy_table(judged, names))
    for asked, found in judged.items():
        counts, landmarks = confusion_matrix(found)
        if landmarks:
            rows = [names(landmark) for landmark in landmarks]
            picture = confusion(counts, rows, [*rows, "another landmark", "no answer"])
            writer.write(MATRIX_PICTURE.format(asked=_file_name(asked)), picture)
    writer.write(LANDMARKS_PICTURE, _best_and_worst_picture(judged[QUERIES], names))
    writer.write(SIZES_PICTURE, _sizes_picture(judged))
    mistakes: list[tuple[str, Split, list[Mistake]]] = [
        (QUERIES, "test", mistakes_of_queries(store, judged[QUERIES], searched, embeddings)),
        (HELD_OUT, "train", mistakes_of_held_out(judged[HELD_OUT], held_out) if HELD_OUT in judged else []),
    ]
    for asked, split, found_wrong in mistakes:
        if found_wrong:
            picture = _errors_picture(store, split, found_wrong, names)
            writer.write(ERRORS_PICTURE.format(asked=_file_name(asked)), picture)
    writer.write(TOLD, _markdown(judged, names).encode())
    pairs = confused_pairs(judged[QUERIES])
    return {
        "landmarks_never_told_right": sum(figure.right == 0 for figure in by_landmark(judged[QUERIES])),
        "confused_pairs": len(pairs),
        "most_confused": f"{names(pairs[0].landmark_id)} → {names(pairs[0].answer)}" if pairs else None,
    }


def _file_name(asked: str) -> str:
    return asked.replace("-", "_")


Names = Callable[[int], str]


def landmark_names(store: Store, wanted: set[int]) -> Names:
    """Tells a landmark by its published name; by name and id where two of the wanted ones share a name."""
    rows = read_table(store, LANDMARK_LABELS, ["landmark_id", "name"])
    rows = rows.filter(pc.is_in(rows["landmark_id"], pa.array(sorted(wanted), pa.int64())))
    names = dict(zip(rows["landmark_id"].to_pylist(), rows["name"].to_pylist(), strict=True))
    shared = Counter(names.values())

    def told(landmark: int) -> str:
        name = names.get(landmark, "")
        return name if shared[name] == 1 else f"{name} {landmark}".strip()

    return told


def _confused_table(judged: Mapping[str, Judged], names: Names) -> pa.Table:
    rows = [
        {
            "asked": asked,
            "landmark_id": pair.landmark_id,
            "name": names(pair.landmark_id),
            "answer": pair.answer,
            "answer_name": names(pair.answer),
            "images": pair.images,
            "share": pair.share,
        }
        for asked, found in judged.items()
        for pair in confused_pairs(found)
    ]
    return CONFUSED_LANDMARKS.rows(rows)


def _accuracy_table(judged: Mapping[str, Judged], names: Names) -> pa.Table:
    rows = [
        {
            "asked": asked,
            "landmark_id": figure.landmark_id,
            "name": names(figure.landmark_id),
            "train_images": found.train_images.get(figure.landmark_id, 0),
            "images": figure.images,
            "right": figure.right,
        }
        for asked, found in judged.items()
        for figure in by_landmark(found)
    ]
    return LANDMARK_ACCURACY.rows(rows)


def _told(figure: LandmarkFigure, found: Judged) -> str:
    return f"{figure.right} of {figure.images}, {found.train_images.get(figure.landmark_id, 0)} to search"


def _best_and_worst_picture(found: Judged, names: Names) -> bytes:
    best, worst = best_and_worst(found)
    rows = [*best, *reversed(worst)]
    return shares(
        [(names(figure.landmark_id), figure.share, _told(figure, found)) for figure in rows], "queries told right"
    )


def _sizes_picture(judged: Mapping[str, Judged]) -> bytes:
    drawn: dict[str, dict[str, float]] = {}
    starts: dict[str, int] = {}
    for asked, found in judged.items():
        # A landmark that is not searched cannot be told; it has no size.
        known = [row for row, landmark in enumerate(found.shown.tolist()) if found.train_images.get(landmark, 0)]
        shown = found.shown[known].tolist()
        sizes = [found.train_images[landmark] for landmark in shown]
        for figure in by_class_size(shown, sizes, found.right[known].tolist()):
            drawn.setdefault(figure.range, {})[asked] = figure.right
            starts[figure.range] = figure.fewest
    ordered = {name: drawn[name] for name in sorted(drawn, key=starts.__getitem__)}
    return bars(ordered, "share right, by images a landmark")


def _errors_picture(store: Store, split: Split, mistakes: Sequence[Mistake], names: Names) -> bytes:
    """Three pictures an error: the photograph, the nearest of what was answered, the nearest of what it shows."""
    asked = ImageReader.of_split(store, split, [mistake.id for mistake in mistakes])
    answers = [image for mistake in mistakes for image in (mistake.answered_image, mistake.own_image)]
    train = ImageReader.of_split(store, "train", [image for image in answers if image is not None])

    def thumbnail(reader: ImageReader, image: str | None, caption: str, right: bool | None = None) -> list[Thumbnail]:
        return [Thumbnail(reader.read(image), caption, right)] if image is not None and image in reader else []

    shown = [
        [
            *thumbnail(asked, mistake.id, f"{mistake.sureness:.2f}, shows\n{names(mistake.shown)}"),
            *thumbnail(train, mistake.answered_image, f"answered\n{names(mistake.answer)}", False),
            *thumbnail(train, mistake.own_image, f"nearest of its own\n{names(mistake.shown)}", True),
        ]
        for mistake in mistakes
    ]
    # Two errors a row.
    return gallery([[*chain(*shown[at : at + 2])] for at in range(0, len(shown), 2)], side=SIDE)


def _markdown(judged: Mapping[str, Judged], names: Names) -> str:
    parts = []
    for asked, found in judged.items():
        right = int(found.right.sum())
        parts.append(f"### {asked}: {right} of {len(found.ids)} told right")
        rows: list[tuple[Any, ...]] = [
            (names(pair.landmark_id), names(pair.answer), pair.images, f"{pair.share:.0%}")
            for pair in confused_pairs(found)[:PAIRS_TOLD]
        ]
        parts.append(table(("shown", "taken for", "photographs", "of those asked"), rows))
        best, worst = best_and_worst(found)
        for told, figures in (("told worst", worst), ("told best", best)):
            rows = [
                (names(f.landmark_id), f"{f.share:.0%}", f.images, found.train_images.get(f.landmark_id, 0))
                for f in figures
            ]
            parts.append(table((told, "right", "asked", "images to answer from"), rows))
    return "\n\n".join(parts) + "\n"
