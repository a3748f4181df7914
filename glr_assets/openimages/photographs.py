"""What was found in the stead of an image: a photograph that can be decoded and is the published one, or why not.

Every image of Open Images is a JPEG. Flickr answers for a lost one with a card in PNG or GIF, which downloaders save
under the name of the JPEG; other such cards are known by the MD5 that the recipe lists, or because they stand in for
many images (`placeholder_cards`). Of fetched images the published MD5 tells whatever these miss.
"""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Literal

from glr_assets.codecs.cost import measure
from glr_assets.codecs.decode import RefusedError, alone_if_large, decode
from glr_assets.recipes import OpenImages

Origin = Literal["root", "fetched"]
PLACEHOLDER: Final = "placeholder"
MATCHES: Final = "matches"
DIFFERS: Final = "differs"
UNPUBLISHED: Final = "not published"
ANOTHER_FILE: Final = "another file than the original"
NOT_ASKED: Final = "not asked for"


@dataclass(frozen=True)
class Published:
    """What an image table says of an original: MD5 in base64 and bytes; None where it says nothing."""

    md5: str | None
    size: int | None


@dataclass(frozen=True)
class Photograph:
    """Bytes that were found, and what they are.

    Attributes:
        reason: why they cannot be used; empty where they can.
        md5: of the bytes, in base64.
        md5_check: what the published MD5 says of them; None where they are refused before.
        mode: Pillow's name of how pixels are told, as RGB; None where they are refused.
        size: width and height as stored, not turned by EXIF: boxes are of the stored pixels.
    """

    reason: str
    md5: str
    md5_check: str | None = None
    mode: str | None = None
    size: tuple[int, int] | None = None


def judged(data: bytes, published: Published, origin: Origin, recipe: OpenImages) -> Photograph:
    """Decide from the bytes whether they are the image; all of its pixels are decoded once."""
    digest = hashlib.md5(data, usedforsecurity=False)
    md5 = base64.b64encode(digest.digest()).decode()
    md5_check = None
    try:
        if not data:
            raise _RefusedError("empty: zero bytes")
        if len(data) > recipe.max_bytes:
            raise _RefusedError(f"too large: more than {recipe.max_bytes} bytes")
        if digest.hexdigest() in recipe.placeholders:
            raise _RefusedError(f"{PLACEHOLDER}: the recipe lists its MD5")
        cost = measure(data)
        if cost.format is None:
            raise _RefusedError(f"no image that can be opened: starts with {data[:8].hex(' ')}")
        if cost.format.name != "JPEG":
            told = f"a {cost.format.name} of {cost.size[0]}x{cost.size[1]}"
            raise _RefusedError(f"{PLACEHOLDER}: {told}, where Open Images has a JPEG")
        md5_check = _checked(md5, len(data), published, origin, recipe)
        if md5_check == DIFFERS:
            raise _RefusedError(f"wrong MD5: {md5}, published is {published.md5}")
        with alone_if_large(min(cost.pixels, recipe.max_pixels)):
            image = decode(data, recipe.max_pixels, cost).image
        return Photograph("", md5, md5_check, image.mode, image.size)
    except RefusedError as error:
        reason = str(error)
    except _RefusedError as error:
        reason = str(error)
    return Photograph(reason, md5, md5_check)


class _RefusedError(Exception):
    """Bytes that cannot be used, and why."""


def _checked(md5: str, size: int, published: Published, origin: Origin, recipe: OpenImages) -> str:
    """What the published MD5 says of bytes; `DIFFERS` where it must be theirs and is not."""
    if published.md5 is None:
        return UNPUBLISHED
    if published.md5 == md5:
        return MATCHES
    must = {"all": True, "none": False, "originals": origin == "fetched" or size == published.size}[recipe.check_md5]
    if must:
        return DIFFERS
    return NOT_ASKED if recipe.check_md5 == "none" else ANOTHER_FILE


def placeholder_cards(found: Iterable[tuple[str, str]], repeats: int) -> dict[str, int]:
    """MD5 sums that at least `repeats` images share though none is published so, and how many images share each.

    Args:
        found: MD5 and `md5_check` of obtained images.
        repeats: 0: none is a placeholder.
    """
    counts = Counter(md5 for md5, md5_check in found if md5_check != MATCHES)
    return {md5: count for md5, count in counts.items() if repeats and count >= repeats}
