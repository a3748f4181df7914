"""Pages of explanations: Markdown with one contact sheet, small enough for Dagster's event log."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import unquote

from glr_assets.errors import GlrError
from glr_assets.explain.stories import (
    Explanation,
    LandmarkSummary,
    answer_text,
    published_text,
    unanswered_text,
)
from glr_assets.images.reader import ImageReader
from glr_assets.markdown import Markup, code, escape, table
from glr_assets.plots import Thumbnail, gallery
from glr_assets.source.base import Split
from glr_assets.store import Store

#: Bytes of a contact sheet as base64; with the text an event stays below 100 kB.
MAX_PICTURE: Final = 70_000
#: Characters of a page's text.
MAX_TEXT: Final = 25_000
_SIDES: Final = ((128, 70), (96, 60), (96, 30), (64, 20))
_SPLITS: Final[dict[str, Split]] = {"train": "train", "index": "index", "test": "test"}


def explanation_page(store: Store, found: Explanation) -> str:
    """The page of one image: contact sheet, facts, decisions, pairs, nearest images and answers."""
    story = found.story
    parts = [_sheet(store, found)]
    facts = [
        ("landmark", _joined(story.landmark_id, story.landmark)),
        ("file", story.url and (story.url if "://" in story.url else unquote(story.url))),
        ("page", story.page if story.page != story.url else None),
        ("author", story.author or ("not known" if story.split == "train" else None)),
        ("license", story.license or ("not known" if story.split == "train" else None)),
        ("title", story.title),
        ("source", story.source and f"{story.source.path}, {story.source.size} bytes at {story.source.offset}"),
        ("stored", story.stored and f"{story.stored.path}, {story.stored.size} bytes at {story.stored.offset}"),
        ("pixels", f"{story.width}x{story.height}" if story.width else None),
        ("sets", ", ".join(story.sets) or "none"),
    ]
    parts.append(table((f"{story.split} image", Markup(code(story.id))), [row for row in facts if row[1]]))
    parts.append(
        table(
            ("asset", "decision", "reason", "partner"),
            [(one.asset, one.decision, one.reason, one.partner or "") for one in story.decisions],
        )
    )
    if found.duplicates:
        parts.append(table(("dropped for it", "reason"), [(one.id, one.reason) for one in found.duplicates]))
    if found.pairs:
        rows = [
            (one.id, one.inliers, one.threshold, "verified" if one.accepted else one.refusal or "not verified")
            for one in found.pairs
        ]
        parts.append(table(("compared with", "inliers", "needed", "result"), rows))
    if found.nearest:
        rows_near = [
            (one.id, one.split, _joined(one.landmark_id, one.landmark) or "", f"{one.cosine:.3f}")
            for one in found.nearest
        ]
        parts.append(table(("nearest by embedding", "split", "landmark", "cosine"), rows_near))
    if story.split == "test":
        answers = [(str(one.rank), answer_text(one)) for one in found.answers] or [("", unanswered_text(found))]
        parts.append(table(("rank", "answer"), [*answers, ("published", published_text(found))]))
    return _page(parts)


def landmark_page(summary: LandmarkSummary) -> str:
    """The page of one landmark: its images counted by what became of them."""
    name = _joined(summary.landmark_id, summary.name) or ""
    if not summary.counts:
        return escape(f"landmark {name}: no train image is published under this id")
    return table((f"landmark {name}", "train images"), summary.counts)


def summary_page(rows: Iterable[Sequence[object]]) -> str:
    """The page of a whole request: one row an image, and one a name that was not found."""
    return table(("requested", "image", "split", "landmark", "trains", "answer", "problem"), rows)


def _page(parts: Iterable[str]) -> str:
    text, size = [], 0
    for part in parts:
        picture = part.startswith("![")
        if not picture and size + len(part) > MAX_TEXT:
            text.append("The rest is left out: see `glr why`.")
            break
        text.append(part)
        size += 0 if picture else len(part)
    return "\n\n".join(text)


def _joined(*values: object) -> str | None:
    return "  ".join(str(value) for value in values if value is not None) or None


def _sheet(store: Store, found: Explanation) -> str:
    """The image, and in rows below it duplicates, compared pairs and nearest images, of those that are stored."""
    story = found.story
    partners = [one.partner for one in story.decisions if one.partner]
    rows: list[list[tuple[str, str, str, bool | None]]] = [
        [(story.split, story.id, "this image", None)],
        [],
        [],
        [],
        [],
    ]
    rows[1] += [("train", image, "kept instead", True) for image in dict.fromkeys(partners)]
    rows[1] += [("train", one.id, "dropped for it", False) for one in found.duplicates]
    rows[2] += [("train", one.id, f"{one.inliers} of {one.threshold} inliers", one.accepted) for one in found.pairs]
    for one in found.nearest:
        rows[3 if one.split == "train" else 4].append((one.split, one.id, f"cosine {one.cosine:.3f}", None))
    pictures = _read(store, [(split, image) for row in rows for split, image, *_ in row])
    thumbnails = [
        [
            Thumbnail(pictures[split, image], f"{image}\n{caption}", right)
            for split, image, caption, right in row
            if (split, image) in pictures
        ]
        for row in rows
    ]
    thumbnails = [row for row in thumbnails if row]
    if not thumbnails:
        return "No picture of it is stored."
    for side, quality in _SIDES:
        encoded = base64.b64encode(gallery(thumbnails, side=side, quality=quality)).decode()
        if len(encoded) <= MAX_PICTURE:
            break
    else:
        return "The pictures are too large for this page."
    return f"![{code(story.id)}](data:image/jpeg;base64,{encoded})"


def _read(store: Store, images: Iterable[tuple[str, str]]) -> dict[tuple[str, str], bytes]:
    """The stored bytes of images, of those that are stored and whole."""
    by_split: dict[str, list[str]] = {}
    for split, image in images:
        by_split.setdefault(split, []).append(image)
    found: dict[tuple[str, str], bytes] = {}
    for split, ids in by_split.items():
        try:
            reader = ImageReader.of_split(store, _SPLITS[split], sorted(set(ids)))
        except GlrError:
            continue
        present = [image for image in dict.fromkeys(ids) if image in reader]
        for image, data in zip(present, reader.try_rows(map(reader.row, present)), strict=True):
            if not isinstance(data, GlrError):
                found[split, image] = data
    return found
