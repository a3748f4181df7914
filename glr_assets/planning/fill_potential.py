"""How many images filling small classes takes, and how many of them the full dataset can supply."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from glr_assets.planning.schemas import CLASS_COUNTS, FILL_POTENTIAL
from glr_assets.plots import fill_curves
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "1"
PICTURE = "reports/fill_potential.png"
THRESHOLDS = range(101)


def potential_by_threshold(competition_images: npt.NDArray[np.int64], extra_images: npt.NDArray[np.int64]) -> pa.Table:
    """`FILL_POTENTIAL` for the classes with these images in the competition's set and left over beside it.

    Only classes of the competition are filled: those with no image in its set are left out.
    """
    of_competition = competition_images > 0
    counts, extras = competition_images[of_competition], extra_images[of_competition]
    rows = []
    for threshold in THRESHOLDS:
        need = np.maximum(threshold - counts, 0)
        rows.append(
            {
                "threshold": threshold,
                "classes": int(np.count_nonzero(need)),
                "potential": int(need.sum()),
                "supply": int(np.minimum(need, extras).sum()),
            }
        )
    return FILL_POTENTIAL.rows(rows)


def make_fill_potential(store: Store, threshold: int) -> Made:
    """`fill_potential`, with both curves drawn and the recipe's threshold marked."""

    def build(writer: Writer) -> Summary:
        counts = read_table(store, CLASS_COUNTS)
        table = potential_by_threshold(counts["competition_images"].to_numpy(), counts["extra_images"].to_numpy())
        writer.table(FILL_POTENTIAL, table)
        thresholds, potential, supply = (table[c].to_numpy() for c in ("threshold", "potential", "supply"))
        writer.write(PICTURE, fill_curves(thresholds, potential, supply, marked=threshold))
        summary: Summary = {"rows": table.num_rows}
        if threshold in THRESHOLDS:
            row = table.slice(threshold, 1).to_pylist()[0]
            summary |= {f"{key}_at_{threshold}": row[key] for key in ("classes", "potential", "supply")}
        return summary

    inputs = need_receipts(store, "class_counts")
    parameters = {"threshold": threshold}
    return make(store, "fill_potential", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)
