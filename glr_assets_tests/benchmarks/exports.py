"""Images and megabytes a second of each kind of package, beside the libraries that others write them with.

Photographs are packed into a shard (each several times over, under ids of their own) and ingested, and all that is
stored is exported to a folder, shuffled, one process a measurement, on one core. Beside it the same images, read the
same way and in the same order, written by TensorFlow, webdataset and zipfile, without receipts, digests of files or
lists. The page cache is warm; the files are on the disk of the folder. With `--rows`, what a package of so many images
takes before its first: tables joined, order drawn.
`python -m glr_assets_tests.benchmarks.exports --photos FOLDER --images 5000 --rows 1580470`
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from glr_assets.curation.schemas import TRAIN_MANIFEST
from glr_assets.exports.export import make_export
from glr_assets.exports.images import ExportImage, export_images
from glr_assets.exports.listings import image_path
from glr_assets.exports.order import export_order
from glr_assets.exports.tfrecord import image_features
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.metadata import tables
from glr_assets.metadata.schemas import LANDMARK_LABELS, TRAIN_ATTRIBUTION
from glr_assets.receipts import Summary, Writer, make
from glr_assets.recipes import Exports
from glr_assets.source import BucketSource
from glr_assets.source.layout import TABLE_COLUMNS, TABLE_PATHS
from glr_assets.store import Store
from glr_assets.tables import Table
from glr_assets_tests.benchmarks.measure import (
    PHOTOS,
    forget_peak,
    in_a_process,
    machine,
    markdown,
    peak_megabytes,
    pin,
)
from glr_assets_tests.benchmarks.random_access import ingested
from glr_assets_tests.images.handmade import write_locations

KINDS = ("tfrecord", "webdataset", "zip")
RECIPE = Exports(order="shuffled", images_per_shard=1000)
Write = Callable[[Path, Iterator[tuple[ExportImage, bytes]]], None]


def _table(store: Store, name: str, table: Table, data: pa.Table) -> None:
    def build(writer: Writer) -> Summary:
        writer.table(table, data)
        return {"rows": data.num_rows}

    make(store, name, inputs={}, parameters={"rows": data.num_rows}, code_version="1", build=build)


def _manifest(ids: pa.Array, landmarks: pa.Array) -> pa.Table:
    told = {"shard": "000", "decision": "kept", "reason": "", "origin": "competition"}
    columns = {name: pa.repeat(value, len(ids)) for name, value in told.items()}
    return pa.table({"id": ids, "landmark_id": landmarks} | columns)


def prepare(photos: Path, images: int, work: Path) -> None:
    """A store of so many images, 20 a landmark, all of them kept by its manifest."""
    data = [path.read_bytes() for path in sorted(photos.rglob("*.jpg"))]
    if not data:
        sys.exit(f"error: {photos}: no *.jpg there; give --photos FOLDER")
    reader, _ = ingested(data, images, work)
    rows = [f"{i},https://example.org/{i},A. Uthor,CC BY-SA 4.0,File:{i}.jpg\n" for i in reader.ids]
    header = ",".join(TABLE_COLUMNS["train_attribution"])
    (work / "bucket" / TABLE_PATHS["train_attribution"]).write_text(f"{header}\n{''.join(rows)}")
    source, store = BucketSource(str(work / "bucket")), Store(str(work / "store"))
    tables.make_train_attribution(source, store)
    tables.make_landmark_labels(source, store)
    landmarks = pa.array(np.arange(images) // 20, pa.int64())
    _table(store, "train_manifest", TRAIN_MANIFEST, _manifest(pa.array(reader.ids), landmarks))


def _tensorflow(path: Path, images: Iterator[tuple[ExportImage, bytes]]) -> None:
    import tensorflow as tf

    train = tf.train
    with tf.io.TFRecordWriter(str(path)) as writer:
        for image, jpeg in images:
            feature = {
                name: train.Feature(int64_list=train.Int64List(value=[value]))
                if isinstance(value, int)
                else train.Feature(bytes_list=train.BytesList(value=[value]))
                for name, value in image_features(image, jpeg).items()
            }
            writer.write(train.Example(features=train.Features(feature=feature)).SerializeToString())


def _webdataset(path: Path, images: Iterator[tuple[ExportImage, bytes]]) -> None:
    import webdataset

    with webdataset.TarWriter(str(path)) as writer:
        for image, jpeg in images:
            writer.write({"__key__": image.id, "jpg": jpeg, "cls": image.label, "json": image._asdict()})


def _zipfile(path: Path, images: Iterator[tuple[ExportImage, bytes]]) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as writer:
        for image, jpeg in images:
            writer.writestr(image_path(image.id), jpeg)


OTHERS: dict[str, tuple[str, Write]] = {
    "tfrecord": ("TensorFlow's TFRecordWriter", _tensorflow),
    "webdataset": ("webdataset's TarWriter", _webdataset),
    "zip": ("zipfile", _zipfile),
}


def export(work: Path, kind: str, folder: str, *, other: bool) -> dict[str, float]:
    """One package written: seconds, CPU seconds, images, bytes, and the peak of memory beyond what was before."""
    store = Store(str(work / "store"))
    if other:  # imported before the clock starts
        OTHERS[kind][1](work / "warm", iter([]))
    before = forget_peak()
    began, cpu = time.perf_counter(), time.process_time()
    if other:
        images = export_images(store, "train_manifest")
        order = export_order(images.table["id"], images.table["landmark_id"].to_numpy(), RECIPE.order, 0)
        (work / folder).mkdir()
        for number in range(0, len(order), RECIPE.images_per_shard):
            part = order[number : number + RECIPE.images_per_shard]
            pairs = zip(images.at(part), images.reader.read_rows(images.rows[part].tolist()), strict=True)
            OTHERS[kind][1](work / folder / f"{number:05d}", pairs)
        count, size = len(order), sum(path.stat().st_size for path in (work / folder).iterdir())
    else:
        summary = make_export(store, kind, RECIPE, 0, to=str(work / folder)).receipt.summary  # type: ignore[arg-type]
        count, size = int(summary["rows"] or 0), int(summary["bytes"] or 0)
    return {
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - cpu,
        "images": count,
        "bytes": size,
        "peak": peak_megabytes() - before,
    }


def plan(work: Path, rows: int) -> dict[str, float]:
    """What a package of so many images takes before its first is read: seconds and MB, their tables written before."""
    store = Store(str(work))
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)[np.random.default_rng(0).integers(0, 16, (rows, 16))]
    ids = pa.array(np.sort(np.ascontiguousarray(digits).view("S16").reshape(-1)).astype(str))
    landmarks = pa.array(np.random.default_rng(1).integers(0, max(1, rows // 20), rows))
    catalog = {column.name: pa.nulls(rows, column.type) for column in IMAGE_CATALOG.columns}
    number = np.arange(rows)
    catalog |= {
        "split": pa.repeat("train", rows),
        "shard": pa.array(np.char.zfill((number % 500).astype(str), 3)),
        "id": ids,
        "status": pa.repeat("stored", rows),
        "stored_offset": pa.array(number * 30_000),
        "stored_size": pa.repeat(pa.scalar(30_000, pa.int64()), rows),
        "stored_xxh3": pa.array(number.astype(np.uint64)),
        "width": pa.repeat(pa.scalar(512, pa.int32()), rows),
        "height": pa.repeat(pa.scalar(384, pa.int32()), rows),
    }
    for column in IMAGE_CATALOG.columns:
        if not column.nullable and catalog[column.name].null_count:
            value = "" if pa.types.is_string(column.type) else 0
            catalog[column.name] = (
                number if column.name == "source_offset" else pa.repeat(pa.scalar(value, column.type), rows)
            )
    _table(store, "image_catalog", IMAGE_CATALOG, pa.table(catalog).cast(IMAGE_CATALOG.schema))
    write_locations(store)
    rights = {
        "url": pa.array([f"https://commons.wikimedia.org/wiki/File:{i}_of_some_landmark.jpg" for i in range(rows)]),
        "author": pa.array([f"Author {i % 50_000}" for i in range(rows)]),
        "license": pa.repeat("https://creativecommons.org/licenses/by-sa/4.0/", rows),
        "title": pa.array([f"File:{i} of some landmark.jpg" for i in range(rows)]),
    }
    _table(store, "train_attribution", TRAIN_ATTRIBUTION, pa.table({"id": ids} | rights))
    _table(store, "landmark_labels", LANDMARK_LABELS, LANDMARK_LABELS.empty())
    _table(store, "train_manifest", TRAIN_MANIFEST, _manifest(ids, landmarks))
    figures = in_a_process(__spec__.name, "--step", "plan", "--folder", str(work))
    return dict(figures)


def _planned(work: Path) -> dict[str, float]:
    before = forget_peak()
    began = time.perf_counter()
    images = export_images(Store(str(work)), "train_manifest")
    export_order(images.table["id"], images.table["landmark_id"].to_numpy(), "balanced", 0)
    return {"seconds": time.perf_counter() - began, "peak": peak_megabytes() - before}


def report(photos: Path, images: int, rounds: int, rows: int, work: Path) -> Iterator[str]:
    """The tables, in Markdown."""
    yield machine() + "\n"
    prepare(photos, images, work)
    found: dict[tuple[str, bool], list[dict[str, float]]] = {}
    for number in range(rounds):
        for kind in KINDS:
            for other in (False, True):
                options = {"kind": kind, "folder": f"{kind}-{other}-{number}", "other": other}
                arguments = ("--step", "export", "--folder", str(work), "--options", json.dumps(options))
                found.setdefault((kind, other), []).append(in_a_process(__spec__.name, *arguments))
    lines = []
    for (kind, other), runs in found.items():
        seconds, cpu = (statistics.median(run[name] for run in runs) for name in ("seconds", "cpu"))
        lines.append(
            (
                OTHERS[kind][0] if other else f"glr export {kind}",
                f"{runs[0]['images'] / seconds:,.0f}",
                f"{runs[0]['bytes'] / 1e6 / seconds:,.0f}",
                f"{cpu / runs[0]['images'] * 1e6:.0f}",
                f"{max(run['peak'] for run in runs):.0f}",
            )
        )
    yield markdown(("written by", "images/s", "MB/s", "CPU µs an image", "memory, MB"), lines)
    if rows:
        (work / "plan").mkdir()
        figures = plan(work / "plan", rows)
        yield f"Before its first image, {rows:,} rows take {figures['seconds']:.1f} s and {figures['peak']:.0f} MB.\n"


def main() -> None:
    """Print the report, or as JSON what one step measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, default=PHOTOS / "gldv2", help="folder with JPEGs, at any depth")
    parser.add_argument("--images", type=int, default=5000, help="images of the package")
    parser.add_argument("--rows", type=int, default=0, help="also plan a package of so many images")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", choices=("export", "plan"), help=argparse.SUPPRESS)
    parser.add_argument("--options", type=json.loads, default={}, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help="folder to work in; by default one that is removed afterwards")
    arguments = parser.parse_args()
    if arguments.step:
        pin(1)
        work = arguments.folder
        print(json.dumps(export(work, **arguments.options) if arguments.step == "export" else _planned(work)))
        return
    with tempfile.TemporaryDirectory(prefix="glr-exports-", dir=arguments.folder) as folder:
        for text in report(arguments.photos, arguments.images, arguments.rounds, arguments.rows, Path(folder)):
            print(text, flush=True)


if __name__ == "__main__":
    main()
