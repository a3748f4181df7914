"""The test pictures that imaging projects publish, as three other programs show them.

Run where `make fetch-pictures` has put them; the files are read where they lie and are no part of the repository.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from glr_assets.codecs.decode import RefusedError, decode
from glr_assets.images.pixels import _TRANSPOSED

PICTURES = Path(__file__).parents[2] / ".pictures"
SUFFIXES = {
    *(".jpg", ".jpeg", ".png", ".gif", ".bmp", ".tif", ".tiff", ".webp", ".tga", ".ico", ".ppm", ".pgm", ".pbm"),
    *(".jp2", ".j2k", ".avif", ".heic", ".heif", ".psd", ".mpo"),
}
CONVERT = shutil.which("convert-im6.q16") or shutil.which("magick")
MOST_PIXELS = 20_000_000
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "MAGICK_THREAD_LIMIT": "1", "VIPS_CONCURRENCY": "1"}
#: What is shown otherwise, or refused, on purpose, by a part of its path.
ON_PURPOSE = {
    "crash-": "fuzzed: its tags overlap, or its data is none",
    "/crashers/": "fuzzed",
    "_poc": "fuzzed",
    "-poc": "fuzzed",
    "/pocIssue": "fuzzed",
    "clusterfuzz": "fuzzed",
    "bmp/b/": "bitmaps that are bad on purpose, of which each program shows another part",
    "bmp/q/": "bitmaps on which programs differ: the others spread samples of few bits no further than by shifting",
    "rgb32fakealpha": "the fourth byte of a pixel of 32 bits means nothing in this header",
    "small.bmp": "the fourth byte of a pixel of 32 bits means nothing in this header",
    "pal8os2v2": "a palette of OS/2, which the others read as one of Windows",
    ".ico": "the largest picture of an icon is taken, the others show the first",
    "input_16": "a set 16th bit is opaque, and transparent to the others",
    "-tga": "alpha of an origin at the top",
    "float64_predictor": "floats beyond 1 are scaled, the others clip them",
    "minisblack-2c-8b-alpha": "grey with alpha multiplied in, which Pillow reads as transparent",
    "_matte.tiff": "grey of 4 bits with alpha, a palette with alpha: of no decoder here",
    "hopper_webp.tif": "WebP in TIFF is of no decoder here",
    "tiff_overflow_rows": "fuzzed: more rows a strip than there are",
    "truncated": "cut by more than a fiftieth",
    "xmp_tags_orientation": "turned by XMP alone, which the others do not read",
    "pngtest.png": "turned by the eXIf chunk of PNG, which the others do not read",
    "00r0_gray": "its codestream is damaged, and each program shows another part",
    "00r1_graya": "its codestream is damaged, and each program shows another part",
    "invalid_header_length": "damaged",
}


def _ppm(data: bytes) -> npt.NDArray[np.uint8] | None:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError):
        return None


def _shown_by(command: list[str]) -> npt.NDArray[np.uint8] | None:
    try:
        done = subprocess.run(command, capture_output=True, timeout=30, env=ENVIRONMENT, check=False)
    except subprocess.TimeoutExpired:
        return None
    return _ppm(done.stdout) if done.stdout.startswith(b"P6") else None


def imagemagick(path: Path, *converted: str) -> npt.NDArray[np.uint8] | None:
    over = [
        "-auto-orient",
        *converted,
        "-background",
        "white",
        "-alpha",
        "remove",
        "-colorspace",
        "sRGB",
        "-depth",
        "8",
        "ppm:-",
    ]
    return _shown_by([str(CONVERT), "-limit", "memory", "1GiB", f"{path}[0]", *over])


def graphicsmagick(path: Path) -> npt.NDArray[np.uint8] | None:
    over = ["-auto-orient", "-background", "white", "-flatten", "-depth", "8", "ppm:-"]
    return _shown_by(["gm", "convert", f"{path}[0]", *over])


def vips(path: Path, folder: Path) -> npt.NDArray[np.uint8] | None:
    """What libvips shows in sRGB."""
    target = folder / f"{abs(hash(path))}.ppm"
    command = ["vipsthumbnail", str(path), "-s", "100000x100000>", "--eprofile", "srgb"]
    command += ["-o", f"{target}[background=255 255 255]"]
    subprocess.run(command, capture_output=True, check=False, timeout=60, env=ENVIRONMENT)
    return _ppm(target.read_bytes()) if target.exists() else None


def psnr(one: npt.NDArray, other: npt.NDArray | None) -> float:
    if other is None or one.shape != other.shape:
        return 0.0
    return float(10 * np.log10(255**2 / max(np.mean((one.astype(float) - other) ** 2), 1e-9)))


def ours(data: bytes) -> tuple[npt.NDArray[np.uint8], bool]:
    """A file upright in sRGB, and whether a profile changed its colors."""
    picture = decode(data, MOST_PIXELS)
    pixels = np.asarray(picture.rgb())
    turn = picture.orientation
    if turn in {2, 3, 7, 8}:
        pixels = pixels[:, ::-1]
    if turn in {3, 4, 6, 7}:
        pixels = pixels[::-1]
    if turn in _TRANSPOSED:
        # Mirrored as the file lies, then its sides are swapped.
        pixels = pixels.transpose(1, 0, 2)
    return pixels, picture.converts


def fault(path: Path, folder: Path) -> str:
    """How a file that two programs show alike is not what they show; empty where it is, or they do not."""
    first, second = imagemagick(path), graphicsmagick(path)
    if first is None or second is None or psnr(first, second) < 35:
        return ""
    try:
        pixels, converted = ours(path.read_bytes())
    except RefusedError as error:
        return "" if str(error).startswith(("unsupported format", "too large")) else str(error)
    if converted:  # what it shows by itself is not converted
        srgb = folder / "srgb.icc"
        srgb.write_bytes(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
        first = imagemagick(path, "-profile", str(srgb))
    found = psnr(pixels, first) if first is not None else 0.0
    # Programs differ in how chroma is interpolated, and in rounding.
    if found < 28:
        found = max(found, psnr(pixels, vips(path, folder)))
    return "" if found >= 26 else f"{found:.1f} dB, {pixels.shape}"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.skipif(not PICTURES.is_dir(), reason="no .pictures/: `make fetch-pictures` fetches them")
@pytest.mark.skipif(CONVERT is None or shutil.which("gm") is None, reason="ImageMagick or GraphicsMagick is missing")
def test_every_published_picture_is_what_two_programs_show(tmp_path: Path) -> None:
    paths, seen = [], set()
    for path in sorted(PICTURES.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file() and 20 < path.stat().st_size < 20e6:
            data = path.read_bytes()
            if data not in seen:
                seen.add(data)
                paths.append(path)
    assert len(paths) > 500
    with ThreadPoolExecutor(2) as pool:
        faults = dict(zip(paths, pool.map(lambda path: fault(path, tmp_path), paths), strict=True))
    wrong = {str(path.relative_to(PICTURES)): told for path, told in faults.items() if told}
    unknown = {path: told for path, told in wrong.items() if not any(part in path for part in ON_PURPOSE)}
    assert unknown == {}, Counter(told[:30] for told in unknown.values())
