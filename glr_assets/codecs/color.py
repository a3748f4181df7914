"""ICC profiles: pixels of another color space as sRGB."""

from __future__ import annotations

import functools
import io
from dataclasses import dataclass
from typing import Final

from PIL import Image, ImageCms

#: How profiles are applied; goes up when the same pixels and profile give other colors.
SRGB: Final = "srgb-1"
#: Beside pixels whose profile could not be applied.
IGNORED: Final = "profile-ignored"
#: A profile whose colors differ from sRGB's by no more than this, of 255, is sRGB: its many editions round otherwise.
_SAME = 2
#: Profiles are some kilobytes, those of printing some megabytes; a bucket has a few different ones.
_KEPT_PROFILES = 32
_MAX_PROFILE_BYTES = 8 * 2**20
#: Pillow's mode of the samples of each color space of ICC.1:2010, table 19.
_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}


@dataclass(frozen=True)
class Profile:
    """A profile, ready to use.

    Attributes:
        mode: of the pixels that it describes: RGB, L or CMYK.
        transform: to sRGB; None where it is sRGB.
    """

    mode: str
    transform: ImageCms.ImageCmsTransform | None

    @property
    def is_srgb(self) -> bool:
        """Whether pixels need no conversion."""
        return self.transform is None

    def to_srgb(self, image: Image.Image) -> Image.Image:
        """`image`, of the profile's mode, as RGB."""
        if self.transform is None:
            return image if image.mode == "RGB" else image.convert("RGB")
        return self.transform.apply(image)


def read_profile(data: bytes) -> Profile | None:
    """A profile by its bytes; None where they are damaged, or describe no RGB, grey or CMYK."""
    if not 128 <= len(data) <= _MAX_PROFILE_BYTES:
        return None
    return _read_profile(data)


@functools.lru_cache(_KEPT_PROFILES)
def _read_profile(data: bytes) -> Profile | None:
    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _MODES[given.profile.xcolor_space]
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        intent = ImageCms.Intent(given.profile.rendering_intent)
        transform = ImageCms.ImageCmsTransform(given, srgb, mode, "RGB", intent)
        probe = _probe(mode)
        shown = transform.apply(probe)
    except (OSError, ImageCms.PyCMSError, KeyError, ValueError, TypeError):
        return None
    same = mode != "CMYK" and _difference(shown, probe.convert("RGB")) <= _SAME
    return Profile(mode, None if same else transform)


def _probe(mode: str) -> Image.Image:
    """Colors from all over the space: 9 steps of each channel of RGB, or every grey."""
    if mode == "L":
        return Image.frombytes("L", (256, 1), bytes(range(256)))
    steps = [min(32 * step, 255) for step in range(9)]
    colors = bytes(value for red in steps for green in steps for blue in steps for value in (red, green, blue))
    return Image.frombytes("RGB", (81, 9), colors).convert(mode)


def _difference(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of a sample."""
    return max(abs(a - b) for a, b in zip(one.tobytes(), other.tobytes(), strict=True))
