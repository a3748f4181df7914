"""What a member's name says: an image id, or why none can be taken from it."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

#: GLDv2's ids are 16 hexadecimal digits; other buckets may use letters, digits, `_` and `-`.
_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_SUFFIXES = {".jpg", ".jpeg"}
#: What nearly all names are: plain folders and an id. Those need none of the questions below.
_PLAIN = re.compile(r"(?:[0-9A-Za-z_-]+/)*([0-9A-Za-z_-]{1,64})\.(?:jpg|jpeg)", re.IGNORECASE)


def image_id(name: str) -> str | None:
    """The id of a member named `a/b/c/<id>.jpg`, in any folder; None where the name is of another form."""
    plain = _PLAIN.fullmatch(name)
    if plain:
        return plain.group(1)
    path = PurePosixPath(name)
    if path.suffix.lower() not in _SUFFIXES or not _ID.fullmatch(path.stem):
        return None
    return path.stem


def name_problem(name: str) -> str:
    """Why a name must not be trusted or holds no id; empty where it is well formed."""
    if _PLAIN.fullmatch(name):
        return ""
    if name.startswith(("/", "\\")) or re.match(r"[A-Za-z]:", name):
        return "hostile name: absolute path"
    if ".." in re.split(r"[/\\]", name):
        return "hostile name: leads out of the shard"
    if not name.isprintable() or "\\" in name:
        return "hostile name: control characters or backslashes"
    if image_id(name) is None:
        return "no image id in the name: expected <id>.jpg"
    return ""
