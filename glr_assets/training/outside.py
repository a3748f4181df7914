"""Files outside the store that a model is made from: brought-in modules and weights to start from."""

from __future__ import annotations

import hashlib
from pathlib import Path

from glr_assets.errors import EmbedderError


def outside_files(section: str, torchscript: str | None, weights: str | None) -> dict[str, str]:
    """SHA-256 of each file that a section of a recipe names, `{"file:<name>": …}`; none of a hub id.

    Args:
        section: of the recipe, for what is told.
        torchscript: path of a module.
        weights: folder or hub id.

    Raises:
        EmbedderError: the module is not there.
    """
    if torchscript is not None:
        path = Path(torchscript)
        if not path.is_file():
            raise EmbedderError(
                f"[{section}] torchscript = {torchscript!r}: no such file; give the path of a TorchScript file"
            )
        return {f"file:{path.name}": _sha256(path)}
    if weights is not None and Path(weights).is_dir():
        files = sorted(path for path in Path(weights).iterdir() if path.is_file())
        return {f"file:{path.name}": _sha256(path) for path in files}
    return {}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
