"""The page and the answers on it, as HTML; all of it works without JavaScript."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from glr_assets.serving.limits import Limits
from glr_assets.serving.schemas import Answer, Problem

#: What a browser offers to choose; phones that hold HEIC convert to the first of these.
ACCEPTED: Final = "image/jpeg,image/png,image/webp,image/avif,image/gif,image/bmp,image/tiff"
_CREATIVE_COMMONS: Final = re.compile(
    r"^https?://creativecommons\.org/(?:licenses/(?P<kind>[a-z-]+)/(?P<version>[\d.]+)|publicdomain/(?P<public>zero|mark)/)"
)
_environment = Environment(
    loader=PackageLoader("glr_assets.serving"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


@dataclass(frozen=True)
class Shown:
    """What became of a photograph: an answer with the photograph as it was understood, or a problem."""

    answer: Answer | None = None
    photo: str = ""
    problem: Problem | None = None


def whole(limits: Limits, shown: Shown | None = None) -> str:
    """The page, with an answer where there is one."""
    return _environment.get_template("page.html").render(
        shown=shown, accepted=ACCEPTED, megabytes=limits.max_bytes // 2**20
    )


def fragment(shown: Shown) -> str:
    """The answer alone, which the page's script puts in its place."""
    return _environment.get_template("answer.html").render(shown=shown)


def data_url(jpeg: bytes) -> str:
    """A JPEG inside a page."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()


def percent(probability: float) -> str:
    """A probability in words of few letters."""
    if 0 < probability < 0.01:
        return "under 1 %"
    return "over 99 %" if 0.99 < probability < 1 else f"{probability:.0%}".replace("%", " %")


def link(url: str | None) -> str | None:
    """A URL that may stand in a link: the web's, and no script."""
    return url if url and re.match(r"^https?://[^\s]+$", url) else None


def licence_name(licence: str) -> str:
    """A licence's short name where it is told by its URL, as CC BY-SA 4.0."""
    found = _CREATIVE_COMMONS.match(licence)
    if found is None:
        return licence
    if found["public"]:
        return {"zero": "CC0", "mark": "Public Domain Mark"}[found["public"]]
    return f"CC {found['kind'].upper()} {found['version']}"


def known(right: str | None) -> str | None:
    """An author or a licence, unless the table itself says that it is unknown."""
    return right if right and right.strip().lower() != "unknown" else None


def sentence(reason: str) -> str:
    """A reason as a sentence of its own."""
    return reason[:1].upper() + reason[1:] + ("" if reason.endswith((".", "…")) else ".")


_environment.filters |= {
    "known": known,
    "licence_name": licence_name,
    "link": link,
    "percent": percent,
    "sentence": sentence,
}
