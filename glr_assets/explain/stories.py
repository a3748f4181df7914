"""Every stage's result for one image: the ledger's story, duplicates, verified pairs, nearest images and answers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain, zip_longest
from typing import Any, Final, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from glr_assets.curation.schemas import DEDUPED_MANIFEST, TRAIN_EXTRA
from glr_assets.errors import MissingInputError
from glr_assets.ledger.schemas import IMAGE_LEDGER
from glr_assets.ledger.why import ImageStory, told, why
from glr_assets.metadata.schemas import LANDMARK_LABELS, RECOGNITION_SOLUTION
from glr_assets.receipts import find_receipt
from glr_assets.retrieval.embeddings import read_embeddings
from glr_assets.retrieval.schemas import ANSWERS, EMBEDDING_VECTORS, EMBEDDINGS
from glr_assets.retrieval.vector_files import VectorFile
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import Table, fixed_width, read_parts, read_table
from glr_assets.verification.plan import bucket_keys, buckets_of
from glr_assets.verification.schemas import VERIFIED_PAIRS

#: Duplicates, pairs and nearest images that are listed of one image.
LISTED: Final = 5
#: Of these splits the nearest images are looked for: what train and index hold is what an answer is made of.
_SEARCHED: Final[tuple[Split, ...]] = ("train", "index")


Row = TypeVar("Row")
Vectors = npt.NDArray[np.float32]


class Duplicate(BaseModel):
    """An image that was dropped for this one."""

    id: str
    reason: str
    distance: int | None


class ComparedPair(BaseModel):
    """Another image of the landmark that geometric verification compared with this one."""

    id: str
    inliers: int
    threshold: int
    accepted: bool
    refusal: str


class Nearest(BaseModel):
    """One of the images whose embeddings are nearest, with the cosine of the two."""

    id: str
    split: str
    landmark_id: int | None
    landmark: str | None
    cosine: float


class Answer(BaseModel):
    """One landmark of the submission's candidates; `correct` is absent where no answer is published."""

    rank: int
    landmark_id: int
    landmark: str | None
    probability: float
    correct: bool | None


class Explanation(BaseModel):
    """All stages' results for one image of one split.

    Attributes:
        story: source, rights, decisions and sets, by the ledger.
        duplicates: images that were dropped for it, at most `LISTED`.
        pairs: its compared pairs, accepted ones first, then by inliers, at most `LISTED`.
        nearest: nearest images by embedding; empty where they were not looked for.
        answers: the submission's candidates, the answer first; empty for other splits than test.
        published: the landmarks that the published solution names; absent where it has no row.
        answered: whether there is a submission to have an answer in.
    """

    story: ImageStory
    duplicates: list[Duplicate] = []
    pairs: list[ComparedPair] = []
    nearest: list[Nearest] = []
    answers: list[Answer] = []
    published: list[int] | None = None
    answered: bool = False


def explain(store: Store, image: str) -> list[Explanation]:
    """The explanation of each image that an id, a file name, a path, a title or a URL names, in each split that has it.

    Nearest images are left out: `with_nearest` looks for those of many images in one pass.

    Raises:
        MissingInputError: the ledger has not been made.
        GlrError: no table and no shard names such an image.
    """
    return [_explained(store, story) for story in why(store, image)]


def _explained(store: Store, story: ImageStory) -> Explanation:
    found = Explanation(story=story)
    if story.split == "train":
        found.duplicates = _optional(lambda: _duplicates(store, story.id))
        found.pairs = _optional(lambda: _pairs(store, story))
    if story.split == "test":
        solution = _optional(lambda: _rows(store, RECOGNITION_SOLUTION, story.id))
        found.published = solution[0]["landmark_ids"] if solution else None
        found.answered = find_receipt(store, "submission") is not None
        found.answers = _optional(lambda: _answers(store, story.id, found.published))
    return found


def _optional(read: Callable[[], list[Row]]) -> list[Row]:
    """What is read, or nothing where its asset has not been made."""
    try:
        return read()
    except MissingInputError:
        return []


def _rows(store: Store, table: Table, image_id: str) -> list[dict[str, Any]]:
    parts = read_parts(store, table, table.schema.names, {"id": image_id})
    return [row for part in parts for row in part.to_pylist()]


def _duplicates(store: Store, image_id: str) -> list[Duplicate]:
    columns = ["id", "reason", "distance"]
    tables = (read_parts(store, table, columns, {"partner": image_id}) for table in (DEDUPED_MANIFEST, TRAIN_EXTRA))
    rows = [row for part in chain.from_iterable(tables) for row in part.select(columns).to_pylist()]
    rows.sort(key=lambda row: (row["distance"] is None, row["distance"], row["id"]))
    return [Duplicate(**row) for row in rows[:LISTED]]


def _pairs(store: Store, story: ImageStory) -> list[ComparedPair]:
    keys = [name.removesuffix(".json") for name in store.names("receipts/verified_pairs")]
    receipt = find_receipt(store, f"verified_pairs/{keys[0]}") if keys else None
    if receipt is None or story.landmark_id is None:
        return []
    buckets = int(receipt.parameters["buckets"])
    bucket = bucket_keys(buckets)[int(buckets_of(np.array([story.landmark_id]), buckets)[0])]
    found = []
    columns = ["first", "second", "inliers", "threshold", "accepted", "refusal"]
    for part in read_parts(store, VERIFIED_PAIRS, columns, {"landmark_id": story.landmark_id}, bucket=bucket):
        mine = pc.or_(pc.equal(part["first"], story.id), pc.equal(part["second"], story.id))
        for row in part.filter(mine).select(columns).to_pylist():
            one, other = row.pop("first"), row.pop("second")
            found.append(ComparedPair(id=other if one == story.id else one, **row))
    return sorted(found, key=lambda pair: (not pair.accepted, -pair.inliers, pair.id))[:LISTED]


def _answers(store: Store, image_id: str, published: Collection[int] | None) -> list[Answer]:
    rows = _rows(store, ANSWERS, image_id)
    names = landmark_names(store, [row["landmark_id"] for row in rows])
    return [
        Answer(
            rank=row["rank"],
            landmark_id=row["landmark_id"],
            landmark=names.get(row["landmark_id"]),
            probability=row["probability"],
            correct=None if published is None else row["landmark_id"] in published,
        )
        for row in rows
    ]


def landmark_names(store: Store, landmark_ids: Iterable[int | None]) -> dict[int, str]:
    """The published names of landmarks, of those that have one."""
    wanted = pa.array(sorted({of for of in landmark_ids if of is not None}), pa.int64())
    names: dict[int, str] = {}
    for part in _optional(lambda: list(read_parts(store, LANDMARK_LABELS, ["landmark_id", "name"]))):
        rows = part.filter(pc.is_in(part["landmark_id"], wanted))
        names |= {row["landmark_id"]: row["name"] for row in rows.to_pylist() if row["name"]}
    return names


def with_nearest(store: Store, explanations: Sequence[Explanation]) -> list[Explanation]:
    """The same with the images of train and index whose embeddings are nearest, `LISTED` of each split.

    All embeddings are read once, a shard at a time: memory is that of one shard and of the images asked for.
    """
    queries: dict[str, Vectors] = {}
    for split in ("train", "index", "test"):
        ids = [found.story.id for found in explanations if found.story.split == split and found.story.shard]
        shards = sorted({str(found.story.shard) for found in explanations if found.story.split == split})
        names = [name for shard in shards if find_receipt(store, name := f"{split}_embeddings/{shard}") is not None]
        vectors = read_embeddings(store, names, ids)
        queries |= {f"{split}/{key}": vectors.vectors[row] for row, key in enumerate(vectors.ids)}
    if not queries:
        return list(explanations)
    matrix = np.stack(list(queries.values()))
    best: dict[str, list[tuple[float, str, str]]] = {key: [] for key in queries}
    for split in _SEARCHED:
        of_split = _nearest_of(store, split, list(queries), matrix)
        for key, found in of_split.items():
            best[key] += found
    near_train = {image for near in best.values() for _, split, image in near if split == "train"}
    landmarks = _landmarks_of(store, near_train)
    labels = landmark_names(store, landmarks.values())
    explained = []
    for one in explanations:
        nearest = [
            Nearest(
                id=image,
                split=split,
                landmark_id=landmarks.get(image) if split == "train" else None,
                landmark=labels.get(landmarks.get(image, -1)) if split == "train" else None,
                cosine=cosine,
            )
            for cosine, split, image in best.get(f"{one.story.split}/{one.story.id}", [])
        ]
        explained.append(one.model_copy(update={"nearest": nearest}))
    return explained


def _nearest_of(
    store: Store, split: Split, keys: Sequence[str], queries: Vectors
) -> dict[str, list[tuple[float, str, str]]]:
    """By query the nearest other images of a split, the nearest first, ties by id."""
    best: dict[str, list[tuple[float, str, str]]] = {key: [] for key in keys}
    for name in store.names(f"receipts/{split}_embeddings"):
        shard = name.removesuffix(".json")
        table = read_table(store, EMBEDDINGS, ["id", "row"], split=split, shard=shard)
        vectors = VectorFile.open(store, EMBEDDING_VECTORS.format(split=split, shard=shard))
        if not table.num_rows or vectors.dimensions != queries.shape[1]:
            continue
        ids = table["id"].to_pylist()
        cosines = queries @ vectors.read()[table["row"].to_numpy()].T
        for row, key in enumerate(keys):
            near = np.argsort(-cosines[row], kind="stable")[: LISTED + 1].tolist()
            found = [(float(cosines[row, at]), split, ids[at]) for at in near if key != f"{split}/{ids[at]}"]
            best[key] = sorted([*best[key], *found], key=lambda item: (-item[0], item[2]))[:LISTED]
    return best


def _landmarks_of(store: Store, ids: Collection[str]) -> dict[str, int]:
    among = np.unique(fixed_width(pa.array(sorted(ids), pa.string())))
    parts = read_parts(store, IMAGE_LEDGER, ["id", "landmark_id"], {"split": "train"}, {"id": among}) if ids else ()
    return {row["id"]: row["landmark_id"] for part in parts for row in part.to_pylist() if row["landmark_id"]}


class LandmarkSummary(BaseModel):
    """The images of one landmark, counted by what became of them.

    Attributes:
        landmark_id: the train landmark.
        name: as published.
        counts: number of images by whether they train and the last word on them.
        images: ids of some, of every fate in turn.
    """

    landmark_id: int
    name: str | None
    counts: list[tuple[str, int]]
    images: list[str]


def summarize_landmarks(store: Store, landmark_ids: Sequence[int], images: int) -> list[LandmarkSummary]:
    """Each landmark with the fates of its train images and at most `images` ids; one without images has none.

    Raises:
        MissingInputError: the ledger has not been made.
    """
    fates: dict[int, dict[str, list[str]]] = {landmark: {} for landmark in landmark_ids}
    columns = ["id", "landmark_id", "status", "reason", "decision", "decision_reason", "in_train"]
    wanted = pa.array(sorted(set(landmark_ids)), pa.int64())
    for part in read_parts(store, IMAGE_LEDGER, columns, {"split": "train"}):
        for row in part.filter(pc.is_in(part["landmark_id"], wanted)).to_pylist():
            fates[row["landmark_id"]].setdefault(_fate(row), []).append(row["id"])
    names = landmark_names(store, landmark_ids)
    found = []
    for landmark in dict.fromkeys(landmark_ids):
        of_fate = dict(sorted(fates[landmark].items(), key=lambda item: (-len(item[1]), item[0])))
        in_turn = [image for turn in zip_longest(*of_fate.values()) for image in turn if image is not None]
        counts = [(fate, len(ids)) for fate, ids in of_fate.items()]
        found.append(
            LandmarkSummary(landmark_id=landmark, name=names.get(landmark), counts=counts, images=in_turn[:images])
        )
    return found


def _fate(row: dict[str, Any]) -> str:
    if row["in_train"]:
        return "trains"
    if row["status"] != "stored":
        return f"{row['status']}: {row['reason']}"
    if row["decision"] is None:
        return "not planned"
    # Reasons name the partner; what they say before it is the kind.
    return f"{row['decision']}: {str(row['decision_reason']).split(' of ')[0]}"


def explanation_lines(found: Explanation) -> str:
    """An explanation for a terminal, one fact a line."""
    facts: list[tuple[str, str]] = []
    facts += [("dropped for it", f"{one.id}: {one.reason}") for one in found.duplicates]
    for pair in found.pairs:
        verdict = "verified" if pair.accepted else f"refused: {pair.refusal}" if pair.refusal else "not verified"
        facts.append(("compared with", f"{pair.id}: {pair.inliers} inliers of {pair.threshold} needed, {verdict}"))
    if found.story.split == "test":
        facts.append(("published", published_text(found)))
        facts += [("answer" if one.rank == 1 else f"candidate {one.rank}", answer_text(one)) for one in found.answers]
        if not found.answers:
            facts.append(("answer", unanswered_text(found)))
    return told(found.story) + "".join(f"{name:>15}  {value}\n" for name, value in facts)


def published_text(found: Explanation) -> str:
    """The published solution of a test image in words."""
    if found.published is None:
        return "no answer is published"
    return ", ".join(map(str, found.published)) or "shows no landmark"


def answer_text(answer: Answer) -> str:
    """One candidate of the submission in words."""
    verdict = {True: ", correct", False: ", incorrect", None: ""}[answer.correct]
    name = f"  {answer.landmark}" if answer.landmark else ""
    return f"{answer.landmark_id}{name}: probability {answer.probability:.3f}{verdict}"


def unanswered_text(found: Explanation) -> str:
    """Why a test image has no answer."""
    if not found.answered:
        return "submission has not been made"
    stored = found.story.stored is not None
    return "none: no candidate landmark was found" if stored else "none: the image is not stored"
