"""Write photographs as a bucket shaped like Google Landmarks v2: shards, MD5 files, tables, ground truth.

What belongs here: the bucket's form. Which photograph goes to which split belongs to who calls.

A bucket is whole once `metadata/train.csv` is there: it is removed first and written last, so a killed
writer leaves something that no reader takes for a bucket. `bucket.json`, written first, says what made the
bucket; only a bucket made the same way is written over.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tarfile
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import quote

from glr_assets.errors import SourceError
from glr_assets.seeded import drawn
from glr_assets.source import layout
from glr_assets.source.base import Split, TableName
from glr_assets.source.layout import SPLITS, Usage
from glr_assets.store import Store

ORIGIN = "bucket.json"
BESIDE = "openimages"
"""A folder of Open Images may lie in a bucket, as in the sample; nothing else may be there before."""
LANDMARK_IDS = 203_094
"""Landmark ids lie below this, the landmarks of GLDv2; a bucket of more than a tenth goes higher."""
PUBLIC_SHARE = 1 / 3
"""Share of the scored test images with Usage Public, about that of GLDv2."""
IGNORED_NON_LANDMARKS = 3 / 8
"""Share of the non-landmarks that are never scored, so that penalties can compare with them."""
MAX_SHARDS = 1000
"""A shard's number has three digits, as published."""

_IMAGE_ID = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True)
class Landmark:
    """What the tables say of a landmark besides its id; the last three are blank where nobody knows.

    `category` is the URL of a page about it (`category_page`), or its plain name where there is none.
    """

    category: str
    supercategory: str = ""
    hierarchical_label: str = ""
    natural_or_human_made: str = ""


@dataclass(frozen=True)
class Photo:
    """A photograph to be written, its bytes read only when its turn comes.

    `landmark` is the caller's name of the landmark, None for a test image that shows none. `read` returns None where
    the photograph is gone by then: it is left out of all tables. `clean` puts a train image into the competition set;
    `usage` is that of a test image. `url` is where the image is, `page` the page that tells of it; blank where nobody
    knows, as author and license are. `shard` is its shard's number; None leaves that to the writer.
    """

    image_id: str
    split: Split
    landmark: str | None
    read: Callable[[], bytes | None]
    clean: bool = False
    usage: Usage = "Private"
    url: str = ""
    author: str = ""
    license: str = ""
    title: str = ""
    page: str = ""
    shard: int | None = None


@dataclass(frozen=True)
class Written:
    """What a bucket holds: shards a split, and bytes of all shards together; what was left out, or as it was before.

    Attributes:
        shards: shards of each split.
        shard_bytes: of all shards together.
        vanished: ids of photographs that were gone when their turn came.
        unchanged: shards whose bytes are those that lay there before.
    """

    shards: dict[Split, int]
    shard_bytes: int
    vanished: frozenset[str] = frozenset()
    unchanged: int = 0


def landmark_ids(names: Iterable[str], numbering: str, seed: int) -> dict[str, int]:
    """An id for each landmark name: distinct, not contiguous, and others under another `numbering`."""
    ordered = sorted(set(names))
    ceiling = max(LANDMARK_IDS, 10 * len(ordered))
    taken: dict[int, str] = {}
    for name in ordered:
        attempt = 0
        while (number := int(drawn(seed, numbering, name, attempt) * ceiling)) in taken:
            attempt += 1
        taken[number] = name
    return {name: number for number, name in taken.items()}


def made_by(store: Store) -> str | None:
    """The program that wrote a bucket, by its own word; None where it says nothing.

    Raises:
        StoreError: the bucket cannot be reached.
    """
    try:
        origin = store.read_json(ORIGIN)
    except (FileNotFoundError, ValueError):
        return None
    return origin.get("made_by") if isinstance(origin, dict) else None


def claim(store: Store, origin: Mapping[str, Any], free: Collection[str] = ()) -> None:
    """Refuse a place that holds anything but a bucket, or a part of one, made with `origin`.

    Args:
        store: the place.
        origin: how the bucket is made.
        free: keys of `origin` that may differ from those of a bucket that is there.

    Raises:
        SourceError: other files lie there, or a bucket made another way.
    """
    if store.is_local and Path(store.root).is_file():
        raise SourceError(f"{store.url}: is a file, expected a folder for the bucket; choose another place")
    if store.exists(ORIGIN):
        found = store.read_json(ORIGIN)
        there = found if isinstance(found, dict) else {}
        differing = sorted(
            key
            for key in origin.keys() | there.keys()
            if key not in free and (key not in origin or key not in there or origin[key] != there[key])
        )
        if differing:
            before, after = (_values(values, differing) for values in (there, origin))
            raise SourceError(
                f"{store.url}: holds a bucket made with {before}, expected {after}; choose another place or delete it"
            )
        return
    try:
        found = sorted(entry.rstrip("/").rpartition("/")[2] for entry in store.fs.ls(store.root, detail=False))
    except FileNotFoundError:
        return
    found = [name for name in found if not name.startswith(".") and name != BESIDE]
    if found:
        raise SourceError(
            f"{store.url}: not empty (it holds {found[0]}) and not a bucket written by glr; choose an empty place"
        )


def _values(origin: Mapping[str, Any], keys: Iterable[str]) -> str:
    return ", ".join(f"{key} = {json.dumps(origin[key]) if key in origin else 'unset'}" for key in keys)


def write_bucket(
    photos: Sequence[Photo],
    landmarks: Mapping[str, Landmark],
    store: Store,
    *,
    shards: Mapping[Split, int],
    origin: Mapping[str, Any],
    seed: int = 0,
    free: Collection[str] = (),
) -> Written:
    """Write `photos` as a whole bucket under `store`; the same arguments leave the same bytes.

    A split gets at most as many shards as it has photographs, and none where it has none. Every landmark is
    dealt out over the shards of a split, so that shards are balanced and no class lies in one of them.
    `free` is that of `claim`.

    Raises:
        SourceError: the place is taken, a photograph breaks the form of a bucket, or shards are out of range.
    """
    _check(photos, landmarks, shards)
    claim(store, origin, free)
    store.remove(layout.TABLE_PATHS["train"])
    store.write(ORIGIN, (json.dumps(dict(origin), sort_keys=True, indent=1) + "\n").encode())
    total, unchanged, counts = 0, 0, {}
    vanished: set[str] = set()
    for split in SPLITS:
        dealt = _dealt([photo for photo in photos if photo.split == split], shards[split], seed)
        counts[split] = len(dealt)
        for number, members in dealt.items():
            size, same = _write_shard(store, split, f"{number:03d}", members, vanished)
            total, unchanged = total + size, unchanged + same
        _remove_other_shards(store, split, {f"{number:03d}" for number in dealt})
    there = [photo for photo in photos if photo.image_id not in vanished]
    for table, rows in _tables(there, landmarks, seed).items():
        store.write(layout.TABLE_PATHS[table], _csv(layout.WRITTEN_COLUMNS[table], rows))
    return Written(counts, total, frozenset(vanished), unchanged)


def _check(photos: Sequence[Photo], landmarks: Mapping[str, Landmark], shards: Mapping[Split, int]) -> None:
    for split in SPLITS:
        if not 1 <= shards[split] <= MAX_SHARDS:
            raise SourceError(f"{split}: {shards[split]} shards, expected 1 to {MAX_SHARDS}; mend --shards")
    seen: set[str] = set()
    for photo in photos:
        if not _IMAGE_ID.fullmatch(photo.image_id):
            raise SourceError(f"image id {photo.image_id!r}: expected 16 lower-case hex digits; mend its maker")
        if photo.image_id in seen:
            raise SourceError(f"image {photo.image_id}: stands twice in the bucket; give each photograph its own id")
        seen.add(photo.image_id)
        if photo.landmark not in landmarks and (photo.landmark is not None or photo.split != "test"):
            raise SourceError(
                f"image {photo.image_id}: landmark {photo.landmark!r} is not described; "
                "describe it, or make it a test image without landmark"
            )


def _dealt(photos: Sequence[Photo], shards: int, seed: int) -> dict[int, list[Photo]]:
    """The photographs of a split by the number of their shard, mixed inside it; empty shards are left out.

    Photographs that name no shard are dealt out: each landmark round robin.
    """
    free = [photo for photo in photos if photo.shard is None]
    order = sorted(free, key=lambda p: (p.landmark or "", drawn(seed, "deal", p.image_id), p.image_id))
    count = max(min(shards, len(free)), 1)
    dealt: dict[int, list[Photo]] = defaultdict(list)
    for place, photo in enumerate(order):
        dealt[place % count].append(photo)
    for photo in photos:
        if photo.shard is not None:
            dealt[photo.shard].append(photo)
    return {
        number: sorted(members, key=lambda p: (drawn(seed, "mix", p.image_id), p.image_id))
        for number, members in sorted(dealt.items())
    }


class _UnchangedError(Exception):
    """A shard's bytes are those that lie there."""


class _Digesting:
    """What tarfile needs of a file to write to, with the MD5 and length of what went through."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.md5 = hashlib.md5(usedforsecurity=False)
        self.size = 0

    def write(self, data: bytes) -> int:
        self.md5.update(data)
        self.size += len(data)
        return self._file.write(data)

    def tell(self) -> int:
        return self.size


def _write_shard(store: Store, split: Split, key: str, photos: Sequence[Photo], vanished: set[str]) -> tuple[int, bool]:
    """Write a TAR and its MD5 file, unless they lie there already; headers hold no time and no owner.

    Returns:
        The TAR's bytes, and whether it was there.
    """
    path = layout.shard_path(split, key)
    name = path.rpartition("/")[2]
    unchanged = False
    try:
        with store.writing(path) as file:
            through = _Digesting(file)
            with tarfile.open(fileobj=through, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
                for photo in photos:
                    data = photo.read()
                    if data is None:
                        vanished.add(photo.image_id)
                        continue
                    member = tarfile.TarInfo(layout.member_name(photo.image_id))
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
                    tar.getmembers().clear()  # tarfile would keep every header to the end
            line = f"{through.md5.hexdigest()}  {name}\n".encode()
            published = _read(store, layout.md5_path(split, key)) == line and store.size(path) == through.size
            if published and _md5(store, path) == through.md5.hexdigest():  # what lies there may be damaged
                raise _UnchangedError
    except _UnchangedError:
        unchanged = True
    else:
        store.write(layout.md5_path(split, key), line)
    return through.size, unchanged


def _md5(store: Store, name: str) -> str:
    with store.open(name) as file:
        return hashlib.file_digest(cast(Any, file), "md5").hexdigest()


def _read(store: Store, name: str) -> bytes | None:
    try:
        return store.read(name)
    except FileNotFoundError:
        return None


def _remove_other_shards(store: Store, split: Split, kept: set[str]) -> None:
    """Delete the shards of an earlier bucket that this one has not."""
    published = set(store.names(split))
    for number in range(MAX_SHARDS):
        key = f"{number:03d}"
        if key not in kept and layout.shard_path(split, key).rpartition("/")[2] in published:
            store.remove(layout.md5_path(split, key))
            store.remove(layout.shard_path(split, key))


Rows = list[tuple[object, ...]]


def _tables(photos: Sequence[Photo], landmarks: Mapping[str, Landmark], seed: int) -> dict[TableName, Rows]:
    """The rows of every CSV, that of the train images last because its presence says that all is there."""
    ordered = sorted(photos, key=lambda photo: photo.image_id)
    train, index, test = ([p for p in ordered if p.split == split] for split in SPLITS)
    train_ids = landmark_ids((p.landmark for p in photos if p.landmark is not None), "train", seed)
    index_ids = landmark_ids((p.landmark for p in index if p.landmark is not None), "index", seed)
    clean: dict[str, list[str]] = defaultdict(list)
    for photo in train:
        if photo.clean:
            clean[_name(photo)].append(photo.image_id)
    relevant: dict[str, list[str]] = defaultdict(list)
    for photo in index:
        relevant[_name(photo)].append(photo.image_id)
    named = sorted((train_ids[name], landmarks[name]) for name in {_name(p) for p in train})
    return {
        "train_clean": sorted((train_ids[name], " ".join(images)) for name, images in clean.items()),
        "train_attribution": [(p.image_id, p.page, p.author, p.license, p.title) for p in train],
        "train_label_to_category": [(number, known.category) for number, known in named],
        "train_label_to_hierarchical": [
            (
                number,
                known.category,
                known.supercategory,
                known.hierarchical_label,
                known.natural_or_human_made,
            )
            for number, known in named
        ],
        "index": [(p.image_id, p.url) for p in index],
        "index_image_to_landmark": [(p.image_id, index_ids[_name(p)]) for p in index],
        "test": [(p.image_id, p.url) for p in test],
        "recognition_solution": [
            (p.image_id, "" if p.landmark is None else train_ids[p.landmark], p.usage) for p in test
        ],
        "retrieval_solution": [_retrieval_row(p, relevant) for p in test],
        "train": [(p.image_id, p.url, train_ids[_name(p)]) for p in train],
    }


def _retrieval_row(photo: Photo, relevant: Mapping[str, list[str]]) -> tuple[object, ...]:
    images = relevant.get(photo.landmark, []) if photo.landmark is not None else []
    if not images or photo.usage == "Ignored":
        return (photo.image_id, "None", "Ignored")
    return (photo.image_id, " ".join(images), photo.usage)


def _name(photo: Photo) -> str:
    assert photo.landmark is not None  # `_check` has refused train and index images without one
    return photo.landmark


def category_page(base: str, category: str) -> str:
    """The URL of a category below `base`, as Commons writes it: blanks as underscores, the first letter a capital."""
    title = re.sub(r"\s+", "_", category.strip())
    title = title[:1].upper() + title[1:]
    return base + quote(title, safe="()',.!*:-_~", errors="replace")


def _csv(columns: Sequence[str], rows: Rows) -> bytes:
    """Rows as CSV with a header, quoted where a value needs it; UTF-8, lines ended by a line feed."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "replace")
