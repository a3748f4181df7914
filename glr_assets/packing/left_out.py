"""The files that `glr pack` left out of a bucket, by name, with the reason of each."""

from __future__ import annotations

import io
import unicodedata

from glr_assets.csv_structure import strict_rows
from glr_assets.errors import StoreError, TableError
from glr_assets.packing.pack import FILES
from glr_assets.store import Store


def reason_left_out(bucket: Store | None, name: str) -> str | None:
    """Why `glr pack` left a file out of a bucket, in words; None of a packed file, and of a bucket of another program.

    Args:
        bucket: the root of a bucket; None where the source is none.
        name: the file's path below the packed folder, or the last parts of it; case does not matter.
    """
    wanted = _plain(name)
    if bucket is None or not wanted:
        return None
    try:
        rows = strict_rows(io.BytesIO(bucket.read(FILES)), bucket.full_url(FILES), errors="surrogateescape")
        header = next(rows, (1, []))[1]
        read = [dict(zip(header, row, strict=True)) for _, row in rows]
    except (FileNotFoundError, StoreError, TableError, ValueError):
        return None
    for row in read:
        path = _plain(row.get("path", ""))
        if row.get("outcome") == "left out" and (path == wanted or path.endswith(f"/{wanted}")):
            detail = f" ({row['detail']})" if row.get("detail") else ""
            return f"{row['path']} was left out by `glr pack`: {row.get('reason', '')}{detail}"
    return None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold().strip().strip("/")
