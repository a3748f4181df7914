"""What a photograph has in common with a look-alike, feature by feature, and a drawing of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from glr_assets.plots import Matched, matched_pairs
from glr_assets.receipts import find_receipt
from glr_assets.recipes import Verification
from glr_assets.retrieval.local import extracted
from glr_assets.serving.recogniser import Recogniser
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.verification.calibration import ClassThresholds, Thresholds
from glr_assets.verification.evidence import Judge
from glr_assets.verification.extractors.base import Extractor
from glr_assets.verification.matching import Agreement, Prepared
from glr_assets.verification.schemas import VERIFICATION_CALIBRATION
from glr_assets.verification.traps import refusal
from glr_assets.verified import verified

HEIGHT: Final = 260
QUALITY: Final = 75
#: Prepared look-alikes kept in memory, of about 300 kB each.
REMEMBERED: Final = 256
#: Sorts before every id, so that the photograph is always the first of a pair.
_QUERY: Final = ""


@dataclass(frozen=True, eq=False)
class Match:
    """How far a photograph and a look-alike agree.

    Attributes:
        id: the look-alike's.
        inliers: features that agree with one model.
        refusal: the trap that the pair is, as a watermark that both have; empty where it is none.
        right: whether so many features agree, and for no such reason, that both show the same thing.
    """

    id: str
    inliers: int
    refusal: str
    right: bool
    photo: Prepared
    other: Prepared
    agreement: Agreement


class LookAlikes:
    """Local features of stored photographs, from the store where it has them, else from their pixels."""

    def __init__(self, store: Store, recogniser: Recogniser) -> None:
        """Compare as the recogniser does, and tell by the store's calibration what is enough.

        Args:
            store: whose `verification_calibration` counts, where it is of the same features compared alike.
            recogniser: what answers.
        """
        self._reader = recogniser.reader
        self._extractor = recogniser.extractor
        verification = recogniser.verification
        self._judge = Judge.of(verification, self._extractor.min_cosine, self._extractor.oriented)
        comparer = recogniser.witness.comparer
        self._features = None if comparer is None else comparer.features
        self._thresholds = _thresholds(store, self._extractor, self._judge, verification)
        self._known: OrderedDict[str, Prepared] = OrderedDict()
        self._lock = threading.Lock()

    def compare(self, jpeg: bytes, ids: Sequence[str]) -> list[Match]:
        """A photograph beside each of these images, in their order.

        Args:
            jpeg: as ingest stores it.
            ids: of the index.

        Raises:
            MissingInputError: one of them is not stored.
            StoreError: one of them cannot be read.
        """
        photo = extracted(self._extractor, _QUERY, jpeg)
        wanted = None if self._thresholds is None else self._thresholds.for_class(1 + len(ids))
        found = []
        for image_id in ids:
            other = self._prepared(image_id)
            agreement = self._judge.matcher.compare(photo, other)
            enough = agreement.inliers >= self._wanted(agreement.putative, wanted)
            reason = refusal(photo, other, agreement) if enough else ""
            right = enough and not reason
            found.append(Match(image_id, agreement.inliers, reason, right, photo, other, agreement))
        return found

    def drawing(self, jpeg: bytes, match: Match, name: str) -> bytes:
        """JPEG: the photograph and the look-alike side by side, with lines between what agrees."""
        found = match.agreement
        lines = np.hstack([match.photo.places[found.first, :2], match.other.places[found.second, :2]])
        caption = f"{match.inliers} features agree, your photograph and one of {name}"
        if match.refusal:
            caption += f": for the wrong reason, {match.refusal}"
        pair = Matched(jpeg, self._reader.read(match.id), lines, caption, match.right)
        return matched_pairs([pair], HEIGHT, QUALITY)

    def _prepared(self, image_id: str) -> Prepared:
        with self._lock:
            if image_id in self._known:
                self._known.move_to_end(image_id)
                return self._known[image_id]
        found = self._stored(image_id)
        with self._lock:
            self._known[image_id] = found
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    def _stored(self, image_id: str) -> Prepared:
        kept = None if self._features is None else next(self._features.prepared([image_id]))
        return kept if kept is not None else extracted(self._extractor, image_id, self._reader.read(image_id))

    def _wanted(self, putative: int, thresholds: Thresholds | None) -> int:
        return self._judge.min_inliers if thresholds is None else thresholds(putative)


def _thresholds(store: Store, extractor: Extractor, judge: Judge, recipe: Verification) -> ClassThresholds | None:
    """The store's calibrated thresholds; None where there are none, or they are of other features or comparisons."""
    receipt = find_receipt(store, "verification_calibration")
    if receipt is None:
        return None
    of = {"extractor": extractor.version, "max_features": recipe.max_features, "judge": dict(judge.parameters)}
    if any(receipt.parameters.get(name) != value for name, value in of.items()):
        return None
    return ClassThresholds.of(read_table(verified(store, [receipt.name]), VERIFICATION_CALIBRATION))
