"""The state of a training that outlives its process: where it is kept, and whether a run may go on from it."""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal, Protocol

# This module is imported only by functions that train a network.
import torch  # noqa: TID253

from glr_assets.errors import GlrError
from glr_assets.receipts import digest_of
from glr_assets.recipes import Learning
from glr_assets.training.photographs import Augmentation, TrainingSet


class CheckpointKeeper(Protocol):
    """Where the state of a training outlives its process."""

    @property
    def where(self) -> str:
        """What a user finds it by."""

    def save(self, path: Path) -> None:
        """Keep the file at `path` as the latest state, whole or not at all; the path is gone afterwards."""

    def load(self) -> Path | None:
        """A local file of the latest state, or None."""


class NoCheckpoints:
    """Keeps nothing: a killed training starts again."""

    where = "nowhere"

    def save(self, path: Path) -> None:
        """Let `path` go."""

    def load(self) -> Path | None:
        """There never is an earlier state."""
        return None


def fingerprint_of(
    parts: Sequence[TrainingSet],
    recipe: Learning,
    seed: int,
    data_version: str,
    augmentation: Augmentation,
    part: Literal["warm start", "training"] = "training",
) -> str:
    """What a state must be of for a run to go on from it: photographs, recipe, seed, data and augmentation."""
    return digest_of(
        {
            "part": part,
            "photographs": [sorted(zip(part.ids, part.landmark_ids, strict=True)) for part in parts],
            "recipe": recipe.model_dump(mode="json"),
            "seed": seed,
            "data_version": data_version,
            "augmentation": asdict(augmentation),
        }
    )


def kept_state(keeper: CheckpointKeeper, fingerprint: str, kind: type[GlrError]) -> Path | None:
    """The kept state, where there is one and it is of that fingerprint.

    Raises:
        GlrError: of that `kind`; it cannot be read.
    """
    path = keeper.load()
    if path is None:
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    # Bytes that were changed fail in whatever reads them first.
    except (OSError, RuntimeError, EOFError, ValueError, KeyError, pickle.UnpicklingError) as error:
        raise kind(
            f"{path}: the kept state of the training cannot be read ({type(error).__name__}); "
            f"delete {keeper.where} and run again"
        ) from error
    return path if state.get("fingerprint") == fingerprint else None
