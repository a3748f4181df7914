"""Names of members of a shard: the image id that a name holds, or why it is not taken for an image of the split.

A name is data of somebody else: it is never used as a path. Three things are told apart: a hostile name, which is a
sign of an attack or of damage; a stranger, as a sidecar file or a system's metadata; and an image file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import PurePosixPath

from glr_assets.source.file_names import IMAGE_SUFFIXES, junk_reason

#: GLDv2's ids are 16 hexadecimal digits; other buckets may use letters, digits, `_` and `-`.
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
#: What nearly all names are: folders of one character and an id. Those need none of the questions below.
_PLAIN = re.compile(r"(?:(?:train|index|test)/)?(?:[0-9A-Za-z_-]/)*([0-9A-Za-z_-]{1,64})\.(?:jpg|jpeg|JPG|JPEG)")
#: Failures that the same bytes, name and limits give again, by the first words of their reason.
_FINAL = ("hostile name", "not a file", "no image id in the name", "too large", "empty", "behind the end mark")
#: The figure of a shard's receipt that counts what stands behind an end mark: members, or other bytes as one.
BEHIND_FIGURE = "behind_end_mark"


def image_id(name: str) -> str | None:
    """The id of an image file named `a/b/c/<id>.<suffix>`, in any folder; None where the name is of another form."""
    plain = _PLAIN.fullmatch(name)
    if plain:
        return plain.group(1)
    stem = image_stem(name)
    return stem if _ID.fullmatch(stem) else None


def image_stem(name: str) -> str:
    """A file name without folders and image suffix; empty where it has no such suffix."""
    path = PurePosixPath(name)
    return path.stem if path.suffix.lower() in IMAGE_SUFFIXES else ""


def hostile_reason(name: str) -> str:
    """Why a name must not be trusted; empty where it is a plain relative path."""
    if _PLAIN.fullmatch(name):
        return ""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "hostile name: absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "hostile name: leads out of the shard"
    plain = name.removesuffix("\r") if PurePosixPath(name).name == "Icon\r" else name  # a file of macOS
    if not plain.isprintable() or "\\" in name:
        return "hostile name: control characters or backslashes"
    return ""


def stranger_reason(name: str) -> str:
    """Why a plain relative path names no image file of an id; empty where it does."""
    if _PLAIN.fullmatch(name):
        return ""
    junk = junk_reason(name)
    if junk:
        return f"no image file: {junk}"
    if not image_stem(name):
        return "no image file: its suffix is of no image format"
    if image_id(name) is None:
        return "no image id in the name: expected letters, digits, _ and -"
    return ""


def is_final(reason: str) -> bool:
    """Whether trying a member again cannot end otherwise while its bytes, its name and the limits are the same.

    A failure to decode is not final: another version of a decoder, or more memory, may succeed.
    """
    return reason.split(":", maxsplit=1)[0] in _FINAL


def may_succeed(summary: Mapping[str, object]) -> int:
    """Failed members, by a shard's figures, that may be stored when they are tried again.

    Args:
        summary: `failed`, and by reason `failed: <first words of the reason>`.
    """
    final = sum(_count(summary.get(f"failed: {reason}")) for reason in _FINAL)
    return max(_count(summary.get("failed")) - final, 0)


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
