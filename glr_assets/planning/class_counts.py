"""Images a class: in the full train set, in the competition's, and left over for filling."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.errors import TableError
from glr_assets.metadata.schemas import COMPETITION_TRAIN, TRAIN_METADATA
from glr_assets.planning.schemas import CLASS_COUNTS
from glr_assets.plots import class_histogram
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "2"
PICTURE = "reports/class_counts.png"


def count_classes(train: pa.Table, competition: pa.Table) -> pa.Table:
    """Counts by landmark, as `CLASS_COUNTS`, from the `landmark_id` of two sets, the second a part of the first.

    Raises:
        TableError: the second has more images of a landmark than the first.
    """
    landmarks, images = _counted(train["landmark_id"])
    of_competition = np.zeros(len(landmarks), np.int64)
    known, count = _counted(competition["landmark_id"])
    if len(landmarks):
        at = np.minimum(np.searchsorted(landmarks, known), len(landmarks) - 1)
        there = landmarks[at] == known
        of_competition[at[there]] = count[there]
    else:
        there = np.zeros(len(known), bool)
    wrong = np.concatenate([known[~there], landmarks[of_competition > images]])
    if len(wrong):
        raise TableError(
            f"{COMPETITION_TRAIN.path}: {len(wrong)} landmarks have more images than in {TRAIN_METADATA.path}, "
            f"the first {wrong.min()}; the one was made of another train.csv: materialise competition_train again"
        )
    return pa.table(
        {
            "landmark_id": landmarks,
            "train_images": images,
            "competition_images": of_competition,
            "extra_images": images - of_competition,
        }
    )


def _counted(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """The values of a column, ascending, and how often each stands in it."""
    counted = pc.value_counts(column)
    values, counts = (counted.field(name).to_numpy() for name in ("values", "counts"))
    order = np.argsort(values)
    return values[order], counts[order]


def make_class_counts(store: Store) -> Made:
    """`class_counts`, with a histogram of class sizes."""

    def build(writer: Writer) -> Summary:
        sets = (read_table(store, table, ["landmark_id"]) for table in (TRAIN_METADATA, COMPETITION_TRAIN))
        counts = count_classes(*sets)
        writer.table(CLASS_COUNTS, counts)
        full, extra = counts["train_images"].to_numpy(), counts["extra_images"].to_numpy()
        competition = counts["competition_images"].to_numpy()
        of_competition = competition[competition > 0]
        writer.write(PICTURE, class_histogram({"full train set": full, "competition": of_competition}))
        return {
            "rows": counts.num_rows,
            "train_images": int(full.sum()),
            "largest_class": int(full.max(initial=0)),
            "median_class": _median(full),
            "competition_classes": len(of_competition),
            "competition_images": int(competition.sum()),
            "largest_competition_class": int(competition.max(initial=0)),
            "median_competition_class": _median(of_competition),
            "extra_images_of_competition_classes": int(extra[competition > 0].sum()),
        }

    inputs = need_receipts(store, "train_metadata", "competition_train")
    return make(store, "class_counts", inputs=inputs, parameters={}, code_version=CODE_VERSION, build=build)


def _median(values: npt.NDArray[np.int64]) -> float:
    return float(np.median(values)) if len(values) else 0.0
