"""Turn folders of a team's own photographs, one folder a landmark, into a bucket shaped like GLDv2.

What belongs here: which photograph goes to which split and shard. The bucket's form belongs to `bucket_writer`.

Each choice is drawn by a photograph's path and the seed, never by its place among others. So a photograph keeps its
split and shard when others come and go, and a shard that none of them concerns keeps its bytes. What an earlier bucket
at the same place says of a photograph, by its path or its content, holds before that. New photographs of a landmark
that has test queries in the earlier bucket train, so scores before and after are of the same queries.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import numpy as np

from glr_assets.codecs.decode import DECODER_ERRORS, RefusedError
from glr_assets.csv_structure import strict_rows
from glr_assets.errors import SourceError, TableError
from glr_assets.grouped_split import near_duplicate_groups
from glr_assets.packing.photo_files import (
    FileRow,
    LeftOut,
    NotAPhoto,
    PhotoFile,
    as_packed,
    files_below,
    is_system_folder,
    judge,
    judged,
    name_in,
)
from glr_assets.packing.rights import FILE_NAME, Credit, CreditList, credit_of, read_credits
from glr_assets.ranges import ordered
from glr_assets.seeded import drawn
from glr_assets.source.base import Split
from glr_assets.source.bucket_writer import (
    IGNORED_NON_LANDMARKS,
    PUBLIC_SHARE,
    Landmark,
    Photo,
    Written,
    claim,
    write_bucket,
)
from glr_assets.source.fingerprints import fingerprint, traits_of
from glr_assets.source.layout import SPLITS, Usage
from glr_assets.store import Store

MADE_BY: Final = "glr pack"
#: A row a file that was seen: what became of it, and why.
FILES: Final = "files.csv"
#: The same in figures.
SUMMARY: Final = "pack.json"
#: Warnings of one kind that name a file each; more are counted.
_TOLD_OF_A_KIND: Final = 10
#: Photographs without a landmark may join a bucket later, or leave it.
_FREE: Final = frozenset({"non_landmarks"})
_COLUMNS: Final = tuple(field.name for field in fields(FileRow))
#: What tells where a photograph was packed.
_NEEDED: Final = frozenset({"path", "outcome", "landmark", "split", "sha256"})


@dataclass(frozen=True)
class PackSummary:
    """What became of the files that were seen: files = packed + left out, and packed = train + test + held-out index.

    Attributes:
        files: seen below the folders.
        packed: photographs in the bucket.
        left_out: files by reason.
        landmarks: with a photograph in the bucket.
        train: photographs that train.
        clean: of these in the competition's set; the others fill small classes, if the recipe says so.
        index: photographs in the index; without `--index-fraction` those that train, once more.
        test: queries, those without landmark included.
        ignored: queries that are never scored.
        non_landmarks: queries without landmark.
        converted: photographs of other formats than JPEG.
        shrunk: photographs of more pixels than ingest takes.
        without_rights: packed photographs whose author or terms are not known.
        changes: photographs by what happened to them since the earlier bucket at this place: added to a split, given
            another landmark, replaced by other content under the same name, or removed; empty where there was none.
        shards: of each split.
        unchanged_shards: shards whose bytes lay there already.
        shard_bytes: of all shards.
    """

    files: int
    packed: int
    left_out: dict[str, int]
    landmarks: int
    train: int
    clean: int
    index: int
    test: int
    ignored: int
    non_landmarks: int
    converted: int
    shrunk: int
    without_rights: int
    changes: dict[str, int]
    shards: dict[Split, int]
    unchanged_shards: int
    shard_bytes: int


def pack(
    photos: Path,
    bucket: Store,
    *,
    non_landmarks: Path | None = None,
    credits_file: Path | None = None,
    shards: int = 4,
    test_fraction: float = 0.3,
    clean_fraction: float = 1.0,
    index_fraction: float = 0.0,
    seed: int = 0,
    warn: Callable[[str], None],
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> PackSummary:
    """Pack `photos`/<landmark>/… and, as test images without landmark, all of `non_landmarks`.

    Only what ingest can decode is packed; `FILES` in the bucket has a row for every file. Folders whose names differ in
    case, underscores, blanks or Unicode form alone are one landmark. Every landmark keeps a train image, and
    near-duplicates are on one side. `index_fraction` of the train images are held out for the retrieval index; at 0 the
    index is the train images once more, under ids of their own. The same photographs and arguments leave the same
    bytes, wherever the photographs lie; over an earlier bucket what is packed already keeps its split.

    Args:
        photos: a folder a landmark, with photographs at any depth.
        bucket: where the bucket goes.
        non_landmarks: photographs that show none.
        credits_file: a list of authors and terms (`rights`), by path below `photos`.
        shards: of a split, at most.
        test_fraction: share of each landmark's photographs that are test queries, in the mean.
        clean_fraction: share of the train photographs in the competition's set.
        index_fraction: share of the train photographs held out for the index.
        seed: of all choices.
        warn: given a line for each file that its owner may miss, and each question about the folders.
        progress: given the files judged so far, and of how many.

    Raises:
        SourceError: no photographs, a fraction out of range, a wrong list, or a place that cannot take the bucket.
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
    origin = {
        "made_by": MADE_BY,
        "photos": photos.resolve().name,
        "non_landmarks": None if non_landmarks is None else non_landmarks.resolve().name,
        "shards": shards,
        "test_fraction": test_fraction,
        "clean_fraction": clean_fraction,
        "index_fraction": index_fraction,
        "seed": seed,
    }
    claim(bucket, origin, _FREE)
    left_out = LeftOut(warn)
    names, found = _judged_landmarks(photos, non_landmarks, left_out, warn, progress)
    strangers: list[PhotoFile] = []
    if non_landmarks is not None:
        paths = [p for p in files_below(non_landmarks, non_landmarks, [photos], left_out) if p.name != FILE_NAME]
        strangers = _judged(paths, non_landmarks, left_out, progress)
    _ask_about_strangers(found, strangers, warn)
    lists = _credit_lists(photos, credits_file)
    earlier = _earlier(bucket)
    plan = _Plan(seed, shards, earlier, lists, names)
    for landmark, files in found.items():
        plan.add_landmark(landmark, files, test_fraction, clean_fraction, index_fraction)
    plan.add_non_landmarks(strangers)
    for one in lists[:1] if credits_file else []:
        if one.unused:
            warn(f"{one.name}: {len(one.unused)} rows name no photograph, the first {one.unused[0]!r}")
    without_test = [names[key] for key in found if test_fraction and len(found[key]) > 1 and key not in plan.tested]
    if without_test:
        warn(
            f"landmarks without a test query: {len(without_test)}, the first {without_test[0]!r}; "
            "they have few photographs, or all are near-duplicates"
        )
    written = write_bucket(
        plan.photos,
        {key: Landmark(_readable(names[key])) for key in found},
        bucket,
        shards=dict.fromkeys(SPLITS, shards),
        origin=origin,
        seed=seed,
        free=_FREE,
    )
    rows = [
        FileRow(row.path, "left out", reason="gone or changed while it was packed")
        if row.id in written.vanished
        else row
        for row in plan.rows
    ]
    rows = sorted([*rows, *left_out.rows], key=lambda row: (row.path, row.outcome))
    summary = _summary(plan, rows, written, earlier.changes(rows))
    bucket.write(FILES, _csv(rows))
    bucket.write(SUMMARY, json.dumps(asdict(summary), indent=1).encode() + b"\n")
    return summary


def read_summary(bucket: Store) -> dict[str, Any] | None:
    """The figures of a bucket that `pack` wrote, by the names of `PackSummary`; None of another."""
    try:
        found = bucket.read_json(SUMMARY)
    except (FileNotFoundError, ValueError):
        return None
    names = {field.name for field in fields(PackSummary)}
    return found if isinstance(found, dict) and names <= found.keys() else None


def _csv(rows: Sequence[FileRow]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    writer.writerows(tuple(getattr(row, name) for name in _COLUMNS) for row in rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


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


def landmark_key(folder: str) -> str:
    """What folders of one landmark have in common: NFC, without case, underscores and blanks as one blank."""
    return re.sub(r"[\s_]+", " ", unicodedata.normalize("NFC", folder)).strip().casefold() or folder


def _alike_key(key: str) -> str:
    """A key without accents, signs and blanks: where two are equal the names may be meant as one."""
    plain = unicodedata.normalize("NFKD", key)
    return "".join(letter for letter in plain if letter.isalnum())


def _judged_landmarks(
    photos: Path,
    non_landmarks: Path | None,
    left_out: LeftOut,
    warn: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> tuple[dict[str, str], dict[str, list[PhotoFile]]]:
    """The name and the photographs of each landmark, by its key; folders without any are left out."""
    folders: dict[str, list[Path]] = defaultdict(list)
    for entry in _sorted_entries(photos):
        if entry.name == FILE_NAME:
            continue
        if entry.name.startswith(".") or (entry.is_dir() and is_system_folder(entry.name)):
            reason = "hidden" if entry.name.startswith(".") else "in a folder of the system"
            files = [p for p in sorted(entry.rglob("*")) if p.is_file()] if entry.is_dir() else [entry]
            for path in files:
                left_out.add(name_in(photos, path), reason)
        elif not entry.is_dir():
            left_out.add(entry.name, "not in a landmark folder")
        elif non_landmarks is None or entry.resolve() != non_landmarks.resolve():
            folders[landmark_key(entry.name)].append(entry)
    if not folders:
        raise SourceError(f"{photos}: no landmark folder; expected {photos.name}/<landmark>/<photograph>.jpg")
    outside = [photos, *([non_landmarks] if non_landmarks is not None else [])]
    paths: dict[str, list[Path]] = {}
    for key, places in folders.items():
        paths[key] = [p for place in places for p in files_below(place, photos, outside, left_out)]
    listed = [path for found in paths.values() for path in found if path.name != FILE_NAME]
    good = {file.path: file for file in _judged(listed, photos, left_out, progress)}
    found: dict[str, list[PhotoFile]] = {}
    names: dict[str, str] = {}
    for key, places in folders.items():
        mine = [good[path] for path in paths[key] if path in good]
        if not mine:
            warn(f"{places[0]}: no photograph in it; left out")
            continue
        sizes = Counter(file.name.partition("/")[0] for file in mine)
        names[key] = min(sizes, key=lambda name: (-sizes[name], name))
        found[key] = mine
        if len(sizes) > 1:
            warn(f"{', '.join(map(repr, sorted(sizes)))}: one landmark, packed as {_readable(names[key])!r}")
    if not found:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.counts.items())
        raise SourceError(
            f"{photos}: no photograph in its {len(folders)} folders{f' ({reasons})' if reasons else ''}; "
            "put some under <landmark>/"
        )
    _ask_about(names, found, warn)
    return names, found


def _sorted_entries(folder: Path) -> list[Path]:
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise SourceError(f"{folder}: cannot be listed ({error.strerror}); grant access to it") from error


def _ask_about(names: Mapping[str, str], found: Mapping[str, Sequence[PhotoFile]], warn: Callable[[str], None]) -> None:
    """Say where names or photographs make one doubt that two landmarks are two."""
    alike: dict[str, list[str]] = defaultdict(list)
    for key, name in names.items():
        alike[_alike_key(key)].append(name)
    for same in alike.values():
        if len(same) > 1:
            told = ", ".join(map(repr, same))
            warn(f"{told}: packed as {len(same)} landmarks; give the folders one name if they are one")
    first: dict[str, tuple[str, str]] = {}
    twice: list[str] = []
    for key, files in found.items():
        for file in files:
            other, path = first.setdefault(file.sha256, (key, file.name))
            if other != key:
                twice.append(f"{file.name}: the same file as {path}, which is of another landmark; remove one of them")
    _warn_of(twice, "in two landmarks", warn)


def _ask_about_strangers(
    found: Mapping[str, Sequence[PhotoFile]], strangers: Sequence[PhotoFile], warn: Callable[[str], None]
) -> None:
    """Say which photographs are given both as a landmark's and as showing none: one of the two is wrong."""
    of_landmarks = {file.sha256: file.name for files in found.values() for file in files}
    twice = [
        f"{file.name}: without a landmark, and the same file as {of_landmarks[file.sha256]}; remove one of them"
        for file in strangers
        if file.sha256 in of_landmarks
    ]
    _warn_of(twice, "both of a landmark and without one", warn)


def _warn_of(lines: Sequence[str], what: str, warn: Callable[[str], None]) -> None:
    for line in lines[:_TOLD_OF_A_KIND]:
        warn(line)
    if len(lines) > _TOLD_OF_A_KIND:
        warn(f"{len(lines) - _TOLD_OF_A_KIND} more files are {what}: equal sha256 in {FILES}")


def _judged(
    paths: Sequence[Path], root: Path, left_out: LeftOut, progress: Callable[[int, int], None]
) -> list[PhotoFile]:
    """The photographs among files, in their order, judged by a thread a core."""

    def one(path: Path) -> tuple[PhotoFile | None, list[FileRow], list[str]]:
        warnings: list[str] = []
        mine = LeftOut(warnings.append)
        return judge(path, root, mine), mine.rows, warnings

    found = []
    for number, (file, rows, warnings) in enumerate(ordered(one, paths, workers=os.cpu_count() or 1), 1):
        left_out.rows += rows
        for warning in warnings:
            left_out.warn(warning)
        if file is not None:
            found.append(file)
        progress(number, len(paths))
    return found


def _credit_lists(photos: Path, credits_file: Path | None) -> list[CreditList]:
    """The list that was given, and those in folders, the deepest first."""
    lists = [read_credits(credits_file)] if credits_file is not None else []
    inside = [
        path
        for path in photos.rglob(FILE_NAME)
        if path.is_file() and (credits_file is None or path.resolve() != credits_file.resolve())
    ]
    inside.sort(key=lambda path: (-len(path.parts), path))
    return lists + [read_credits(path, name_in(photos, path.parent)) for path in inside]


@dataclass(frozen=True)
class _Before:
    """What an earlier bucket says of photographs: split and usage by path and by content."""

    rows: Sequence[FileRow]
    by_path: Mapping[str, FileRow]
    by_content: Mapping[str, FileRow]

    def of(self, file: PhotoFile, landmark: str | None) -> FileRow | None:
        """The earlier row of a photograph; those of landmarks and those without are kept apart."""
        return (
            self._at(_normal(file.name), file.sha256, landmark)
            or self.by_path.get(_path_key(_normal(file.name), landmark))
            or self.by_content.get(_path_key(file.sha256, landmark))
        )

    def _at(self, path: str, sha256: str, landmark: str | None) -> FileRow | None:
        """The row of this very photograph: paths that differ in Unicode form alone are one path of several rows."""
        return self._by_both.get((_path_key(path, landmark), sha256))

    @cached_property
    def _by_both(self) -> Mapping[tuple[str, str], FileRow]:
        return {(_path_key(row.path, row.landmark or None), row.sha256): row for row in self.rows}

    def tests(self, landmark: str) -> bool:
        """Whether the landmark had a test query."""
        return landmark in self._tested

    @cached_property
    def _tested(self) -> frozenset[str]:
        return frozenset(landmark_key(row.landmark) for row in self.rows if row.landmark and row.split == "test")

    def changes(self, rows: Sequence[FileRow]) -> dict[str, int]:
        """What happened to photographs between the earlier bucket and these rows, in figures."""
        found: Counter[str] = Counter()
        still: set[int] = set()
        packed = [row for row in rows if row.outcome == "packed"]
        there = {_path_key(row.path, row.landmark or None) for row in packed}
        for row in packed if self.rows else ():
            landmark = row.landmark or None
            at_path = self._at(row.path, row.sha256, landmark) or self.by_path.get(_path_key(row.path, landmark))
            alike = self.by_content.get(_path_key(row.sha256, landmark))
            if alike is not None and _path_key(alike.path, alike.landmark or None) in there:
                alike = None  # the other one is still there, so this is a copy of it
            before = at_path or alike
            if before is None:
                found[f"added to {row.split}" if row.landmark else "added without a landmark"] += 1
                continue
            still.add(id(before))
            if at_path is not None and at_path.sha256 != row.sha256:
                found["replaced by other content"] += 1
            elif landmark_key(before.landmark) != landmark_key(row.landmark):
                found["given another landmark"] += 1
        found["removed"] = sum(id(row) not in still for row in self.rows)
        return {name: count for name, count in sorted(found.items()) if count}


def _path_key(name: str, landmark: str | None) -> str:
    # A NUL cannot be part of a path, so the two kinds never meet.
    return name if landmark is not None else f"\0{name}"


def _earlier(bucket: Store) -> _Before:
    earlier: list[FileRow] = []
    by_path: dict[str, FileRow] = {}
    by_content: dict[str, FileRow] = {}
    where = bucket.full_url(FILES)
    try:
        rows = strict_rows(io.BytesIO(bucket.read(FILES)), where, errors="surrogateescape")
        header = next(rows, (1, []))[1]
        if not set(header) >= _NEEDED:
            raise ValueError(f"expected a header with {', '.join(_COLUMNS)}")
        read = [dict(zip(header, row, strict=True)) for _, row in rows]
    except FileNotFoundError:
        return _Before(earlier, by_path, by_content)
    except (TableError, ValueError) as error:
        raise SourceError(
            f"{where}: damaged ({error}), so which photograph had which id is not known; restore it, or remove it to "
            "pack everything as if for the first time"
        ) from error
    for values in read:
        if values.get("outcome") == "packed" and values.get("split") in SPLITS:
            row = FileRow(**{name: values.get(name) or "" for name in _COLUMNS})
            earlier.append(row)
            by_path[_path_key(row.path, row.landmark or None)] = row
            by_content[_path_key(row.sha256, row.landmark or None)] = row
    return _Before(earlier, by_path, by_content)


def _normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


class _Plan:
    """The photographs of the bucket to be, each with its split and shard; ids are unique across the splits."""

    def __init__(
        self, seed: int, shards: int, before: _Before, lists: Sequence[CreditList], names: Mapping[str, str]
    ) -> None:
        self.photos: list[Photo] = []
        self.rows: list[FileRow] = []
        self.tested: set[str] = set()
        self._seed, self._shards, self._before, self._lists, self._names = seed, shards, before, lists, names
        self._taken: set[str] = set()

    def add_landmark(
        self,
        landmark: str,
        files: Sequence[PhotoFile],
        test_fraction: float,
        clean_fraction: float,
        index_fraction: float,
    ) -> None:
        """Split one landmark's photographs; near-duplicates go to one side, and one at least trains."""
        groups = self._groups(files)
        testing, training = self._divided(groups, "test", test_fraction, landmark)
        indexed, training = (
            self._divided(training, "index", index_fraction, landmark) if index_fraction else ([], training)
        )
        # Half the classes lie above the fraction and half below, so that some have much left for filling.
        spread = min(clean_fraction, 1 - clean_fraction)
        share = clean_fraction + (2 * drawn(self._seed, "clean", landmark) - 1) * spread
        train = [file for group in training for file in group]
        draws = {file.path: drawn(self._seed, "clean", _normal(file.name)) for file in train}
        surest = sorted(train, key=lambda file: (draws[file.path], file.name))[:2]
        for group in testing:
            for file in group:
                self._add(file, "test", landmark, usage=self._usage(file, landmark, group[0]))
        for file in [file for group in indexed for file in group] if index_fraction else train:
            self._add(file, "index", landmark, copy=not index_fraction)
        for file in train:
            self._add(file, "train", landmark, clean=draws[file.path] < share or file in surest)
        if testing:
            self.tested.add(landmark)

    def add_non_landmarks(self, files: Sequence[PhotoFile]) -> None:
        """Make them test images without landmark, a share of them never scored."""
        for group in self._groups(files):
            first = _normal(group[0].name)
            ignored = drawn(self._seed, "ignored", first) < IGNORED_NON_LANDMARKS
            for file in group:
                usage: Usage = "Ignored" if ignored else self._usage(file, None, group[0])
                before = self._before.of(file, None)
                self._add(file, "test", None, usage=before.usage if before else usage)  # type: ignore[arg-type]

    def _groups(self, files: Sequence[PhotoFile]) -> list[list[PhotoFile]]:
        """The photographs by groups of near-duplicates, in the order of their paths."""
        ordered_files = sorted(files, key=lambda file: file.name)
        traits = traits_of(list(ordered(lambda f: fingerprint(f.path), ordered_files, workers=os.cpu_count() or 1)))
        found = near_duplicate_groups(np.zeros(len(ordered_files), np.int64), traits)
        groups: dict[int, list[PhotoFile]] = {}
        for file, first in zip(ordered_files, found.tolist(), strict=True):
            groups.setdefault(first, []).append(file)
        return list(groups.values())

    def _divided(
        self, groups: list[list[PhotoFile]], split: Split, share: float, landmark: str
    ) -> tuple[list[list[PhotoFile]], list[list[PhotoFile]]]:
        """The groups of a split, and the rest: as before, else by chance; the rest is never empty.

        New photographs follow those of their group that were packed before, the rest where these were on both sides;
        photographs that were packed before stay where they were. Where one is due by the share and none was drawn, the
        group with the least draw is chosen. New groups do not join the test queries of an earlier bucket.
        """
        chosen: list[list[PhotoFile]] = []
        rest: list[list[PhotoFile]] = []
        draws: list[tuple[float, list[PhotoFile]]] = []
        for group in groups:
            sides = {file.path: before.split for file in group if (before := self._before.of(file, landmark))}
            here = [file for file in group if sides.get(file.path) == split]
            if sides:
                follow = [file for file in group if file.path not in sides] if set(sides.values()) == {split} else []
                there = [file for file in group if file not in here and file not in follow]
                chosen += [here + follow] if here else []
                rest += [there] if there else []
                continue
            draw = drawn(self._seed, split, _normal(group[0].name))
            draws.append((draw, group))
        if split == "test" and self._before.tests(landmark):
            share = 0.0
        new = [(draw, group) for draw, group in draws if draw < share]
        rest += [group for draw, group in draws if draw >= share]
        if draws and not chosen and not new and share * len(groups) >= 1:
            new = [min(draws, key=lambda pair: pair[0])]
            rest.remove(new[0][1])
        if not rest and new:
            spared = max(new, key=lambda pair: pair[0])
            new.remove(spared)
            rest.append(spared[1])
        chosen += [group for _, group in new]
        if not rest and chosen:  # all that trained is gone: what tested must train
            rest.append(chosen.pop())
        return chosen, rest

    def _usage(self, file: PhotoFile, landmark: str | None, first: PhotoFile) -> Usage:
        """Whether a query is of the public part: as before, else drawn for the `first` of its group."""
        before = self._before.of(file, landmark)
        if before and before.split == "test" and before.usage:
            return before.usage  # type: ignore[return-value]
        return "Public" if drawn(self._seed, "usage", _normal(first.name)) < PUBLIC_SHARE else "Private"

    def _add(
        self,
        file: PhotoFile,
        split: Split,
        landmark: str | None,
        clean: bool = False,
        usage: Usage = "Private",
        copy: bool = False,
    ) -> None:
        """Put a photograph into a split; a `copy` has its row in the list of files elsewhere."""
        kind = "non_landmark\0" if landmark is None else "index\0" if split == "index" else ""
        image_id = self._image_id(kind + _normal(file.name))
        credit = Credit() if copy else self._credit(file)
        published = credit if split == "train" else Credit()
        self.photos.append(
            Photo(
                image_id=image_id,
                split=split,
                landmark=landmark,
                read=lambda: _bytes_of(file),
                clean=clean,
                usage=usage,
                url=quote(os.fsencode(file.name)),
                page=published.url,
                author=published.author,
                license=published.license,
                title=published.title or os.fsencode(file.path.name).decode("utf-8", "replace"),
                shard=int(drawn(self._seed, "shard", image_id) * self._shards),
            )
        )
        if not copy:
            self.rows.append(
                FileRow(
                    _normal(file.name),
                    "packed",
                    "" if landmark is None else _readable(self._names[landmark]),
                    split,
                    usage if split == "test" else "",
                    image_id,
                    file.sha256,
                    detail=file.note,
                    author=credit.author,
                    license=credit.license,
                )
            )

    def _credit(self, file: PhotoFile) -> Credit:
        try:
            return credit_of(file.name, file.path.read_bytes(), self._lists)
        except OSError:
            return Credit()  # gone by now: it is left out when its turn comes

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


def _readable(landmark: str) -> str:
    name = os.fsencode(landmark).decode("utf-8", "replace")
    return re.sub(r"[\s_]+", " ", unicodedata.normalize("NFC", name)).strip() or landmark


def _bytes_of(file: PhotoFile) -> bytes | None:
    """The photograph as JPEG; None where it is gone, or is no photograph any more."""
    try:
        data = file.path.read_bytes()
    except OSError:
        return None
    note: str | NotAPhoto = file.note
    if hashlib.sha256(data).hexdigest() != file.sha256:
        note = judged(data, file.path.name)
    if isinstance(note, NotAPhoto):
        return None
    try:
        return as_packed(data, note)
    except (RefusedError, *DECODER_ERRORS):
        return None


def _summary(plan: _Plan, rows: Sequence[FileRow], written: Written, changes: dict[str, int]) -> PackSummary:
    there = [photo for photo in plan.photos if photo.image_id not in written.vanished]
    packed = [row for row in rows if row.outcome == "packed"]
    left_out = Counter(row.reason for row in rows if row.outcome == "left out")

    def count(split: Split) -> int:
        return sum(photo.split == split for photo in there)

    return PackSummary(
        files=len(packed) + left_out.total(),
        packed=len(packed),
        left_out=dict(sorted(left_out.items())),
        landmarks=len({photo.landmark for photo in there if photo.landmark is not None}),
        train=count("train"),
        clean=sum(photo.clean for photo in there),
        index=count("index"),
        test=count("test"),
        ignored=sum(photo.split == "test" and photo.usage == "Ignored" for photo in there),
        non_landmarks=sum(photo.landmark is None for photo in there),
        converted=sum(row.detail.startswith("converted") for row in packed),
        shrunk=sum(row.detail.startswith("shrunk") for row in packed),
        without_rights=sum(not (row.author and row.license) for row in packed),
        changes=changes,
        shards=written.shards,
        unchanged_shards=written.unchanged,
        shard_bytes=written.shard_bytes,
    )


def summary_lines(summary: Mapping[str, Any]) -> list[str]:
    """The figures of `SUMMARY` for a terminal, a sum a line."""
    count = summary.__getitem__
    gone = sum(count("left_out").values())
    lines = [f"files    {count('files')} = {count('packed')} packed + {gone} left out{_listed(count('left_out'))}"]
    held_out = count("packed") - count("train") - count("test")
    unscored = f" ({count('ignored')} of them references, never scored)" if count("ignored") else ""
    parts = [f"{count('train')} train", f"{count('test') - count('non_landmarks')} test queries"]
    parts += [f"{count('non_landmarks')} without a landmark{unscored}"] if count("non_landmarks") else []
    parts += [f"{held_out} held out for the index"] if held_out else []
    landmarks = count("landmarks")
    lines.append(
        f"packed   {count('packed')}, of {landmarks} landmark{'s' if landmarks != 1 else ''} = {' + '.join(parts)}"
    )
    if count("clean") != count("train"):
        lines.append(
            f"train    {count('train')} = {count('clean')} in the competition's set + "
            f"{count('train') - count('clean')} to fill small classes with"
        )
    known = count("packed") - count("without_rights")
    lines.append(f"rights   author and terms are known of {known}, not known of {count('without_rights')}")
    if count("changes"):
        lines.append(f"changes  {', '.join(f'{number} {what}' for what, number in count('changes').items())}")
    made = {name: count(name) for name in ("converted", "shrunk") if count(name)}
    if made:
        lines.append(f"JPEG     {', '.join(f'{number} {what}' for what, number in made.items())}, the others untouched")
    shards = sum(count("shards").values())
    lines.append(
        f"shards   {shards}, {count('shard_bytes') / 1e6:,.1f} MB, {count('unchanged_shards')} of them as they were"
    )
    return lines


def _listed(reasons: Mapping[str, int]) -> str:
    return f" ({', '.join(f'{number} {reason}' for reason, number in reasons.items())})" if reasons else ""
