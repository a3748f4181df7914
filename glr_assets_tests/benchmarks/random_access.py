"""Milliseconds for one image by its id, of a store and of its source, in a folder and on an S3 server on loopback.

Packs photographs into one shard (each several times over, under ids of their own), ingests it, and reads images in
random order through readers that know 1.58 million ids, beside tarfile and beside the same images as files of their
own. The ways take turns; the figure is the median over rounds of the mean of a round. The page cache is warm.
`python -m glr_assets_tests.benchmarks.random_access --photos FOLDER --images 1000`
"""

from __future__ import annotations

import argparse
import hashlib
import io
import logging
import os
import statistics
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa

from glr_assets.images.catalog import make_image_catalog
from glr_assets.images.ingest import ingest_shard
from glr_assets.images.reader import ImageReader, Places, SourceReader
from glr_assets.images.schemas import STORED_TAR
from glr_assets.images.selection import selection_for
from glr_assets.metadata.tables import make_train_metadata
from glr_assets.recipes import Recipe
from glr_assets.source import BucketSource
from glr_assets.source.layout import member_name, shard_path
from glr_assets.store import Store

PHOTOS = Path(__file__).resolve().parents[2].parent / "shared" / "photos" / "gldv2"
IDS_KNOWN = 1_580_470
RECIPE = Recipe(name="random access").overridden(
    {"images": {"keep": "all", "min_side": 384, "jpeg_quality": 70}, "execution": {"workers": 2}}
)
Way = Callable[[Sequence[str]], Iterator[bytes]]


def pack(photos: Sequence[bytes], images: int, bucket: Path) -> list[str]:
    """A GLDv2-shaped bucket of one train shard; returns the ids in it."""
    ids = [hashlib.sha256(str(number).encode()).hexdigest()[:16] for number in range(images)]
    for folder in ("metadata", "train", "md5sum/train"):
        (bucket / folder).mkdir(parents=True)
    rows = "".join(f"{image_id},https://example.org/{image_id},1\n" for image_id in ids)
    (bucket / "metadata/train.csv").write_text(f"id,url,landmark_id\n{rows}")
    path = bucket / shard_path("train", "000")
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for number, image_id in enumerate(ids):
            data = photos[number % len(photos)]
            header = tarfile.TarInfo(member_name(image_id))
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "md5").hexdigest()
    (bucket / "md5sum/train/md5.images_000.txt").write_text(f"{digest}  images_000.tar\n")
    return ids


def ingested(photos: Sequence[bytes], images: int, work: Path) -> tuple[ImageReader, SourceReader]:
    """Readers of a bucket and a store of so many images."""
    pack(photos, images, work / "bucket")
    store, source = Store(str(work / "store")), BucketSource(str(work / "bucket"))
    make_train_metadata(source, store)
    selection = selection_for(store, "train", RECIPE.images)
    ingest_shard(source, store, "train", "000", selection, RECIPE.images, 2)
    make_image_catalog(source, store)
    return ImageReader.of_split(store, "train"), SourceReader.of_split(store, source, "train")


def among_many(places: Places) -> Places:
    """The same places among as many others as GLDv2's competition set has."""
    others = IDS_KNOWN - len(places)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[np.random.default_rng(0).integers(0, 16, (others, 16))]
    ids = np.concatenate([places.ids, np.ascontiguousarray(digits).view("S16").reshape(-1)])
    order = np.argsort(ids, kind="stable")
    records = np.concatenate([places.places, np.zeros(others, places.places.dtype)])
    paths = pa.concat_arrays([places.paths, pa.array([f"images/train/{n:03d}.tar" for n in range(1, 500)])])
    return Places(ids[order], records[order], paths)


def ways_in_a_folder(
    stored: ImageReader, source: SourceReader, work: Path, stack: ExitStack
) -> dict[str, tuple[Way, Way]]:
    """For each way, how it reads a stored image and a member of the source."""
    readers = (stored, source)
    tars = (
        Path(stored.store.root) / STORED_TAR.format(split="train", shard="000"),
        work / "bucket/train/images_000.tar",
    )
    names: tuple[Callable[[str], str], ...] = (lambda image_id: f"{image_id}.jpg", member_name)
    folders = (work / "extracted/stored", work / "extracted/source")
    for tar, folder in zip(tars, folders, strict=True):
        with tarfile.open(tar) as archive:
            archive.extractall(folder, filter="data")
    opened = []
    for tar in tars:
        opened.append(stack.enter_context(tarfile.TarFile(tar)))
        opened[-1].getnames()

    def one_by_one(at: int) -> Way:
        return lambda ids: (readers[at].read(image_id) for image_id in ids)

    def many(at: int) -> Way:
        return readers[at].read_many

    def extracted(at: int) -> Way:
        return lambda ids: ((folders[at] / names[at](image_id)).read_bytes() for image_id in ids)

    def kept_open(at: int) -> Way:
        return lambda ids: (_extracted(opened[at], names[at](image_id)) for image_id in ids)

    def opened_each_time(at: int) -> Way:
        def read(image_id: str) -> bytes:
            with tarfile.open(tars[at]) as archive:
                return _extracted(archive, names[at](image_id))

        return lambda ids: (read(image_id) for image_id in ids)

    ways = {
        "by id, verified": one_by_one,
        "by id, many at a time": many,
        "a file of its own, extracted before": extracted,
        "tarfile kept open, its members known": kept_open,
        "tarfile opened for each": opened_each_time,
    }
    return {name: (way(0), way(1)) for name, way in ways.items()}


def _extracted(archive: tarfile.TarFile, name: str) -> bytes:
    file = archive.extractfile(name)
    assert file is not None
    return file.read()


def ways_on_s3(stored: ImageReader, source: SourceReader) -> dict[str, tuple[Way, Way]]:
    """The same of an S3 server, beside s3fs's own range reads."""

    def by_cat_file(reader: ImageReader | SourceReader, store: Store) -> Way:
        def read(image_id: str) -> bytes:
            place = reader.places.place(reader.row(image_id))
            path = store.path(place.name)
            return bytes(store.fs.cat_file(path, start=place.offset, end=place.offset + place.size))

        return lambda ids: (read(image_id) for image_id in ids)

    assert isinstance(source.source, BucketSource)
    return {
        "by id, verified": (
            lambda ids: (stored.read(image_id) for image_id in ids),
            lambda ids: (source.read(image_id) for image_id in ids),
        ),
        "by id, many at a time": (stored.read_many, source.read_many),
        "s3fs cat_file": (by_cat_file(stored, stored.store), by_cat_file(source, source.source.files)),
    }


def measured(
    ways: dict[str, tuple[Way, Way]], ids: Sequence[str], rounds: int, each: int, slow: Sequence[str] = ()
) -> dict[str, list[float]]:
    """Milliseconds an image of each way, of stored images and of the source's members; all give the same bytes."""
    random = np.random.default_rng(0)
    found: dict[tuple[str, int], list[float]] = {(name, at): [] for name in ways for at in (0, 1)}
    for _ in range(rounds):
        drawn = [ids[int(n)] for n in random.integers(0, len(ids), each)]
        for at in (0, 1):
            first: list[bytes] = []
            for name, both in ways.items():
                asked = drawn[: max(1, each // 50)] if name in slow else drawn
                began = time.perf_counter()
                data = list(both[at](asked))
                found[name, at].append((time.perf_counter() - began) * 1000 / len(asked))
                first = first or data
                assert data == first[: len(data)]
    return {name: [statistics.median(found[name, at]) for at in (0, 1)] for name in ways}


def on_s3(folder: Path, name: str, endpoint: str) -> Store:
    """The files of a folder in a bucket."""
    store = Store(f"s3://{name}/x", {"endpoint_url": endpoint})
    store.fs.mkdir(name)
    store.fs.put(f"{folder}/", f"{name}/x/", recursive=True)
    return store


def printed(title: str, rows: dict[str, list[float]]) -> None:
    """One table."""
    print(f"| {title} | stored image, ms | member of the source, ms |\n|---|---:|---:|")
    for name, (stored, source) in rows.items():
        print(f"| {name} | {stored:.3f} | {source:.3f} |")
    print(flush=True)


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder with JPEGs, at any depth")
    parser.add_argument("--images", type=int, default=2000, help="members of the shard")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    photos = [path.read_bytes() for path in sorted(arguments.photos.rglob("*.jpg"))]
    if not photos:
        sys.exit(f"error: {arguments.photos}: no *.jpg there; give --photos FOLDER")
    os.environ |= {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="glr-random-access-")))
        stored, members = ingested(photos, arguments.images, work / "folder")
        sizes = [int(np.mean(reader.places.places["size"])) for reader in (stored, members)]
        print(f"{len(stored)} images of {sizes[0]:,} bytes stored, {sizes[1]:,} in the source, of {IDS_KNOWN:,} ids\n")
        ids = stored.ids
        stored.places, members.places = among_many(stored.places), among_many(members.places)
        ways = ways_in_a_folder(stored, members, work / "folder", stack)
        slow = ["tarfile opened for each"]
        printed("in a folder", measured(ways, ids, arguments.rounds, 500, slow))
        # The server takes a whole file into memory for each range of it, so this one is small.
        ingested(photos, 100, work / "small")
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        store = on_s3(work / "small/store", "glr-store", endpoint)
        bucket = on_s3(work / "small/bucket", "glr-source", endpoint)
        source = BucketSource(bucket.url, {"endpoint_url": endpoint})
        stored, members = ImageReader.of_split(store, "train"), SourceReader.of_split(store, source, "train")
        printed("on an S3 server (moto) in this process", measured(ways_on_s3(stored, members), stored.ids, 5, 100))
    server.stop()


if __name__ == "__main__":
    main()
