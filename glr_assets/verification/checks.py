"""What must hold of the verification's tables: each check says what is wrong, or nothing."""

from __future__ import annotations

from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.verification.tail import TELLING

#: Of pairs of different landmarks, the share that may agree beyond doubt. Few pairs of landmarks overlap, and of these
#: not every pair of images does.
MOST_SAME_THING: Final = 0.001
#: With fewer landmarks in a half, bounds over landmarks drawn with replacement are too narrow.
LEAST_LANDMARKS: Final = 10


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


def too_often_wrong(judged: pa.Table, rate: float) -> str:
    """No more than a share `rate` of foreign images stays in a class.

    Args:
        judged: `FALSE_IMAGES`.
        rate: share of images that the recipe allows.
    """
    wrong = judged.filter(pc.greater(judged["image_rate_least"], rate)).sort_by("images").to_pylist()
    if wrong:
        row = wrong[0]
        return (
            f"of a class of {row['images']} images {row['image_rate']:.2%} of foreign images would stay, at least "
            f"{row['image_rate_least']:.2%} with a confidence of 95 %, at most {rate:.2%} may: pairs of landmarks that "
            f"chose no threshold were accepted {row['accepted']} times of {row['pairs']}; raise calibration_pairs"
        )
    return ""


def unjudged(judged: pa.Table, exceeding: int) -> str:
    """Why it is not known how often foreign images stay, in words; empty where it is.

    Args:
        judged: `FALSE_IMAGES`.
        exceeding: pairs that the tail of inliers is fitted to.
    """
    if not judged.num_rows or pc.min(judged["landmarks"]).as_py() < LEAST_LANDMARKS:
        found = pc.min(judged["landmarks"]).as_py() or 0
        return (
            f"a half of the landmarks has pairs of {found} landmarks, expected {LEAST_LANDMARKS} or more: how far "
            "landmarks differ in what chance gives is not known; compare images of more landmarks"
        )
    if exceeding < TELLING:
        return (
            f"{exceeding} pairs of different landmarks have enough inliers to tell how many chance gives, expected "
            f"{TELLING} or more; raise calibration_pairs"
        )
    return ""


def without_foundation(pairs: int, same_thing: int, threshold_least: int, max_features: int) -> str:
    """Pairs of different landmarks tell what chance gives: labels are mostly right, and some pair can be accepted.

    Args:
        pairs: pairs of different landmarks compared.
        same_thing: of those, pairs that agree beyond doubt.
        threshold_least: inliers wanted, where the fewest are.
        max_features: of an image, at most.
    """
    if same_thing > MOST_SAME_THING * pairs:
        return (
            f"{same_thing} of {pairs} pairs of different landmarks agree beyond doubt, expected at most "
            f"{MOST_SAME_THING:.1%}, and no threshold counts them: either labels are wrong or the features agree on "
            "anything; look at the picture of the pairs with most inliers"
        )
    if threshold_least > max_features:
        return (
            f"no pair can be accepted: {threshold_least} inliers are wanted, as many as pairs of different landmarks "
            f"have by chance, and an image has {max_features} features at most; use another extractor"
        )
    return ""


def features_unreconciled(rows: pa.Table, file_bytes: int, stored: pa.Table) -> str:
    """Every image of a table of local features has its features in the file beside it, or a reason why not.

    Args:
        rows: `id, status, reason, offset, size` of `LOCAL_FEATURES`.
        file_bytes: size of that file.
        stored: `id` of the images that are stored of the shard.
    """
    problems = []
    failed = pc.equal(rows["status"], "failed")
    silent = pc.sum(pc.equal(failed, pc.equal(rows["reason"], ""))).as_py() or 0
    if silent:
        problems.append(f"{silent} images failed without a reason, or have one though they did not fail")
    sizes = pc.sum(rows["size"]).as_py() or 0
    if sizes != file_bytes:
        problems.append(f"the table has {sizes} bytes of features, the file {file_bytes}")
    strange = rows.filter(pc.invert(pc.is_in(rows["id"], stored["id"].combine_chunks())))
    if strange.num_rows:
        problems.append(f"{strange.num_rows} images are not stored in the shard, the first {strange['id'][0]}")
    return "; ".join(problems)


def wrongly_accepted(pairs: pa.Table) -> str:
    """A pair is accepted if and only if it has the inliers wanted of it and was refused for no trap.

    Args:
        pairs: `inliers, threshold, accepted, refusal` of `VERIFIED_PAIRS`.
    """
    due = pc.and_(pc.greater_equal(pairs["inliers"], pairs["threshold"]), pc.equal(pairs["refusal"], ""))
    wrong = pc.sum(pc.not_equal(due, pairs["accepted"])).as_py() or 0
    return (
        f"{wrong} of {pairs.num_rows} pairs are accepted or rejected against their inliers or refusal" if wrong else ""
    )
