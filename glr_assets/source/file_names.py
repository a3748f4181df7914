"""File names by themselves: which may be photographs, and which are left by operating systems and archivers.

What belongs here: rules on names alone, shared by all that lists files of others. Nothing is opened.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Final

#: Suffixes of formats that are tried as photographs, in lower case. Decoding decides what a file really is.
IMAGE_SUFFIXES: Final = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".hif"),
        *(".gif", ".bmp", ".tif", ".tiff", ".jp2", ".ppm", ".pgm", ".pnm"),
    )
)
#: Folders that archivers, operating systems and network drives make, in lower case.
_JUNK_FOLDERS: Final = frozenset(
    (
        *("__macosx", ".appledouble", ".trash", ".trashes", ".spotlight-v100", ".fseventsd", ".thumbnails"),
        *("@eadir", "#recycle", "#snapshot", "$recycle.bin", "lost+found"),
    )
)
#: Files that operating systems leave in folders, in lower case.
_JUNK_FILES: Final = frozenset(["thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"])


def junk_reason(name: str) -> str:
    """Why a relative POSIX path names no photograph of its owner, whatever its suffix; empty where it may.

    Args:
        name: a path inside a shard, an archive or a folder.
    """
    *folders, last = PurePosixPath(name).parts or ("",)
    for folder in folders:
        if folder.lower() in _JUNK_FOLDERS:
            return f"below {folder}, a folder of the operating system"
        if folder.startswith("PaxHeaders"):
            return "a pax header that was unpacked as a file"
    if last.startswith("._"):
        return "AppleDouble metadata"
    if last.startswith(".") or last.lower() in _JUNK_FILES:
        return "a hidden or system file"
    return ""


def has_image_suffix(name: str) -> bool:
    """Whether a name ends as names of image files do."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def may_be_photograph(name: str) -> bool:
    """Whether a relative POSIX path may, by its name, be a photograph."""
    return has_image_suffix(name) and not junk_reason(name)
