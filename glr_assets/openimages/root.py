"""A root of Open Images: the published CSVs, and images as `<subset>/<ImageID>.jpg`, under any fsspec URL."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

from glr_assets.errors import SourceError, StoreError
from glr_assets.openimages.layout import CLASS_DESCRIPTIONS, image_path
from glr_assets.store import Store


class OpenImagesRoot:
    """Reads what lies under the root, and writes nothing.

    Args:
        url: the root.
        options: of its file system.

    Raises:
        SourceError: nothing of Open Images is there, or it cannot be reached.
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        with _as_source_error():
            self.files = Store(url, options)
        self.url = self.files.url
        self.find(CLASS_DESCRIPTIONS)

    @property
    def is_local(self) -> bool:
        """Whether it is a folder of this machine."""
        return self.files.is_local

    def find(self, names: Sequence[str]) -> str:
        """The first of these names that is there.

        Raises:
            SourceError: none is.
        """
        with _as_source_error():
            for name in names:
                if self.files.exists(name):
                    return name
        raise SourceError(
            f"Open Images {self.url}: none of {', '.join(names)} is there; download one of them as published, "
            "or check GLR_OPENIMAGES"
        )

    def table_url(self, name: str) -> str:
        """Where a CSV lies, for messages."""
        return self.files.full_url(name)

    def open_table(self, name: str) -> IO[bytes]:
        """A CSV that `find` has found."""
        with _as_source_error():
            return self.files.open(name)

    def table_digest(self, name: str) -> str:
        """The server's ETag, or SHA-256 of the file where files have none."""
        with _as_source_error():
            info = self.files.info(name)
            if "ETag" in info:
                return f"{info['ETag']}:{info['size']}"
            with self.files.open(name) as file:
                return hashlib.file_digest(cast(Any, file), "sha256").hexdigest()

    def image_size(self, subset: str, image_id: str) -> int | None:
        """Bytes of an image, or None where there is none."""
        with _as_source_error():
            return self.files.size(image_path(subset, image_id))

    def read_image(self, subset: str, image_id: str, most: int) -> bytes | None:
        """The first `most` bytes of an image at most, or None where there is none.

        Raises:
            SourceError: it cannot be reached.
        """
        with _as_source_error():
            try:
                return self.files.head(image_path(subset, image_id), most)
            except FileNotFoundError:
                return None


@contextmanager
def _as_source_error() -> Iterator[None]:
    """What keeps the root from being read is the source's fault, not the store's."""
    try:
        yield
    except StoreError as error:
        raise SourceError(f"Open Images {error}") from error
