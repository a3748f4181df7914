"""Which boxes become crops, of which pixels, in which file: all of it known from tables before an image is opened."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.errors import MissingInputError
from glr_assets.openimages import images
from glr_assets.openimages.annotations import ASSET as ANNOTATIONS
from glr_assets.openimages.boxes import USABLE
from glr_assets.openimages.crops import edges_in_pixels
from glr_assets.openimages.images import OBTAINED
from glr_assets.openimages.parts import part_keys
from glr_assets.openimages.photographs import PLACEHOLDER, placeholder_cards
from glr_assets.openimages.schemas import (
    FLAGS,
    OPENIMAGES_ANNOTATIONS,
    OPENIMAGES_CLASSIFIER_DATASET,
    OPENIMAGES_IMAGES,
)
from glr_assets.recipes import OpenImages
from glr_assets.seeded import seeded_hash
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_table, taken

TRAIN: Final = "train"
HELD_OUT: Final = "held_out"
KEPT: Final = "kept"
DROPPED: Final = "dropped"
_BOXES = ["image_id", "box", "label", "category", "subset", "xmin", "xmax", "ymin", "ymax", *FLAGS, "status", "reason"]
_IMAGES = [
    "image_id",
    "status",
    "reason",
    "md5",
    "md5_check",
    "mode",
    "width",
    "height",
    "rotation",
    "author",
    "license",
]
_PLACES = ["stored_offset", "stored_size", "stored_xxh3"]

Numbers = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]


def obtained_images(store: Store, recipe: OpenImages) -> pa.Table:
    """Every part's index, sorted by image, with a column `part`.

    Raises:
        MissingInputError: a part has not been made.
    """
    parts = []
    for part in part_keys(recipe.parts):
        index = read_table(store, OPENIMAGES_IMAGES, [*_IMAGES, *_PLACES], part=part)
        parts.append(index.append_column("part", pa.array([part] * index.num_rows, pa.string())))
    data = pa.concat_tables(parts).combine_chunks()
    return data.take(pa.array(np.argsort(fixed_width(data["image_id"]), kind="stable")))


def dataset_plan(store: Store, index: pa.Table, recipe: OpenImages, seed: int) -> pa.Table:
    """The rows of `OPENIMAGES_CLASSIFIER_DATASET`: a decision on every box of the annotations.

    All boxes of an image, and of images of the same bytes, are in one split; which, is drawn by the first one's id.

    Args:
        store: where the annotations are.
        index: of `obtained_images`.
        recipe: how crops are cut out, how many there are a file, how many images are held out.
        seed: of the splits and of the order in files.

    Raises:
        MissingInputError: the images were obtained for other annotations.
    """
    boxes = read_table(store, OPENIMAGES_ANNOTATIONS, _BOXES).combine_chunks()
    at = places(fixed_width(boxes["image_id"]), fixed_width(index["image_id"]))
    usable = np.asarray(pc.equal(boxes["status"], USABLE).to_numpy(), bool)
    lacking = np.flatnonzero(usable & (at < 0))
    if len(lacking):
        raise MissingInputError(
            f"{images.ASSET} was made for other boxes: of {ANNOTATIONS}, {boxes['image_id'][int(lacking[0])].as_py()} "
            "is not among its images; materialise its partitions again"
        )
    image = taken(index, at)
    reason = np.array(boxes["reason"].to_pylist(), object)
    _drop_images(reason, image, recipe)
    edges = _edges(boxes, image, recipe)
    smaller = np.minimum(edges["right"] - edges["left"], edges["bottom"] - edges["top"])
    small = np.flatnonzero((reason == "") & (smaller < recipe.min_pixels))
    reason[small] = [f"too small: its smaller side has {side} pixels" for side in smaller[small]]
    kept = reason == ""
    split = _splits(boxes["image_id"], _first_of_same_bytes(index), recipe.held_out, seed)
    file, row = _files(boxes["image_id"], split, kept, recipe.boxes_per_file, seed)
    number = {category: place for place, category in enumerate(recipe.categories)}
    found = at >= 0
    columns = {
        **{name: boxes[name] for name in ("image_id", "box", "label", "category", "subset")},
        "class": pa.array([number[category] for category in boxes["category"].to_pylist()], pa.int32()),
        "split": pa.array(split, pa.string(), mask=~found),
        "decision": pa.array(np.where(kept, KEPT, DROPPED), pa.string()),
        "reason": pa.array(reason, pa.string()),
        "file": pa.array(file, pa.string(), mask=~kept),
        "row": pa.array(row, pa.int32(), mask=~kept),
        **{
            name: pa.array(values, pa.int32(), mask=~(found & usable & (smaller >= 0)))
            for name, values in edges.items()
        },
        "rotation": image["rotation"],
        **{flag: _as_boolean(boxes[flag]) for flag in FLAGS},
    }
    return pa.table(columns).select(OPENIMAGES_CLASSIFIER_DATASET.schema.names)


def _drop_images(reason: Texts, image: pa.Table, recipe: OpenImages) -> None:
    """Give boxes [n] without one the reason that their image [n] has."""
    status, told = image["status"].to_pylist(), image["reason"].to_pylist()
    md5, checks, modes = image["md5"].to_pylist(), image["md5_check"].to_pylist(), image["mode"].to_pylist()
    obtained = {
        name: (md5[row], checks[row])
        for row, name in enumerate(image["image_id"].to_pylist())
        if status[row] == OBTAINED
    }
    cards = placeholder_cards(obtained.values(), recipe.placeholder_repeats)
    for row in np.flatnonzero(reason == "").tolist():
        if status[row] != OBTAINED:
            reason[row] = f"image missing: {told[row]}"
        elif md5[row] in cards:
            reason[row] = f"image is a {PLACEHOLDER}: {cards[md5[row]]} images have its bytes, none as published"
        elif recipe.colours == "drop" and modes[row] != "RGB":
            reason[row] = f"image not RGB: {modes[row]}"


def _edges(boxes: pa.Table, image: pa.Table, recipe: OpenImages) -> dict[str, Numbers]:
    """The rectangles [n] of the boxes in pixels of their images as stored; empty where either is not known."""

    def numbers(column: pa.ChunkedArray) -> npt.NDArray:
        return pc.fill_null(column, 0).to_numpy()

    shares = {name: np.clip(numbers(boxes[name]), 0.0, 1.0) for name in ("xmin", "xmax", "ymin", "ymax")}
    width, height = numbers(image["width"]).astype(np.int64), numbers(image["height"]).astype(np.int64)
    left, right = edges_in_pixels(shares["xmin"], shares["xmax"], width, recipe.margin)
    top, bottom = edges_in_pixels(shares["ymin"], shares["ymax"], height, recipe.margin)
    return {"left": left, "top": top, "right": right, "bottom": bottom}


def _first_of_same_bytes(index: pa.Table) -> Mapping[str, str]:
    """Of images whose bytes others have too, the first id of those that share them."""
    first: dict[str, str] = {}
    same: dict[str, str] = {}
    obtained = index.filter(pc.equal(index["status"], OBTAINED))
    for image_id, md5 in zip(obtained["image_id"].to_pylist(), obtained["md5"].to_pylist(), strict=True):
        if first.setdefault(md5, image_id) != image_id:
            same[image_id] = first[md5]
    return same


def _splits(images_of: pa.ChunkedArray, same: Mapping[str, str], held_out: float, seed: int) -> Texts:
    """The split [n] of each box, by its image's id and the seed alone."""
    ids = pa.chunked_array([[same.get(image_id, image_id) for image_id in images_of.to_pylist()]], pa.string())
    drawn = seeded_hash(ids, seed, "openimages held out") >> np.uint64(11)
    return np.where(drawn.astype(np.float64) / 2**53 < held_out, HELD_OUT, TRAIN).astype(object)


def _files(
    images_of: pa.ChunkedArray, split: Texts, kept: npt.NDArray[np.bool_], most: int, seed: int
) -> tuple[Texts, Numbers]:
    """The file [n] of each kept box and its row there: images in a drawn order, their boxes together."""
    file, row = np.full(len(split), "", object), np.zeros(len(split), np.int64)
    order = seeded_hash(images_of, seed, "openimages order")
    names = fixed_width(images_of)
    for name in (TRAIN, HELD_OUT):
        here = np.flatnonzero(kept & (split == name))
        here = here[np.lexsort((here, names[here], order[here]))]
        # Files of one size, but for one crop more or less.
        count = math.ceil(len(here) / most)
        number = np.arange(len(here)) * count // max(len(here), 1)
        starts = np.flatnonzero(np.r_[True, np.diff(number) > 0]) if len(here) else np.zeros(0, np.int64)
        row[here] = np.arange(len(here)) - starts[number]
        file[here] = [f"{name}-{value:06d}" for value in number]
    return file, row


def _as_boolean(flag: pa.ChunkedArray) -> pa.ChunkedArray:
    """1 and 0 as true and false; absent where nobody told."""
    return pc.if_else(pc.equal(flag, -1), None, flag).cast(pa.bool_())
