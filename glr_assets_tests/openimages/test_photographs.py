"""What is taken for an image: a JPEG whose every pixel decodes and whose MD5, where it must, is the published one."""

from __future__ import annotations

import hashlib
import io

import pytest
from PIL import Image

from glr_assets.openimages.photographs import (
    ANOTHER_FILE,
    MATCHES,
    NOT_ASKED,
    UNPUBLISHED,
    Origin,
    Published,
    judged,
    placeholder_cards,
)
from glr_assets.recipes import OpenImages
from glr_assets_tests.openimages.handmade import jpeg, md5, pixels

DATA, OTHER = jpeg(pixels(1)), jpeg(pixels(2))
RECIPE = OpenImages()


def card(image_format: str) -> bytes:
    file = io.BytesIO()
    Image.new("P", (50, 30)).save(file, image_format)
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty: zero bytes"),
        (b"<html>gone</html>", "no image that can be opened: starts with 3c 68 74 6d 6c 3e 67 6f"),
        (DATA[: len(DATA) // 2], "undecodable: cut: the last "),
        (card("PNG"), "placeholder: a PNG of 50x30, where Open Images has a JPEG"),
        (card("GIF"), "placeholder: a GIF of 50x30, where Open Images has a JPEG"),
    ],
)
def test_what_is_no_image_is_refused_by_reason(data: bytes, reason: str) -> None:
    found = judged(data, Published(None, None), "root", RECIPE)
    assert found.reason.startswith(reason)
    assert found.md5 == md5(data)
    assert found.size is None


def test_limits_of_bytes_and_pixels() -> None:
    small = OpenImages(max_bytes=1024)
    assert judged(DATA, Published(None, None), "root", small).reason == "too large: more than 1024 bytes"
    few = OpenImages(max_pixels=60 * 40 - 1)
    assert judged(DATA, Published(None, None), "root", few).reason.startswith("too large: 60x40 pixels")
    assert judged(DATA, Published(None, None), "root", OpenImages(max_pixels=60 * 40)).reason == ""


def test_listed_placeholders_are_known_by_their_md5() -> None:
    listed = OpenImages(placeholders=(hashlib.md5(DATA, usedforsecurity=False).hexdigest(),))
    assert judged(DATA, Published(md5(DATA), len(DATA)), "root", listed).reason.startswith("placeholder: the recipe")
    assert judged(OTHER, Published(None, None), "root", listed).reason == ""


SAME, RESIZED, CHANGED = Published(md5(DATA), len(DATA)), Published(md5(OTHER), 10**6), Published(md5(OTHER), len(DATA))


@pytest.mark.parametrize(
    ("published", "origin", "check", "told"),
    [
        (SAME, "root", "originals", MATCHES),
        (SAME, "fetched", "none", MATCHES),
        # A mirror's smaller copy has another size than the original, and so another MD5.
        (RESIZED, "root", "originals", ANOTHER_FILE),
        (RESIZED, "root", "all", "wrong MD5"),
        (RESIZED, "fetched", "originals", "wrong MD5"),
        (CHANGED, "root", "originals", "wrong MD5"),
        (CHANGED, "root", "none", NOT_ASKED),
        (CHANGED, "fetched", "none", NOT_ASKED),
        (Published(None, None), "fetched", "all", UNPUBLISHED),
    ],
)
def test_md5_is_checked_where_it_can_be_the_originals(
    published: Published, origin: Origin, check: str, told: str
) -> None:
    found = judged(DATA, published, origin, RECIPE.model_copy(update={"check_md5": check}))
    if told == "wrong MD5":
        assert found.reason == f"wrong MD5: {md5(DATA)}, published is {md5(OTHER)}"
        assert (found.md5_check, found.size) == ("differs", None)
    else:
        assert (found.reason, found.md5_check, found.size, found.mode) == ("", told, (60, 40), "RGB")


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_modes_are_told(mode: str) -> None:
    assert judged(jpeg(pixels(1), mode), Published(None, None), "root", RECIPE).mode == mode


def test_sizes_are_of_the_stored_pixels_whatever_exif_says() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert judged(jpeg(pixels(1), exif=exif), Published(None, None), "root", RECIPE).size == (60, 40)


def test_a_card_stands_for_many_images_and_is_published_as_none() -> None:
    found = [("card", ANOTHER_FILE)] * 3 + [("twins", MATCHES)] * 3 + [("pair", UNPUBLISHED)] * 2
    assert placeholder_cards(found, 3) == {"card": 3}
    assert placeholder_cards(found, 2) == {"card": 3, "pair": 2}
    assert placeholder_cards(found, 0) == {}
