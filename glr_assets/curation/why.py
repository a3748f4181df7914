"""Everything known of one image, from its publication to the sets it ended in."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from glr_assets.curation.schemas import DEDUPED_MANIFEST, IMAGE_LEDGER
from glr_assets.errors import GlrError, MissingInputError
from glr_assets.images.schemas import IMAGE_CATALOG, STORED_TAR
from glr_assets.metadata.schemas import INDEX_METADATA, LANDMARK_LABELS, TRAIN_ATTRIBUTION, TRAIN_METADATA
from glr_assets.receipts import find_receipt
from glr_assets.store import Store
from glr_assets.tables import Table


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


def why(store: Store, image_id: str) -> list[ImageStory]:
    """The story of an image in each split that names it, usually one.

    Raises:
        MissingInputError: the ledger has not been made.
        GlrError: no table and no shard names the image.
    """
    ledger = _rows(store, IMAGE_LEDGER, pc.field("id") == image_id)
    if not ledger:
        raise GlrError(
            f"image {image_id!r}: no table and no ingested shard of {store.url} names it; "
            "check the id (letters matter), or ingest its shard"
        )
    return [_story(store, row) for row in ledger]


def _story(store: Store, row: dict[str, Any]) -> ImageStory:
    image_id, split = row["id"], row["split"]
    this = pc.field("id") == image_id
    members = _rows(store, IMAGE_CATALOG, this & (pc.field("split") == split))
    member = next((m for m in members if m["status"] == "stored"), members[0] if members else {})
    train = split == "train"
    published = (_rows(store, TRAIN_METADATA, this) if train else []) or [{}]
    attribution = (_rows(store, TRAIN_ATTRIBUTION, this) if train else []) or [{}]
    of_index = (_rows(store, INDEX_METADATA, this) if split == "index" else []) or [{}]
    labels = _rows(store, LANDMARK_LABELS, pc.field("landmark_id") == (row["landmark_id"] if train else None))
    return ImageStory(
        id=image_id,
        split=split,
        landmark_id=row["landmark_id"],
        landmark=labels[0]["name"] if labels else None,
        index_landmark_id=of_index[0].get("index_landmark_id"),
        url=published[0].get("url") or attribution[0].get("url"),
        **{key: attribution[0].get(key) for key in ("author", "license", "title")},
        shard=row["shard"],
        source=_place(member, "source_path", "source"),
        stored=_stored_place(member, split),
        width=member.get("width"),
        height=member.get("height"),
        dhash=f"{member['dhash']:016x}" if member.get("dhash") is not None else None,
        decisions=_decisions(store, row),
        sets=_sets(row),
    )


def _decisions(store: Store, row: dict[str, Any]) -> list[Decision]:
    split, shard = row["split"], row["shard"]
    found = []
    if row["planned"]:
        asset = "competition_train" if row["planned"] == "competition" else "fill_plan"
        words = {
            "competition": "in the competition's train set",
            "extra": "planned to fill its class",
            "reserve": "held in reserve for its class",
        }
        found.append(_decision(store, asset, row["planned"], words[row["planned"]]))
    ingest = f"{split}_images/{shard}" if shard else f"{split}_images"
    found.append(_decision(store, ingest, row["status"], row["reason"] or "downsized and stored"))
    if row["decision"]:
        asset = "deduped_manifest" if row["planned"] == "competition" else "train_extra"
        distance = None
        if row["partner"]:
            distance = _rows(store, DEDUPED_MANIFEST, pc.field("id") == row["id"])[0]["distance"]
        found.append(
            _decision(store, asset, row["decision"], row["decision_reason"], partner=row["partner"], distance=distance)
        )
    return found


def _decision(store: Store, asset: str, decision: str, reason: str, **more: Any) -> Decision:
    receipt = find_receipt(store, asset)
    return Decision(
        asset=asset, version=receipt.digest[:12] if receipt else None, decision=decision, reason=reason, **more
    )


def _sets(row: dict[str, Any]) -> list[str]:
    found = []
    if row["decision"] == "kept":
        found.append("deduped_manifest" if row["planned"] == "competition" else "train_extra")
    if row["in_train"]:
        found.append("train_manifest")
    if row["split"] != "train" and row["status"] == "stored":
        found.append(f"{row['split']}_images")
    return found


def _place(member: dict[str, Any], path_column: str, prefix: str) -> Place | None:
    if not member:
        return None
    return Place(path=member[path_column], offset=member[f"{prefix}_offset"], size=member[f"{prefix}_size"])


def _stored_place(member: dict[str, Any], split: str) -> Place | None:
    if member.get("stored_offset") is None:
        return None
    path = STORED_TAR.format(split=split, shard=member["shard"])
    return Place(path=path, offset=member["stored_offset"], size=member["stored_size"])


def _rows(store: Store, table: Table, wanted: pc.Expression) -> list[dict[str, Any]]:
    """The rows of a table that fit an expression, read without loading the others into Python."""
    import pyarrow.dataset as ds
    import pyarrow.fs as pafs

    path = table.path
    if not store.exists(path):
        raise MissingInputError(f"{store.full_url(path)} is missing: materialise the asset that writes it first")
    filesystem = pafs.PyFileSystem(pafs.FSSpecHandler(store.fs))
    data: pa.Table = ds.dataset(store.path(path), filesystem=filesystem, format="parquet").to_table(filter=wanted)
    return data.to_pylist()


def told(story: ImageStory) -> str:
    """A story for a terminal, one fact a line."""
    facts: dict[str, str | None] = {
        "image": f"{story.id}  ({story.split})",
        "landmark": _joined(story.landmark_id, story.landmark),
        "index landmark": _joined(story.index_landmark_id),
        "published at": story.url,
        "author": story.author,
        "licence": story.license,
        "title": story.title,
        "source": _told_place(story.source),
        "stored": _told_place(story.stored),
        "pixels": f"{story.width}x{story.height}" if story.width else None,
        "dhash": story.dhash,
    }
    lines = [f"{name:>15}  {value}" for name, value in facts.items() if value]
    lines.append(f"{'decisions':>15}")
    for decision in story.decisions:
        partner = f"; most like {decision.partner}" if decision.partner else ""
        distance = f", {decision.distance} bits of dhash apart" if decision.distance is not None else ""
        version = f"  [{decision.version}]" if decision.version else ""
        lines.append(f"{'':>17}{decision.asset}: {decision.decision}: {decision.reason}{partner}{distance}{version}")
    lines.append(f"{'sets':>15}  {', '.join(story.sets) or 'none'}")
    return "\n".join(lines) + "\n"


def _joined(*values: object) -> str | None:
    return "  ".join(str(value) for value in values if value is not None) or None


def _told_place(place: Place | None) -> str | None:
    return f"{place.path}, {place.size} bytes at {place.offset}" if place else None
