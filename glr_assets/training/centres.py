"""The centres of the head that an embedder was trained under: what it holds each of its landmarks to look like.

They lie in the space of its embeddings (sub-centre ArcFace, `training.margin`). A photograph's cosine to the nearest
of a landmark's centres is that landmark's class logit. An embedder that was brought in has none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glr_assets.errors import EmbedderError, MissingInputError
from glr_assets.store import Store

Floats = npt.NDArray[np.float32]

CENTRES_NAME: Final = "centres.safetensors"


@dataclass(frozen=True, eq=False)
class ClassCentres:
    """The centres of an embedder's landmarks.

    Attributes:
        landmark_ids: int64 [c], ascending.
        vectors: float32 [c, s, D] of unit length: s centres a landmark.
    """

    landmark_ids: npt.NDArray[np.int64]
    vectors: Floats

    def cosines(self, queries: Floats, landmark_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The cosine of each query [q, D] to the nearest centre of each of these landmarks, float64 [q, l].

        It is nan of a landmark that has no centres.
        """
        found = np.full((len(queries), len(landmark_ids)), np.nan)
        if not len(self.landmark_ids):
            return found
        rows = np.minimum(np.searchsorted(self.landmark_ids, landmark_ids), len(self.landmark_ids) - 1)
        known = self.landmark_ids[rows] == landmark_ids
        centres = self.vectors[rows[known]].astype(np.float64)
        count, several, dimensions = centres.shape
        cosines = queries.astype(np.float64) @ centres.reshape(-1, dimensions).T
        found[:, known] = cosines.reshape(len(queries), count, several).max(axis=2)
        return found

    def to_bytes(self) -> bytes:
        """A file of safetensors."""
        from safetensors.numpy import save

        return save({"landmark_ids": self.landmark_ids, "centres": np.ascontiguousarray(self.vectors)})


def read_centres(store: Store, folder: str) -> ClassCentres:
    """The centres kept with the trained embedder under `folder`.

    Raises:
        MissingInputError: there are none.
        EmbedderError: the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = f"{folder}/{CENTRES_NAME}"
    try:
        found = load(store.read(path))
        return ClassCentres(found["landmark_ids"], found["centres"])
    except FileNotFoundError as error:
        raise MissingInputError(f"{store.full_url(path)} is missing: materialise embedder first") from error
    except (SafetensorError, KeyError) as error:
        raise EmbedderError(
            f"{store.full_url(path)}: not the centres of an embedder's landmarks ({error}); materialise embedder again"
        ) from error
