"""One shard of the source to one shard of the store: in one pass, or, where an earlier pass is known, by what is new.

The stored TAR and its index take their names only after the last byte has passed and the MD5 is right. A later
run with another plan, or that tries failed images again, reads of the source only what the index of the earlier
pass cannot give, each image by its byte range; the bytes it leaves are those that a whole pass would leave.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import xxhash

from glr_assets.errors import DamagedSourceError, SourceError, StoreError, describe, trace
from glr_assets.images import versions
from glr_assets.images.earlier import Earlier, EarlierRow, OutdatedError, find_earlier
from glr_assets.images.members import BEHIND_FIGURE, hostile_reason, image_id, image_stem, may_succeed, stranger_reason
from glr_assets.images.pixels import Refused, StoredImage, downsize
from glr_assets.images.schemas import IMAGE_INDEX, STORED_TAR
from glr_assets.images.selection import Selection
from glr_assets.images.shard_runs import ShardRun, find_run, write_run
from glr_assets.images.stored_tar import StoredTar
from glr_assets.ranges import ordered
from glr_assets.receipts import Made, Summary, Writer, find_receipt, is_forced, make
from glr_assets.recipes import Images
from glr_assets.source import Member, Source
from glr_assets.source.base import BEHIND_END_MARK, BYTES_BEHIND_END_MARK, UNREADABLE, Split
from glr_assets.source.file_names import junk_reason
from glr_assets.store import Store
from glr_assets.tables import RowWriter

ATTEMPTS = 3
RETRY_SECONDS = 1.0
#: Images that decoding may be ahead of writing, for each worker: enough that none waits for a slow one before it.
AHEAD = 4
#: Bytes of the source that they may hold together; one image may be larger.
BYTES_AHEAD = 64 * 2**20
#: Rows of the index that are in memory at a time; shards of GLDv2 have some 8,000.
INDEX_ROWS = 2**15
REPEATED = "repeated id: stored from an earlier member"
UNWANTED = "not wanted by the plan"
BEHIND = "behind the end mark: readers of TARs stop before it; make one archive of the two (tar --concatenate)"


@dataclass(frozen=True)
class Judged:
    """A member and what is known of it before its pixels: an id, a landmark, and `status` wanted, skipped or failed.

    `row` is that of the selection; None where it does not list the id.
    """

    member: Member
    id: str | None
    row: int | None
    landmark_id: int | None
    status: str
    reason: str
    xxh3: int | None


@dataclass
class Run:
    """What a run did, which is no part of what it leaves."""

    attempts: int = 0
    read_bytes: int = 0
    spared_bytes: int = 0
    carried: int = 0
    decoded: int = 0


@dataclass
class Content:
    """What identifies the shard's content, as far as it is known.

    Attributes:
        digest: of `Source.shard_digest`.
        stamp: of `Source.shard_stamp`.
    """

    digest: str = ""
    stamp: str = ""


@dataclass(frozen=True)
class _Shard:
    """All that the ways of ingesting a shard need."""

    source: Source
    store: Store
    split: Split
    key: str
    selection: Selection
    recipe: Images
    workers: int
    run: Run = field(default_factory=Run)
    content: Content = field(default_factory=Content)
    began: float = field(default_factory=time.monotonic)


def ingest_shard(
    source: Source,
    store: Store,
    split: Split,
    shard: str,
    selection: Selection,
    recipe: Images,
    workers: int,
    *,
    retry_failed: bool = False,
) -> Made:
    """Store the wanted images of a shard and an index row for every member of it; tell of the run beside it.

    Args:
        source: where the shard is.
        store: where `images/<split>/<shard>.tar` and `.parquet` go.
        split: train, index or test.
        shard: its key, `000`.
        selection: the listed and the wanted ids of the split.
        recipe: sizes, quality and limits.
        workers: decoding threads; the result does not depend on it.
        retry_failed: read and decode once more what failed in an earlier run, and nothing else.

    Raises:
        SourceError: the shard is missing, cut, or three times not what its MD5 says; nothing is written.
    """
    job = _Shard(source, store, split, shard, selection, recipe, workers)
    name = f"{split}_images/{shard}"
    content = job.content
    try:
        parameters = recipe.model_dump(exclude={"keep"}) | {"split": split, "shard": shard}
        content.stamp = source.shard_stamp(split, shard)
        content.digest = source.shard_digest(split, shard, require_md5=recipe.require_md5)
        receipt = find_receipt(store, name)

        def build(writer: Writer) -> Summary:
            _tell(job, "begun")
            left = None
            if not is_forced(name):
                left = find_earlier(store, split, shard, content.digest, parameters, versions.CODE_VERSION)
            return _built(job, writer, left, retry_failed)

        made = make(
            store,
            name,
            inputs={f"source:{split}/{shard}": content.digest} | selection.digests,
            parameters=parameters,
            code_version=versions.CODE_VERSION,
            build=build,
            again=retry_failed and receipt is not None and may_succeed(receipt.summary) > 0,
        )
    except Exception as error:
        with suppress(StoreError):  # which may be what went wrong; in a dry run it cannot be told
            _tell(job, "failed", error=error)
        raise
    if made.reused:
        last = find_run(store, split, shard)
        if last is not None and last.outcome != "ingested":  # what stood in the way is gone, what was made still holds
            _tell(job, "ingested", summary=made.receipt.summary)
        return made
    return replace(made, run=_tell(job, "ingested", summary=made.receipt.summary))


def _tell(
    job: _Shard,
    outcome: Literal["begun", "ingested", "failed"],
    *,
    summary: Summary | None = None,
    error: Exception | None = None,
) -> Summary:
    """Leave what the run does or did in the store, and give it as figures."""
    failures = 0
    if outcome != "ingested":
        last = find_run(job.store, job.split, job.key)
        same = last is not None and Content(last.source, last.stamp) == job.content
        failures = last.failures if last is not None and same else 0
        # That it had begun was counted as a failure already.
        failures += not (outcome == "failed" and job.run.attempts)
    run = ShardRun(
        outcome=outcome,
        error="" if error is None else describe(error),
        trace="" if error is None else trace(error),
        source=job.content.digest,
        stamp=job.content.stamp,
        permanent=isinstance(error, DamagedSourceError),
        failures=failures,
        seconds=round(time.monotonic() - job.began, 3),
        attempts=job.run.attempts,
        read_bytes=job.run.read_bytes,
        spared_bytes=job.run.spared_bytes,
        decoded=job.run.decoded,
        carried=job.run.carried,
        members=summary or {},
    )
    write_run(job.store, job.split, job.key, run)
    return run.figures()


def _built(job: _Shard, writer: Writer, earlier: Earlier | None, retry_failed: bool) -> Summary:
    if earlier is not None:
        job.run.attempts = 1
        try:
            return _written(job, writer, _anew(job, earlier, retry_failed))
        except (OutdatedError, SourceError):
            pass  # what an earlier run left does not hold: the shard is read whole
    for attempt in range(1, ATTEMPTS + 1):
        job.run.attempts += 1
        try:
            return _written(job, writer, _passed(job))
        except SourceError:
            if attempt == ATTEMPTS:
                raise
            time.sleep(RETRY_SECONDS * attempt)
    raise AssertionError("unreachable")


Outcome = tuple[Judged, StoredImage | Refused | None]


def _passed(job: _Shard) -> Iterator[Outcome]:
    """Every member in one pass over the shard."""
    recipe = job.recipe
    job.run.read_bytes = job.run.spared_bytes = job.run.decoded = job.run.carried = 0

    def known() -> Iterator[_Known]:
        members = job.source.members(
            job.split, job.key, require_md5=recipe.require_md5, max_member_bytes=recipe.max_member_bytes
        )
        for member in members:
            data = member.data
            job.run.read_bytes += member.size
            judged = judge(
                replace(member, data=None),
                job.selection,
                recipe,
                None if data is None else xxhash.xxh3_64_intdigest(data),
            )
            wanted = judged.status == "wanted"
            job.run.decoded += wanted
            yield _Known(judged, data=data if wanted else None)

    yield from _decoded(known(), job)


def _anew(job: _Shard, earlier: Earlier, retry_failed: bool) -> Iterator[Outcome]:
    """Every member as the earlier index has it: carried over where that suffices, else read by its range."""

    def plan() -> Iterator[tuple[EarlierRow, Judged, bool]]:
        """Each row, and whether what becomes of it is settled; read again by each reader, so that none is kept."""
        for row in earlier.rows():
            item = judge(row.member, job.selection, job.recipe, row.xxh3)
            yield row, item, item.status != "wanted" or earlier.settles(row, retry_failed)

    carried = (row for row, item, settled in plan() if item.status == "wanted" and settled and row.is_stored)
    images = earlier.images(carried)
    fetched = job.source.read_members(row.place for row, _, settled in plan() if not settled)

    def known() -> Iterator[_Known]:
        for row, item, settled in plan():
            job.run.spared_bytes += settled and row.member.size
            if not settled:
                data = _as_indexed(row, next(fetched))
                job.run.read_bytes += len(data)
                job.run.decoded += 1
                yield _Known(replace(item, xxh3=xxhash.xxh3_64_intdigest(data)), data=data)
            elif item.status != "wanted":
                yield _Known(item)
            elif row.is_stored:
                job.run.carried += 1
                yield _Known(item, outcome=next(images))
            elif row.is_repeated:
                yield _Known(replace(item, status="skipped", reason=REPEATED))
            else:
                yield _Known(item, outcome=row.refused)

    yield from _decoded(known(), job)


@dataclass(frozen=True)
class _Known:
    """A member with what became of it earlier, or with its bytes where that is to be found out."""

    judged: Judged
    outcome: StoredImage | Refused | None = None
    data: bytes | memoryview | None = None


def _as_indexed(row: EarlierRow, data: bytes | SourceError) -> bytes:
    if isinstance(data, SourceError):
        raise data
    if row.xxh3 is not None and xxhash.xxh3_64_intdigest(data) != row.xxh3:
        raise SourceError(
            f"{row.place.name}: the {row.place.size} bytes at {row.place.offset} are not those that were indexed as "
            f"{row.member.name}: the source has changed, or they were damaged on their way; run it again"
        )
    return data


def _decoded(found: Iterable[_Known], job: _Shard) -> Iterator[Outcome]:
    """Members in their order with what became of them; a few are decoded ahead of the one that is taken."""

    def outcome(item: _Known) -> Outcome:
        if item.data is None:
            return item.judged, item.outcome
        try:
            return item.judged, downsize(item.data, job.recipe)
        except Exception as error:  # noqa: BLE001 - an image nobody foresaw costs none of the thousands beside it
            return item.judged, Refused(f"undecodable: unforeseen {describe(error)[:200]}")

    yield from ordered(
        outcome,
        found,
        workers=job.workers,
        ahead=AHEAD * job.workers,
        most_bytes=BYTES_AHEAD,
        size=lambda item: len(item.data or b""),
        quick=lambda item: item.data is None,
    )


def judge(member: Member, selection: Selection, recipe: Images, xxh3: int | None) -> Judged:
    """Decide from name, kind and size; `wanted` is what is left for its pixels to decide."""
    hostile = hostile_reason(member.name)
    stranger = "" if hostile else stranger_reason(member.name)
    known = None if hostile or stranger or member.kind == "directory" else image_id(member.name)
    row = None if known is None else selection.row(known)
    if member.kind == "directory":
        status, reason = "skipped", "a directory"
    elif member.kind == BYTES_BEHIND_END_MARK:
        status, reason = "skipped", f"behind the end mark: {member.size} bytes that are no TAR"
    elif hostile:
        status, reason = "failed", hostile
    elif stranger:
        status, reason = ("failed" if _is_wanted_by_a_false_id(member.name, selection) else "skipped"), stranger
    elif row is None:
        status, reason = "skipped", "unknown id: not in the split's table"
    elif not selection.wanted[row]:
        status, reason = "skipped", UNWANTED
    elif member.kind == UNREADABLE:
        status, reason = "failed", "unreadable: the source lists the file, and reading it failed"
    elif member.kind.endswith(BEHIND_END_MARK):
        status, reason = "failed", BEHIND
    elif member.kind != "file":
        status, reason = "failed", f"not a file: {member.kind}"
    elif member.size > recipe.max_member_bytes:
        status, reason = "failed", f"too large: {member.size} bytes, at most {recipe.max_member_bytes} are read"
    else:
        status, reason = "wanted", ""
    return Judged(member, known, row, None if row is None else selection.landmark(row), status, reason, xxh3)


def _is_wanted_by_a_false_id(name: str, selection: Selection) -> bool:
    """Whether a name without an id is that of a wanted image all the same: the table lists an id of other letters."""
    row = None if junk_reason(name) else selection.row(image_stem(name))
    return row is not None and bool(selection.wanted[row])


def _written(job: _Shard, writer: Writer, outcomes: Iterator[Outcome]) -> Summary:
    """Write the stored TAR and the index; returns the figures of the members."""
    statuses: Counter[str] = Counter()
    failures: Counter[str] = Counter()
    source_bytes = stored_bytes = behind = 0
    stored_rows = bytearray(len(job.selection.ids))
    place = {"split": job.split, "shard": job.key}
    with (
        writer.writing(IMAGE_INDEX.at(**place)) as index_file,
        RowWriter(IMAGE_INDEX, index_file, INDEX_ROWS) as index,
        writer.writing(STORED_TAR.format(**place)) as file,
        StoredTar(file) as tar,
    ):
        for judged, pixels in outcomes:
            row = _row(judged, pixels, tar, stored_rows)
            index.append(row)
            statuses[row["status"]] += 1
            if row["status"] == "failed":
                failures[row["reason"].split(":")[0]] += 1
            source_bytes += row["source_size"]
            stored_bytes += row.get("stored_size", 0)
            behind += row["kind"].endswith(BEHIND_END_MARK)
    return {
        "seen": index.rows,
        **{status: statuses[status] for status in ("stored", "skipped", "failed")},
        "source_bytes": source_bytes,
        "stored_bytes": stored_bytes,
        **{f"failed: {reason}": count for reason, count in sorted(failures.items())},
        **({BEHIND_FIGURE: behind} if behind else {}),
    }


def _row(judged: Judged, pixels: StoredImage | Refused | None, tar: StoredTar, stored: bytearray) -> dict[str, Any]:
    """The index row of a member, its image written to the stored TAR where there is one.

    Args:
        judged: the member.
        pixels: what became of it.
        tar: where images go.
        stored: by row of the selection, whether its image has been stored.
    """
    member = judged.member
    row: dict[str, Any] = {
        "id": judged.id,
        "landmark_id": judged.landmark_id,
        "status": judged.status,
        "reason": judged.reason,
        "member": _writable(member.name),
        "kind": member.kind,
        "source_path": _writable(member.source_path),
        "source_offset": member.offset,
        "source_size": member.size,
        "source_xxh3": judged.xxh3,
    }
    if judged.reason == BEHIND and judged.row is not None and stored[judged.row]:
        return row | {"status": "skipped", "reason": REPEATED}
    if pixels is None or judged.row is None:
        return row
    if isinstance(pixels, Refused):
        return row | {"status": "failed", "reason": pixels.reason}
    if stored[judged.row]:
        return row | {"status": "skipped", "reason": REPEATED}
    stored[judged.row] = True
    return row | {
        "status": "stored",
        "source_format": pixels.source_format,
        "source_width": pixels.source_size[0],
        "source_height": pixels.source_size[1],
        "stored_offset": tar.add(f"{judged.id}.jpg", pixels.jpeg),
        "stored_size": len(pixels.jpeg),
        "stored_xxh3": xxhash.xxh3_64_intdigest(pixels.jpeg),
        "pixel_path": pixels.pixel_path,
        "width": pixels.size[0],
        "height": pixels.size[1],
        "sharpness": pixels.sharpness,
        "dhash": pixels.dhash,
        "dhash_path": pixels.dhash_path,
    }


def _writable(name: str) -> str:
    """A name whose bytes are not UTF-8, with those bytes spelled out: different names stay different."""
    return name.encode("utf-8", "backslashreplace").decode()
