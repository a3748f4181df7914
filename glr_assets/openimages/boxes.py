"""Box rows of the wanted categories: read, judged, sorted, each once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.openimages.csv_stream import matching_rows, numbers
from glr_assets.openimages.layout import BOX_COLUMNS, BOXES, COORDINATES, Subset
from glr_assets.openimages.layout import FLAGS as PUBLISHED_FLAGS
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.openimages.schemas import FLAGS
from glr_assets.recipes import OpenImages
from glr_assets.seeded import seeded_hash
from glr_assets.tables import fixed_width

USABLE: Final = "usable"
SKIPPED: Final = "skipped"
REFUSED: Final = "refused"
BEYOND: Final = "beyond most_boxes of its category"
#: As the project's other ids: what cannot lead out of a folder.
_ID: Final = "^[0-9A-Za-z_-]{1,64}$"
_EDGES: Final = ("xmin", "xmax", "ymin", "ymax")

Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Read:
    """What was read: a table of text with `subset`, how many rows the files have, and which may be cut at their end."""

    rows: pa.Table
    seen: int
    unterminated: list[str]


def read_boxes(root: OpenImagesRoot, subsets: Sequence[Subset], labels: Sequence[str]) -> Read:
    """The published box rows of these labels, of all subsets; no more than these is in memory.

    Raises:
        SourceError: a subset's file is not there.
        TableError: one lacks a column, or is damaged; see `csv_structure`.
    """
    values = pa.array(labels, pa.string())
    parts, seen, unterminated = [], 0, list[str]()
    for subset in subsets:
        found, rows = matching_rows(
            root,
            root.find(BOXES[subset]),
            BOX_COLUMNS,
            lambda batch: pc.is_in(batch["LabelName"], value_set=values),
            unterminated=unterminated,
        )
        parts.append(found.append_column("subset", pa.array([subset] * found.num_rows, pa.string())))
        seen += rows
    return Read(pa.concat_tables(parts), seen, unterminated)


def judged_boxes(rows: pa.Table, categories: Mapping[str, str], recipe: OpenImages, seed: int) -> pa.Table:
    """One row per distinct published row, in the order of image, label and edges, with status and reason.

    Rows that stand word for word several times become one that counts its `copies`. Of rows that give one box of a
    category and an image several times with other flags, the first in the order of their text is used.

    Args:
        rows: of `read_boxes`.
        categories: display name of its category by label.
        recipe: which sources, which confidence, how many boxes of a category.
        seed: of the draw where there are more.

    Returns:
        The columns of `OPENIMAGES_ANNOTATIONS` up to `reason`.
    """
    edges = {edge: numbers(rows[name]) for edge, name in zip(_EDGES, COORDINATES, strict=True)}
    data = rows.append_column("confidence", numbers(rows["Confidence"]))
    for edge, values in edges.items():
        data = data.append_column(edge, values)
    keys = ["ImageID", "LabelName", *_EDGES, "subset", "Source", "Confidence", *PUBLISHED_FLAGS, *COORDINATES]
    data = data.take(pc.sort_indices(data, [(key, "ascending") for key in keys])).combine_chunks()
    texts = [*BOX_COLUMNS, "subset"]
    first = ~_as_before(data, texts)
    starts = np.flatnonzero(first)
    copies = np.diff(np.r_[starts, len(first)])
    data = data.take(pa.array(starts)).combine_chunks()
    flags = {flag: numbers(data[name]) for flag, name in zip(FLAGS, PUBLISHED_FLAGS, strict=True)}
    reason = _reasons(data, flags, recipe)
    category = pc.take(
        pa.array(list(categories.values()), pa.string()),
        pc.index_in(data["LabelName"], value_set=pa.array(list(categories), pa.string())),
    )
    _refuse_contradictions(data.append_column("category", category), reason)
    status = np.where(reason == "", USABLE, REFUSED).astype(object)
    if recipe.most_boxes:
        beyond = _beyond(data["ImageID"], category, status == USABLE, recipe.most_boxes, seed)
        status[beyond], reason[beyond] = SKIPPED, BEYOND
    told = {flag: pc.if_else(_is_flag(values), values, None).cast(pa.int8()) for flag, values in flags.items()}
    return pa.table(
        {
            "image_id": data["ImageID"],
            "box": _numbered(data["ImageID"]),
            "label": data["LabelName"],
            "category": category,
            "subset": data["subset"],
            "source": data["Source"],
            "confidence": data["confidence"],
            **{edge: data[edge] for edge in _EDGES},
            **told,
            "copies": pa.array(copies, pa.int32()),
            "status": pa.array(status, pa.string()),
            "reason": pa.array(reason, pa.string()),
        }
    )


def _as_before(data: pa.Table, columns: Sequence[str]) -> Flags:
    """Whether a row [n] has in these columns the values of the row before it."""
    same = np.ones(data.num_rows, bool)
    same[:1] = False
    for column in columns:
        values = data[column]
        equal = pc.equal(values.slice(1), values.slice(0, max(len(values) - 1, 0)))
        same[1:] &= pc.fill_null(equal, False).to_numpy()
    return same


def _reasons(data: pa.Table, flags: Mapping[str, pa.ChunkedArray], recipe: OpenImages) -> npt.NDArray[np.object_]:
    """Why a row [n] cannot be used; empty where it can. Of several reasons the first told here counts."""
    reason = np.full(data.num_rows, "", object)

    def refuse(wrong: Flags, text: str, values: pa.ChunkedArray | None = None) -> None:
        at = np.flatnonzero(wrong & (reason == ""))
        told = values.take(pa.array(at)).to_pylist() if values is not None else [""] * len(at)
        reason[at] = [text.format(value) for value in told]

    refuse(~_boolean(pc.match_substring_regex(data["ImageID"], _ID)), "malformed: ImageID is {!r}", data["ImageID"])
    for name, column in (*zip(COORDINATES, _EDGES, strict=True), ("Confidence", "confidence")):
        refuse(_boolean(data[column].is_null()), f"malformed: {name} is {{!r}}", data[name])
    for name, values in zip(PUBLISHED_FLAGS, flags.values(), strict=True):
        refuse(~_boolean(_is_flag(values)), f"malformed: {name} is {{!r}}", data[name])
    left, right, top, bottom = (pc.fill_null(data[edge], 0.0).to_numpy() for edge in _EDGES)
    refuse((np.minimum(left, top) < 0) | (np.maximum(right, bottom) > 1), "outside the image: an edge beyond 0…1")
    refuse((left > right) | (top > bottom), "reversed: an edge beyond its opposite")
    refuse((left == right) | (top == bottom), "zero area")
    if recipe.sources:
        refuse(~_boolean(pc.is_in(data["Source"], value_set=pa.array(recipe.sources))), "source: {}", data["Source"])
    confidence = pc.fill_null(data["confidence"], 0.0).to_numpy()
    refuse(confidence < recipe.min_confidence, "confidence: {}", data["confidence"])
    for name, values in zip(PUBLISHED_FLAGS, flags.values(), strict=True):
        refuse(_boolean(pc.equal(values, -1)), f"flags not told: {name} is -1")
    return reason


def _is_flag(values: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.fill_null(pc.is_in(values, value_set=pa.array([-1.0, 0.0, 1.0])), False)


def _boolean(values: pa.Array | pa.ChunkedArray) -> Flags:
    return np.asarray(pc.fill_null(values, False).to_numpy(zero_copy_only=False), bool)


def _refuse_contradictions(data: pa.Table, reason: npt.NDArray[np.object_]) -> None:
    """Of usable rows of one box all but the first get a reason."""
    box = ["ImageID", "category", *_EDGES]
    usable = np.flatnonzero(reason == "")
    rows = data.take(pa.array(usable)).append_column("place", pa.array(np.arange(len(usable))))
    rows = rows.take(pc.sort_indices(rows, [(key, "ascending") for key in (*box, "place")])).combine_chunks()
    again = usable[rows["place"].to_numpy()[_as_before(rows, box)]]
    reason[again] = "repeated box: another row of it is used, of other flags, source, subset or label"


def _beyond(images: pa.ChunkedArray, category: pa.Array, usable: Flags, most: int, seed: int) -> Flags:
    """Which usable rows [n] are beyond `most` of their category, images in an order drawn by their id.

    One order for all categories: an image that gives boxes to several is read once.
    """
    at = np.flatnonzero(usable)
    here = images.take(pa.array(at))
    number = category.take(pa.array(at)).combine_chunks().dictionary_encode().indices.to_numpy()
    order = np.lexsort((at, fixed_width(here), seeded_hash(here, seed, "openimages boxes"), number))
    starts = np.flatnonzero(np.r_[True, np.diff(number[order]) > 0])
    place = np.arange(len(order)) - np.repeat(starts, np.diff(np.r_[starts, len(order)]))
    beyond = np.zeros(len(usable), bool)
    beyond[at[order[place >= most]]] = True
    return beyond


def _numbered(images: pa.ChunkedArray) -> pa.Array:
    """Of sorted images [n] the number of each row among those of its image."""
    count = len(images)
    first = ~_as_before(pa.table({"image": images}), ["image"])
    starts = np.flatnonzero(first)
    return pa.array(np.arange(count) - np.repeat(starts, np.diff(np.r_[starts, count])), pa.int32())
