"""Turn folders of a team's own photographs, one folder a landmark, into a bucket shaped like GLDv2.

What belongs here: finding photographs, splitting them and making each a JPEG. The bucket's form belongs to
`bucket_writer`.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from urllib.parse import quote

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from glr_assets.errors import SourceError
from glr_assets.grouped_split import held_out_groups, near_duplicate_groups
from glr_assets.seeded import drawn
from glr_assets.source.base import Split
from glr_assets.source.bucket_writer import Landmark, Photo, Written, write_bucket
from glr_assets.source.fingerprints import UNDECODABLE, fingerprint, traits_of
from glr_assets.source.layout import Usage
from glr_assets.store import Store

JPEG_QUALITY = 95
PUBLIC_SHARE = 1 / 3
"""Share of the scored test images with Usage Public, about that of GLDv2."""
IGNORED_NON_LANDMARKS = 3 / 8
"""Share of the non-landmarks that are never scored, so that penalties can compare with them."""
_NOT_IMAGES = """
    txt csv tsv json jsonl md rst html htm xml yaml yml toml ini pdf py ipynb sh
    zip tar gz tgz 7z rar parquet db mp4 mov avi mkv mp3 wav log
"""
NOT_IMAGES = frozenset(f".{suffix}" for suffix in _NOT_IMAGES.split())
JPEG_FORMATS = frozenset({"JPEG", "MPO"})


@dataclass(frozen=True)
class PackSummary:
    """What a bucket was made of: landmarks, images of each split and kind, and files left out by reason."""

    landmarks: int
    train: int
    clean: int
    index: int
    test: int
    ignored: int
    non_landmarks: int
    converted: int
    undecodable: int
    skipped: dict[str, int]
    shards: dict[Split, int]
    shard_bytes: int


@dataclass
class _Files:
    """What became of the files on the way; a file packed into two splits counts once."""

    warn: Callable[[str], None]
    converted: set[Path] = field(default_factory=set)
    undecodable: set[Path] = field(default_factory=set)
    skipped: dict[str, int] = field(default_factory=dict)

    def skip(self, reason: str) -> None:
        self.skipped[reason] = self.skipped.get(reason, 0) + 1


def pack(
    photos: Path,
    bucket: Store,
    *,
    non_landmarks: Path | None = None,
    shards: int = 4,
    test_fraction: float = 0.3,
    clean_fraction: float = 0.8,
    index_fraction: float = 0.0,
    seed: int = 0,
    warn: Callable[[str], None],
) -> PackSummary:
    """Pack `photos`/<landmark>/… and, as test images without landmark, all of `non_landmarks`.

    Every landmark keeps at least one train image, and at least one (two, where it has two) in the
    competition set. `index_fraction` of the train images are held out for the retrieval index; at 0 the index
    is the train images once more, under ids of their own. `warn` is told of each file that cannot be decoded
    or read. The same photographs and arguments leave the same bytes, wherever the photographs lie.

    Raises:
        SourceError: no photographs, a fraction out of range, or a place that cannot take the bucket.
    """
    for name, value, below_one in (
        ("test", test_fraction, True),
        ("clean", clean_fraction, False),
        ("index", index_fraction, True),
    ):
        if not (0 <= value < 1 or (value == 1 and not below_one)):
            ceiling = "below 1" if below_one else "to 1"
            raise SourceError(f"{name} fraction = {value}: expected 0 {ceiling}; mend --{name}-fraction")
    _check_places(photos, bucket, non_landmarks)
    files = _Files(warn)
    found = _landmark_photos(photos, non_landmarks, files)
    plan = _Plan(files, seed)
    for landmark, paths in found.items():
        plan.add_landmark(landmark, photos, paths, test_fraction, clean_fraction, index_fraction)
    if non_landmarks is not None:
        plan.add_non_landmarks(non_landmarks, list(_images_under(non_landmarks, [photos], files)))
    arguments = {
        "made_by": "glr pack",
        "photos": photos.resolve().name,
        "non_landmarks": None if non_landmarks is None else non_landmarks.resolve().name,
        "shards": shards,
        "test_fraction": test_fraction,
        "clean_fraction": clean_fraction,
        "index_fraction": index_fraction,
        "seed": seed,
    }
    written = write_bucket(
        plan.photos,
        {name: Landmark(_readable(name)) for name in found},
        bucket,
        shards={"train": shards, "index": shards, "test": shards},
        origin=arguments,
        seed=seed,
    )
    return _summary(plan.photos, files, written, len(found))


def _check_places(photos: Path, bucket: Store, non_landmarks: Path | None) -> None:
    for folder in (photos, non_landmarks):
        if folder is None:
            continue
        if not folder.is_dir():
            raise SourceError(f"{folder}: not a folder of photographs; give one that exists")
        if bucket.is_local and Path(bucket.root).resolve().is_relative_to(folder.resolve()):
            raise SourceError(f"{bucket.url}: lies inside the photographs {folder}; choose a place outside")
    if non_landmarks is not None and photos.resolve() == non_landmarks.resolve():
        raise SourceError(f"{non_landmarks}: both landmarks and non-landmarks; give two folders")


def _landmark_photos(photos: Path, non_landmarks: Path | None, files: _Files) -> dict[str, list[Path]]:
    """The photographs of each landmark folder, by its name; folders without any are left out."""
    folders = []
    for entry in sorted(photos.iterdir()):
        if entry.name.startswith("."):
            files.skip("hidden")
        elif not entry.is_dir():
            files.skip("not in a landmark folder")
        elif non_landmarks is None or entry.resolve() != non_landmarks.resolve():
            folders.append(entry)
    if not folders:
        raise SourceError(f"{photos}: no landmark folder; expected {photos.name}/<landmark>/<photograph>.jpg")
    outside = [photos, *([non_landmarks] if non_landmarks is not None else [])]
    found = {}
    for folder in folders:
        paths = list(_images_under(folder, outside, files))
        if paths:
            found[folder.name] = paths
        else:
            files.warn(f"{folder}: no photograph in it; left out")
    if not found:
        raise SourceError(f"{photos}: no photograph in its {len(folders)} folders; put some under <landmark>/")
    return found


def _images_under(folder: Path, outside: Sequence[Path], files: _Files) -> Iterator[Path]:
    """Files under `folder` that may be photographs, in the order of their names.

    Links are followed, each real folder once, and none into the folders `outside`.
    """
    seen = {_identity(path) for path in outside}

    def walk(place: Path) -> Iterator[Path]:
        identity = _identity(place)
        if identity in seen:
            files.skip("folder seen before")
            return
        seen.add(identity)
        try:
            entries = sorted(place.iterdir())
        except OSError as error:
            files.warn(f"{place}: cannot be listed ({error.strerror}); left out")
            files.skip("unreadable")
            return
        for entry in entries:
            if entry.name.startswith("."):
                files.skip("hidden")
            elif entry.is_dir():
                yield from walk(entry)
            elif entry.suffix.lower() in NOT_IMAGES:
                files.skip("not an image")
            elif entry.is_file() and os.access(entry, os.R_OK):
                yield entry
            else:
                files.warn(f"{entry}: not a file that can be read; left out")
                files.skip("unreadable")

    yield from walk(folder)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


class _Plan:
    """The photographs of the bucket to be, each with its split; ids are unique across the splits."""

    def __init__(self, files: _Files, seed: int) -> None:
        self.photos: list[Photo] = []
        self._files = files
        self._seed = seed
        self._taken: set[str] = set()

    def add_landmark(
        self,
        landmark: str,
        root: Path,
        paths: Sequence[Path],
        test_fraction: float,
        clean_fraction: float,
        index_fraction: float,
    ) -> None:
        """Split one landmark's photographs, in an order drawn from the seed and their paths.

        Near-duplicates go to one side: a test photograph of the burst that trains would test nothing.
        """
        groups = self._groups(root, paths, "split")
        tests = _rounded(len(paths) * test_fraction)
        testing, remaining = self._held_out(root, groups, tests, "test")
        if tests and not testing and len(paths) > 1:
            self._files.warn(
                f"{root / landmark}: most of its {len(paths)} photographs are near-duplicates of each other, so none "
                "is a test photograph"
            )
        held_out = _rounded(sum(map(len, remaining)) * index_fraction)
        indexed, training = self._held_out(root, remaining, held_out, "index")
        train = [path for group in training for path in group]
        index = [path for group in indexed for path in group] if index_fraction else train
        # Half the classes lie above the fraction and half below, so that some have much left for filling.
        spread = min(clean_fraction, 1 - clean_fraction)
        share = clean_fraction + (2 * drawn(self._seed, "clean", landmark) - 1) * spread
        clean = min(len(train), max(2, _rounded(len(train) * share)))
        for group in testing:
            for path in group:
                self._add(root, path, "test", landmark, usage=self._usage(root, group[0]))
        for path in index:
            self._add(root, path, "index", landmark)
        for number, path in enumerate(train):
            self._add(root, path, "train", landmark, clean=number < clean)

    def add_non_landmarks(self, root: Path, paths: Sequence[Path]) -> None:
        """Make all of `paths` test images without landmark, a share of them never scored."""
        groups = self._groups(root, paths, "ignored")
        ignored = math.ceil(len(paths) * IGNORED_NON_LANDMARKS)
        never_scored, scored = self._held_out(root, groups, ignored, "ignored")
        for group in never_scored:
            for path in group:
                self._add(root, path, "test", None, usage="Ignored")
        for group in scored:
            for path in group:
                self._add(root, path, "test", None, usage=self._usage(root, group[0]))

    def _groups(self, root: Path, paths: Sequence[Path], purpose: str) -> list[list[Path]]:
        """The photographs by groups of near-duplicates, in an order drawn from the seed and each group's first path."""
        ordered = sorted(paths)
        found = near_duplicate_groups(np.zeros(len(ordered), np.int64), traits_of([fingerprint(p) for p in ordered]))
        groups: dict[int, list[Path]] = {}
        for path, first in zip(ordered, found.tolist(), strict=True):
            groups.setdefault(first, []).append(path)
        return sorted(groups.values(), key=lambda group: (drawn(self._seed, purpose, _name_in(root, group[0])), group))

    def _held_out(
        self, root: Path, groups: Sequence[list[Path]], wanted: int, purpose: str
    ) -> tuple[list[list[Path]], list[list[Path]]]:
        """About `wanted` photographs in whole groups, and the other groups."""
        if not groups:
            return [], []
        held = held_out_groups(
            [len(group) for group in groups],
            wanted,
            lambda: drawn(self._seed, f"{purpose} group", _name_in(root, groups[0][0])),
        )
        return [groups[place] for place in held], [g for place, g in enumerate(groups) if place not in set(held)]

    def _usage(self, root: Path, path: Path) -> Usage:
        return "Public" if drawn(self._seed, "usage", _name_in(root, path)) < PUBLIC_SHARE else "Private"

    def _add(
        self,
        root: Path,
        path: Path,
        split: Split,
        landmark: str | None,
        clean: bool = False,
        usage: Usage = "Private",
    ) -> None:
        name = _name_in(root, path)
        # A NUL cannot be part of a path, so no photograph's own name is taken for a copy's.
        kind = "non_landmark\0" if landmark is None else "index\0" if split == "index" else ""
        self.photos.append(
            Photo(
                image_id=self._image_id(kind + name),
                split=split,
                landmark=landmark,
                read=partial(_jpeg, path, self._files),
                clean=clean,
                usage=usage,
                url=quote(os.fsencode(name)),
                title=os.fsencode(path.name).decode("utf-8", "replace"),
            )
        )

    def _image_id(self, name: str) -> str:
        """The first 16 hex digits of the SHA-256 of a name, or of name and count where these are taken."""
        attempt, text = 0, name
        while True:
            image_id = hashlib.sha256(os.fsencode(text)).hexdigest()[:16]
            if image_id not in self._taken:
                self._taken.add(image_id)
                return image_id
            attempt += 1
            text = f"{name}\0{attempt}"


def _name_in(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _rounded(value: float) -> int:
    """The nearest whole number, halves up (Python's round goes to the even one)."""
    return math.floor(value + 0.5)


def _readable(landmark: str) -> str:
    return os.fsencode(landmark).decode("utf-8", "replace").replace("_", " ").strip() or landmark


def _jpeg(path: Path, files: _Files) -> bytes:
    """The photograph as JPEG: a JPEG's own bytes, another format converted, and what is neither as it is.

    Raises:
        SourceError: the file cannot be read.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise SourceError(f"{path}: cannot be read ({error.strerror}); mend or move it, and pack again") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata and large images, which are no fault here
            with Image.open(io.BytesIO(data)) as image:
                image.load()
                if image.format in JPEG_FORMATS:
                    return data
                converted = to_jpeg(image)
    except UNDECODABLE as error:
        if path not in files.undecodable:
            files.undecodable.add(path)
            files.warn(f"{path}: cannot be decoded ({_why(error)}); packed as it is, ingest will refuse it")
        return data
    files.converted.add(path)
    return converted


def _why(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "of no known image format"
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def to_jpeg(image: Image.Image) -> bytes:
    """An upright 8-bit JPEG of the first frame, transparent parts over white."""
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I") or upright.mode == "F":
        upright = _eight_bit(upright)
    if upright.has_transparency_data:
        over = upright.convert("RGBA")
        upright = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over)
    target = io.BytesIO()
    upright.convert("RGB").save(target, "JPEG", quality=JPEG_QUALITY)
    return target.getvalue()


def _eight_bit(grey: Image.Image) -> Image.Image:
    """Deeper grey as 8 bits, which Pillow would clip: integers span 0 to 65535, floats what they hold."""
    values = np.nan_to_num(np.asarray(grey, dtype=np.float64))
    low, high = (0.0, 65535.0) if grey.mode.startswith("I") else (float(values.min()), float(values.max()))
    scaled = (values - low) * (255.0 / (high - low) if high > low else 0.0)
    return Image.fromarray(np.clip(scaled, 0, 255).astype(np.uint8))


def _summary(photos: Sequence[Photo], files: _Files, written: Written, landmarks: int) -> PackSummary:
    def count(split: Split) -> int:
        return sum(photo.split == split for photo in photos)

    return PackSummary(
        landmarks=landmarks,
        train=count("train"),
        clean=sum(photo.clean for photo in photos),
        index=count("index"),
        test=count("test"),
        ignored=sum(photo.split == "test" and photo.usage == "Ignored" for photo in photos),
        non_landmarks=sum(photo.landmark is None for photo in photos),
        converted=len(files.converted),
        undecodable=len(files.undecodable),
        skipped=dict(sorted(files.skipped.items())),
        shards=written.shards,
        shard_bytes=written.shard_bytes,
    )
