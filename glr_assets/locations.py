"""Where a user says that something lies: folders, files and URLs, read one way wherever they are given.

A leading `~` is the home folder, in URLs of this machine too (`file://~/x`, `kaggle://~/x`); a relative path is taken
from the current folder; a path of this machine becomes absolute, so that it means the same to a process that starts
elsewhere. Variables are not expanded, which is a shell's work: a path that begins with one is refused, since a folder
of that name is never meant. Blanks, letters of any script and `%` are part of a name as they stand.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

from glr_assets.errors import SettingsError

#: Schemes whose URLs are paths of this machine.
_LOCAL: Final = re.compile(r"(file|local|kaggle)://(.*)", re.DOTALL)
#: One slash where two are meant: `s3:/bucket` would be a folder `s3:`. One letter is a disk of Windows.
_ONE_SLASH: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(?!/)(.*)", re.DOTALL)
_VARIABLE: Final = re.compile(r"(?:\$\w+|\$\{\w+\}|%\w+%)(?:/|$)")


def local_path(text: str | Path) -> Path:
    """The absolute path of a file or folder of this machine; symbolic links and `..` stay as they are.

    Raises:
        SettingsError: no home folder is known of the user it names, or it begins with a variable.
    """
    given = str(text)
    if _VARIABLE.match(given):
        raise SettingsError(f"{given}: the variable at its beginning is not expanded here; write the path itself")
    expanded = os.path.expanduser(given)  # noqa: PTH111 - Path.expanduser takes `./~` for the home folder
    if given.startswith("~") and expanded == given:
        raise SettingsError(
            f"{given}: no home folder of {given.split('/', maxsplit=1)[0]} is known; write the path itself"
        )
    return Path(expanded).absolute()


def expanded(text: str) -> str:
    """A path that may also be relative to another folder, or an id of a hub: only a leading `~` is replaced.

    Raises:
        SettingsError: as `local_path`.
    """
    return str(local_path(text)) if text.startswith("~") else text


def location(text: str) -> str:
    """A folder or URL as all code uses it: paths of this machine are absolute, URLs of others as they are given.

    Raises:
        SettingsError: as `local_path`; or a URL with one slash behind its scheme.
    """
    one_slash = _ONE_SLASH.fullmatch(text)
    if one_slash is not None:
        raise SettingsError(f"{text}: a URL has two slashes there; write {one_slash[1]}://{_meant(one_slash)}")
    if "://" not in text:
        return str(local_path(text))
    found = _LOCAL.fullmatch(text)
    if found is None:
        return text
    path = found[2].removeprefix("localhost") if found[2].startswith("localhost/") else found[2]  # RFC 8089
    return f"{found[1]}://{local_path(path or '/')}"


def _meant(one_slash: re.Match[str]) -> str:
    is_path = _LOCAL.match(f"{one_slash[1]}://") is not None
    return f"/{one_slash[2]}" if is_path else one_slash[2]


def is_local(text: str) -> bool:
    """Whether a folder or URL names a place of this machine."""
    return "://" not in text or _LOCAL.fullmatch(text) is not None


def same_place(one: str, other: str) -> bool:
    """Whether two folders or URLs, as `location` gives them, are one; of this machine links are followed."""

    def place(text: str) -> str | Path:
        if not is_local(text):
            return text.rstrip("/")
        return Path(text.partition("://")[2] if "://" in text else text).resolve()

    return place(one) == place(other)
