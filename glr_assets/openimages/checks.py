"""What must hold of the Open Images tables: each check says what is wrong, or nothing."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.openimages.plan import KEPT
from glr_assets.tables import repeated_keys


def unaccounted(index: pa.Table, requested: pa.Table) -> str:
    """Every requested image was obtained or is missing with a reason, and no other is told of.

    Args:
        index: `image_id, status, reason` of parts of `OPENIMAGES_IMAGES`.
        requested: `image_id` of the images that these parts ask for.
    """
    obtained, missing = (index.filter(pc.equal(index["status"], status)) for status in ("obtained", "missing"))
    if requested.num_rows != obtained.num_rows + missing.num_rows:
        told = f"{obtained.num_rows} obtained + {missing.num_rows} missing"
        return f"{requested.num_rows} images are requested, but {told} are told of"
    strange = index.filter(pc.invert(pc.is_in(index["image_id"], requested["image_id"].combine_chunks())))
    if strange.num_rows:
        return f"{strange.num_rows} images were not requested, the first {strange['image_id'][0]}"
    silent = missing.filter(pc.equal(missing["reason"], ""))
    return f"{silent.num_rows} images are missing without a reason" if silent.num_rows else ""


def repeated_crops(plan: pa.Table) -> str:
    """No box is kept twice, and no two have one place in the files.

    Args:
        plan: `image_id, box, decision, file, row` of the dataset's table.
    """
    kept = plan.filter(pc.equal(plan["decision"], KEPT))
    for key in (["image_id", "box"], ["file", "row"]):
        repeated = repeated_keys(kept, key)
        if repeated.num_rows:
            return f"{repeated.num_rows} values of {key} stand twice, the first {repeated.slice(0, 1).to_pylist()[0]}"
    return ""


def leaking(plan: pa.Table, index: pa.Table) -> str:
    """No image is in both splits, under one id or, byte for byte the same, under two.

    Args:
        plan: `image_id, split, decision` of the dataset's table.
        index: `image_id, md5` of all parts of `OPENIMAGES_IMAGES`.
    """
    kept = plan.filter(pc.equal(plan["decision"], KEPT)).select(["image_id", "split"])
    bytes_of = kept.join(index.select(["image_id", "md5"]), "image_id")
    for key, what in (("image_id", "images"), ("md5", "contents of images")):
        both = repeated_keys(bytes_of.group_by([key, "split"]).aggregate([]), [key]).sort_by(key)
        if both.num_rows:
            return f"{both.num_rows} {what} are in train and in held_out, the first {both[key][0]}"
    return ""
