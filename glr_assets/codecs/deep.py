"""Pictures of more than 8 bits a sample, and of layouts that Pillow does not take, as 8 bits."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

from glr_assets.codecs.tiff_header import first_directory

_ORIENTATION, _PROFILE = 274, 34675
#: The compression of bitmaps whose samples are where masks say (BITMAPINFOHEADER, BI_BITFIELDS).
_BITFIELDS = 3
#: Rows that are scaled at a time, in floats of 64 bits.
_ROWS = 256


@dataclass(frozen=True)
class Deep:
    """A decoded file: 8 bits a sample, as it lies; its orientation; whether a color profile was not applied."""

    image: Image.Image
    orientation: int = 1
    has_profile: bool = False


def tiff(data: bytes) -> Deep | None:
    """A TIFF of samples of any depth, by OpenCV; None where that takes it neither."""
    import cv2

    first = first_directory(data)
    if first is None:
        return None
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # what is wrong with a file is told by its reason
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        found = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None
    if found is None or (found.ndim == 3 and found.shape[2] not in {3, 4}):
        return None
    values = np.asarray(found)
    parts = [values[top : top + _ROWS] for top in range(0, len(values), _ROWS)]
    scale = float_scale(parts) if values.dtype.kind == "f" else integer_scale(values.dtype)
    shown: npt.NDArray[np.uint8] = np.empty(values.shape, np.uint8)
    for number, part in enumerate(parts):
        shown[number * _ROWS : (number + 1) * _ROWS] = to_bytes(part, *scale)
    del found, values, parts
    if shown.ndim == 3:
        shown = np.ascontiguousarray(shown[..., [2, 1, 0, 3][: shown.shape[2]]])
    turn = first.integer(_ORIENTATION, 1)
    return Deep(Image.fromarray(shown), turn if 1 <= turn <= 8 else 1, first.count(_PROFILE) > 0)


def bitfields(data: bytes) -> Deep | None:
    """A bitmap of 16 or 32 bits a pixel whose masks are not the usual ones; None where it is none, or is cut."""
    head, width, height, _, bits, compression = struct.unpack_from("<IiiHHI", data, 14)
    (start,) = struct.unpack_from("<I", data, 10)
    if head < 40 or bits not in {16, 32} or compression != _BITFIELDS or width <= 0 or not height:
        return None
    stride = (width * bits // 8 + 3) // 4 * 4
    if start + stride * abs(height) > len(data):
        return None
    rows = np.frombuffer(data, np.uint8, stride * abs(height), start).reshape(abs(height), stride)
    pixels = rows[:, : width * bits // 8].copy().view(f"<u{bits // 8}").astype(np.uint32)
    alpha = struct.unpack_from("<I", data, 66)[0] if head >= 56 else 0
    planes = [_masked(pixels, mask) for mask in (*struct.unpack_from("<3I", data, 54), *([alpha] if alpha else []))]
    return Deep(Image.fromarray(np.stack(planes, -1)[:: 1 if height < 0 else -1].copy()))


def _masked(pixels: npt.NDArray[np.uint32], mask: int) -> npt.NDArray[np.uint8]:
    """The sample that a mask cuts out, spread over 8 bits."""
    if not mask:
        return np.zeros(pixels.shape, np.uint8)
    low = (mask & -mask).bit_length() - 1
    return to_bytes(pixels >> np.uint32(low) & np.uint32(mask >> low), 0, 255 / (mask >> low))


def integer_scale(dtype: np.dtype) -> tuple[float, float]:
    """The scale that takes unsigned integers, black to white, to 0 to 255."""
    return 0.0, 255 / (2 ** (8 * dtype.itemsize) - 1)


def float_scale(parts: Iterable[npt.NDArray]) -> tuple[float, float]:
    """The scale of floats: 0 is black and 1 is white, or, where some are beyond, the least and the largest are.

    Args:
        parts: the picture's values, some rows after others, so that no copy of all is made.
    """
    finite = (part[np.isfinite(part)] for part in parts)
    ends = [(float(part.min()), float(part.max())) for part in finite if part.size]
    low, high = (min(low for low, _ in ends), max(high for _, high in ends)) if ends else (0.0, 1.0)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    return low, 255 / (high - low) if high > low else 0.0


def to_bytes(values: npt.NDArray, low: float, factor: float) -> npt.NDArray[np.uint8]:
    """`(value - low) * factor`, rounded and held to 0 to 255; what is no number is black."""
    scaled = np.nan_to_num((values.astype(np.float64) - low) * factor, nan=0.0, posinf=255.0, neginf=0.0)
    return np.clip(scaled + 0.5, 0, 255).astype(np.uint8)
