"""What must hold of the curated sets; each function gives what breaks it, in words, or nothing."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.ledger import balance


def unbalanced(ledger: pa.Table) -> str:
    """Of the train images asked for, each was kept, dropped or failed, and all that were kept train."""
    counts = balance(ledger)
    settled = counts["kept"] + counts["dropped"] + counts["failed"]
    if settled != counts["requested"]:
        return f"requested {counts['requested']}, but kept + dropped + failed = {settled}"
    if counts["in_train"] != counts["kept"]:
        return f"{counts['kept']} images were kept, but train_manifest holds {counts['in_train']}"
    return ""


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
