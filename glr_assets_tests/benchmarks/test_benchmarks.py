"""That the benchmarks measure what they say."""

from __future__ import annotations

import hashlib
import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glr_assets.codecs.turbojpeg import encode_planes
from glr_assets_tests.benchmarks import ingest, measure, shard
from glr_assets_tests.images.handmade import picture

PHOTO = picture(0, (900, 700))


@pytest.mark.parametrize("name", [name for name in ingest.ways() if not name.startswith("floor")])
def test_every_way_stores_the_smaller_side(name: str) -> None:
    if name.startswith("seed"):
        pytest.importorskip("imageio")
    jpeg = ingest.ways()[name].run(PHOTO)
    assert jpeg is not None
    # The earlier system cuts fractions off: 700 * (384 / 700) may be 383.
    assert min(Image.open(io.BytesIO(jpeg)).size) in ({383, 384} if name.startswith("seed") else {384})


def test_what_quality_is_told_of_is_what_is_encoded() -> None:
    planes = ingest.before_encoding(PHOTO)
    assert encode_planes(*planes, ingest.QUALITY) == ingest.ours(PHOTO)


def test_planes_as_rgb_are_the_image_that_they_are_of() -> None:
    assert ingest.psnr(ingest.as_rgb(*ingest.before_encoding(PHOTO)), PHOTO) > 40
    assert ingest.psnr(ingest.as_rgb(*ingest.before_encoding(picture(1, (900, 700)))), PHOTO) < 20


def test_the_profile_adds_up_and_leaves_all_as_it_was() -> None:
    before = ingest.ours(PHOTO)
    parts = ingest.profile([PHOTO], 1)
    assert sum(value for name, value in parts.items() if name != "all") == pytest.approx(parts["all"])
    assert min(parts.values()) > 0
    assert ingest.ours(PHOTO) == before
    assert ingest.downsize.__globals__["decode_planes"].__module__ == "glr_assets.codecs.turbojpeg"


def test_time_of_builtins_counts_for_those_who_called_them() -> None:
    walk, read = ("/x/glr_assets/source/tar_walk.py", 1, "walk"), ("/x/glr_assets/ranges.py", 2, "stream")
    helper, update = ("/lib/helper.py", 3, "help"), ("~", 0, "<method 'update'>")
    stats: dict[Any, Any] = {
        walk: (1, 1, 2.0, 6.0, {}),
        read: (1, 1, 1.0, 2.0, {}),
        helper: (1, 1, 1.0, 4.0, {walk: (1, 1, 1.0, 4.0)}),
        update: (4, 4, 4.0, 4.0, {helper: (3, 3, 3.0, 3.0), read: (1, 1, 1.0, 1.0)}),
    }
    parts = {walk: "walked", read: "read"}
    assert shard.by_part(stats, parts.get) == pytest.approx({"walked": 2 + 1 + 3, "read": 1 + 1})


def test_the_shard_is_a_bucket_that_repeats_the_files(tmp_path: Path) -> None:
    files, ids = [picture(1), picture(2)], [f"{number:016x}" for number in range(5)]
    shard.write_shard(tmp_path, files, ids)
    with tarfile.open(tmp_path / shard.SHARD) as archive:
        assert [Path(member.name).stem for member in archive] == ids
        assert [archive.extractfile(member).read() for member in archive] == [files[n % 2] for n in range(5)]  # type: ignore[union-attr]
    published = (tmp_path / "md5sum/train/md5.images_000.txt").read_text().split()[0]
    assert published == hashlib.md5((tmp_path / shard.SHARD).read_bytes(), usedforsecurity=False).hexdigest()


def test_the_peak_of_memory_is_forgotten_and_found_again() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("this system cannot forget a peak")
    np.ones(80_000_000, np.uint8).sum()
    before = measure.forget_peak()
    assert measure.peak_megabytes() < before + 20
    np.ones(80_000_000, np.uint8).sum()
    assert measure.peak_megabytes() > before + 60
