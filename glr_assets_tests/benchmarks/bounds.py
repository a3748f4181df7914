"""Memory, requests and CPU seconds of what is bounded by construction, beside an earlier version on the same input.

Each part is measured in a process of its own, once with the package of this tree and once with that of `--before`: a
commit of this repository, or a folder that holds another tree. Peaks are of resident memory above what the process had
before the work, in MB (10^6 bytes).
`python -m glr_assets_tests.benchmarks.bounds --part ranges --before ../earlier`
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import io
import json
import logging
import os
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa

ROOT = Path(__file__).resolve().parents[2]
#: The last commit before memory and requests were bounded.
BEFORE = "e671ac1"
Figures = dict[str, float]


@dataclass(frozen=True)
class Part:
    """What is measured: a text for the table, and the work, which gives figures by name.

    The work gets an empty folder and the share of the full size at which it is done.
    """

    what: str
    work: Callable[[Path, float], Figures]


def of_size(full: int, share: float, least: int) -> int:
    """That share of the full number, and not fewer than the least that the work can be done with."""
    return max(least, round(full * share))


def sibling(name: str) -> ModuleType:
    """A module of this tree's tests, whatever tree `glr_assets` is of."""
    spec = importlib.util.spec_from_file_location(f"bounds_{Path(name).stem}", ROOT / "glr_assets_tests" / name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


measure = sibling("benchmarks/measure.py")


def versioned(name: str) -> Any:
    """A module of the package whose names are not the same in every version."""
    return importlib.import_module(name)


def wrote(write: Callable[[Any], None]) -> Callable[[Any], dict[str, Any]]:
    """How an asset is built that tells no figures."""

    def build(writer: Any) -> dict[str, Any]:
        write(writer)
        return {}

    return build


@contextmanager
def peak_above(figures: Figures, name: str) -> Iterator[None]:
    """Note the most memory that is resident in the block, above what was before."""
    before = measure.forget_peak()
    yield
    figures[name] = measure.peak_megabytes() - before


@contextmanager
def peak_unmapped(figures: Figures, name: str) -> Iterator[None]:
    """Note the most memory in the block, above what was before, that is no page of a file; looked at every 10 ms."""

    def now() -> float:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines["RssAnon"].split()[0]) * 1024 / 1e6

    if not Path("/proc/self/status").exists():
        yield
        return
    before, ended, seen = now(), threading.Event(), [0.0]

    def look() -> None:
        while not ended.wait(0.01):
            seen[0] = max(seen[0], now() - before)

    watcher = threading.Thread(target=look)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()
    figures[name] = seen[0]


# Bytes in flight


def ranges(work: Path, share: float) -> Figures:
    """Images of a local store, read in order by one who drops each for the next."""
    from glr_assets.ranges import Place, read_ranges
    from glr_assets.store import Store

    store, size, images = Store(str(work)), 4_000_000, of_size(160, share, 3)
    with store.writing("images.tar") as file:
        for _ in range(images):
            file.write(os.urandom(size))
    figures: Figures = {}
    with peak_above(figures, "peak MB"):
        for data in read_ranges(store, (Place("images.tar", number * size, size) for number in range(images))):
            assert isinstance(data, bytes)
            assert len(data) == size
            time.sleep(0.002)
    return figures


# Logits of groups


class Noise:
    """A classifier of 4,000 landmarks whose logits are noise."""

    def __init__(self, number: int) -> None:
        first = 4_000 * number
        self.config = SimpleNamespace(image_size=8, landmark_ids=tuple(range(first, first + 4_000)), classes=4_000)
        self.random = np.random.default_rng(number)

    def logits(self, images: list[Any], _: object) -> np.ndarray:
        """[n, 4000] float32."""
        return self.random.normal(size=(len(images), 4_000)).astype(np.float32)


def groups(_: Path, share: float) -> Figures:
    """What five classifiers say of images, and the calibration fitted to it."""
    from PIL import Image

    from glr_assets.recipes import Execution
    from glr_assets.training.group_calibration import Classifiers
    from glr_assets.training.group_map import fit_group_calibration, raw_answers

    images = of_size(2_000, share, 40)
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, "JPEG")
    classifiers = Classifiers({f"{number:02d}": Noise(number) for number in range(5)}, Execution(workers=1))
    told = getattr(classifiers, "scores", None) or classifiers.logits  # type: ignore[attr-defined]
    told(file.getvalue() for _ in range(2))  # libraries are loaded
    figures: Figures = {}
    with peak_above(figures, "peak MB"):
        found = told(file.getvalue() for _ in range(images))
        calibration = fit_group_calibration(found, np.random.default_rng(9).integers(0, 20_000, images))
        answers, raw = calibration.answers(found), raw_answers(found)
    figures["checksum of probabilities"] = round(float(answers.probability.sum() + raw.probability.sum()), 6)
    return figures


# Reads of S3


def _stored_shard(store: Any, images: int) -> None:
    """A shard of so many stored JPEGs in the order of their ids, as ingest leaves it, with catalog and receipts."""
    import xxhash
    from PIL import Image

    from glr_assets.images.schemas import IMAGE_INDEX, STORED_TAR
    from glr_assets.receipts import make

    tar = io.BytesIO()
    rows = []
    with tarfile.open(fileobj=tar, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for number in range(images):
            random = np.random.default_rng(number)
            file = io.BytesIO()
            pixels = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((512, 384))
            pixels.save(file, "JPEG", quality=85)
            header = tarfile.TarInfo(f"{number:016x}.jpg")
            header.size = len(file.getvalue())
            archive.addfile(header, io.BytesIO(file.getvalue()))
            end = tar.tell()
            offset = end - -(-header.size // 512) * 512
            row: dict[str, Any] = {column.name: None for column in IMAGE_INDEX.columns}
            row |= {"id": f"{number:016x}", "status": "stored", "reason": "", "member": header.name, "kind": "file"}
            row |= {"source_path": "x", "source_offset": number, "source_size": 1, "stored_offset": offset}
            row |= {"stored_size": header.size, "stored_xxh3": xxhash.xxh3_64_intdigest(file.getvalue())}
            rows.append(row)

    def build(writer: Any) -> dict[str, Any]:
        writer.write(STORED_TAR.format(split="train", shard="000"), tar.getvalue())
        writer.table(IMAGE_INDEX, IMAGE_INDEX.rows(rows), split="train", shard="000")
        return {}

    make(store, "train_images/000", inputs={}, parameters={}, code_version="1", build=build)
    make(store, "embedder", inputs={}, parameters={}, code_version="1", build=_one_file("embedder"))


def _one_file(name: str) -> Any:
    """Builds an asset of which only the receipt is looked at."""

    def build(writer: Any) -> dict[str, Any]:
        writer.write(f"other/{name}", b"not read here")
        return {}

    return build


def s3(work: Path, share: float) -> Figures:
    """`train_embeddings` of a shard, decoded by two threads to 224 px, each answer of S3 30 ms away; best of three."""
    from moto.server import ThreadedMotoServer

    from glr_assets.receipts import receipt_path
    from glr_assets.retrieval.embeddings import make_embeddings
    from glr_assets.store import Store
    from glr_assets.training.photographs import squares

    def embed(files: Any) -> np.ndarray:
        return np.stack([b.float().mean(dim=(0, 1)).numpy() for part in squares(files, 224, 64, 2) for b in part])

    def seconds(store: Any) -> float:
        store.remove(receipt_path("train_embeddings/000"))
        began = time.perf_counter()
        make_embeddings(store, "train", "000", lambda: embed)
        return time.perf_counter() - began

    images = of_size(300, share, 12)
    local = Store(str(work / "store"))
    _stored_shard(local, images)
    os.environ |= {"AWS_ACCESS_KEY_ID": "t", "AWS_SECRET_ACCESS_KEY": "t", "AWS_DEFAULT_REGION": "us-east-1"}
    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with sibling("faulty_s3.py").FaultyS3(f"http://{host}:{port}", delay_seconds=0.03) as proxy:
        remote = Store("s3://bucket/below", {"endpoint_url": proxy.url})
        remote.fs.mkdir("bucket")
        remote.fs.put(f"{local.root}/", f"{remote.root}/", recursive=True)
        seconds(local)  # libraries are loaded, compiled loops are compiled
        figures = {"local images/s": images / min(seconds(local) for _ in range(3))}
        of_each = []
        for _ in range(3):
            proxy.requests.clear()
            of_each.append(seconds(remote))
        figures["S3 images/s"] = images / min(of_each)
        figures["requests for images"] = len(proxy.ranges(".tar"))
    server.stop()
    return figures


# Threads of requests


def threads(_: Path, share: float) -> Figures:
    """What requests of four overlapping clients leave behind where BLAS and OpenCV were at three threads before."""
    import cv2
    from threadpoolctl import threadpool_info, threadpool_limits

    from glr_assets.recipes import Verification
    from glr_assets.retrieval.local import Comparer
    from glr_assets.training.photographs import in_threads
    from glr_assets.verification.evidence import Judge
    from glr_assets.verification.features import KeptFeatures
    from glr_assets.verification.matching import Prepared

    random = np.random.default_rng(0)
    images = {}
    for number in range(40):
        places = np.column_stack([random.uniform(0, 400, (150, 2)), np.full((150, 2), 2.0)]).astype(np.float32)
        codes = np.abs(random.normal(0, 40, (150, 128))).round().astype(np.float32)
        images[f"{number:02d}"] = Prepared.of(f"{number:02d}", KeptFeatures(places, codes, 400, 400))
    features = SimpleNamespace(prepared=lambda ids: (images[name] for name in ids))
    comparer = Comparer(Judge.of(Verification(), 0.85, oriented=True), features, 2)  # type: ignore[arg-type]
    comparer([images["00"]], [list(images)])
    started: list[str] = []
    usual = threading.Thread.start

    def counted(self: threading.Thread) -> None:
        started.append(self.name)
        usual(self)

    def client(number: int) -> None:
        for _ in range(of_size(5, share, 1)):
            list(in_threads(lambda n: time.sleep(0.001 * number), range(8), 2))
            comparer([images["00"]], [list(images)])

    cv2.setNumThreads(3)
    with threadpool_limits(3, user_api="blas"):
        clients = [threading.Thread(target=client, args=(number,), name="client") for number in range(4)]
        threading.Thread.start = counted  # type: ignore[method-assign]
        for one in clients:
            one.start()
        for one in clients:
            one.join()
        threading.Thread.start = usual  # type: ignore[method-assign]
        blas = min(found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas")
    return {
        "BLAS threads after": blas,
        "OpenCV threads after": cv2.getNumThreads(),
        "threads started": len([name for name in started if name != "client"]),
    }


# Vectors on the way to the index


SHARDS, DIMENSIONS = 25, 512


def index(work: Path, share: float) -> Figures:
    """`faiss_index` of embeddings of 512 numbers in 25 shards."""
    from glr_assets.curation.schemas import TRAIN_MANIFEST
    from glr_assets.receipts import make
    from glr_assets.recipes import Retrieval
    from glr_assets.retrieval.index import make_faiss_index
    from glr_assets.store import Store

    embeddings = versioned("glr_assets.retrieval.embeddings")
    store, a_shard = Store(str(work)), of_size(8_000, share, 80)
    random = np.random.default_rng(0)
    centers = random.normal(size=(4_000, DIMENSIONS)).astype(np.float32)
    asked: dict[str, Any] = {"inputs": {}, "parameters": {}, "code_version": "1"}
    embedder = make(store, "embedder", **asked, build=wrote(lambda w: w.write("models/x", b"x"))).receipt.digest
    for number in range(SHARDS):
        ids = [f"{value:016x}" for value in range(number, SHARDS * a_shard, SHARDS)]
        near = centers[random.integers(0, len(centers), len(ids))]
        vectors = near + 0.7 * random.normal(size=near.shape).astype(np.float32)
        found = embeddings.Vectors(ids, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))
        shard = f"{number:03d}"

        def build(writer: Any, found: Any = found, shard: str = shard) -> dict[str, Any]:
            if hasattr(embeddings, "write_embeddings"):
                embeddings.write_embeddings(writer, "train", shard, found)
            else:
                writer.table(embeddings.EMBEDDINGS, embeddings.as_table(found), split="train", shard=shard)
            return {}

        make(store, f"train_images/{shard}", **asked, build=_one_file(shard))
        inputs = {"embedder": embedder}
        make(store, f"train_embeddings/{shard}", inputs=inputs, parameters={}, code_version="1", build=build)
    rows = SHARDS * a_shard
    manifest = {"id": [f"{value:016x}" for value in range(rows)], "landmark_id": np.arange(rows) // 8}
    told = {"shard": "000", "decision": "kept", "reason": "", "origin": "competition"}
    columns = manifest | {name: pa.repeat(value, rows) for name, value in told.items()}
    table = pa.table(columns).select(TRAIN_MANIFEST.schema.names).cast(TRAIN_MANIFEST.schema)

    make(store, "train_manifest", **asked, build=wrote(lambda w: w.table(TRAIN_MANIFEST, table)))
    nobody = embeddings.NON_LANDMARK_EMBEDDINGS
    make(store, "non_landmark_embeddings", **asked, build=wrote(lambda w: w.table(nobody, nobody.empty())))
    del vectors, near, centers
    source = SimpleNamespace(shards=lambda _: {f"{number:03d}": None for number in range(SHARDS)})
    import faiss

    faiss.omp_set_num_threads(1)
    figures: Figures = {}
    with peak_above(figures, "peak MB"), peak_unmapped(figures, "of that, no pages of files"):
        made = make_faiss_index(source, store, Retrieval(index="ivf", per_landmark=0), 0)
    figures["recall"] = float(made.receipt.summary["recall"] or 0)
    return figures


# A few images of a split


def lookup(work: Path, share: float) -> Figures:
    """Eight images of a split, looked up by id."""
    from glr_assets.images.reader import ImageReader
    from glr_assets.images.schemas import IMAGE_CATALOG
    from glr_assets.store import Store
    from glr_assets.tables import TableWriter

    catalog = versioned("glr_assets.images.catalog")
    store, shards, each = Store(str(work)), 500, of_size(3_000, share, 4)
    names = np.random.default_rng(0).integers(0, 2**63, shards * each)
    of_split = catalog.SplitLocations("train") if hasattr(catalog, "SplitLocations") else None
    with store.writing(IMAGE_CATALOG.path) as file, TableWriter(IMAGE_CATALOG, file) as table:
        for number in range(shards):
            ids = [f"{value:016x}" for value in names[number * each : (number + 1) * each].tolist()]
            columns: dict[str, Any] = {}
            for column in IMAGE_CATALOG.columns:
                filler = "" if pa.types.is_string(column.type) else 0
                columns[column.name] = pa.repeat(pa.scalar(None if column.nullable else filler, column.type), each)
            columns |= {"split": pa.repeat("train", each), "shard": pa.repeat(f"{number:03d}", each), "id": ids}
            columns |= {"status": pa.repeat("stored", each), "source_offset": np.arange(each)}
            columns |= {"stored_offset": np.arange(each) * 30_000, "stored_size": np.full(each, 29_000)}
            columns |= {"stored_xxh3": np.arange(each, dtype=np.uint64)}
            part = pa.table(columns).cast(IMAGE_CATALOG.schema)
            table.append(part)
            if of_split is not None:
                of_split.add(f"{number:03d}", part)
    if of_split is not None:
        with store.writing(catalog.IMAGE_LOCATIONS.path) as file:
            catalog.write_locations({"train": of_split}, file)
    del of_split
    wanted = [f"{names[number]:016x}" for number in range(0, len(names), len(names) // 8)][:8]
    figures: Figures = {}
    began = time.process_time()
    with peak_above(figures, "peak MB"):
        assert len(ImageReader.of_split(store, "train", wanted)) == 8
    figures["CPU s"] = time.process_time() - began
    return figures


# Compiled loops


def compiled(_: Path, __: float) -> Figures:
    """CPU seconds of the first image that is shrunk, with all that is imported for it, and of the second."""
    from glr_assets.images import resample  # noqa: F401 - compiled before, where it is kept for other processes

    code = (
        "import time, numpy as np, cv2\n"
        "began = time.process_time()\n"
        "from glr_assets.images.resample import resized\n"
        "plane = np.zeros((1200, 1600), np.uint8)\n"
        "for name in ('first', 'second'):\n"
        "    resized(plane, (800, 600))\n"
        "    print(name, time.process_time() - began)\n"
        "    began = time.process_time()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.PIPE, text=True)
    told = dict(line.split() for line in done.stdout.splitlines())
    return {f"CPU s of the {name} image": float(value) for name, value in told.items()}


# Long pictures


def long(_: Path, share: float) -> Figures:
    """A picture of 384 pixels by 65,500 is stored as the default recipe says, and its features are found."""
    import cv2
    from PIL import Image

    from glr_assets.images.pixels import StoredImage, downsize
    from glr_assets.recipes import Images
    from glr_assets.verification.extractors.rootsift import RootSift

    def stored(width: int, height: int) -> np.ndarray:
        coarse = np.random.default_rng(0).integers(0, 255, (-(-height // 100), width // 96)).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(np.kron(coarse, np.ones((100, 96), np.uint8))[:height]).save(file, "PNG")
        found = downsize(file.getvalue(), Images())
        assert isinstance(found, StoredImage)
        return np.asarray(cv2.imdecode(np.frombuffer(found.jpeg, np.uint8), cv2.IMREAD_COLOR_RGB))

    extractor = RootSift(800)
    extractor.extract([stored(384, 500)])  # libraries are loaded
    figures: Figures = {}
    began = time.process_time()
    with peak_above(figures, "peak MB"):
        pixels = stored(384, of_size(65_500, share, 600))
        extractor.extract([pixels])
    figures |= {"CPU s": time.process_time() - began, "longest side stored": max(pixels.shape)}
    return figures


PARTS: dict[str, Part] = {
    "ranges": Part("160 images of 4 MB of a local store read in order; 64 MiB may be read ahead", ranges),
    "groups": Part("2,000 images judged by five groups of 4,000 landmarks, and the groups' calibration", groups),
    "s3": Part("`train_embeddings` of 300 images, each answer of S3 after 30 ms, the best of three", s3),
    "threads": Part("20 requests of four clients; BLAS and OpenCV had three threads before", threads),
    "index": Part("`faiss_index` of 200,000 embeddings of 512 numbers (410 MB) in 25 shards", index),
    "lookup": Part("eight images of a split of 1.5 million found by id", lookup),
    "long": Part("a PNG of 384x65,500 pixels stored, and 800 RootSIFT features of it", long),
    "compiled": Part("an image shrunk in a new process", compiled),
}


def measured(parts: Iterable[str], tree: Path, share: float = 1.0) -> dict[str, Figures]:
    """The figures of some parts with the package of `tree`, in one process."""
    arguments = [sys.executable, __file__, "--share", str(share)]
    for part in parts:
        arguments += ["--here", part]
    environment = os.environ | measure.ONE_THREAD | {"PYTHONPATH": str(tree)}
    done = subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True, env=environment, cwd="/")
    found: dict[str, Figures] = json.loads(done.stdout.splitlines()[-1])
    return found


@contextmanager
def tree_of(before: str) -> Iterator[Path]:
    """The folder, or the tree of the commit in a folder that is removed afterwards.

    Raises FileNotFoundError where it is neither a folder that holds the package nor a commit of this repository.
    """
    if Path(before).is_dir():
        if not (Path(before) / "glr_assets").is_dir():
            raise FileNotFoundError(f"{before} holds no folder glr_assets; give a checkout of this repository")
        yield Path(before).resolve()
        return
    packed = subprocess.run(["git", "-C", str(ROOT), "archive", before, "glr_assets"], capture_output=True, check=False)
    if packed.returncode:
        raise FileNotFoundError(
            f"{before} is no folder and no commit that is here ({packed.stderr.decode().strip()}); fetch the "
            "repository's history, or give a folder that holds an earlier checkout"
        )
    with tempfile.TemporaryDirectory(prefix="glr-before-") as folder:
        with tarfile.open(fileobj=io.BytesIO(packed.stdout)) as archive:
            archive.extractall(folder, filter="data")
        yield Path(folder)


def main() -> None:
    """Print a table of all parts, or of some."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=sorted(PARTS), action="append", help="all where not given")
    parser.add_argument("--before", default=BEFORE, help="a commit, or a folder of an earlier checkout")
    parser.add_argument("--share", type=float, default=1.0, help="of the full size; 1 where not given")
    parser.add_argument("--here", choices=sorted(PARTS), action="append", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.here:
        found = {}
        for part in given.here:
            with tempfile.TemporaryDirectory(prefix="glr-bounds-") as work:
                found[part] = PARTS[part].work(Path(work), given.share)
        print(json.dumps(found))
        return
    size = "" if given.share == 1 else f" Everything is {given.share:g} of the size that the table tells."
    print(f"{measure.machine()}{size}\n", flush=True)
    rows = []
    with tree_of(given.before) as before:
        for part in given.part or PARTS:
            figures = [measured([part], tree, given.share)[part] for tree in (before, ROOT)]
            what = PARTS[part].what
            for name in dict.fromkeys([*figures[0], *figures[1]]):
                rows.append((what, name, *(f"{found[name]:.4g}" if name in found else "" for found in figures)))
                what = ""
    print(measure.markdown(("what", "figure", f"before ({given.before})", "this tree"), rows))


if __name__ == "__main__":
    main()
