"""A package of a manifest's images: file by file, each known when it is finished, and the lists beside them."""

from __future__ import annotations

import posixpath
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path, PurePosixPath
from statistics import median_low
from typing import Final

from pydantic import BaseModel

from glr_assets.errors import DamagedFileError, GlrError, StoreError
from glr_assets.exports.images import NAMED_AT_MOST, ExportImage, ExportImages, export_images, manifest_inputs, named
from glr_assets.exports.listings import attribution_csv, fiftyone_labels, landmarks_csv, train_csv
from glr_assets.exports.order import Rows, export_order, file_borders
from glr_assets.exports.packages import (
    EXPORTS,
    PACKAGES,
    Package,
    PackageFile,
    PackageKind,
    is_of_users,
    mark,
)
from glr_assets.manifests import kept_images
from glr_assets.receipts import (
    Made,
    Receipt,
    Summary,
    Writer,
    digest_of,
    forget,
    make,
)
from glr_assets.recipes import Exports
from glr_assets.store import Store

CODE_VERSION = "1"
INDEX: Final = "export.json"
TRAIN_MANIFEST: Final = "train_manifest"


class PackageFileEntry(BaseModel):
    """One file of images: its path below the package's folder, what it holds."""

    path: str
    images: int
    size: int
    sha256: str


class PackageIndex(BaseModel):
    """`export.json`: what a package is, how it was made, from which versions, and each file of images in order."""

    name: str
    format: str
    manifest: str
    order: str
    seed: int
    images_per_shard: int
    images: int
    landmarks: int
    images_without_author_or_licence: int
    bytes: int
    made_from: dict[str, str]
    files: list[PackageFileEntry]


@dataclass(frozen=True)
class Destination:
    """Where a package goes: a folder of a store, with its receipts in the same store."""

    store: Store
    folder: str = ""

    def path(self, name: str) -> str:
        """The path of a file of the package."""
        return posixpath.join(self.folder, name)


@dataclass(frozen=True)
class Progress:
    """What is called as the work goes on: with how many images in how many files, then with images got through."""

    begins: Callable[[int, int], None] = lambda *_: None
    through: Callable[[int], None] = lambda _: None


def in_the_store(store: Store, name: str) -> Destination:
    """A package's own folder of the store."""
    return Destination(store, f"{EXPORTS}/{name}")


def in_a_folder(store: Store, url: str, name: str) -> Destination:
    """Another folder, or a URL, of the package's own; a URL of the store's kind is opened with the store's options.

    Raises:
        StoreError: it is the store itself, lies among the store's own files, or holds another package.
    """
    target = Store(url)
    if target.fs.protocol == store.fs.protocol:
        target = Store(url, store.options)
    inside = _inside(store, target)
    if inside == "":
        raise StoreError(f"{url}: is the store itself; leave --to out, or name a folder of its own for {name}")
    if inside is not None and not is_of_users(inside):
        raise StoreError(
            f"{url}: lies among the store's own files; leave --to out, or name a folder outside the store or a new one "
            f"in its {EXPORTS}/ for {name}"
        )
    try:
        held = PackageIndex.model_validate(target.read_json(INDEX)).name
    except FileNotFoundError:
        held = name
    except ValueError as error:
        raise StoreError(f"{target.full_url(INDEX)}: is of no export; name another folder for {name}") from error
    if held != name:
        raise StoreError(f"{url}: holds the export {held}; name another folder for {name}")
    return Destination(target)


def _inside(store: Store, target: Store) -> str | None:
    """The path of a folder below the root of a store, links followed; empty for the root; None where it is outside."""
    if target.fs.protocol != store.fs.protocol:
        return None
    roots = [target.root, store.root]
    if "file" in store.fs.protocol:
        roots = [str(Path(root).resolve()) for root in roots]
    below, root = (PurePosixPath(root) for root in roots)
    if not below.is_relative_to(root):
        return None
    path = below.relative_to(root).as_posix()
    return "" if path == "." else path


def make_export(
    store: Store,
    kind: PackageKind,
    recipe: Exports,
    seed: int,
    *,
    manifest: str = TRAIN_MANIFEST,
    to: str | None = None,
    progress: Progress | None = None,
) -> Made:
    """The package of a manifest's images, its lists (`train.csv`, `attribution.csv`, `landmarks.csv`), `export.json`.

    Each file of images has a receipt of its own: a run that was killed, or that met damaged images, is gone on with,
    and what is finished is not read again.

    Args:
        store: where manifest and images are.
        kind: `tfrecord`, `webdataset` or `zip`; with a zip lies a `labels.json` for FiftyOne.
        recipe: order and size of the files.
        seed: of the order.
        manifest: which set: a key of `manifests.MANIFESTS`.
        to: a folder or URL of its own; in the store's `exports/` where not given.
        progress: told of the work.

    Raises:
        MissingInputError: the manifest or a table has not been made, or images that it keeps are not stored.
        StoreError: stored images are damaged, which are named, or files cannot be written.
    """
    package, progress = PACKAGES[kind], progress or Progress()
    name = package.name(manifest)
    inputs = manifest_inputs(store, manifest)
    target = in_the_store(store, name) if to is None else in_a_folder(store, to, name)
    parameters = {"format": kind} | recipe.model_dump() | {"seed": seed}
    run: Summary = {}

    def build(writer: Writer) -> Summary:
        began = time.monotonic()
        images = export_images(store, manifest)
        # From here on files change, one by one.
        writer.begin()
        files = _make_files(images, package, name, target, recipe, seed, progress)
        receipts = [file.receipt for file in files]
        for receipt in receipts:
            writer.outputs |= receipt.outputs
        index = PackageIndex(
            name=name,
            manifest=manifest,
            images=len(images),
            landmarks=len(images.landmarks),
            images_without_author_or_licence=images.without_rights,
            bytes=sum(written.size for receipt in receipts for written in receipt.outputs.values()),
            made_from=inputs,
            files=[_entry(receipt, target) for receipt in receipts],
            **parameters,
        )
        _write_lists(writer, target, images, with_fiftyone=kind == "zip")
        writer.json(target.path(INDEX), index.model_dump())
        fresh = [file.receipt for file in files if not file.reused]
        run.update(
            files_written=len(fresh),
            files_done_before=len(files) - len(fresh),
            images_written=sum(int(receipt.summary["images"] or 0) for receipt in fresh),
            seconds=round(time.monotonic() - began, 3),
        )
        sizes = [landmark.images for landmark in images.landmarks]
        return {
            "rows": index.images,
            "files_of_images": len(index.files),
            "bytes": index.bytes,
            "landmarks": index.landmarks,
            "fewest_images_of_a_landmark": min(sizes),
            "median_images_of_a_landmark": median_low(sizes),
            "most_images_of_a_landmark": max(sizes),
            "without_author_or_licence": index.images_without_author_or_licence,
        }

    made = make(target.store, name, inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)
    return replace(made, run=run)


def _entry(receipt: Receipt, target: Destination) -> PackageFileEntry:
    ((path, written),) = receipt.outputs.items()
    images = int(receipt.summary["images"] or 0)
    return PackageFileEntry(
        path=posixpath.relpath(path, target.folder or "."), images=images, size=written.size, sha256=written.sha256
    )


def _make_files(
    images: ExportImages,
    package: Package,
    name: str,
    target: Destination,
    recipe: Exports,
    seed: int,
    progress: Progress,
) -> list[Made]:
    """The files of images in their order; those that are finished are left as they are.

    Raises:
        StoreError: stored images are damaged: it names them. Only the files that would hold them were not written.
    """
    order = export_order(images.table["id"], images.table["landmark_id"].to_numpy(), recipe.order, seed)
    borders = file_borders(len(images), recipe.images_per_shard)
    paths = [target.path(package.file_name(number, len(borders))) for number in range(len(borders))]
    _forget_others(target.store, name, paths)
    progress.begins(len(images), len(borders))
    made: list[Made] = []
    damaged: dict[str, GlrError] = {}
    for number, ((first, end), path) in enumerate(zip(borders, paths, strict=True)):
        file = _File(f"{name}/{number:05d}", path, mark(number, len(borders)), images, order[first:end])
        try:
            made.append(file.make(target.store, package, progress))
        except _DamagedError as error:
            damaged |= error.images
            # As many may mean that the store is not there at all.
            if len(damaged) >= NAMED_AT_MOST:
                break
    if damaged:
        at_least = "at least " if len(damaged) >= NAMED_AT_MOST else ""
        first_error = next(iter(damaged.values()))
        broken = {path for error in damaged.values() if isinstance(error, DamagedFileError) for path in error.paths}
        raise DamagedFileError(
            f"{name}: {at_least}{len(damaged)} stored images cannot be read, and no file that would hold one was "
            f"written: {named([*damaged])}; the first: {first_error}",
            *sorted(broken),
        ) from first_error
    return made


@dataclass(frozen=True, eq=False)
class _File:
    """One file of a package: the name of its receipt, its path, its mark, and which of the images it holds."""

    receipt: str
    path: str
    mark: str
    images: ExportImages
    numbers: Rows

    def make(self, store: Store, package: Package, progress: Progress) -> Made:
        """Write it, or find it finished.

        Raises:
            _DamagedError: some of its images cannot be read.
        """
        held, rows = self.images.at(self.numbers), self.images.rows[self.numbers]

        def build(writer: Writer) -> Summary:
            with writer.writing(self.path) as file, package.writing(file, self.mark) as writing:
                self._write(writing, held, rows, progress)
            return {"images": len(held)}

        digests = [self.images.reader.places.xxh3(row) for row in rows.tolist()]
        # What it holds decides it, whatever else of the tables has changed.
        parameters = {"path": self.path, "holds": digest_of([held, digests])}
        made = make(store, self.receipt, inputs={}, parameters=parameters, code_version=CODE_VERSION, build=build)
        if made.reused:
            progress.through(len(held))
        return made

    def _write(self, writing: PackageFile, held: Sequence[ExportImage], rows: Rows, progress: Progress) -> None:
        damaged: dict[str, GlrError] = {}
        for image, jpeg in zip(held, _jpegs(self.images, rows), strict=True):
            progress.through(1)
            if isinstance(jpeg, GlrError):
                damaged[image.id] = jpeg
                if len(damaged) >= NAMED_AT_MOST:
                    break
            elif not damaged:
                writing.add(image, jpeg)
        if damaged:
            raise _DamagedError(damaged)


class _DamagedError(Exception):
    """Images of a file that cannot be read, by id."""

    def __init__(self, images: dict[str, GlrError]) -> None:
        super().__init__(", ".join(images))
        self.images = images


def _jpegs(images: ExportImages, rows: Rows) -> Iterator[bytes | GlrError]:
    """The stored bytes of these rows in their order; in a damaged one's stead, what is wrong with it."""
    done = 0
    while done < len(rows):
        try:
            for jpeg in images.reader.read_rows(rows[done:].tolist()):
                done += 1
                yield jpeg
        except GlrError as error:
            done += 1
            yield error


def _forget_others(store: Store, name: str, paths: Sequence[str]) -> None:
    """Remove what an earlier package of the same name had beyond these files: receipts, and files they tell of."""
    for file in store.names(f"receipts/{name}"):
        number = file.removesuffix(".json")
        if number.isdecimal() and int(number) < len(paths):
            continue
        forget(store, f"{name}/{number}", keep=paths)


def _write_lists(writer: Writer, target: Destination, images: ExportImages, *, with_fiftyone: bool) -> None:
    def every() -> Iterator[ExportImage]:
        return chain.from_iterable(images.in_parts())

    lists = {
        "train.csv": train_csv(every()),
        "attribution.csv": attribution_csv(every()),
        "landmarks.csv": landmarks_csv(images.landmarks),
    }
    if with_fiftyone:
        lists["labels.json"] = fiftyone_labels(every(), images.landmarks)
    for name, parts in lists.items():
        with writer.writing(target.path(name)) as file:
            for part in parts:
                file.write(part)


def incomplete(store: Store, name: str) -> str:
    """What a package in a store lacks of its manifest, in words; empty where it holds every image.

    Args:
        store: where the package and its manifest are.
        name: of the package, `train_zip`.
    """
    target = in_the_store(store, name)
    index = PackageIndex.model_validate(store.read_json(target.path(INDEX)))
    kept = kept_images(store, index.manifest).num_rows
    held = sum(file.images for file in index.files)
    if not kept == index.images == held:
        return f"{index.manifest} keeps {kept} images, the package says {index.images}, its files hold {held}"
    for file in index.files:
        size = store.size(target.path(file.path))
        if size != file.size:
            return f"{file.path} has {size} bytes, expected {file.size}: materialise {name} again"
    return ""
