"""`openimages_annotations`: the boxes of the wanted categories, with the rights, MD5 and rotation of their images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.csv_structure import UNTERMINATED
from glr_assets.openimages.boxes import USABLE, judged_boxes, read_boxes
from glr_assets.openimages.csv_stream import matching_rows, numbers
from glr_assets.openimages.labels import Labels, wanted_labels
from glr_assets.openimages.layout import BOXES, CLASS_DESCRIPTIONS, HIERARCHY, IMAGES, Subset
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.openimages.schemas import OPENIMAGES_ANNOTATIONS
from glr_assets.receipts import Made, Summary, Writer, make
from glr_assets.recipes import OpenImages
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, taken

CODE_VERSION = "3"
ASSET = "openimages_annotations"
#: Columns of an image table, and what they are called here.
_RIGHTS = {
    "OriginalURL": "url",
    "OriginalLandingURL": "landing_url",
    "Author": "author",
    "License": "license",
    "Title": "title",
    "OriginalMD5": "original_md5",
    "OriginalSize": "original_size",
    "Rotation": "rotation",
}
#: What changes which rows there are, or what they say.
DECIDED_BY: Final = frozenset({"categories", "subcategories", "subsets", "sources", "min_confidence", "most_boxes"})


def make_openimages_annotations(root: OpenImagesRoot, store: Store, recipe: OpenImages, seed: int) -> Made:
    """Select the wanted boxes of the published files, which are read in blocks, and join their images' rows.

    Raises:
        RecipeError: a category is not in the class descriptions.
        SourceError: a published file is not there.
        TableError: one is damaged, or lacks a column.
    """
    labels = wanted_labels(root, recipe.categories, subcategories=recipe.subcategories)
    files = [root.find(CLASS_DESCRIPTIONS)]
    files += [root.find(HIERARCHY)] if recipe.subcategories else []
    files += [root.find(names[subset]) for subset in recipe.subsets for names in (BOXES, IMAGES)]

    def build(writer: Writer) -> Summary:
        read = read_boxes(root, recipe.subsets, list(labels.categories))
        boxes = judged_boxes(read.rows, labels.categories, recipe, seed)
        data = _with_images(root, boxes, recipe.subsets, read.unterminated)
        writer.table(OPENIMAGES_ANNOTATIONS, data.select(OPENIMAGES_ANNOTATIONS.schema.names))
        figures = _summary(data, read.seen, labels, recipe)
        return figures | ({UNTERMINATED: ", ".join(read.unterminated)} if read.unterminated else {})

    return make(
        store,
        ASSET,
        inputs={f"openimages:{name}": root.table_digest(name) for name in files},
        parameters=recipe.model_dump(include=set(DECIDED_BY)) | {"seed": seed if recipe.most_boxes else None},
        code_version=CODE_VERSION,
        build=build,
    )


def _with_images(root: OpenImagesRoot, boxes: pa.Table, subsets: Sequence[Subset], unterminated: list[str]) -> pa.Table:
    """The boxes with what their subset's image table says of their images; absent where it says nothing."""
    found = []
    for subset in subsets:
        of_subset = boxes["image_id"].filter(pc.equal(boxes["subset"], subset))
        ids = np.unique(fixed_width(of_subset))
        images = _images(root, subset, ids, unterminated)
        found.append(images.append_column("subset", pa.array([subset] * len(ids), pa.string())))
    images = pa.concat_tables(found)
    at = places(_keys(boxes), _keys(images))
    columns = taken(images, at)
    for name in _RIGHTS.values():
        boxes = boxes.append_column(name, columns[name])
    return boxes


def _keys(data: pa.Table) -> npt.NDArray[np.bytes_]:
    return fixed_width(pc.binary_join_element_wise(data["subset"], data["image_id"], "\x01"))


def _images(root: OpenImagesRoot, subset: Subset, ids: npt.NDArray[np.bytes_], unterminated: list[str]) -> pa.Table:
    """One row per wanted image, in the order of `ids` [n]; of repeated rows of an image the first."""

    def wanted(batch: pa.RecordBatch) -> pa.Array:
        return pa.array(places(fixed_width(batch["ImageID"]), ids) >= 0)

    columns = ["ImageID", *_RIGHTS]
    rows, _ = matching_rows(
        root,
        root.find(IMAGES[subset]),
        columns,
        wanted,
        optional=["Rotation"],
        newlines_in_values=True,
        unterminated=unterminated,
    )
    listed = fixed_width(rows["ImageID"])
    order = np.argsort(listed, kind="stable")
    first = np.ones(len(order), bool)
    first[1:] = listed[order][1:] != listed[order][:-1]
    order = order[first]
    at = places(ids, listed[order])
    data = taken(rows, np.where(at >= 0, order[np.maximum(at, 0)] if len(order) else at, -1))
    named = {
        here: pc.if_else(pc.equal(pc.utf8_trim_whitespace(data[name]), ""), None, data[name])
        for name, here in _RIGHTS.items()
    }
    named["original_size"] = _whole(named["original_size"], pa.int64())
    named["rotation"] = _whole(named["rotation"], pa.int16(), pa.array([0.0, 90.0, 180.0, 270.0]))
    return pa.table({"image_id": pa.array([image_id.decode() for image_id in ids.tolist()], pa.string()), **named})


def _whole(texts: pa.ChunkedArray, kind: pa.DataType, among: pa.Array | None = None) -> pa.ChunkedArray:
    """Whole numbers, written as such or as `90.0`; absent where there is none, as the published `nan`."""
    values = numbers(texts)
    whole = pc.and_(pc.equal(values, pc.floor(values)), pc.greater_equal(values, 0.0))
    if among is not None:
        whole = pc.and_(whole, pc.is_in(values, value_set=among))
    return pc.if_else(whole, values, None).cast(kind)


def _summary(data: pa.Table, seen: int, labels: Labels, recipe: OpenImages) -> Summary:
    statuses = Counter(data["status"].to_pylist())
    usable = data.filter(pc.equal(data["status"], USABLE))
    by_category = Counter(usable["category"].to_pylist())
    reasons = Counter(reason.split(":")[0] for reason in data["reason"].to_pylist() if reason)
    counts = {f"boxes: {category}": by_category[category] for category in recipe.categories}
    return {
        "rows": data.num_rows,
        "published_rows": seen,
        **{status: statuses[status] for status in ("usable", "skipped", "refused")},
        "repeated_rows": int(pc.sum(data["copies"]).as_py() or 0) - data.num_rows,
        "images": pc.count_distinct(usable["image_id"]).as_py(),
        "boxes_without_url": int(pc.sum(data["url"].is_null()).as_py() or 0),
        **counts,
        "categories_without_boxes": ", ".join(name for name in recipe.categories if not by_category[name]),
        "categories_of_several_labels": ", ".join(labels.shared),
        "labels_below_categories": len(labels.below),
        **{f"reason: {reason}": count for reason, count in sorted(reasons.items())},
    }
