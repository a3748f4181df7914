"""What is no photograph, or too much of one: refused by size, first bytes and header, before any pixel."""

from __future__ import annotations

import io
import resource
import struct
import zipfile
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, features

from glr_assets.recipes import Images
from glr_assets.serving.limits import Limits, RefusedError, kind_of, listed, photograph
from glr_assets_tests.serving.conftest import encoded

RECIPE, LIMITS = Images(), Limits()
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
KINDS = ("JPEG", "PNG", "GIF", "WEBP", "AVIF", "BMP", "TIFF", "PPM")


def refusal(data: bytes, limits: Limits = LIMITS) -> RefusedError:
    with pytest.raises(RefusedError) as caught:
        photograph(data, RECIPE, limits)
    return caught.value


def answered(data: bytes) -> None:
    """Check that it is a photograph, or refused in the way that all are."""
    found = None
    try:
        photograph(data, RECIPE, LIMITS)
    except RefusedError as error:
        found = error
    assert found is None or (found.status in {413, 415, 422} and found.reason.isprintable())


def png(width: int, height: int, pixels: bytes = b"") -> bytes:
    """A PNG that says it is so large, with these compressed bytes for pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", KINDS)
def test_each_format_is_known_by_its_first_bytes_and_decoded(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    data = encoded(kind)
    assert kind_of(data) == kind
    assert photograph(data, RECIPE, LIMITS).source_size == (320, 240)


def test_a_photograph_of_just_so_many_bytes_passes_and_one_more_does_not() -> None:
    data = encoded("PNG")
    photograph(data, RECIPE, Limits(max_bytes=len(data)))
    found = refusal(data, Limits(max_bytes=len(data) - 1))
    assert (found.status, found.code) == (413, "too_large")


def test_dimensions_are_refused_by_the_header_alone() -> None:
    assert photograph(encoded("PNG", (200, 100)), RECIPE, Limits(max_pixels=20_000)).source_size == (200, 100)
    assert refusal(encoded("PNG", (200, 101)), Limits(max_pixels=20_000)).status == 413
    # It has no pixels to decode: had they been looked for, it would be damaged, not too large.
    bomb = refusal(png(60_000, 60_000))
    assert (bomb.status, bomb.code) == (413, "too_large")
    assert refusal(png(60, 60)).code == "undecodable"


def test_a_recipes_own_limit_holds_too() -> None:
    tight = RECIPE.model_copy(update={"max_pixels": 1000})
    with pytest.raises(RefusedError, match="at most 1000"):
        photograph(encoded(), tight, LIMITS)


def test_compressed_bytes_beyond_the_image_are_not_inflated_into_memory() -> None:
    many = zlib.compress(bytes(200 * 2**20), 9)
    assert len(many) < 2**18
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answered(png(64, 64, many))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 2**10  # in KiB


@pytest.mark.parametrize("kind", KINDS[:7])
def test_what_is_cut_off_is_refused_and_says_so(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow was built without AVIF")
    data = encoded(kind)
    found = refusal(data[: len(data) // 2])
    assert 400 < found.status < 500
    assert found.reason
    assert "0x" not in found.reason


@pytest.mark.parametrize(
    "data",
    [b"%PDF-1.7\n", b"<html><script>alert(1)</script>", b"PK\x03\x04", b"\x7fELF", b"GIF86a", b"hello", b"<svg/>"],
)
def test_what_is_no_photograph_is_refused_unopened(data: bytes) -> None:
    found = refusal(data + bytes(100))
    assert (found.status, found.code) == (415, "wrong_type")


def test_nothing_is_refused() -> None:
    assert refusal(b"").code == "empty"


def test_a_photograph_that_is_an_archive_as_well_is_a_photograph() -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:
        opened.writestr("page.html", "<script>alert(1)</script>")
    both = encoded("PNG") + archive.getvalue()
    assert zipfile.is_zipfile(io.BytesIO(both))
    found = photograph(both, RECIPE, LIMITS)
    assert b"script" not in found.jpeg


def test_a_file_that_begins_as_one_thing_and_is_another_is_refused() -> None:
    hidden = b"GIF89a" + encoded("PNG")
    assert refusal(hidden).reason.startswith("too large: 79953x72683 pixels")  # of a GIF
    assert refusal(b"\xff\xd8\xff" + encoded("PNG")).status in {415, 422}
    # A multi-picture JPEG is one file of two names, and no trick.
    file = io.BytesIO()
    Image.new("RGB", (64, 64)).save(file, "MPO", save_all=True, append_images=[Image.new("RGB", (64, 64))])
    assert photograph(file.getvalue(), RECIPE, LIMITS).source_size == (64, 64)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM", b"II*\0", b"P6\n"]))
def test_whatever_comes_it_is_a_photograph_or_a_refusal(data: bytes, start: bytes) -> None:
    answered(start + data)


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=8))
def test_damage_anywhere_is_a_photograph_or_a_refusal(at: int, damage: bytes) -> None:
    whole = encoded("JPEG", (48, 32))
    place = at % len(whole)
    answered(whole[:place] + damage + whole[place + len(damage) :])


@pytest.mark.parametrize(("value", "expected"), [(None, 5), ("", 5), ("1", 1), ("50", 50)])
def test_how_many_are_listed(value: str | None, expected: int) -> None:
    assert listed(value, 5) == expected


@pytest.mark.parametrize("value", ["0", "51", "-1", "1.5", "many", "9" * 30, "٣"])
def test_a_wrong_number_to_list_is_refused(value: str) -> None:
    with pytest.raises(RefusedError) as caught:
        listed(value, 5)
    assert caught.value.status == 422
