"""Fingerprints of files: imagehash's dhash, EXIF's time, the time in a name."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import imagehash
import numpy as np
import pytest
from PIL import Image

from glr_assets.source.fingerprints import Fingerprint, fingerprint
from glr_assets_tests.test_grouped_split import scene

NOON = datetime(2024, 5, 1, 12, tzinfo=UTC).timestamp()


def exif_of(camera: str = "", taken: str = "", subseconds: str = "") -> Image.Exif:
    exif = Image.Exif()
    if camera:
        exif[0x0110] = camera
    ifd = exif.get_ifd(0x8769)
    for tag, value in ((0x9003, taken), (0x9291, subseconds)):
        if value:
            ifd[tag] = value
    return exif


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_the_hash_is_that_of_imagehash_of_the_upright_picture(suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    scene(3).rotate(90, expand=True).save(tmp_path / f"turned.{suffix}", exif=exif, quality=95)
    found = fingerprint(tmp_path / f"turned.{suffix}").dhash
    assert found is not None
    wanted = int(str(imagehash.dhash(scene(3))), 16)
    # A JPEG is decoded at a fraction of its size.
    assert (found ^ wanted).bit_count() <= 2


@pytest.mark.parametrize(
    ("name", "taken", "subseconds", "seconds"),
    [
        ("a.jpg", "2024:05:01 12:00:00", "", NOON),
        ("a.jpg", "2024:05:01 12:00:00", "25", NOON + 0.25),
        ("IMG_20240501_120000.jpg", "", "", NOON),
        ("PXL_20240501_120000125.jpg", "", "", NOON + 0.125),
        ("20240501-120000(1).jpg", "", "", NOON),
        ("IMG_20240501_120000.jpg", "2023:01:01 00:00:00", "", datetime(2023, 1, 1, tzinfo=UTC).timestamp()),
        ("IMG_20241301_120000.jpg", "", "", None),
        ("a.jpg", "0000:00:00 00:00:00", "", None),
        ("IMG_0481.jpg", "", "", None),
    ],
)
def test_the_time_is_that_of_exif_or_of_the_name(
    name: str, taken: str, subseconds: str, seconds: float | None, tmp_path: Path
) -> None:
    scene(1).save(tmp_path / name, exif=exif_of("X100", taken, subseconds))
    found = fingerprint(tmp_path / name)
    assert found.seconds == (None if seconds is None else pytest.approx(seconds))
    assert ("X100" in found.camera) == (bool(taken) and seconds is not None)


def test_what_cannot_be_decoded_and_what_is_blank_has_no_hash(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 no image")
    (tmp_path / "empty.png").write_bytes(b"")
    Image.new("RGB", (300, 200), (9, 90, 200)).save(tmp_path / "blank.jpg")
    noisy = np.random.default_rng(1).integers(98, 103, (200, 300), dtype=np.uint8)
    Image.fromarray(noisy).save(tmp_path / "noise.png")
    for name in ("broken.jpg", "empty.png", "blank.jpg", "noise.png"):
        assert fingerprint(tmp_path / name) == Fingerprint()
