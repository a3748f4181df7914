"""Extractors of local features, each in a module of its own whose libraries load when it is first used."""

from __future__ import annotations

from glr_assets.recipes import Verification
from glr_assets.verification.extractors.base import Extractor
from glr_assets.verification.extractors.delf import Delf
from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets.verification.extractors.superpoint import SuperPoint


def open_extractor(recipe: Verification, device: str) -> Extractor:
    """The extractor that a recipe names; nothing heavy is loaded before it is used.

    Args:
        recipe: `extractor`, `module` and `max_features`.
        device: where a network runs: auto, cpu or cuda.

    Raises:
        ExtractorError: its module or weights are not there, or not of that extractor.
    """
    if recipe.extractor == "delf":
        return Delf.opened(recipe.module, recipe.max_features, device)
    if recipe.extractor == "superpoint":
        return SuperPoint.opened(recipe.module, recipe.max_features, device)
    return RootSift(recipe.max_features)
