"""Pictures of pairs: two images side by side, with lines between the features that agree."""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa

from glr_assets.curation.galleries import MAX_BYTES
from glr_assets.images.reader import ImageReader
from glr_assets.plots import Matched, matched_pairs
from glr_assets.store import Store
from glr_assets.verification.evidence import Judge
from glr_assets.verification.feature_reader import FeatureReader
from glr_assets.verification.matching import Prepared

_SIZES: Final = ((180, 60), (150, 40), (120, 25), (90, 10))


def pairs_picture(store: Store, judge: Judge, features: FeatureReader, pairs: pa.Table) -> bytes:
    """JPEG of less than `MAX_BYTES`: these pairs with their inliers, what is accepted in green.

    Args:
        store: of the images.
        judge: compares the pairs once more, for the places that agree.
        features: of at least these images.
        pairs: columns `first, second, inliers, threshold, refusal`.
    """
    rows = pairs.select(["first", "second", "inliers", "threshold", "refusal"]).to_pylist()
    ids = sorted({row[side] for row in rows for side in ("first", "second")})
    reader = ImageReader.of_split(store, "train", ids)
    shown = []
    for row in rows:
        one, other = (Prepared.of(row[side], features[row[side]]) for side in ("first", "second"))
        found = judge.matcher.compare(one, other)
        lines = np.hstack([one.places[found.first, :2], other.places[found.second, :2]])
        told = f"{row['inliers']} inliers of {row['threshold']} wanted, {row['first']} and {row['second']}"
        right = row["inliers"] >= row["threshold"] and not row["refusal"]
        caption = told + (f": refused, {row['refusal']}" if row["refusal"] else "")
        shown.append(Matched(reader.read(row["first"]), reader.read(row["second"]), lines, caption, right))
    for height, quality in _SIZES:
        picture = matched_pairs(shown, height, quality)
        if len(picture) < MAX_BYTES:
            break
    return picture
