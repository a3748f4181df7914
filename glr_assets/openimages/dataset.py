"""`openimages_classifier_dataset`: a labelled crop of every usable box, file by file, and a decision on every box."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.openimages import images
from glr_assets.openimages.annotations import ASSET as ANNOTATIONS
from glr_assets.openimages.crop_files import ASSET, Crop, CropImage, make_crop_file, png, read_crops
from glr_assets.openimages.crops import CROPS_VERSION, Rectangle
from glr_assets.openimages.images import OBTAINED
from glr_assets.openimages.parts import part_keys
from glr_assets.openimages.plan import HELD_OUT, KEPT, TRAIN, dataset_plan, obtained_images
from glr_assets.openimages.schemas import FLAGS, OPENIMAGES_CLASSIFIER_DATASET, STORED_IMAGES
from glr_assets.plots import Thumbnail, gallery
from glr_assets.ranges import Place
from glr_assets.receipts import Made, Summary, Writer, forget, make, need_receipts
from glr_assets.recipes import Execution, OpenImages
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, taken

CODE_VERSION = f"2:{CROPS_VERSION}"
#: What of the recipe has nothing to do with what was obtained, but with what is made of it.
DECIDED_BY: Final = {
    "categories",
    "placeholder_repeats",
    "parts",
    "size",
    "aspect",
    "margin",
    "min_pixels",
    "colours",
    "upright",
    "held_out",
    "boxes_per_file",
    "csv_of_pixels",
}
_TOLD = ("image_id", "box", "label", "category", "class", *FLAGS)
_SHEET_COLUMNS, _SHEET_ROWS = 8, 4


def make_openimages_classifier_dataset(store: Store, recipe: OpenImages, execution: Execution, seed: int) -> Made:
    """Cut out the crops. Each file of them has a receipt: a run that was killed is gone on with where it was.

    Raises:
        MissingInputError: annotations or a part of the images have not been made, or not for each other.
        StoreError: a stored image is damaged.
    """
    inputs = need_receipts(store, ANNOTATIONS, *(images.receipt_name(part) for part in part_keys(recipe.parts)))
    run: Summary = {}

    def build(writer: Writer) -> Summary:
        index = obtained_images(store, recipe)
        plan = dataset_plan(store, index, recipe, seed)
        # From here on files change, one by one.
        writer.begin()
        kept = plan.filter(pc.equal(plan["decision"], KEPT))
        kept = kept.take(pc.sort_indices(kept, [("file", "ascending"), ("row", "ascending")]))
        _forget_others(store, set(pc.unique(kept["file"]).to_pylist()))
        fresh = 0
        for name, crops in _files(kept, index):
            made = make_crop_file(store, name, crops, recipe, execution.threads)
            writer.outputs |= made.receipt.outputs
            fresh += not made.reused
        for category in recipe.categories:
            _write_sheet(writer, category, kept, recipe)
        writer.table(OPENIMAGES_CLASSIFIER_DATASET, plan)
        run.update(files_written=fresh)
        return _summary(plan, index, recipe)

    made = make(
        store,
        ASSET,
        inputs=inputs,
        parameters=recipe.model_dump(mode="json", include=set(DECIDED_BY)) | {"seed": seed},
        code_version=CODE_VERSION,
        build=build,
    )
    return replace(made, run=run)


def _files(kept: pa.Table, index: pa.Table) -> Iterator[tuple[str, list[CropImage]]]:
    """Each file's name and its images in order, of kept boxes in the order of files and rows."""
    files = kept["file"].combine_chunks()
    ends = pc.run_end_encode(files)
    first = 0
    for name, end in zip(ends.values.to_pylist(), ends.run_ends.to_pylist(), strict=True):
        rows = kept.slice(first, end - first)
        first = end
        image = taken(index, places(fixed_width(rows["image_id"]), fixed_width(index["image_id"])))
        pairs = zip(rows.to_pylist(), image.to_pylist(), strict=True)
        yield (
            name,
            [_crop_image(list(of_image)) for _, of_image in groupby(pairs, key=lambda pair: pair[0]["image_id"])],
        )


def _crop_image(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> CropImage:
    image = pairs[0][1]
    rights = {name: image[name] for name in ("author", "license")}
    crops = tuple(
        Crop(
            {name: box[name] for name in _TOLD} | rights,
            Rectangle(box["left"], box["top"], box["right"], box["bottom"]),
            box["rotation"] or 0,
        )
        for box, _ in pairs
    )
    place = Place(STORED_IMAGES.format(part=image["part"]), image["stored_offset"], image["stored_size"])
    return CropImage(place, image["stored_xxh3"], image["mode"], crops)


def _forget_others(store: Store, files: set[str]) -> None:
    """Remove what an earlier dataset had beyond these files: receipts, and what they tell of."""
    for receipt in store.names(f"receipts/{ASSET}"):
        name = receipt.removesuffix(".json")
        if name not in files:
            forget(store, f"{ASSET}/{name}")


def sheet_path(category: str) -> str:
    """Where the contact sheet of a category lies."""
    return f"reports/openimages/{re.sub('[^0-9a-z]+', '_', category.lower()).strip('_')}.jpg"


def _write_sheet(writer: Writer, category: str, kept: pa.Table, recipe: OpenImages) -> None:
    """The first crops of a category in the order of the files; nothing where it has none."""
    rows = kept.filter(pc.equal(kept["category"], category)).slice(0, _SHEET_COLUMNS * _SHEET_ROWS).to_pylist()
    crops = []
    for file, of_file in groupby(rows, key=lambda row: str(row["file"])):
        here = list(of_file)
        pixels = read_crops(writer.store, file, [row["row"] for row in here], recipe.size)
        crops += [
            Thumbnail(png(found), f"{row['image_id']}\n{row['split']}") for row, found in zip(here, pixels, strict=True)
        ]
    if crops:
        lines = [crops[first : first + _SHEET_COLUMNS] for first in range(0, len(crops), _SHEET_COLUMNS)]
        writer.write(sheet_path(category), gallery(lines))


def _summary(plan: pa.Table, index: pa.Table, recipe: OpenImages) -> Summary:
    decisions = Counter(plan["decision"].to_pylist())
    kept = plan.filter(pc.equal(plan["decision"], KEPT))
    splits = Counter(kept["split"].to_pylist())
    by_category = Counter(kept["category"].to_pylist())
    reasons = Counter(_kind(reason) for reason in plan["reason"].to_pylist() if reason)
    statuses = Counter(index["status"].to_pylist())
    return {
        "rows": plan.num_rows,
        **{decision: decisions[decision] for decision in ("kept", "dropped")},
        **{split: splits[split] for split in (TRAIN, HELD_OUT)},
        "images_requested": index.num_rows,
        "images_obtained": statuses[OBTAINED],
        "images_of_crops": pc.count_distinct(kept["image_id"]).as_py(),
        **{f"crops: {category}": by_category[category] for category in recipe.categories},
        "categories_without_crops": ", ".join(name for name in recipe.categories if not by_category[name]),
        **{f"dropped: {reason}": count for reason, count in sorted(reasons.items())},
    }


def _kind(reason: str) -> str:
    """A reason less its particulars; of a missing image with what kind of reason that is."""
    parts = reason.split(":")
    return ":".join(parts[: 2 if parts[0] == "image missing" else 1])
