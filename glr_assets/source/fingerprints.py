"""What near-duplicates among photographs are found by, read from their files before any is packed."""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image, ImageOps

from glr_assets.grouped_split import ImageTraits

#: A JPEG is decoded at a fraction of its size that is no smaller than this; the hash is of 9 x 8 pixels.
_DECODED_SIDE: Final = 64
#: Grey levels that the 9 x 8 pixels must span: the hash of a blank picture is that of noise.
_LEAST_CONTRAST: Final = 8
# EXIF 2.32, tables 4, 7 and 8.
_MAKE, _MODEL, _EXIF_IFD = 0x010F, 0x0110, 0x8769
_TAKEN, _TAKEN_SUBSECONDS, _SERIAL = 0x9003, 0x9291, 0xA431
#: As phones name photographs: IMG_20240501_123456.jpg, PXL_20240501_123456789.jpg, 20240501-123456.jpg.
_NAMED = re.compile(r"^(?P<kind>.*?)(?P<time>(?:19|20)\d{6}[_-]?\d{6})(?P<thousandths>\d{3})?(?!\d)")

UNDECODABLE = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    Image.DecompressionBombError,
)
"""What Pillow's decoders raise on files that are not as their format says."""


@dataclass(frozen=True)
class Fingerprint:
    """One photograph.

    Attributes:
        dhash: 64-bit difference hash of the upright picture; None of a blank one, and where nothing can be decoded.
        seconds: when it was taken by its camera's clock, from an arbitrary epoch; None where that is not known.
        camera: maker, model and serial number, or the kind of name that holds the time.
    """

    dhash: int | None = None
    seconds: float | None = None
    camera: str = ""


def fingerprint(path: Path) -> Fingerprint:
    """The fingerprint of a file; an empty one where Pillow cannot decode it.

    The time is EXIF's DateTimeOriginal with its subseconds, else that in the file's name. When the file was written is
    no part of it: a copy has another time, and the same photographs must be split alike wherever they lie.
    """
    seconds, camera = _time_in_name(path.name)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and large images, which ingest judges
            # Opened by its name, an uncompressed TIFF would be mapped, and Pillow 13 does not turn such upright.
            with path.open("rb") as file, Image.open(file) as image:
                image.draft("L", (_DECODED_SIDE, _DECODED_SIDE))
                upright = ImageOps.exif_transpose(image)
                seconds, camera = _time_in_exif(image.getexif()) or (seconds, camera)
                return Fingerprint(_dhash(upright), seconds, camera)
    except UNDECODABLE:  # what is wrong with the file is reported when it is packed
        return Fingerprint(None, seconds, camera)


def _dhash(image: Image.Image) -> int | None:
    """The dhash of imagehash: whether each of 9 x 8 grey pixels is brighter than the one to its left, row by row."""
    pixels = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.LANCZOS), np.int64)
    if np.ptp(pixels) < _LEAST_CONTRAST:
        return None
    return int.from_bytes(np.packbits(pixels[:, 1:] > pixels[:, :-1]).tobytes(), "big")


def _time_in_exif(exif: Image.Exif) -> tuple[float, str] | None:
    taken = exif.get_ifd(_EXIF_IFD)
    text = str(taken.get(_TAKEN, "")).strip("\0 ")
    try:
        time = datetime.strptime(text, "%Y:%m:%d %H:%M:%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None
    fraction = str(taken.get(_TAKEN_SUBSECONDS, "")).strip("\0 ")
    if fraction.isascii() and fraction.isdigit():
        time += float(f"0.{fraction}")
    camera = (exif.get(_MAKE, ""), exif.get(_MODEL, ""), taken.get(_SERIAL, ""))
    return time, " ".join(str(part).strip("\0 ") for part in camera)


def _time_in_name(name: str) -> tuple[float | None, str]:
    match = _NAMED.match(name)
    if match is None:
        return None, ""
    digits = re.sub(r"\D", "", match["time"])
    try:
        time = datetime.strptime(digits, "%Y%m%d%H%M%S").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return None, ""
    return time + int(match["thousandths"] or 0) / 1000, f"named {match['kind']}"


def traits_of(found: Sequence[Fingerprint]) -> ImageTraits:
    """The fingerprints as columns."""
    return ImageTraits(
        hashes=np.array([one.dhash or 0 for one in found], np.uint64),
        hashed=np.array([one.dhash is not None for one in found], np.bool_),
        seconds=np.array([np.nan if one.seconds is None else one.seconds for one in found], np.float64),
        cameras=[one.camera for one in found],
    )
