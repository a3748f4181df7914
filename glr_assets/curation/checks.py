"""What must hold of the curated sets; each function gives what breaks it, in words, or nothing."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc

#: Published tables grow; one that has lost more of its rows than this was probably cut on its way.
MOST_LOST = 0.1


def strangers(manifest: pa.Table, competition: pa.Table) -> str:
    """Every landmark that trains is one of the competition's."""
    known = pc.is_in(manifest["landmark_id"], pc.unique(competition["landmark_id"]))
    wrong = manifest.filter(pc.invert(known))
    return f"{wrong.num_rows} images of landmarks outside the competition's set" if wrong.num_rows else ""


def overfull(manifest: pa.Table, keep: int) -> str:
    """No class has more images than dedupe keeps (filling stops below that)."""
    sizes = manifest.group_by("landmark_id", use_threads=False).aggregate([([], "count_all")])
    wrong = sizes.filter(pc.greater(sizes["count_all"], keep))
    return f"{wrong.num_rows} classes have more than {keep} images" if wrong.num_rows else ""


def in_both(extra: pa.Table, competition: pa.Table) -> str:
    """No planned extra is of the competition's set."""
    both = extra.filter(pc.is_in(extra["id"], competition["id"].combine_chunks()))
    return f"{both.num_rows} images, the first {both['id'][0].as_py()}" if both.num_rows else ""


def beyond_threshold(manifest: pa.Table, threshold: int) -> str:
    """Filling stops at the threshold: no class that has an extra has more images.

    Args:
        manifest: `landmark_id, origin` of `TRAIN_MANIFEST`.
        threshold: images a class is filled up to.
    """
    filled = pc.unique(manifest.filter(pc.equal(manifest["origin"], "extra"))["landmark_id"])
    return overfull(manifest.filter(pc.is_in(manifest["landmark_id"], filled)), threshold)


def leaking(manifest: pa.Table, leaks: pa.Table) -> str:
    """No image that trains is a near-duplicate of a test image.

    Args:
        manifest: `id` of the images that train.
        leaks: `id, partner` of train images that are near-duplicates of test images.
    """
    found = leaks.filter(pc.is_in(leaks["id"], manifest["id"].combine_chunks()))
    if not found.num_rows:
        return ""
    partners = pc.count_distinct(found["partner"]).as_py()
    return (
        f"{found.num_rows} images that train are near-duplicates of {partners} test images, the first {found['id'][0]}"
    )


def unhashed(catalog: Iterable[pa.Table]) -> str:
    """Every stored image has its hashes.

    Args:
        catalog: pieces of it with the columns `status, dhash, stored_xxh3`.
    """
    lacking = 0
    for piece in catalog:
        stored = piece.filter(pc.equal(piece["status"], "stored"))
        absent = pc.or_(pc.is_null(stored["dhash"]), pc.is_null(stored["stored_xxh3"]))
        lacking += pc.sum(absent).as_py() or 0
    return f"{lacking} stored images lack a hash" if lacking else ""


def rows_lost(before: float, now: float) -> str:
    """A table has not lost more than `MOST_LOST` of the rows that it had."""
    if now >= (1 - MOST_LOST) * before:
        return ""
    return f"{before:g} rows before, {now:g} now; if that is right, materialise it again"
