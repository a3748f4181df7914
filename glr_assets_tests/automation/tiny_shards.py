"""A bucket of many shards of two tiny images: what a backfill costs besides the work."""

from __future__ import annotations

import hashlib
from pathlib import Path

from glr_assets_tests.images.handmade import Bucket, identifier, photo, picture, tar_of, write_shard

IMAGES_A_SHARD = 2
LANDMARKS = 3


class Shards:
    """A bucket of numbered train shards of two images, so many of which lie there, and a shard of each other split."""

    def __init__(self, folder: Path, there: int, of: int) -> None:
        self.folder, self.of = folder, of
        ids = [identifier(n) for n in range(IMAGES_A_SHARD * of)]
        self.ids = {f"{n:03d}": ids[IMAGES_A_SHARD * n : IMAGES_A_SHARD * (n + 1)] for n in range(of)}
        others = {"index": identifier(10_001), "test": identifier(10_002)}
        Bucket(
            {image_id: n % LANDMARKS for n, image_id in enumerate(ids)},
            ids,
            {split: {"000": tar_of([photo(image_id, picture(9))])} for split, image_id in others.items()},  # type: ignore[misc]
            index={others["index"]: 1},
            test=[others["test"]],
        ).write(folder)
        (folder / "ground_truth").mkdir()
        for number in range(there):
            self.drop(f"{number:03d}")

    def drop(self, key: str, version: int = 0, damaged: bool = False) -> None:
        """Put a shard into the bucket, of these images in this version, or of other bytes than its MD5 says."""
        tar = self.tar(key, version)
        write_shard(self.folder, "train", key, tar, md5_of=b"other" if damaged else None)

    def tar(self, key: str, version: int = 0) -> bytes:
        seeds = [int(hashlib.sha256(image_id.encode()).hexdigest()[:6], 16) + version for image_id in self.ids[key]]
        return tar_of([photo(image_id, picture(seed)) for image_id, seed in zip(self.ids[key], seeds, strict=True)])
