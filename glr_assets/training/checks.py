"""What must hold of a trained classifier; each function gives what breaks it, in words, or nothing."""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt
from typing import Final

#: Standard deviations (binomial) above the accuracy of guessing.
DEVIATIONS: Final = 2.0


def guessing(summary: Mapping[str, object]) -> str:
    """Top-1 accuracy on held-out photographs is above that of guessing by more than chance explains.

    Nothing is reported where there are too few held-out photographs to judge.

    Args:
        summary: `trained, landmarks, validation_images, validation_top1` of a group's receipt.
    """
    landmarks, images, right = (summary.get(name) for name in ("landmarks", "validation_images", "validation_top1"))
    if not summary.get("trained") or not isinstance(right, int | float):
        return ""
    if not isinstance(landmarks, int) or not isinstance(images, int) or images < 1 or landmarks < 2:
        return ""
    chance = 1 / landmarks
    deviation = sqrt(chance * (1 - chance) / images)
    if chance + DEVIATIONS * deviation >= 1 or right > chance + DEVIATIONS * deviation:
        return ""
    return (
        f"top-1 accuracy on {images} held-out photographs is {right:.1%}, guessing among {landmarks} landmarks gives "
        f"{chance:.1%}; train longer, or see the loss curve"
    )
