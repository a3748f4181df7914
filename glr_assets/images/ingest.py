"""One shard of the source to one shard of the store, in one pass and without extraction.

The stored TAR and its index take their names only after the last byte has passed and the MD5 is right.
"""

from __future__ import annotations

import tarfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import IO, Any

from glr_assets.errors import SourceError
from glr_assets.images.members import image_id, name_problem
from glr_assets.images.pixels import PIXEL_PATH, Refused, StoredImage, downsize
from glr_assets.images.schemas import IMAGE_INDEX, STORED_TAR
from glr_assets.images.selection import Selection
from glr_assets.receipts import Made, Summary, Writer, make
from glr_assets.recipes import Images
from glr_assets.source import Member, Source
from glr_assets.source.base import Split
from glr_assets.store import Store

CODE_VERSION = f"1:{PIXEL_PATH}"
ATTEMPTS = 3
RETRY_SECONDS = 1.0
TAR_BLOCK = 512


@dataclass(frozen=True)
class _Pending:
    """A member on its way: what is known of it, and its pixels once they are ready."""

    member: Member
    id: str | None
    landmark_id: int | None
    status: str
    reason: str
    pixels: Future[StoredImage | Refused] | None


def ingest_shard(
    source: Source,
    store: Store,
    split: Split,
    shard: str,
    selection: Selection,
    recipe: Images,
    workers: int,
) -> Made:
    """Store the wanted images of a shard and an index row for every member of it.

    Args:
        source: where the shard is.
        store: where `images/<split>/<shard>.tar` and `.parquet` go.
        split: train, index or test.
        shard: its key, `000`.
        selection: the listed and the wanted ids of the split.
        recipe: sizes, quality and limits.
        workers: decoding threads; the result does not depend on it.

    Raises:
        SourceError: the shard is missing, cut, or three times not what its MD5 says; nothing is written.
    """

    def build(writer: Writer) -> Summary:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return _stored(source, writer, split, shard, selection, recipe, workers)
            except SourceError:
                if attempt == ATTEMPTS:
                    raise
                time.sleep(RETRY_SECONDS * attempt)
        raise AssertionError("unreachable")

    parameters = recipe.model_dump(exclude={"keep"}) | {"split": split, "shard": shard}
    digest = source.shard_digest(split, shard, require_md5=recipe.require_md5)
    return make(
        store,
        f"{split}_images/{shard}",
        inputs={f"source:{split}/{shard}": digest} | selection.digests,
        parameters=parameters,
        code_version=CODE_VERSION,
        build=build,
    )


def _stored(
    source: Source,
    writer: Writer,
    split: Split,
    shard: str,
    selection: Selection,
    recipe: Images,
    workers: int,
) -> Summary:
    rows: list[dict[str, Any]] = []
    stored_ids: set[str] = set()
    with (
        writer.writing(STORED_TAR.format(split=split, shard=shard)) as file,
        _StoredTar(file) as tar,
        ThreadPoolExecutor(workers, thread_name_prefix=f"decode-{shard}") as pool,
    ):
        members = source.members(split, shard, require_md5=recipe.require_md5, max_member_bytes=recipe.max_member_bytes)
        for pending in _in_order(members, selection, recipe, pool, ahead=4 * workers):
            rows.append(_row(pending, tar, stored_ids))
    writer.table(IMAGE_INDEX, IMAGE_INDEX.rows(rows), split=split, shard=shard)
    statuses = Counter(row["status"] for row in rows)
    return {
        "seen": len(rows),
        **{status: statuses[status] for status in ("stored", "skipped", "failed")},
        "source_bytes": sum(row["source_size"] for row in rows),
        "stored_bytes": sum(row.get("stored_size", 0) for row in rows),
    }


def _in_order(
    members: Iterator[Member],
    selection: Selection,
    recipe: Images,
    pool: ThreadPoolExecutor,
    ahead: int,
) -> Iterator[_Pending]:
    """Members in the shard's order, at most `ahead` of them decoding beyond the one that is taken."""
    queue: deque[_Pending] = deque()
    for member in members:
        queue.append(_judged(member, selection, recipe, pool))
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue


def _judged(member: Member, selection: Selection, recipe: Images, pool: ThreadPoolExecutor) -> _Pending:
    """Decide from name, kind and size; images that are wanted are handed to the pool."""
    problem = name_problem(member.name)
    known = None if problem or member.kind == "directory" else image_id(member.name)
    row = None if known is None else selection.row(known)
    verdicts = (
        (member.kind == "directory", "skipped", "a directory"),
        (bool(problem), "failed", problem),
        (row is None, "skipped", "unknown id: not in the split's table"),
        (row is not None and not selection.wanted[row], "skipped", "not wanted by the plan"),
        (member.kind != "file", "failed", f"not a file: {member.kind}"),
        (member.data is None, "failed", f"too large: {member.size} bytes, at most {recipe.max_member_bytes} are read"),
    )
    status, reason = next(((status, reason) for holds, status, reason in verdicts if holds), ("wanted", ""))
    return _Pending(
        replace(member, data=None),
        known,
        None if row is None else selection.landmark(row),
        status,
        reason,
        pool.submit(downsize, member.data, recipe) if status == "wanted" and member.data is not None else None,
    )


def _row(pending: _Pending, tar: _StoredTar, stored_ids: set[str]) -> dict[str, Any]:
    """The index row of a member, its image written to the stored TAR where there is one."""
    member = pending.member
    row: dict[str, Any] = {
        "id": pending.id,
        "landmark_id": pending.landmark_id,
        "status": pending.status,
        "reason": pending.reason,
        "member": _writable(member.name),
        "source_path": _writable(member.source_path),
        "source_offset": member.offset,
        "source_size": member.size,
    }
    if pending.pixels is None or pending.id is None:
        return row
    pixels = pending.pixels.result()
    if isinstance(pixels, Refused):
        return row | {"status": "failed", "reason": pixels.reason}
    if pending.id in stored_ids:
        return row | {"status": "skipped", "reason": "repeated id: stored from an earlier member"}
    stored_ids.add(pending.id)
    return row | {
        "status": "stored",
        "source_format": pixels.source_format,
        "source_width": pixels.source_size[0],
        "source_height": pixels.source_size[1],
        "stored_offset": tar.add(f"{pending.id}.jpg", pixels.jpeg),
        "stored_size": len(pixels.jpeg),
        "width": pixels.size[0],
        "height": pixels.size[1],
        "dhash": pixels.dhash,
    }


def _writable(name: str) -> str:
    """A name whose bytes are not UTF-8, with those bytes spelled out: different names stay different."""
    return name.encode("utf-8", "backslashreplace").decode()


class _StoredTar:
    """An ordinary TAR of `<id>.jpg` members, which tells where each member's bytes begin."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.position = 0

    def __enter__(self) -> _StoredTar:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.file.write(bytes(2 * TAR_BLOCK))

    def add(self, name: str, data: bytes) -> int:
        """Append a member; returns the offset of its first byte."""
        header = tarfile.TarInfo(name)
        header.size, header.mode = len(data), 0o644
        block = header.tobuf(tarfile.USTAR_FORMAT)
        padding = bytes(-len(data) % TAR_BLOCK)
        self.file.write(block + data + padding)
        offset = self.position + len(block)
        self.position = offset + len(data) + len(padding)
        return offset
