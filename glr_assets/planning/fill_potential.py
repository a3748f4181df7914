"""How many images filling small classes takes, and how many of them the full dataset can supply."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glr_assets.planning.schemas import CLASS_COUNTS, FILL_POTENTIAL
from glr_assets.plots import class_histogram, fill_curves
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "2"
PICTURE = "reports/fill_potential.png"
SIZES_PICTURE = "reports/fill_class_sizes.png"
THRESHOLDS = range(101)


def potential_by_threshold(
    competition_images: npt.NDArray[np.int64],
    extra_images: npt.NDArray[np.int64],
    thresholds: Iterable[int] = THRESHOLDS,
) -> pa.Table:
    """`FILL_POTENTIAL` for the classes with these images in the competition's set and left over beside it.

    Only classes of the competition are filled: those with no image in its set are left out.
    """
    of_competition = competition_images > 0
    counts, extras = competition_images[of_competition], extra_images[of_competition]
    rows = []
    for threshold in thresholds:
        need = np.maximum(threshold - counts, 0)
        short = np.maximum(need - extras, 0)
        potential, shortfall = int(need.sum()), int(short.sum())
        rows.append(
            {
                "threshold": threshold,
                "classes": int(np.count_nonzero(need)),
                "potential": potential,
                "supply": potential - shortfall,
                "exhausted": int(np.count_nonzero(short)),
            }
        )
    return FILL_POTENTIAL.rows(rows)


def class_sizes(
    competition_images: npt.NDArray[np.int64], extra_images: npt.NDArray[np.int64], threshold: int
) -> dict[str, npt.NDArray[np.int64]]:
    """Images of the competition's classes, before and after they are filled up to the threshold."""
    of_competition = competition_images > 0
    before, extras = competition_images[of_competition], extra_images[of_competition]
    after = before + np.minimum(np.maximum(threshold - before, 0), extras)
    return {"competition": before, f"filled up to {threshold}": after}


def make_fill_potential(store: Store, threshold: int) -> Made:
    """`fill_potential`, with both curves drawn, and class sizes before and after; its summary tells of the recipe's
    threshold.
    """

    def build(writer: Writer) -> Summary:
        counts = read_table(store, CLASS_COUNTS)
        classes = counts["competition_images"].to_numpy(), counts["extra_images"].to_numpy()
        table = potential_by_threshold(*classes)
        writer.table(FILL_POTENTIAL, table)
        thresholds, potential, supply = (table[c].to_numpy() for c in ("threshold", "potential", "supply"))
        writer.write(PICTURE, fill_curves(thresholds, potential, supply, marked=threshold))
        writer.write(SIZES_PICTURE, class_histogram(class_sizes(*classes, threshold)))
        row = potential_by_threshold(*classes, thresholds=[threshold]).to_pylist()[0]
        row["shortfall"] = row["potential"] - row["supply"]
        told = ("classes", "potential", "supply", "exhausted", "shortfall")
        return {"rows": table.num_rows} | {f"{key}_at_{threshold}": row[key] for key in told}

    inputs = need_receipts(store, "class_counts")
    parameters = {"threshold": threshold}
    return make(store, "fill_potential", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)
