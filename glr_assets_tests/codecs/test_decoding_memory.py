"""What decoding an image takes has a bound by its pixels, of every format and also of damaged files."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from PIL import Image

SIDE: Final = 3000
#: Megabytes for any picture: strips of it in floats, libraries, and what a new process copies.
FIXED: Final = 16
#: Bytes a pixel at the peak, as docs/deploy.md tells them, by file. Decoders hold the picture once, as Pillow does
#: (4 bytes for colors), and these more: coefficients of 16 bits, two canvases, planes of 32 bits.
MOST: Final = {
    "PNG": 7,
    "PNG with alpha": 7,
    "PNG that is cut": 5,
    "progressive JPEG": 7,
    "JPEG in CMYK": 7,
    "JPEG that is cut": 7,
    "TIFF of floats": 9,
    "TIFF of 16 bits a color": 9,
    "BMP": 7,
    "GIF": 7,
    "AVIF": 12,
    "WebP": 18,
    "JPEG 2000": 22,
}
#: Each file is decoded in a process of its own, which begins where the libraries and Pillow's plugins are loaded: that
#: they are compiled there, in an environment just made, belongs to no picture.
MEASURED = """
import io, json, os, sys
from pathlib import Path
from PIL import Image
from glr_assets.images.pixels import downsize
from glr_assets.recipes import Images
from glr_assets_tests.benchmarks.measure import forget_peak, peak_megabytes
Image.init()
for kind in ("JPEG", "PNG", "TIFF"):
    small = io.BytesIO()
    Image.new("RGB", (500, 500)).save(small, kind)
    downsize(small.getvalue(), Images())
for file in sorted(Path(sys.argv[1]).iterdir()):
    data = file.read_bytes()
    child = os.fork()
    if child:
        assert os.waitpid(child, 0)[1] == 0, file.name
        continue
    before = forget_peak()
    told = downsize(data, Images())
    print(json.dumps({file.name: [peak_megabytes() - before, getattr(told, "reason", "")]}), flush=True)
    os._exit(0)
"""


def file_of(kind: str) -> bytes:
    rising = np.arange(SIDE, dtype=np.uint32)
    values = ((rising[:, None] * 7 + rising[None, :] * 13) // 64 % 256).astype(np.uint8)
    grey = Image.fromarray(values)
    color = Image.merge("RGB", [grey] * 3)
    file = io.BytesIO()
    match kind:
        case "PNG with alpha":
            Image.merge("RGBA", [grey] * 4).save(file, "PNG", compress_level=1)
        case "progressive JPEG":
            color.save(file, "JPEG", quality=60, progressive=True, subsampling=0)
        case "JPEG in CMYK":
            Image.merge("CMYK", [grey] * 4).save(file, "JPEG", quality=60)
        case "TIFF of floats":
            Image.fromarray(values.astype(np.float32)).save(file, "TIFF")
        case "TIFF of 16 bits a color":
            return tiff_of_16_bits(np.repeat(values[..., None].astype("<u2") * 200, 3, axis=2))
        case "GIF":
            grey.convert("P").save(file, "GIF")
        case "AVIF":
            color.save(file, "AVIF", quality=40, speed=10)
        case "WebP":
            color.save(file, "WEBP", quality=50, method=0)
        case "JPEG 2000":
            color.save(file, "JPEG2000", quality_mode="rates", quality_layers=[40])
        case _ if "PNG" in kind:
            color.save(file, "PNG", compress_level=1)
        case _ if "JPEG" in kind:
            color.save(file, "JPEG", quality=60)
        case _:
            color.save(file, kind)
    data = file.getvalue()
    return data[: len(data) * 9 // 10] if kind.endswith("cut") else data


def tiff_of_16_bits(values: np.ndarray) -> bytes:
    """An uncompressed TIFF of one strip (TIFF 6.0, section 6)."""
    height, width, samples = values.shape
    data = values.tobytes()
    entries = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, samples, 8 + len(data)), (259, 3, 1, 1)]
    entries += [(262, 3, 1, 2), (273, 4, 1, 8), (277, 3, 1, samples), (278, 4, 1, height), (279, 4, 1, len(data))]
    bits = struct.pack("<3H", 16, 16, 16) + b"\0\0"
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return struct.pack("<2sHI", b"II", 42, 8 + len(data) + len(bits)) + data + bits + directory + bytes(4)


@pytest.mark.parametrize(
    "kinds", [("PNG that is cut", "TIFF of floats"), pytest.param(tuple(MOST), marks=pytest.mark.slow)], ids=len
)
def test_decoding_takes_no_more_than_is_told_for_its_format(kinds: tuple[str, ...], tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system cannot forget a peak")
    for kind in kinds:
        (tmp_path / kind).write_bytes(file_of(kind))
    command = [sys.executable, "-c", MEASURED, str(tmp_path)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found = {}
    for line in done.stdout.splitlines():
        found |= json.loads(line)
    for kind, (_, reason) in found.items():
        assert reason.startswith("undecodable: cut") if kind.endswith("cut") else not reason, (kind, reason)
    over = {kind: rise for kind, (rise, _) in found.items() if rise > FIXED + MOST[kind] * SIDE**2 / 1e6}
    assert not over
    assert found.keys() == set(kinds)
