"""What a model is made from that lies outside the store: brought-in modules, and weights to start from."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

from glr_assets import dry_run
from glr_assets.errors import EmbedderError
from glr_assets.store import first_line


def outside_files(section: str, torchscript: str | None, weights: str | None) -> dict[str, str]:
    """Versions of what a section of a recipe names: `{"file:<name>": SHA-256}`, or `{"hub:<id>": commit}` of the hub.

    The hub is asked which commit the id's branch, tag or shortened commit stands for; where it cannot be reached, the
    commit that was fetched last holds.

    Args:
        section: of the recipe, for what is told.
        torchscript: path of a module.
        weights: folder or hub id, `owner/name` or `owner/name@revision`.

    Raises:
        EmbedderError: the module is not there, or the hub gives no such weights.
    """
    if torchscript is not None:
        path = Path(torchscript)
        if not path.is_file():
            raise EmbedderError(
                f"[{section}] torchscript = {torchscript!r}: no such file; give the path of a TorchScript file"
            )
        return {f"file:{path.name}": _sha256(path)}
    if weights is None:
        return {}
    if Path(weights).is_dir():
        files = sorted(path for path in Path(weights).iterdir() if path.is_file())
        return {f"file:{path.name}": _sha256(path) for path in files}
    name, revision = hub_id(weights)
    return {f"hub:{name}": _commit(section, weights, name, revision)}


def pinned(weights: str | None, versions: Mapping[str, str]) -> str | None:
    """`weights` of a recipe with the commit that `outside_files` found, where they are of the hub.

    >>> pinned("owner/name@main", {"hub:owner/name": "0123abc"})
    'owner/name@0123abc'
    """
    if weights is None:
        return None
    name, _ = hub_id(weights)
    commit = versions.get(f"hub:{name}")
    return weights if commit is None else f"{name}@{commit}"


def hub_id(weights: str) -> tuple[str, str | None]:
    """The id of a repository of the hub, and its revision where one is given after an `@`, which no id contains."""
    name, _, revision = weights.partition("@")
    return name, revision or None


def _commit(section: str, weights: str, name: str, revision: str | None) -> str:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        if dry_run.current() is not None:
            return _commit_without_download(name, revision)
        found = Path(hf_hub_download(name, "config.json", revision=revision))
    except (OSError, HFValidationError, HfHubHTTPError, ValueError) as error:
        raise EmbedderError(
            f"[{section}] weights = {weights!r}: cannot be had ({first_line(error)}); give a folder in transformers' "
            "format, a hub id and a network, or leave it out to start from random weights"
        ) from error
    # As the hub's cache is laid out: models--<owner>--<name>/snapshots/<commit>/config.json.
    return found.parent.name


def _commit_without_download(name: str, revision: str | None) -> str:
    """The commit that the hub has now, or else the one that was fetched last; nothing is fetched."""
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    try:
        sha = HfApi().model_info(name, revision=revision).sha
        if sha is not None:
            return sha
    except (OSError, HfHubHTTPError):
        pass  # out of reach
    return Path(hf_hub_download(name, "config.json", revision=revision, local_files_only=True)).parent.name


def local_files(name: str) -> dict[str, str]:
    """SHA-256 by name of a file, or of the files of a folder, that a value of a recipe names; empty of anything else.

    Files are read again where their time or size has changed.
    """
    path = Path(name)
    try:
        files = sorted(found for found in path.iterdir() if found.is_file()) if path.is_dir() else [path]
        return {found.name: _known_sha256(found) for found in files if found.is_file()}
    except OSError:
        return {}


def _known_sha256(path: Path) -> str:
    stat = path.stat()
    stamp = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
    known = _known.get(path)
    if known is None or known[0] != stamp:
        known = _known[path] = (stamp, _sha256(path))
    return known[1]


#: Digests of files that were read, with what told their content: a daemon looks every minute.
_known: dict[Path, tuple[tuple[int, int, int], str]] = {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
