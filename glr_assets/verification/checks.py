"""What must hold of the verification's tables: each check says what is wrong, or nothing."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.compute as pc


def unaccounted(cleaned: pa.Table, images: pa.Table) -> str:
    """Every image of the set that is cleaned has a decision, and no other.

    Args:
        cleaned: `id, decision` of `CLEANED_MANIFEST`.
        images: `id` of the set that is cleaned.
    """
    strange = cleaned.filter(pc.invert(pc.is_in(cleaned["id"], images["id"].combine_chunks())))
    if strange.num_rows:
        return f"{strange.num_rows} images are not of the set that is cleaned, the first {strange['id'][0]}"
    if cleaned.num_rows != images.num_rows:
        return f"{images.num_rows} images are to be cleaned, {cleaned.num_rows} have a decision"
    return ""


def unpaired(cleaned: pa.Table, threshold: int) -> str:
    """Whatever is kept has a partner with enough inliers.

    Args:
        cleaned: `id, decision, partner, inliers` of `CLEANED_MANIFEST`.
        threshold: inliers wanted at least, of any pair.
    """
    kept = cleaned.filter(pc.equal(cleaned["decision"], "kept"))
    weak = kept.filter(pc.fill_null(pc.less(kept["inliers"], threshold), True))
    return f"{weak.num_rows} kept images have no partner of {threshold} inliers or more" if weak.num_rows else ""


def too_often_wrong(calibration: pa.Table, rate: float) -> str:
    """At most a share `rate` of the pairs of different landmarks is accepted, and there are enough to tell.

    Args:
        calibration: `VERIFICATION_CALIBRATION`.
        rate: share.
    """
    pairs, accepted = (pc.sum(calibration[name]).as_py() or 0 for name in ("pairs", "accepted"))
    if accepted > rate * pairs:
        return f"{accepted} of {pairs} pairs of different landmarks are accepted, at most {rate:.2%} may be"
    if pairs * rate < 1:
        return f"{pairs} pairs of different landmarks cannot tell a share of {rate:.2%}; raise calibration_pairs"
    return ""
