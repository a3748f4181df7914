"""Files below a folder, and of each whether it is a photograph; every file that is none has a reason."""

from __future__ import annotations

import hashlib
import io
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from PIL import Image

from glr_assets.codecs.cost import measure
from glr_assets.codecs.decode import DECODER_ERRORS, RefusedError, alone_if_large, decode, in_a_line
from glr_assets.codecs.formats import format_of
from glr_assets.images.pixels import Refused, downsize
from glr_assets.recipes import Images

JPEG_QUALITY: Final = 95
JPEG_FORMATS: Final = frozenset({"JPEG", "MPO"})
#: How a picture of EXIF's orientation is turned upright (EXIF 2.3, 4.6.4.A).
_TURNS: Final = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
#: What Pillow opens at most; larger ones are not even shrunk.
MAX_SHRUNK_PIXELS: Final = 178_956_970
#: Folders that systems, file servers and photo programs keep beside photographs: thumbnails, bins, snapshots.
SYSTEM_FOLDERS: Final = frozenset(
    name.casefold()
    for name in (
        "@eaDir",
        "@Recycle",
        "@Recently-Snapshot",
        "@__thumb",
        "#recycle",
        "#snapshot",
        "$RECYCLE.BIN",
        "RECYCLER",
        "RECYCLED",
        "System Volume Information",
        "lost+found",
        "__MACOSX",
        "Network Trash Folder",
        "Temporary Items",
    )
)
#: Names of files whose bytes may be a picture and that still are no photograph of the collection.
_BY_NAME: Final = (
    (("~", ".bak", ".orig"), "backup copy of a file"),
    ((".part", ".crdownload", ".partial", ".download", ".tmp"), "unfinished download"),
    ((".thm",), "thumbnail of a video"),
)
#: A file of such a name that holds no picture is missed by its owner.
_PICTURE_ENDINGS: Final = (
    *(".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"),
    *(".avif", ".heic", ".heif", ".jp2"),
)
_TEXTS: Final = (
    (b"<x:xmpmeta", "XMP sidecar"),
    (b"adjustmentbaseversion", "AAE sidecar"),
    (b"<!doctype plist", "property list"),
    (b"<html", "web page"),
    (b"<!doctype html", "web page"),
    (b"<?xml", "XML"),
)
_BYTES: Final = (
    (b"PK\x03\x04", "ZIP archive or Office document"),
    (b"PK\x05\x06", "ZIP archive"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "Office document or Windows's thumbnails"),
    (b"L\0\0\0\x01\x14\x02\0", "Windows shortcut"),
    (b"bplist00", "property list"),
    (b"\x1f\x8b", "gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (b"Rar!", "RAR archive"),
    (b"SQLite format 3\0", "database"),
    (b"\x1a\x45\xdf\xa3", "Matroska video"),
    (b"ID3", "MP3 audio"),
    (b"OggS", "Ogg audio or video"),
    (b"fLaC", "FLAC audio"),
    (b"{\\rtf", "RTF document"),
)


@dataclass(frozen=True)
class FileRow:
    """What became of a file: packed, or left out for a reason; `path` is below the folder that was given."""

    path: str
    outcome: str
    landmark: str = ""
    split: str = ""
    usage: str = ""
    id: str = ""
    sha256: str = ""
    reason: str = ""
    detail: str = ""
    author: str = ""
    license: str = ""


@dataclass
class LeftOut:
    """The files that are no photographs, as they are met."""

    warn: Callable[[str], None]
    rows: list[FileRow] = field(default_factory=list)

    def add(self, path: str, reason: str, detail: str = "", *, loud: bool = False) -> None:
        """Note a file; of a `loud` one a warning is given at once."""
        self.rows.append(FileRow(path, "left out", reason=reason, detail=detail))
        if loud:
            self.warn(f"{path}: left out: {reason}{f' ({detail})' if detail else ''}")

    @property
    def counts(self) -> dict[str, int]:
        """Files by reason."""
        return dict(sorted(Counter(row.reason for row in self.rows).items()))


@dataclass(frozen=True)
class PhotoFile:
    """A photograph: its path, its path below the folder that was given, the SHA-256 of its bytes, and a note.

    `note` says what is done to it: converted from another format, or shrunk; blank where its bytes are packed.
    """

    path: Path
    name: str
    sha256: str
    note: str = ""


def is_system_folder(name: str) -> bool:
    """Whether a folder of that name holds what a system put there."""
    return name.casefold() in SYSTEM_FOLDERS or name.casefold().startswith((".trash", "found.0"))


def files_below(folder: Path, root: Path, outside: Sequence[Path], left_out: LeftOut) -> Iterator[Path]:
    """Readable files below `folder`, in the order of their names; links are followed, each real folder once.

    Args:
        folder: where to look.
        root: the folder that was given, which paths are told below.
        outside: folders that are not entered.
        left_out: takes what is passed over.
    """
    seen = {_identity(path) for path in outside}

    def walk(place: Path) -> Iterator[Path]:
        identity = _identity(place)
        if identity in seen:
            left_out.add(name_in(root, place), "folder visited before", "a link leads to it")
            return
        seen.add(identity)
        try:
            entries = sorted(place.iterdir())
        except OSError as error:
            left_out.add(name_in(root, place), "unreadable", str(error.strerror), loud=True)
            return
        for entry in entries:
            name = name_in(root, entry)
            if entry.name.startswith(".") or (entry.is_dir() and is_system_folder(entry.name)):
                reason = "hidden" if entry.name.startswith(".") else "in a folder of the system"
                for path in _all_below(entry) if entry.is_dir() and not entry.is_symlink() else [entry]:
                    left_out.add(name_in(root, path), reason)
            elif entry.is_dir():
                yield from walk(entry)
            elif entry.is_file() and os.access(entry, os.R_OK):
                yield entry
            else:
                detail = "permission denied" if entry.is_file() else "a pipe, socket or device"
                detail = detail if entry.exists() else "a link that leads nowhere"
                left_out.add(name, "unreadable", detail, loud=True)

    yield from walk(folder)


def _all_below(folder: Path) -> list[Path]:
    return sorted(Path(at) / name for at, _, names in os.walk(folder) for name in names)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def name_in(root: Path, path: Path) -> str:
    """A path below `root`, with slashes."""
    return path.relative_to(root).as_posix()


def judge(path: Path, root: Path, left_out: LeftOut) -> PhotoFile | None:
    """The photograph in a file, decoded as ingest decodes it; None where there is none, with a reason noted."""
    name = name_in(root, path)
    try:
        data = path.read_bytes()
    except OSError as error:
        left_out.add(name, "unreadable", str(error.strerror), loud=True)
        return None
    found = judged(data, path.name)
    if isinstance(found, NotAPhoto):
        left_out.add(name, found.reason, found.detail, loud=found.loud)
        return None
    return PhotoFile(path, name, hashlib.sha256(data).hexdigest(), found)


@dataclass(frozen=True)
class NotAPhoto:
    """Why a file is no photograph that can be packed; `loud` where its owner may think that it is one."""

    reason: str
    detail: str = ""
    loud: bool = False


def judged(data: bytes, file_name: str) -> str | NotAPhoto:
    """The note of a photograph, by its content; of anything else why it is none."""
    if not data:
        return NotAPhoto("empty file", loud=True)
    for endings, reason in _BY_NAME:
        if file_name.lower().endswith(endings):
            return NotAPhoto(reason, file_name.rpartition(".")[2])
    found = format_of(data)
    if found is None or found.fix:
        other = _other(data, found.name if found else "", found.fix if found else "")
        return replace(other, loud=other.loud or file_name.lower().endswith(_PICTURE_ENDINGS))
    recipe = Images()
    pixels = measure(data).pixels
    if pixels > MAX_SHRUNK_PIXELS:
        return NotAPhoto(
            "too large",
            f"{pixels / 1e6:.0f} million pixels, at most {MAX_SHRUNK_PIXELS / 1e6:.0f} are packed; save a smaller copy",
            loud=True,
        )
    note = "" if found.name in JPEG_FORMATS else f"converted from {found.name}"
    if pixels > recipe.max_pixels:
        note = f"shrunk from {pixels / 1e6:.0f} million pixels to at most {recipe.max_pixels / 1e6:.0f}"
    try:
        outcome = downsize(as_packed(data, note), recipe)
    except (RefusedError, *DECODER_ERRORS) as error:
        return NotAPhoto("cannot be decoded", in_a_line(error), loud=True)
    return NotAPhoto("cannot be decoded", outcome.reason, loud=True) if isinstance(outcome, Refused) else note


def _other(data: bytes, name: str, fix: str) -> NotAPhoto:
    """What a file is that is no picture, or one that is not decoded."""
    if name == "a film" or data[:4] == b"RIFF" or data[:4] in {b"\0\0\x01\xba", b"\0\0\x01\xb3"}:
        return NotAPhoto("video or audio")
    if name in {"SVG", "PDF", "PostScript"}:
        return NotAPhoto("not a picture", f"{name} document")
    if name == "HEIF":
        return NotAPhoto("HEIC photograph without its decoder", fix, loud=True)
    if fix:
        return NotAPhoto("unsupported format", f"{name}; {fix}", loud=True)
    kind = next((kind for start, kind in _BYTES if data.startswith(start)), "")
    head = data[:4096].lower()
    kind = kind or next((kind for text, kind in _TEXTS if text in head), "")
    if not kind:
        printable = sum(byte >= 32 or byte in b"\t\n\r\f" for byte in head) >= 0.97 * len(head)
        kind = "text" if printable and b"\0" not in head else "of no known format"
    return NotAPhoto("not a picture", kind)


def as_packed(data: bytes, note: str) -> bytes:
    """The JPEG that is packed of a photograph: its own bytes where there is no note, else upright in sRGB.

    Raises:
        RefusedError: it cannot be decoded.
    """
    if not note:
        return data
    most = Images().max_pixels
    with alone_if_large(measure(data).pixels):
        picture = decode(data, MAX_SHRUNK_PIXELS)
        image = picture.rgb()
        pixels = image.width * image.height
        if pixels > most:
            scale = (most / pixels) ** 0.5
            size = (max(int(image.width * scale), 1), max(int(image.height * scale), 1))
            image = image.resize(size, Image.Resampling.LANCZOS, reducing_gap=2.0)
        if picture.orientation in _TURNS:
            image = image.transpose(_TURNS[picture.orientation])
    target = io.BytesIO()
    image.save(target, "JPEG", quality=JPEG_QUALITY)
    return target.getvalue()
