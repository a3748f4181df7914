"""Open Images at full size: selecting three categories of 14.6 million boxes; crops a second beside the earlier system.

The boxes are synthetic, of the published form. Crops are of the largest photographs of PHOTOS as they are, as the
earlier system had them, and of some at the mirror's 1024 pixels. The earlier way (seed 003) is given the right
rectangles, which it did not compute. Both run in one process on one core, image after image in turn.
Prints Markdown: `python -m glr_assets_tests.benchmarks.openimages`.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image
from pyarrow import csv

from glr_assets.openimages import layout
from glr_assets.openimages.annotations import make_openimages_annotations
from glr_assets.openimages.crops import Pixels, Rectangle, cropped
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.recipes import OpenImages
from glr_assets.store import Store
from glr_assets_tests.benchmarks.ingest import photographs
from glr_assets_tests.benchmarks.measure import PHOTOS, in_a_process, machine, markdown, pin, timed, verdict

MODULE = "glr_assets_tests.benchmarks.openimages"
#: Train boxes, train images that have some, and categories of Open Images V6.
BOXES, IMAGES, CATEGORIES = 14_610_229, 1_743_042, 600
MOST_SECONDS, MOST_MEGABYTES, LEAST_TIMES = 30, 1000, 10
SIDE, MIRROR_SIDE, ORIGINAL_SIDE = 128, 1024, 1600
#: Boxes of an image: of all categories 8 on average (Kuznetsova et al. 2020, arXiv 1811.00982), of a few fewer.
FEW, MANY = 2, 8
WANTED = ("Category 1", "Category 2", "Category 3")
_ROWS = 500_000


def write_root(folder: Path, boxes: int, images: int, seed: int = 0) -> None:
    """A root of the published shape with so many synthetic train boxes and images, without files of images."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(seed)
    ids = np.unique(random.integers(0, 2**63, images, dtype=np.int64))
    names = np.array([f"{number:016x}" for number in ids.tolist()])
    labels = np.array([f"/m/{number:05d}" for number in range(CATEGORIES)])
    lines = [f"{label},Category {number}\n" for number, label in enumerate(labels)]
    (folder / layout.CLASS_DESCRIPTIONS[0]).write_text("".join(lines))
    _write(folder / layout.IMAGES["train"][0], (_image_rows(part) for part in np.array_split(names, 20)))
    of_image = np.sort(random.integers(0, len(names), boxes))
    parts = np.array_split(of_image, max(boxes // _ROWS, 1))
    _write(folder / layout.BOXES["train"][0], (_box_rows(names[part], labels, random) for part in parts))


def _write(path: Path, tables: Iterator[pa.Table]) -> None:
    first = next(tables)
    with csv.CSVWriter(path, first.schema, write_options=csv.WriteOptions(quoting_style="needed")) as writer:
        writer.write(first)
        for table in tables:
            writer.write(table)


def _box_rows(names: np.ndarray, labels: np.ndarray, random: np.random.Generator) -> pa.Table:
    count = len(names)
    low, high = random.integers(0, 500_000, (2, count)) / 10**6, random.integers(500_001, 10**6, (2, count)) / 10**6
    columns: dict[str, object] = {
        "ImageID": names,
        "Source": np.where(random.random(count) < 0.9, "xclick", "activemil"),
        "LabelName": labels[random.integers(0, len(labels), count)],
        "Confidence": np.ones(count, np.int8),
        "XMin": low[0],
        "XMax": high[0],
        "YMin": low[1],
        "YMax": high[1],
    }
    columns |= {flag: random.integers(0, 2, count, dtype=np.int8) for flag in layout.FLAGS}
    columns |= dict.fromkeys(layout.CLICK_COLUMNS, low[0])
    return pa.table(columns)


def _image_rows(names: np.ndarray) -> pa.Table:
    md5 = base64.b64encode(bytes(16)).decode()
    rows = names.tolist()
    columns: dict[str, object] = {
        "ImageID": names,
        "Subset": ["train"] * len(rows),
        "OriginalURL": [f"https://farm1.staticflickr.com/1234/{name}_o.jpg" for name in rows],
        "OriginalLandingURL": [f"https://www.flickr.com/photos/someone/{name}" for name in rows],
        "License": ["https://creativecommons.org/licenses/by/2.0/"] * len(rows),
        "AuthorProfileURL": ["https://www.flickr.com/people/someone/"] * len(rows),
        "Author": [f"Author {name[:3]}" for name in rows],
        "Title": [f'A title, "{name[:5]}"' for name in rows],
        "OriginalSize": np.arange(len(rows)),
        "OriginalMD5": [md5] * len(rows),
        "Thumbnail300KURL": [f"https://c1.staticflickr.com/1/{name}_z.jpg" for name in rows],
        "Rotation": np.zeros(len(rows)),
    }
    return pa.table(columns)


def select(root: Path, store: Path) -> int:
    """Select three categories; the rows that were read."""
    recipe = OpenImages(categories=WANTED, subsets=("train",))
    made = make_openimages_annotations(OpenImagesRoot(str(root)), Store(str(store)), recipe, 0)
    return int(made.receipt.summary["published_rows"] or 0)


def earlier_way(data: bytes, box: Rectangle) -> Pixels:
    """Seed 003: the image as int32 for each box, skimage's resize in floats, rounded."""
    from skimage.transform import resize

    with Image.open(io.BytesIO(data)) as image:
        array = np.asarray(image, dtype="int32")
    crop = array[box.top : box.bottom, box.left : box.right]
    small = resize(crop, (SIDE, SIDE), anti_aliasing=True, mode="constant", preserve_range=True)
    return np.round(small).astype("uint8")


def originals(folder: Path, most: int) -> list[tuple[bytes, tuple[int, int]]]:
    """The largest photographs in colour, as they are: what the earlier system had fetched."""
    found = []
    for path in photographs(folder):
        with Image.open(path) as image:
            if max(image.size) >= ORIGINAL_SIDE and image.mode == "RGB" and image.format == "JPEG":
                found.append((path.read_bytes(), image.size))
    return sorted(found, key=lambda photo: photo[1][0] * photo[1][1], reverse=True)[:most]


def mirrored(folder: Path, most: int) -> list[tuple[bytes, tuple[int, int]]]:
    """Photographs in colour as the mirror holds them: the longer side has 1024 pixels."""
    found = []
    for path in photographs(folder):
        with Image.open(path) as image:
            if max(image.size) < MIRROR_SIDE or image.mode != "RGB":
                continue
            image.thumbnail((MIRROR_SIDE, MIRROR_SIDE))
            file = io.BytesIO()
            image.save(file, "JPEG", quality=90)
            found.append((file.getvalue(), image.size))
        if len(found) == most:
            break
    return found


def boxes_in(size: tuple[int, int], count: int, random: np.random.Generator) -> list[Rectangle]:
    """Boxes of a tenth to nine tenths of each side."""
    found = []
    for _ in range(count):
        wide, high = (max(1, int(side * random.uniform(0.1, 0.9))) for side in size)
        left, top = int(random.integers(0, size[0] - wide + 1)), int(random.integers(0, size[1] - high + 1))
        found.append(Rectangle(left, top, left + wide, top + high))
    return found


def crop_rates(photos: Sequence[tuple[bytes, tuple[int, int]]], count: int) -> dict[str, float]:
    """Crops a second and core of both ways, of so many boxes an image; both do each image in turn."""
    random, recipe = np.random.default_rng(0), OpenImages(size=SIDE)
    seconds = {"glr_assets": 0.0, "seed 003": 0.0}
    crops = 0

    def timed_cpu(name: str, work: Callable[[], object]) -> None:
        began = time.process_time()
        work()
        seconds[name] += time.process_time() - began

    for number, (data, size) in enumerate([photos[0], *photos]):
        boxes = boxes_in(size, count, random)
        timed_cpu("glr_assets", lambda data=data, boxes=boxes: cropped(data, "RGB", boxes, 0, recipe))  # type: ignore[misc]
        timed_cpu("seed 003", lambda data=data, boxes=boxes: [earlier_way(data, box) for box in boxes])  # type: ignore[misc]
        crops += count
        if number == 0:  # what is loaded and compiled once
            seconds, crops = dict.fromkeys(seconds, 0.0), 0
    return {name: crops / value for name, value in seconds.items()}


def main() -> None:
    """Print both tables, or run one part in this process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--boxes", type=int, default=BOXES, help="synthetic boxes")
    parser.add_argument("--photos", type=int, default=60, help="photographs that are cropped")
    parser.add_argument("--select", nargs=2, type=Path, help="root and store: select and print figures as JSON")
    arguments = parser.parse_args()
    if arguments.select:
        print(json.dumps(timed(lambda: select(*arguments.select))))
        return
    print(machine(), "\n")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root"
        write_root(root, arguments.boxes, max(arguments.boxes * IMAGES // BOXES, 1))
        size = (root / layout.BOXES["train"][0]).stat().st_size / 1e9
        found = in_a_process(MODULE, "--select", str(root), f"{folder}/store")
    wall, peak = found["wall s"], found["peak MB"]
    row = (
        f"{found['rows']:,} boxes, {size:.2f} GB",
        f"{wall:.1f}",
        f"{found['rows'] / wall / 1e6:.2f}",
        f"{peak:.0f}",
        verdict(wall * BOXES / max(found["rows"], 1), MOST_SECONDS, at_least=False),
        verdict(peak, MOST_MEGABYTES, at_least=False),
    )
    columns = ("3 of 600 categories", "s", "million rows a s", "peak MB", "≤ 30 s of 14.6 M", "≤ 1 GB")
    print(markdown(columns, [row]))
    pin(1)
    corpora = {
        "as published, 1600 pixels and more": originals(PHOTOS, arguments.photos),
        "of the mirror, 1024 pixels": mirrored(PHOTOS, arguments.photos),
    }
    rows = []
    for name, photos in corpora.items():
        for count in (1, FEW, MANY):
            rates = crop_rates(photos, count)
            times = rates["glr_assets"] / rates["seed 003"]
            told = verdict(times, LEAST_TIMES, at_least=True)
            rows.append((name, count, f"{rates['glr_assets']:.0f}", f"{rates['seed 003']:.1f}", f"{times:.1f}", told))
    columns = ("images", "boxes an image", "crops a s and core", "seed 003", "times", "≥ 10 times")
    print(markdown(columns, rows))


if __name__ == "__main__":
    main()
