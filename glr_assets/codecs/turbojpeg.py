"""JPEG bytes to the planes they hold, Y, Cb and Cr, and back, through libturbojpeg.

A JPEG of colour holds half or a quarter as many chroma samples as pixels. Whoever works on its planes moves
half the samples and converts no colours. The library's TurboJPEG 2 API is called as it is: what wraps it
for Python encodes from no planes, and answers damaged data with a warning and pixels.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glr_assets.errors import SettingsError

Plane = npt.NDArray[np.uint8]

#: TurboJPEG's constants (turbojpeg.h).
_STOP_ON_WARNING, _LIMIT_SCANS, _ACCURATE_DCT, _NO_REALLOC = 8192, 32768, 4096, 1024
_YCBCR, _GREY = 1, 2
_420 = 2
#: Samples of luma a sample of chroma covers, across and down, by TurboJPEG's number of the subsampling.
_COVERS = {0: (1, 1), 1: (2, 1), 2: (2, 2), 3: (1, 1), 4: (1, 2), 5: (4, 1)}
_GREY_SAMPLING = 3
_MEND = "install it (on Debian `apt-get install libturbojpeg0`, on macOS `brew install jpeg-turbo`) and run again"


class NoPlanesError(Exception):
    """These bytes are no sound JPEG in YCbCr or grey: another decoder must judge them."""


@dataclass(frozen=True)
class JpegPlanes:
    """The planes of a JPEG, decoded at 1, 1/2, 1/4 or 1/8 of its size.

    Attributes:
        luma: uint8 [ceil(height / reduction), ceil(width / reduction)].
        chroma: Cb and Cr, uint8, each of the smaller size that the subsampling gives; none in a grey image.
        size: (width, height) in pixels of the whole image.
        reduction: 1, 2, 4 or 8.
        covers: luma samples under one of chroma, (across, down).
    """

    luma: Plane
    chroma: tuple[Plane, ...]
    size: tuple[int, int]
    reduction: int
    covers: tuple[int, int]


def read_size(data: bytes | memoryview) -> tuple[int, int]:
    """(width, height) of a JPEG that `decode_planes` may take.

    Raises:
        NoPlanesError: its header is damaged, or it is neither YCbCr nor grey.
    """
    with _Codec("tjInitDecompress") as codec:
        width, height, _ = _header(codec, _bytes(data))
    return width, height


def decode_planes(data: bytes | memoryview, reduction: int = 1) -> JpegPlanes:
    """Decode a JPEG to its planes, by the accurate inverse DCT.

    Args:
        data: the whole file.
        reduction: 1, 2, 4 or 8: the inverse DCT itself gives a smaller image and skips what it does not need.

    Raises:
        NoPlanesError: damaged or cut anywhere, or neither YCbCr nor grey, or of more than 500 scans.
    """
    source = _bytes(data)
    with _Codec("tjInitDecompress") as codec:
        width, height, sampling = _header(codec, source)
        library = codec.library
        scaled_width, scaled_height = -(-width // reduction), -(-height // reduction)
        count = 1 if sampling == _GREY_SAMPLING else 3
        planes = [
            np.empty(
                (library.tjPlaneHeight(i, scaled_height, sampling), library.tjPlaneWidth(i, scaled_width, sampling)),
                np.uint8,
            )
            for i in range(count)
        ]
        status = library.tjDecompressToYUVPlanes(
            codec.handle,
            source.ctypes.data,
            source.size,
            _pointers(planes),
            scaled_width,
            _strides(planes),
            scaled_height,
            _STOP_ON_WARNING | _LIMIT_SCANS,
        )
        if status != 0:
            raise NoPlanesError(codec.reason)
    across, down = _COVERS[sampling]
    # The planes end with whole blocks: a last column or row beyond the image is no part of it.
    luma = planes[0][:scaled_height, :scaled_width]
    chroma = tuple(plane[: -(-scaled_height // down), : -(-scaled_width // across)] for plane in planes[1:])
    return JpegPlanes(luma, chroma, (width, height), reduction, (across, down))


def encode_planes(luma: Plane, chroma: tuple[Plane, Plane], quality: int) -> bytes:
    """A baseline JPEG in 4:2:0 of these planes, uint8; chroma is [ceil(height / 2), ceil(width / 2)].

    The Huffman tables are the standard's: tables of an image's own cost a third of the time for 2 % of the bytes.
    """
    height, width = luma.shape
    # Even sides: the library reads whole blocks of 2 x 2.
    planes = [_even(luma), *(np.ascontiguousarray(plane) for plane in chroma)]
    with _Codec("tjInitCompress") as codec:
        buffer = np.empty(codec.library.tjBufSize(width, height, _420), np.uint8)
        pointer, size = ctypes.c_void_p(buffer.ctypes.data), ctypes.c_ulong(buffer.size)
        status = codec.library.tjCompressFromYUVPlanes(
            codec.handle,
            _pointers(planes),
            width,
            _strides(planes),
            height,
            _420,
            ctypes.byref(pointer),
            ctypes.byref(size),
            quality,
            _NO_REALLOC | _ACCURATE_DCT,
        )
        if status != 0:
            raise ValueError(f"planes of {width}x{height} cannot be encoded: {codec.reason}")
    return buffer[: size.value].tobytes()


def _even(plane: Plane) -> Plane:
    height, width = plane.shape
    if height % 2 == 0 and width % 2 == 0:
        return np.ascontiguousarray(plane)
    return np.pad(plane, ((0, height % 2), (0, width % 2)), mode="edge")


def _bytes(data: bytes | memoryview) -> Plane:
    return np.frombuffer(data, np.uint8)


def _pointers(planes: list[Plane]) -> ctypes.Array[ctypes.c_void_p]:
    return (ctypes.c_void_p * 3)(*(plane.ctypes.data for plane in planes))


def _strides(planes: list[Plane]) -> ctypes.Array[ctypes.c_int]:
    return (ctypes.c_int * 3)(*(plane.shape[1] for plane in planes))


def _header(codec: _Codec, source: Plane) -> tuple[int, int, int]:
    """Width, height and TurboJPEG's number of the subsampling."""
    found = [ctypes.c_int() for _ in range(4)]
    status = codec.library.tjDecompressHeader3(
        codec.handle, source.ctypes.data, source.size, *(ctypes.byref(value) for value in found)
    )
    if status != 0:
        raise NoPlanesError(codec.reason)
    width, height, sampling, colours = (value.value for value in found)
    if colours not in {_YCBCR, _GREY} or sampling not in _COVERS:
        raise NoPlanesError(f"colour space {colours} with subsampling {sampling}, expected YCbCr or grey")
    return width, height, sampling


class _Codec:
    """A compressor or a decompressor for one image: a used one keeps flags and state of what it failed at."""

    def __init__(self, new: str) -> None:
        self.library = _library()
        self.handle = getattr(self.library, new)()

    def __enter__(self) -> _Codec:
        return self

    def __exit__(self, *_: object) -> None:
        self.library.tjDestroy(self.handle)

    @property
    def reason(self) -> str:
        """What the library says of its last failure, less the name of its function."""
        return str(self.library.tjGetErrorStr2(self.handle).decode(errors="replace")).split("(): ")[-1]


@functools.cache
def _library() -> ctypes.CDLL:
    name = ctypes.util.find_library("turbojpeg")
    try:
        library = ctypes.CDLL(name or "libturbojpeg.so.0")
    except OSError as error:
        raise SettingsError(f"the library libturbojpeg is missing: {error}; {_MEND}") from error
    pointer, number, size = ctypes.c_void_p, ctypes.c_int, ctypes.c_ulong
    for function, result, arguments in (
        ("tjInitDecompress", pointer, []),
        ("tjInitCompress", pointer, []),
        ("tjDestroy", number, [pointer]),
        ("tjGetErrorStr2", ctypes.c_char_p, [pointer]),
        ("tjPlaneWidth", number, [number] * 3),
        ("tjPlaneHeight", number, [number] * 3),
        ("tjBufSize", size, [number] * 3),
        ("tjDecompressHeader3", number, [pointer, pointer, size, *[pointer] * 4]),
        ("tjDecompressToYUVPlanes", number, [pointer, pointer, size, pointer, number, pointer, number, number]),
        (
            "tjCompressFromYUVPlanes",
            number,
            [pointer, pointer, number, pointer, number, number, pointer, pointer, number, number],
        ),
    ):
        bound = getattr(library, function)
        bound.restype, bound.argtypes = result, arguments
    return library
