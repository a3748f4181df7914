"""A shard of about 1 GB of real photographs: read, ingested, ingested again, and planned anew; time, memory and disk.

Builds, in a folder that is removed afterwards, a GLDv2-shaped bucket whose tables list as many images as GLDv2's and
whose one train shard repeats the files of corpus B under ids of their own. Each measurement runs in a process of its
own. Prints Markdown: `python -m glr_assets_tests.benchmarks.shard [--megabytes 1000] [--source PHOTOS]`.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import io
import json
import os
import pstats
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv

import glr_assets.images.ingest
from glr_assets.images.ingest import ingest_shard
from glr_assets.images.pixels import downsize
from glr_assets.images.selection import Selection, selection_for
from glr_assets.metadata.tables import make_competition_train, make_train_metadata
from glr_assets.planning.class_counts import make_class_counts
from glr_assets.planning.fill_plan import make_fill_plan
from glr_assets.ranges import stream
from glr_assets.receipts import Made
from glr_assets.recipes import Fill, Images
from glr_assets.source import BucketSource
from glr_assets.source.layout import TABLE_PATHS, member_name, shard_path
from glr_assets.store import Store
from glr_assets_tests.benchmarks.ingest import corpora, one_thread, replaced, seed
from glr_assets_tests.benchmarks.measure import (
    PHOTOS,
    forget_peak,
    in_a_process,
    machine,
    markdown,
    peak_megabytes,
    pin,
    verdict,
)
from glr_assets_tests.images.handmade import picture

MODULE = "glr_assets_tests.benchmarks.shard"
#: What GLDv2's train.csv lists.
LISTED, LANDMARKS = 4_132_914, 203_094
SHARE_WANTED, SHARE_MORE = 0.4, 0.5
RECIPE = Images()
SHARD = shard_path("train", "000")
READ_BLOCK = 2**20
#: Seconds to the first byte, and bytes a second of one connection: none, and about what S3 gives.
LINES = {"as fast as loopback": (0.0, 0.0), "30 ms and 80 MB/s a connection": (0.03, 80e6)}
S3_BLOCK = 8 * 2**20
Figures = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """The folder of one benchmark, and what its steps are told."""

    folder: Path
    photos: Path
    megabytes: int
    options: Mapping[str, str]

    @property
    def bucket(self) -> Path:
        """The source."""
        return self.folder / "bucket"

    @property
    def tar(self) -> Path:
        """Its shard."""
        return self.bucket / SHARD

    def store(self) -> Store:
        """The store that the step writes to."""
        return Store(str(self.folder / "stores" / self.options["store"]))

    def source(self) -> BucketSource:
        """The bucket as a source."""
        return BucketSource(str(self.bucket))


def build(work: Work) -> Figures:
    """The bucket: tables of GLDv2's size, and one shard of files of corpus B."""
    random = np.random.default_rng(0)
    drawn = np.unique(random.integers(0, 2**64, LISTED + 1000, np.uint64))[:LISTED]
    nibbles = drawn[:, None] >> np.arange(60, -1, -4, dtype=np.uint64) & np.uint64(15)
    ids = np.frombuffer(b"0123456789abcdef", np.uint8)[nibbles].view("S16").reshape(-1)
    landmarks = random.integers(0, LANDMARKS, LISTED)
    (work.bucket / "metadata").mkdir(parents=True)
    listed = {
        "id": pa.array(ids).cast(pa.string()),
        "url": pa.repeat("https://x.org/", LISTED),
        "landmark_id": landmarks,
    }
    csv.write_csv(pa.table(listed), work.bucket / TABLE_PATHS["train"])
    clean = np.flatnonzero(random.random(LISTED) < SHARE_WANTED)
    clean = clean[np.argsort(landmarks[clean], kind="stable")]
    starts = np.flatnonzero(np.diff(landmarks[clean], prepend=-1))
    with (work.bucket / TABLE_PATHS["train_clean"]).open("wb") as file:
        file.write(b"landmark_id,images\n")
        for rows in np.split(clean, starts[1:]):
            file.write(b"%d,%s\n" % (landmarks[rows[0]], b" ".join(ids[rows].tolist())))
    files = corpora(work.photos)["B"]
    members = round(work.megabytes * 1e6 / np.mean([len(data) + 768 for data in files]))
    own = random.choice(ids, members, replace=False)
    write_shard(work.bucket, files, [image_id.decode() for image_id in own.tolist()])
    return {"members": members, "bytes": work.tar.stat().st_size}


def write_shard(bucket: Path, files: list[bytes], ids: list[str]) -> None:
    """The train shard, its members as GLDv2 names them, and its MD5."""
    tar = bucket / SHARD
    tar.parent.mkdir(parents=True)
    (bucket / "md5sum/train").mkdir(parents=True)
    with tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT) as archive:
        for number, image_id in enumerate(ids):
            header = tarfile.TarInfo(member_name(image_id))
            header.size = len(files[number % len(files)])
            archive.addfile(header, io.BytesIO(files[number % len(files)]))
    with tar.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    (bucket / "md5sum/train/md5.images_000.txt").write_text(f"{digest}  images_000.tar\n")


def tables(work: Work) -> Figures:
    """The tables that say what is wanted."""
    source, store = work.source(), work.store()
    make_train_metadata(source, store)
    make_competition_train(source, store)
    make_class_counts(store)
    make_fill_plan(store, Fill(threshold=0, reserves=0), 0)
    return {}


def selection(work: Work) -> Selection:
    """The plan that the options name: `none`, `some` (40 %), `more` (50 %) or `all`."""
    tables_store = Store(str(work.folder / "stores/tables"))
    plan = work.options["plan"]
    chosen = selection_for(
        tables_store, "train", RECIPE.model_copy(update={"keep": "all" if plan == "all" else "wanted"})
    )
    if plan == "none":
        return replace(chosen, wanted=np.zeros_like(chosen.wanted), digests={"plan": plan})
    if plan == "more":
        share = (SHARE_MORE - SHARE_WANTED) / (1 - SHARE_WANTED)
        added = np.random.default_rng(1).random(len(chosen.wanted)) < share
        return replace(chosen, wanted=chosen.wanted | added, digests={"plan": plan})
    return chosen


def selected(work: Work) -> Figures:
    """What it takes to load the plan of a split of GLDv2's size."""
    before = forget_peak()
    began = time.process_time()
    chosen = selection(work)
    return {
        "seconds": time.process_time() - began,
        "peak": peak_megabytes() - before,
        "held": (chosen.ids.nbytes + chosen.wanted.nbytes + LISTED * 8) / 1e6,
    }


def ingest(work: Work) -> Figures:
    """One run of the ingest of the shard."""
    if "cores" in work.options:
        pin(int(work.options["cores"]), int(work.options.get("first", "0")))
    chosen = selection(work)
    with_selection = peak_megabytes()
    downsize(picture(0, (600, 500)), RECIPE)  # loads and compiles what it needs
    resident = forget_peak()
    with timed() as figures:
        made = _ingested(work, chosen)
    return figures | {
        "peak": max(with_selection, peak_megabytes()),
        "beyond plan": peak_megabytes() - resident,
        "reused": made.reused,
        "digest": made.receipt.digest,
        "summary": made.receipt.summary,
        "run": made.run,
    }


def _ingested(work: Work, chosen: Selection) -> Made:
    workers = int(work.options.get("workers", "1"))
    return ingest_shard(work.source(), work.store(), "train", "000", chosen, RECIPE, workers)


@contextmanager
def timed() -> Iterator[Figures]:
    """Seconds of wall and of CPU, of this process and of those it waits for."""
    figures: Figures = {}
    wall, cpu = time.perf_counter(), _cpu()
    yield figures
    figures |= {"wall": time.perf_counter() - wall, "cpu": _cpu() - cpu}


def _cpu() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def reading(work: Work) -> Figures:
    """Seconds of CPU and wall of ways to read the whole shard, in turn: the median of the rounds."""
    nothing = selection(work)
    source = work.source()

    def md5() -> None:
        digest = hashlib.md5(usedforsecurity=False)
        with work.tar.open("rb", buffering=0) as file:
            while block := file.read(READ_BLOCK):
                digest.update(block)

    def members() -> None:
        for _ in source.members("train", "000", require_md5=True, max_member_bytes=RECIPE.max_member_bytes):
            pass

    def index() -> None:
        store = Store(str(work.folder / "stores/index"))
        ingest_shard(source, store, "train", "000", nothing, RECIPE, 1)
        shutil.rmtree(store.root)

    def streamed() -> None:
        with tarfile.open(work.tar, "r|") as archive:
            for member in archive:
                file = archive.extractfile(member)
                assert file is not None
                file.read()

    def extracted() -> None:
        _extract(work, work.folder / "extracted")
        shutil.rmtree(work.folder / "extracted")

    ways: dict[str, Callable[[], None]] = {
        "MD5 alone": md5,
        VERIFIED: members,
        INDEXED: index,
        "tarfile `r|`, all read, no MD5": streamed,
        "`tar -xf` to disk and removed, no MD5": extracted,
    }
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    for _ in range(int(work.options["rounds"])):
        for name, way in ways.items():
            with timed() as figures:
                way()
            found[name].append(figures)
    return {
        name: {key: statistics.median(figures[key] for figures in taken) for key in ("wall", "cpu")}
        for name, taken in found.items()
    }


def _extract(work: Work, folder: Path) -> None:
    folder.mkdir()
    subprocess.run(["tar", "-xf", str(work.tar), "-C", str(folder)], check=True)


def seed_shard(work: Work) -> Figures:
    """The earlier system's way with a shard of which all is wanted: extract it, downsize its files in place."""
    pin(1)
    one_thread()
    seed(picture(0, (600, 500)))
    folder = work.folder / "stores" / work.options["store"]
    forget_peak()
    with timed() as figures:
        _extract(work, folder)
        for path in folder.rglob("*.jpg"):
            path.write_bytes(seed(path.read_bytes()))
    return figures | {"peak": peak_megabytes()}


VERIFIED = "`source.members`: read, MD5, TAR walked"
INDEXED = "ingest that wants nothing: that, XXH3, and the index written"
WAITED = "waited"
#: What the files of the project do for a shard, and of `ingest.py` by function.
_PARTS = {
    "ranges.py": "read",
    "source/bucket.py": "MD5",
    "source/tar_walk.py": "TAR walked",
    "images/selection.py": "judged: id, plan",
    "images/members.py": "judged: id, plan",
    "images/stored_tar.py": "stored TAR's headers",
    "receipts.py": "SHA-256 of what is written",
    "store.py": "written",
    "tables.py": "index checked and written",
    "images/schemas.py": "index checked and written",
    "judge": "judged: id, plan",
    "_row": "rows of the index",
    "_writable": "rows of the index",
    "_written": "rows of the index",
    "_ordered": "handed to the workers and back",
}


def profiled(work: Work) -> Figures:
    """CPU microseconds a member of all but the images: of an ingest that is told what decoding gives, by its parts.

    A profiler tells the parts' shares, a run without it their sum.
    """
    chosen = selection(work)
    known = {len(data): downsize(data, RECIPE) for data in corpora(work.photos)["B"]}
    seen, spent, store = 0, [], work.options["store"]
    profiler = cProfile.Profile()
    with replaced(glr_assets.images.ingest, "downsize", lambda data, _: known[len(data)]):
        for number in range(int(work.options["rounds"])):
            own = replace(work, options={**work.options, "store": f"{store}-{number}"})
            began = time.process_time()
            made = _ingested(own, chosen)
            spent.append(time.process_time() - began)
            seen = int(made.receipt.summary["seen"] or 0)
        profiler.enable()
        _ingested(work, chosen)
        profiler.disable()
    parts = by_part(pstats.Stats(profiler).stats, lambda function: _part(*function))  # type: ignore[attr-defined]
    del parts[WAITED]
    scale = statistics.median(spent) / sum(parts.values()) * 1e6 / seen
    return {"parts": {part: seconds * scale for part, seconds in parts.items()}}


def _part(file: str, _: int, function: str) -> str | None:
    if "'acquire' of '_thread.lock'" in function:
        return WAITED
    if "xxh3" in function:
        return "XXH3 of members and stored images"
    if "/glr_assets/" not in file:
        return None
    inside = file.rpartition("/glr_assets/")[2]
    return (
        _PARTS.get(inside)
        or _PARTS.get(function)
        or ("handed to the workers and back" if "ingest" in inside else "other")
    )


Function = tuple[str, int, str]


def by_part(stats: Mapping[Function, Any], part_of: Callable[[Function], str | None]) -> dict[str, float]:
    """Seconds of each part: a function that is of none counts for those who called it."""
    spent: dict[str, float] = defaultdict(float)

    def charge(function: Function, seconds: float, depth: int) -> None:
        part = part_of(function)
        callers = stats[function][4]
        total = sum(edge[3] for edge in callers.values())
        if part is not None or not total or depth == 0:
            spent[part or "other"] += seconds
            return
        for caller, edge in callers.items():
            charge(caller, seconds * edge[3] / total, depth - 1)

    for function, (_, _, own, _, _) in stats.items():
        charge(function, own, 12)
    return dict(spent)


def s3(work: Work) -> Figures:
    """Reading from an S3 server on loopback: this project's stream beside s3fs's own file, in turn; then an ingest."""
    options = {"endpoint_url": work.options["endpoint"]}
    source = BucketSource("s3://glr-source/x", options)
    size = int(source.files.info(SHARD)["size"])

    def streamed() -> int:
        return sum(len(block) for block in stream(source.files, SHARD, size))

    def file() -> int:
        with source.files.fs.open(source.files.path(SHARD), "rb", block_size=S3_BLOCK) as opened:
            return sum(len(block) for block in iter(lambda: opened.read(S3_BLOCK), b""))

    ways = {"`ranges.stream`": streamed, "s3fs's file, blocks of 8 MiB": file}
    found: dict[str, list[Figures]] = {name: [] for name in ways}
    for _ in range(int(work.options["rounds"])):
        for name, way in ways.items():
            before = forget_peak()
            with timed() as figures:
                assert way() == size
            found[name].append(figures | {"memory": peak_megabytes() - before})
    chosen = selection(work)
    downsize(picture(0, (600, 500)), RECIPE)
    before = forget_peak()
    with timed() as figures:
        ingest_shard(source, work.store(), "train", "000", chosen, RECIPE, 2)
    read = {name: {key: statistics.median(f[key] for f in taken) for key in taken[0]} for name, taken in found.items()}
    return {"size": size, "read": read, "ingest": figures | {"memory": peak_megabytes() - before}}


def folder_bytes(folder: Path) -> int:
    """What the files under a folder take, those included that come and go while it is counted."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += (Path(place) / name).stat().st_size
            except FileNotFoundError:
                continue
    return total


class Bench:
    """Runs steps on one folder."""

    def __init__(self, folder: Path, photos: Path, megabytes: int) -> None:
        self.folder, self.photos, self.megabytes = folder, photos, megabytes
        (folder / "stores").mkdir()

    def step(self, name: str, environment: Mapping[str, str] | None = None, **options: object) -> Figures:
        """What a step measures in a process of its own."""
        print(f"… {name} {options or ''}", file=sys.stderr, flush=True)
        return in_a_process(MODULE, *self.command(name, **options)[3:], environment=environment)

    def command(self, name: str, **options: object) -> list[str]:
        """The command line of a step."""
        told = json.dumps({key: str(value) for key, value in options.items()})
        folders = ["--folder", str(self.folder), "--source", str(self.photos), "--megabytes", str(self.megabytes)]
        return [sys.executable, "-m", MODULE, "--step", name, "--options", told, *folders]

    def at_once(self, name: str, *options: Mapping[str, object]) -> list[Figures]:
        """What a step measures in several processes that run at once, each with its options and all of it wanted."""
        with ThreadPoolExecutor(len(options)) as pool:
            found = list(pool.map(lambda own: self.step(name, plan="all", **own), options))
        for own in options:
            shutil.rmtree(self.folder / "stores" / str(own["store"]))
        return found

    def watched(self, name: str, store: str, **options: object) -> Figures:
        """The same, and `scratch`: how many bytes the store and the temporary folder held beyond the final ones."""
        stores, temporary = self.folder / "stores" / store, self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        with most_bytes((stores, temporary)) as peak:
            figures = self.step(name, {"TMPDIR": str(temporary)}, store=store, **options)
        return figures | {"scratch": peak["bytes"] - folder_bytes(stores), "final": folder_bytes(stores)}


@contextmanager
def most_bytes(folders: tuple[Path, ...]) -> Iterator[dict[str, int]]:
    """The most bytes that lay under these folders meanwhile, looked up every twentieth of a second."""
    from threading import Event, Thread

    found, ended = {"bytes": 0}, Event()

    def watch() -> None:
        while not ended.wait(0.05):
            found["bytes"] = max(found["bytes"], sum(map(folder_bytes, folders)))

    thread = Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        ended.set()
        thread.join()


class _S3Files(BaseHTTPRequestHandler):
    """Answers HEAD and GET of S3 with the files of a folder: the first byte after `delay` s, then `rate` bytes/s."""

    protocol_version = "HTTP/1.1"
    folder: Path
    delay: float
    rate: float

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.folder / self.path.partition("?")[0].removeprefix("/glr-source/x/")
        time.sleep(self.delay)
        if not path.is_file():
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        size = path.stat().st_size
        first, last = 0, size - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if asked:
            first, last = int(asked[1]), min(int(asked[2]), size - 1)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("ETag", f'"{path.stat().st_mtime_ns:x}-{size:x}"')
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        self.end_headers()
        if not with_body:
            return
        began, sent = time.monotonic(), 0
        with path.open("rb") as file:
            while sent < last - first + 1:
                sent += os.sendfile(
                    self.connection.fileno(), file.fileno(), first + sent, min(2**18, last - first + 1 - sent)
                )
                if self.rate:
                    time.sleep(max(0.0, began + sent / self.rate - time.monotonic()))

    def log_message(self, *_: object) -> None:
        """Nothing."""


def serve(work: Work) -> Figures:
    """The server, until it is ended; tells its port first."""
    _S3Files.folder = work.folder / "s3"
    _S3Files.delay, _S3Files.rate = float(work.options["delay"]), float(work.options["rate"])
    with ThreadingHTTPServer(("127.0.0.1", 0), _S3Files) as server:
        print(server.server_port, flush=True)
        server.serve_forever()
    return {}


STEPS: dict[str, Callable[[Work], Figures]] = {
    "build": build,
    "tables": tables,
    "selected": selected,
    "reading": reading,
    "ingest": ingest,
    "seed": seed_shard,
    "profile": profiled,
    "s3": s3,
    "serve": serve,
}


@contextmanager
def s3_server(bench: Bench, delay: float, rate: float) -> Iterator[str]:
    """A server that answers as S3 does, in a process of its own on loopback; gives its URL."""
    with subprocess.Popen(bench.command("serve", delay=delay, rate=rate), stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.terminate()


def s3_part(bench: Bench, rounds: int, megabytes: int) -> Iterator[str]:
    """The table of the S3 server."""
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    files = corpora(bench.photos)["B"]
    count = max(1, round(megabytes * 1e6 / np.mean([len(data) for data in files])))
    with tarfile.open(bench.folder / "bucket" / SHARD) as archive:
        ids = [Path(member.name).stem for member, _ in zip(archive, range(count), strict=False)]
    bucket = bench.folder / "s3"
    write_shard(bucket, files, ids)
    (bucket / "metadata").mkdir()
    (bucket / TABLE_PATHS["train"]).write_text("id,url,landmark_id\n")
    rows = []
    for line, (delay, rate) in LINES.items():
        with s3_server(bench, delay, rate) as endpoint:
            found = bench.step("s3", endpoint=endpoint, store="s3", plan="all", rounds=rounds)
        shutil.rmtree(bench.folder / "stores/s3")
        size = found["size"] / 1e6
        rows += [
            (f"{name}; {line}", f"{size / f['wall']:.0f}", f"{f['cpu'] / size * 1e3:.2f}", f"{f['memory']:.0f}")
            for name, f in found["read"].items()
        ]
        own = found["ingest"]
        rows.append(
            (
                f"ingest by 2 workers, {len(ids) / own['wall']:.0f} images/s; {line}",
                f"{size / own['wall']:.0f}",
                f"{own['cpu'] / size * 1e3:.2f}",
                f"{own['memory']:.0f}",
            )
        )
    yield (
        f"From an S3 server on loopback, a process of its own on the same cores, a shard of {size:.0f} MB; "
        "CPU is the reader's own, memory what the process rises by:\n"
    )
    yield markdown(("read by", "MB/s of wall", "CPU s a GB", "memory, MB"), rows)


def report(bench: Bench, rounds: int, s3_megabytes: int) -> Iterator[str]:
    """The Markdown, a table at a time."""
    yield f"{machine()}\n"
    built = bench.step("build")
    bench.step("tables", store="tables")
    members, gigabytes = built["members"], built["bytes"] / 1e9
    plan = bench.step("selected", plan="some")
    yield (
        f"One train shard: {gigabytes:.2f} GB, {members:,} members. Its tables list {LISTED:,} images; to load the "
        f"split's plan takes {plan['seconds']:.1f} s of CPU and at most {plan['peak']:.0f} MB, of which "
        f"{plan['held']:.0f} are kept. The page cache is warm. Of {rounds} rounds in turn: reading has "
        "the median, ingest the run of least wall time, its memory and disk the most.\n"
    )
    read = bench.step("reading", plan="none", rounds=rounds)
    md5 = read["MD5 alone"]["cpu"]
    yield markdown(
        ("the shard read", "CPU s", "of the MD5 alone", "wall s"),
        ((name, f"{f['cpu']:.2f}", f"{f['cpu'] / md5:.2f}", f"{f['wall']:.2f}") for name, f in read.items()),
    )
    one, two, free = "1 worker on 1 core", "2 workers on 2 cores", "1 worker on 2 cores"
    control = "control: 2 processes at once, 1 worker on 1 core each"
    settings = {one: (1, 1), two: (2, 2), free: (1, 2)}
    taken: dict[str, list[Figures]] = {name: [] for name in settings}
    for number in range(rounds):
        for name, (workers, cores) in settings.items():
            store = f"{workers}-{cores}-{number}"
            taken[name].append(bench.watched("ingest", store, plan="all", workers=workers, cores=cores))
            if number or name != one:
                shutil.rmtree(bench.folder / "stores" / store)
        at_once = bench.at_once("ingest", *({"store": f"own-{first}", "cores": 1, "first": first} for first in (0, 1)))
        slower = max(at_once, key=lambda figures: float(figures["wall"]))
        taken.setdefault(control, []).append(slower | {"scratch": 0, "final": 0})
    runs = {name: _quietest(of) for name, of in taken.items()}
    digests = {figures["digest"] for of in taken.values() for figures in of}
    assert len(digests) == 1, digests
    again = bench.watched("ingest", "1-1-0", plan="all", cores=1)
    assert again["reused"]
    some, later, more = "40 % wanted, 1 on 1", "then 50 %: what is new, by range", "50 % wanted, whole, 1 on 1"
    runs[some] = bench.watched("ingest", "some", plan="some", cores=1)
    runs[later] = bench.watched("ingest", "some", plan="more", cores=1)
    runs[more] = bench.watched("ingest", "more", plan="more", cores=1)
    assert runs[later]["digest"] == runs[more]["digest"]
    earlier = "seed's way, 1 process on 1 core: `tar -xf`, its loop"
    runs[earlier] = bench.watched("seed", "seed")
    shutil.rmtree(bench.folder / "stores/seed")

    def decoded(figures: Figures) -> int:
        return int(figures["run"]["decoded"]) if "run" in figures else members

    yield markdown(
        (
            "the shard ingested",
            "wall s",
            "CPU s",
            "decoded",
            "decoded/s of wall",
            "read, MB",
            "peak MB",
            "of that the run's, MB",
            "disk beyond the result, MB",
            "result, MB",
        ),
        (
            (
                name,
                f"{f['wall']:.1f}",
                f"{f['cpu']:.1f}",
                f"{decoded(f):,}",
                f"{decoded(f) / f['wall']:.0f}",
                f"{f['run']['read_bytes'] / 1e6:,.0f}" if "run" in f else f"{built['bytes'] / 1e6:,.0f}",
                f"{f['peak']:.0f}",
                f"{f['beyond plan']:.0f}" if "beyond plan" in f else "",
                f"{f['scratch'] / 1e6:.0f}",
                f"{f['final'] / 1e6:.0f}",
            )
            for name, f in runs.items()
        ),
    )
    new = runs[later]
    peak = max(f["peak"] for name, f in runs.items() if name != earlier)
    yield (
        f"All {3 * rounds} whole runs left the same bytes, and the shard planned anew those of a whole pass: "
        f"{new['run']['read_bytes'] / 1e6:.0f} MB of it were read and {new['run']['spared_bytes'] / 1e6:.0f} MB were "
        f"not, in {new['wall'] / runs[more]['wall']:.0%} of the time. A run that finds the shard done takes "
        f"{again['wall'] * 1e3:.0f} ms. Starting up, libraries and plan, is no part of the times, but of the peaks.\n"
    )
    profile = bench.step("profile", store="profile", plan="all", workers=1, rounds=rounds)
    apart = sum(profile["parts"].values())
    whole = runs[one]["cpu"] * 1e6 / members
    yield markdown(
        ("where a shard's CPU time goes", "µs a member", "share"),
        (
            ("all, 1 worker on 1 core", f"{whole:.0f}", "100%"),
            ("images: decode, shrink, hash, encode", f"{whole - apart:.0f}", f"{(whole - apart) / whole:.1%}"),
            ("all but the images", f"{apart:.0f}", f"{apart / whole:.1%}"),
            *(
                (f"· {name}", f"{spent:.0f}", f"{spent / whole:.1%}")
                for name, spent in sorted(profile["parts"].items(), key=lambda item: -item[1])
            ),
        ),
    )
    yield "The parts' shares are told by a profiler, which makes Python dearer than it is beside C.\n"
    yield from s3_part(bench, rounds, s3_megabytes)
    most_scratch = max(f["scratch"] / f["final"] for name, f in runs.items() if name not in {earlier, control})
    targets = (
        ("read, verified and walked, of the MD5 alone", read[VERIFIED]["cpu"] / md5, 1.25, False),
        ("that and the index written, of the MD5 alone", read[INDEXED]["cpu"] / md5, 1.25, False),
        ("two workers, of one", runs[one]["wall"] / runs[two]["wall"], 1.85, True),
        ("peak memory, MB", peak, 600, False),
        ("disk beyond the result, of the result", most_scratch, 1, False),
        ("a shard already done, s", again["wall"], 0.1, False),
        ("times as fast as the seed's way, CPU", runs[earlier]["cpu"] / runs[one]["cpu"], 2.5, True),
    )
    yield markdown(
        ("target", "reached", "wanted", "met"),
        (
            (name, f"{reached:.2f}", f"{'≥' if more_is else '≤'} {wanted}", verdict(reached, wanted, at_least=more_is))
            for name, reached, wanted, more_is in targets
        ),
    )


def _quietest(runs: list[Figures]) -> Figures:
    """The run of least wall time, which other work disturbed least, with the highest peaks of all."""
    chosen = min(runs, key=lambda figures: float(figures["wall"]))
    return chosen | {key: max(figures[key] for figures in runs) for key in ("peak", "beyond plan", "scratch")}


def main() -> None:
    """Print the report, or as JSON what one step measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--megabytes", type=int, default=1000, help="size of the shard")
    parser.add_argument("--s3-megabytes", type=int, default=100, help="size of the shard on the S3 server")
    parser.add_argument("--source", type=Path, default=PHOTOS, help="photographs, those of GLDv2 in a folder gldv2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, default={}, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="folder to work in; by default one that is removed afterwards")
    arguments = parser.parse_args()
    if arguments.step:
        work = Work(arguments.folder, arguments.source, arguments.megabytes, arguments.options)
        print(json.dumps(STEPS[arguments.step](work)))
        return
    if not (arguments.source / "gldv2").is_dir():
        sys.exit(f"error: {arguments.source}: no folder gldv2 there; give --source FOLDER")
    with tempfile.TemporaryDirectory(prefix="glr-shard-", dir=arguments.folder) as folder:
        bench = Bench(Path(folder), arguments.source, arguments.megabytes)
        for text in report(bench, arguments.rounds, arguments.s3_megabytes):
            print(text, flush=True)


if __name__ == "__main__":
    main()
