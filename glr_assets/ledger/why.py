"""Everything known of one image, from its publication to the sets it ended in."""

from __future__ import annotations

import unicodedata
from functools import reduce
from itertools import groupby
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from glr_assets.errors import GlrError
from glr_assets.images.schemas import IMAGE_INDEX, STORED_TAR
from glr_assets.ledger.schemas import IMAGE_LEDGER
from glr_assets.metadata.schemas import (
    INDEX_METADATA,
    LANDMARK_LABELS,
    TEST_METADATA,
    TRAIN_ATTRIBUTION,
    TRAIN_METADATA,
)
from glr_assets.store import Store
from glr_assets.tables import Table, read_parts, read_table


class Decision(BaseModel):
    """One decision on an image: which asset made it, what it was and why."""

    asset: str
    version: str | None
    decision: str
    reason: str
    partner: str | None = None
    distance: int | None = None


class Place(BaseModel):
    """Where bytes lie: a file, and a range in it."""

    path: str
    offset: int
    size: int


class ImageStory(BaseModel):
    """What is known of one image of one split."""

    id: str
    split: str
    landmark_id: int | None
    landmark: str | None
    index_landmark_id: int | None
    url: str | None
    page: str | None
    author: str | None
    license: str | None
    title: str | None
    shard: str | None
    source: Place | None
    stored: Place | None
    width: int | None
    height: int | None
    dhash: str | None
    decisions: list[Decision]
    sets: list[str]


class Dropped(BaseModel):
    """An image that does not train although it was planned to, or that could not be stored."""

    id: str
    split: str
    landmark_id: int | None
    landmark: str | None
    file: str | None
    decision: str
    reason: str
    partner: str | None = None


def why(store: Store, image: str) -> list[ImageStory]:
    """The story of each image that an id, a file name, a path, a title or a URL names, in each split that has it.

    Raises:
        MissingInputError: the ledger has not been made.
        GlrError: no table and no shard names such an image.
    """
    ledger = _rows(store, IMAGE_LEDGER, "id", image) if _is_text(image) else []
    if not ledger:
        named = image_ids(store, image)
        ledger = [row for name in named for row in _rows(store, IMAGE_LEDGER, "id", name)]
    if not ledger:
        raise GlrError(
            f"image {image!r}: no table and no ingested shard of {store.url} names it, by id, file name, title or URL; "
            "check the letters, or ingest its shard"
        )
    return [_story(store, row) for row in ledger]


def image_ids(store: Store, name: str) -> list[str]:
    """The ids of images of that file name, path, title or URL, sorted; case and percent-encoding do not matter."""
    wanted = _plain(name)
    last = wanted.rpartition("/")[2]
    try:
        encoded = quote(last, safe="()',!*", errors="surrogateescape").lower()
    except UnicodeEncodeError:  # a surrogate that stands for no byte is in no name
        return []
    # A name that is not UTF-8 stands in no table but percent-encoded.
    words = [last, encoded] if _is_text(last) else [encoded]
    found: set[str] = set()
    tables: tuple[tuple[Table, tuple[str, ...]], ...] = (
        (TRAIN_METADATA, ("url",)),
        (TRAIN_ATTRIBUTION, ("title", "url")),
        (INDEX_METADATA, ("url",)),
        (TEST_METADATA, ("url",)),
    )
    for table, columns in tables:
        for part in read_parts(store, table, ["id", *columns]):
            for column in columns:
                # Of millions of rows only those that hold the last word, however encoded, are looked at one by one.
                values = pc.utf8_lower(pc.fill_null(part[column], ""))
                rows = part.filter(reduce(pc.or_, [pc.match_substring(values, word) for word in words]))
                for image_id, value in zip(rows["id"].to_pylist(), rows[column].to_pylist(), strict=True):
                    plain = _plain(value or "")
                    if wanted and (plain == wanted or plain.endswith("/" + wanted)):
                        found.add(image_id)
    return sorted(found)


def _plain(name: str) -> str:
    """A name as names are compared; bytes that are not UTF-8, of an argument or percent-encoded, are surrogates."""
    decoded = unquote(name, errors="surrogateescape")
    return unicodedata.normalize("NFC", decoded).casefold().strip().strip("/").removeprefix("./")


def _is_text(name: str) -> bool:
    """Whether a name is text of Unicode; an argument of other bytes holds surrogates, which Arrow cannot take."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def dropped(store: Store, landmark: str | None = None, reason: str | None = None) -> list[Dropped]:
    """The images that were planned to train and do not, and those of any split that could not be stored.

    Args:
        store: what was made.
        landmark: only of this landmark: its id, or a part of its name.
        reason: only for reasons with these words.

    Raises:
        MissingInputError: the ledger has not been made.
        GlrError: no landmark has that id or name.
    """
    names = {row["landmark_id"]: row["name"] for row in read_table(store, LANDMARK_LABELS).to_pylist()}
    columns = ["id", "split", "landmark_id", "status", "reason", "decision", "decision_reason", "partner"]
    asked = None if landmark is None else {of for of, name in names.items() if _is_of(landmark, of, name)}
    found: list[Dropped] = []
    for part in read_parts(store, IMAGE_LEDGER, columns):
        if landmark is not None and asked is not None:
            # A landmark may have images and no row of its own.
            asked |= {of for of in pc.unique(part["landmark_id"]).to_pylist() if of is not None and landmark == str(of)}
        out = pc.or_kleene(
            pc.equal(part["status"], "failed"), pc.is_in(part["decision"], pa.array(["dropped", "failed"]))
        )
        for row in part.filter(pc.fill_null(out, False)).to_pylist():
            failed = row["status"] == "failed"
            told = row["reason"] if failed else row["decision_reason"] or ""
            name = names.get(row["landmark_id"])
            if asked is not None and row["landmark_id"] not in asked:
                continue
            if reason is not None and reason.casefold() not in told.casefold():
                continue
            found.append(
                Dropped(
                    **{key: row[key] for key in ("id", "split", "landmark_id")},
                    landmark=name,
                    file=None,
                    decision="failed" if failed else row["decision"],
                    reason=told,
                    partner=None if failed else row["partner"],
                )
            )
    if asked is not None and not asked:
        raise GlrError(
            f"landmark {landmark!r}: no landmark of {store.url} has this id, or a name with this part; "
            "check the letters, or leave --landmark out"
        )
    return _with_files(store, found)


def _is_of(landmark: str, landmark_id: int, name: str | None) -> bool:
    return landmark == str(landmark_id) or (name is not None and landmark.casefold() in name.casefold())


def _with_files(store: Store, images: list[Dropped]) -> list[Dropped]:
    """The images with their file's path, where the tables tell it."""
    files: dict[tuple[str, str], str] = {}
    for split, table in (("train", TRAIN_METADATA), ("index", INDEX_METADATA), ("test", TEST_METADATA)):
        ids = pa.array([image.id for image in images if image.split == split], pa.string())
        for part in read_parts(store, table, ["id", "url"]) if len(ids) else ():
            rows = part.filter(pc.is_in(part["id"], ids))
            files |= {(split, row["id"]): unquote(row["url"]) for row in rows.to_pylist() if row["url"]}
    return [image.model_copy(update={"file": files.get((image.split, image.id))}) for image in images]


def dropped_lines(images: list[Dropped]) -> str:
    """Dropped images for a terminal, by landmark, and how many there are."""
    lines = []
    for name, group in groupby(
        sorted(images, key=lambda image: (image.landmark or "", image.id)), key=lambda image: image.landmark
    ):
        lines.append(f"{name or 'without landmark'}")
        lines += [f"  {image.id}  {image.file or ''}  {image.decision}: {image.reason}" for image in group]
    return "\n".join([*lines, f"{len(images)} images"]) + "\n"


def _story(store: Store, row: dict[str, Any]) -> ImageStory:
    image_id, split = row["id"], row["split"]
    member = _member(store, row)
    train = split == "train"
    published = (_rows(store, TRAIN_METADATA, "id", image_id) if train else []) or [{}]
    attribution = (_rows(store, TRAIN_ATTRIBUTION, "id", image_id) if train else []) or [{}]
    of_index = (_rows(store, INDEX_METADATA, "id", image_id) if split == "index" else []) or [{}]
    of_test = (_rows(store, TEST_METADATA, "id", image_id) if split == "test" else []) or [{}]
    labels = _rows(store, LANDMARK_LABELS, "landmark_id", row["landmark_id"]) if row["landmark_id"] is not None else []
    return ImageStory(
        id=image_id,
        split=split,
        landmark_id=row["landmark_id"],
        landmark=labels[0]["name"] if labels else None,
        index_landmark_id=of_index[0].get("index_landmark_id"),
        url=published[0].get("url") or of_index[0].get("url") or of_test[0].get("url"),
        page=attribution[0].get("url") or None,
        **{key: attribution[0].get(key) or None for key in ("author", "license", "title")},
        shard=row["shard"],
        source=_place(member, "source_path", "source"),
        stored=_stored_place(member, split, row["shard"]),
        width=member.get("width"),
        height=member.get("height"),
        dhash=f"{member['dhash']:016x}" if member.get("dhash") is not None else None,
        decisions=[Decision(**decision) for decision in row["decisions"]],
        sets=_sets(row),
    )


def _member(store: Store, row: dict[str, Any]) -> dict[str, Any]:
    """The image's row in the index of its shard: the stored member's, else the first's."""
    if row["shard"] is None:
        return {}
    index = read_table(store, IMAGE_INDEX, split=row["split"], shard=row["shard"])
    members = index.filter(pc.equal(index["id"], row["id"])).to_pylist()
    return next((member for member in members if member["status"] == row["status"]), members[0] if members else {})


def _sets(row: dict[str, Any]) -> list[str]:
    found = []
    if row["decision"] == "kept":
        found.append("deduped_manifest" if row["planned"] == "competition" else "train_extra")
    if row["in_train"]:
        found.append("train_manifest")
    if row["in_cleaned"]:
        found.append("cleaned_manifest")
    if row["in_filtered"]:
        found.append("non_landmark_filter")
    if row["split"] != "train" and row["status"] == "stored":
        found.append(f"{row['split']}_images")
    return found


def _place(member: dict[str, Any], path_column: str, prefix: str) -> Place | None:
    if not member:
        return None
    return Place(path=member[path_column], offset=member[f"{prefix}_offset"], size=member[f"{prefix}_size"])


def _stored_place(member: dict[str, Any], split: str, shard: str | None) -> Place | None:
    if member.get("stored_offset") is None:
        return None
    path = STORED_TAR.format(split=split, shard=shard)
    return Place(path=path, offset=member["stored_offset"], size=member["stored_size"])


def _rows(store: Store, table: Table, key: str, value: object) -> list[dict[str, Any]]:
    """The rows of a table with that key; of a table sorted by it, one row group is read."""
    return [row for part in read_parts(store, table, table.schema.names, {key: value}) for row in part.to_pylist()]


def told(story: ImageStory) -> str:
    """A story for a terminal, one fact a line."""
    facts: dict[str, str | None] = {
        "image": f"{story.id}  ({story.split})",
        "landmark": _joined(story.landmark_id, story.landmark),
        "index landmark": _joined(story.index_landmark_id),
        **({"published at": story.url} if "://" in (story.url or "") else {"file": unquote(story.url or "")}),
        "page": story.page if story.page != story.url else None,
        "author": story.author or ("not known" if story.split == "train" else None),
        "licence": story.license or ("not known" if story.split == "train" else None),
        "title": story.title,
        "source": _told_place(story.source),
        "stored": _told_place(story.stored),
        "pixels": f"{story.width}x{story.height}" if story.width else None,
        "dhash": story.dhash,
    }
    lines = [f"{name:>15}  {value}" for name, value in facts.items() if value]
    lines.append(f"{'decisions':>15}")
    for decision in story.decisions:
        told_already = decision.partner is None or decision.partner in decision.reason
        partner = "" if told_already else f"; most like {decision.partner}"
        distance = "" if told_already or decision.distance is None else f", {decision.distance} bits of dhash apart"
        version = f"  [{decision.version}]" if decision.version else ""
        lines.append(f"{'':>17}{decision.asset}: {decision.decision}: {decision.reason}{partner}{distance}{version}")
    lines.append(f"{'sets':>15}  {', '.join(story.sets) or 'none'}")
    return "\n".join(lines) + "\n"


def _joined(*values: object) -> str | None:
    return "  ".join(str(value) for value in values if value is not None) or None


def _told_place(place: Place | None) -> str | None:
    return f"{place.path}, {place.size} bytes at {place.offset}" if place else None
