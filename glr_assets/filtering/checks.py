"""What must hold of the filter; each function says what does not, in words, empty where all is well."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.tables import fixed_width

#: A filter that drops more of a curated set than this has learnt to tell something else.
MOST_DROPPED: Final = 0.2
#: Of held-out crops, which show no landmark, one that is of use drops at least so many.
LEAST_RECALL: Final = 0.3


def undecided(found: pa.Table, images: pa.Table) -> str:
    """Images of the set without a row, or rows of no image of it.

    Args:
        found: `NON_LANDMARK_FILTER`.
        images: `id` of the set that is filtered.
    """
    has, wants = fixed_width(found["id"]), fixed_width(images["id"])
    missing, strange = np.setdiff1d(wants, has), np.setdiff1d(has, wants)
    if not len(missing) and not len(strange):
        return ""
    first = (missing if len(missing) else strange)[0].decode()
    return f"{len(missing)} images of the set have no decision, {len(strange)} of no set have one; the first is {first}"


def implausible(found: pa.Table, held_out_crops_dropped: float | None) -> str:
    """Whether it drops so much of the set, or so little of what it should, that it cannot have learnt its task."""
    dropped = pc.sum(pc.equal(found["decision"], "dropped")).as_py() or 0
    share = dropped / found.num_rows if found.num_rows else 0.0
    if share > MOST_DROPPED:
        return f"{share:.0%} of the set are dropped, expected at most {MOST_DROPPED:.0%}; look at its pictures"
    if held_out_crops_dropped is not None and held_out_crops_dropped < LEAST_RECALL:
        return (
            f"{held_out_crops_dropped:.0%} of held-out crops are dropped, expected at least {LEAST_RECALL:.0%}: few "
            "photographs without landmark will be found; raise [filter] max_false_rate, or learn from more"
        )
    return ""


def too_often_dropped(least: float | None, share: float | None, max_false_rate: float) -> str:
    """No more landmark photographs are dropped than the recipe allows, by thresholds that others chose.

    Args:
        least: share of held-out landmark photographs dropped, its lower bound; None where it is not known.
        share: that share.
        max_false_rate: the share that the recipe allows.
    """
    if least is not None and share is not None and least > max_false_rate:
        return (
            f"{share:.1%} of held-out landmark photographs are dropped by a threshold that none of them chose, with a "
            f"confidence of 95 % at least {least:.1%}; at most {max_false_rate:.1%} may be: raise [filter] validation, "
            "so that more choose it, or [filter] threshold"
        )
    return ""


def unjudged(least: float | None) -> str:
    """Why it is not known how many landmark photographs are dropped, in words; empty where it is.

    Args:
        least: as for `too_often_dropped`.
    """
    if least is not None:
        return ""
    return "photographs of fewer than two landmarks are held out: how many the threshold drops is not known"
