"""Built and natural landmarks as models: ten families, each with a style its landmarks share.

A landmark's identity is its structure - how many storeys, columns, arches, which windows are blind, what
ornament - so that neither colours nor the layout of a picture give it away.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from glr_assets.source.render import rocks, sacred, secular
from glr_assets.source.render.parts import STYLES, Parts, Rng
from glr_assets.source.render.solids import Model, Solid

BUILDERS: Final[dict[str, Callable[[Parts], list[Solid]]]] = {
    "tower": secular.tower,
    "dome": sacred.dome,
    "arch": secular.arch,
    "bridge": secular.bridge,
    "temple": sacred.temple,
    "castle": secular.castle,
    "pagoda": sacred.pagoda,
    "skyscraper": secular.skyscraper,
    "pyramid": sacred.pyramid,
    "falls": rocks.falls,
}


def structure(family: str, variant: int, rng: Rng, *, mixed: bool = False) -> Model:
    """The landmark `variant` of a family, or a mixture of them; the rest is drawn from `rng`."""
    return Model(BUILDERS[family](Parts(rng, STYLES[family], variant, mixed)))
