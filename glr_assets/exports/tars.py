"""TARs that webdataset reads: of each image `<id>.jpg`, `<id>.cls` and `<id>.json`, one after the other."""

from __future__ import annotations

import json
from types import TracebackType
from typing import IO

from glr_assets.exports.images import ExportImage
from glr_assets.images.stored_tar import StoredTar


class WebdatasetTar:
    """Writes one TAR, three members an image, as a context manager."""

    def __init__(self, file: IO[bytes]) -> None:
        self._tar = StoredTar(file)

    def __enter__(self) -> WebdatasetTar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tar.__exit__(kind, error, trace)

    def add(self, image: ExportImage, jpeg: bytes) -> None:
        """Append an image: its JPEG, its label in digits, and all that is known of it as JSON."""
        self._tar.add(f"{image.id}.jpg", jpeg)
        self._tar.add(f"{image.id}.cls", str(image.label).encode())
        self._tar.add(f"{image.id}.json", json.dumps(image._asdict(), ensure_ascii=False).encode())
