"""What a photograph has in common with a look-alike, feature by feature, and a drawing of it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from glr_assets.errors import MissingInputError
from glr_assets.images.dataset import decoded
from glr_assets.images.reader import ImageReader
from glr_assets.plots import Matched, matched_pairs
from glr_assets.recipes import Verification
from glr_assets.verification.evidence import Judge
from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets.verification.features import KeptFeatures, encoded
from glr_assets.verification.features import decoded as decoded_features
from glr_assets.verification.local_features import FeatureReader
from glr_assets.verification.matching import Agreement, Prepared
from glr_assets.verification.traps import refusal

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
    """RootSIFT of stored photographs, from the store where `local_features` has it, else from their pixels."""

    def __init__(self, reader: ImageReader) -> None:
        recipe = Verification()
        self._reader = reader
        self._extractor = RootSift(recipe.max_features)
        self._judge = Judge.of(recipe, self._extractor.min_cosine, self._extractor.oriented)
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
        photo = Prepared.of(_QUERY, self._extracted(jpeg))
        found = []
        for image_id in ids:
            other = self._prepared(image_id)
            agreement = self._judge.matcher.compare(photo, other)
            enough = agreement.inliers >= self._judge.min_inliers
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
        found = Prepared.of(image_id, self._stored(image_id))
        with self._lock:
            self._known[image_id] = found
            while len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        return found

    def _stored(self, image_id: str) -> KeptFeatures:
        path = self._reader.places.place(self._reader.row(image_id)).name
        shard = path.rsplit("/", 1)[-1].removesuffix(".tar")
        try:
            features = FeatureReader.of_images(self._reader.store, [shard], [image_id])
        except MissingInputError:
            features = None  # made of other images, or not at all
        same = features is not None and features.extractor == self._extractor.version
        if features is not None and same and image_id in features:
            return features[image_id]
        return self._extracted(self._reader.read(image_id))

    def _extracted(self, jpeg: bytes) -> KeptFeatures:
        (found,) = self._extractor.extract([decoded(jpeg)])
        data, count = encoded(found, self._extractor.signed), len(found.descriptors)
        return decoded_features(
            data, count, self._extractor.dimensions, self._extractor.signed, found.width, found.height
        )
