"""How an embedder looks at a photograph: at which sizes, and whether in the mirror too."""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict

from glr_assets.recipes import Embedder

VIEWS_NAME: Final = "views.json"


class Views(BaseModel):
    """The views of a photograph whose embeddings are averaged.

    Attributes:
        sides: in pixels, of the square that the whole photograph is squeezed to.
        mirrored: whether each is seen in the mirror too.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    sides: tuple[int, ...]
    mirrored: bool = False

    @classmethod
    def of(cls, recipe: Embedder) -> Views:
        """Those of a recipe."""
        return cls(sides=recipe.sides, mirrored=recipe.flip)

    @property
    def one(self) -> bool:
        """Whether a photograph is seen once."""
        return len(self.sides) == 1 and not self.mirrored
