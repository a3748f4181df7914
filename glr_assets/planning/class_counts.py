"""Images a class: in the full train set, in the competition's, and left over for filling."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.metadata.schemas import COMPETITION_TRAIN, TRAIN_METADATA
from glr_assets.planning.schemas import CLASS_COUNTS
from glr_assets.plots import class_histogram
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "1"
PICTURE = "reports/class_counts.png"


def count_classes(train: pa.Table, competition: pa.Table) -> pa.Table:
    """Counts by landmark from two tables of `id, landmark_id`, the second a part of the first."""
    full = train.group_by("landmark_id", use_threads=False).aggregate([([], "count_all")])
    clean = competition.group_by("landmark_id", use_threads=False).aggregate([([], "count_all")])
    joined = full.join(clean, "landmark_id", right_suffix="_competition", use_threads=False)
    joined = joined.sort_by("landmark_id")
    of_competition = pc.fill_null(joined["count_all_competition"], 0)
    return pa.table(
        {
            "landmark_id": joined["landmark_id"],
            "train_images": joined["count_all"],
            "competition_images": of_competition,
            "extra_images": pc.subtract(joined["count_all"], of_competition),
        }
    )


def make_class_counts(store: Store) -> Made:
    """`class_counts`, with a histogram of class sizes."""

    def build(writer: Writer) -> Summary:
        columns = ["id", "landmark_id"]
        counts = count_classes(
            read_table(store, TRAIN_METADATA, columns), read_table(store, COMPETITION_TRAIN, columns)
        )
        writer.table(CLASS_COUNTS, counts)
        full, competition = (counts[c].to_numpy() for c in ("train_images", "competition_images"))
        writer.write(PICTURE, class_histogram({"full train set": full, "competition": competition[competition > 0]}))
        return {
            "rows": counts.num_rows,
            "competition_classes": int(np.count_nonzero(competition)),
            "largest_class": int(full.max(initial=0)),
            "median_class": float(np.median(full)) if len(full) else 0.0,
        }

    inputs = need_receipts(store, "train_metadata", "competition_train")
    return make(store, "class_counts", inputs=inputs, parameters={}, code_version=CODE_VERSION, build=build)
