"""One pair's evidence: how far two images agree, and whether for the right reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from glr_assets.recipes import Verification
from glr_assets.verification.classes import Outcome
from glr_assets.verification.matching import Agreement, Matcher, Prepared
from glr_assets.verification.traps import refusal

CODE_VERSION = "1"
"""Raised when two images would give other figures: what was tried before is then tried again."""


@dataclass(frozen=True)
class Evidence:
    """What a pair gives, before any threshold.

    Attributes:
        putative: features that are each other's nearest and alike enough.
        inliers: features that agree with one model.
        refusal: the trap it is refused for; looked for where there are `min_inliers` or more.
        model: a b c d e f, smaller id to larger.
    """

    putative: int
    inliers: int
    refusal: str
    model: tuple[float, ...]

    def outcome(self, threshold: int) -> Outcome:
        """The pair's outcome where so many inliers are wanted."""
        return Outcome(self.putative, self.inliers, threshold, self.refusal, self.model)


@dataclass(frozen=True)
class Judge:
    """Compares two images by a recipe."""

    matcher: Matcher
    min_inliers: int
    refuse_traps: bool

    @classmethod
    def of(cls, recipe: Verification, min_cosine: float, oriented: bool) -> Judge:
        """The judge of a recipe.

        Args:
            recipe: whose `min_cosine` counts, where it has one, and whose `geometry` may be MAGSAC.
            min_cosine: the extractor's.
            oriented: whether the extractor tells sizes and angles.
        """
        cosine = min_cosine if recipe.min_cosine is None else recipe.min_cosine
        by_one = oriented and recipe.geometry != "magsac"
        return cls(Matcher(cosine, recipe.residual, by_one), recipe.min_inliers, recipe.refuse_traps)

    @property
    def parameters(self) -> Mapping[str, object]:
        """All that decides a pair's evidence beside its features."""
        matcher = self.matcher
        return {
            "code": CODE_VERSION,
            "min_cosine": matcher.min_cosine,
            "residual": matcher.residual,
            "oriented": matcher.oriented,
            "traps_from": self.min_inliers if self.refuse_traps else None,
        }

    def __call__(self, one: Prepared, other: Prepared) -> Evidence:
        """The evidence of a pair, whichever is named first."""
        one, other = (one, other) if one.id <= other.id else (other, one)
        found = self.matcher.compare(one, other)
        reason = refusal(one, other, found) if self._may_trap(found) else ""
        return Evidence(found.putative, found.inliers, reason, tuple(found.model.reshape(-1).tolist()))

    def _may_trap(self, found: Agreement) -> bool:
        return self.refuse_traps and found.inliers >= self.min_inliers
