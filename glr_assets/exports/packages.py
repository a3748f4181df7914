"""The three kinds of package: what their files are called, and who writes one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import IO, Final, Literal, Protocol

from glr_assets.exports.images import ExportImage
from glr_assets.exports.tars import WebdatasetTar
from glr_assets.exports.tfrecord import TfRecordFile
from glr_assets.exports.zips import ImageZip
from glr_assets.manifests import MANIFESTS

PackageKind = Literal["tfrecord", "webdataset", "zip"]


class PackageFile(Protocol):
    """One file of a package that is being written."""

    def add(self, image: ExportImage, jpeg: bytes) -> None:
        """Append an image."""


@dataclass(frozen=True)
class Package:
    """A kind of package.

    Attributes:
        suffix: of the name of a package of this kind, after that of its manifest.
        file_name: of file `number` of so many.
        writing: writes the images of a file, given the file and what tells it apart from the package's others.
    """

    suffix: str
    file_name: Callable[[int, int], str]
    writing: Callable[[IO[bytes], str], AbstractContextManager[PackageFile]]

    def name(self, manifest: str) -> str:
        """The name of a manifest's package: `train_tfrecords` of `train_manifest`."""
        return f"{manifest.removesuffix('_manifest')}_{self.suffix}"


def mark(number: int, of: int) -> str:
    """What tells one file of several apart; empty where there is one."""
    return f"-{number:05d}-of-{of:05d}" if of > 1 else ""


PACKAGES: Final[dict[PackageKind, Package]] = {
    # As TensorFlow's own data sets are called.
    "tfrecord": Package(
        "tfrecords",
        lambda number, of: f"train-{number:05d}-of-{of:05d}.tfrecord",
        lambda file, _: TfRecordFile(file),
    ),
    # As webdataset's brace notation wants them: train-{000000..000041}.tar.
    "webdataset": Package(
        "webdataset", lambda number, _: f"train-{number:06d}.tar", lambda file, _: WebdatasetTar(file)
    ),
    "zip": Package("zip", lambda number, of: f"train{mark(number, of)}.zip", ImageZip),
}
#: The folder of a store in which packages lie, each in a folder of its name.
EXPORTS: Final = "exports"
PACKAGE_NAMES: Final = frozenset(kind.name(manifest) for kind in PACKAGES.values() for manifest in MANIFESTS)


def is_of_users(path: str) -> bool:
    """Whether a path of a store is in a folder of its `exports/` that a user named: no package's own."""
    top, _, below = path.partition("/")
    return top == EXPORTS and bool(below) and below.partition("/")[0] not in PACKAGE_NAMES
