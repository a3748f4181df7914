"""How fast stored photographs come to a network, beside how fast they could be decoded at all.

Packs photographs into a bucket, ingests it, and reads the stored train images by their ranges, each way several times
in turn: decoded and nothing else; squeezed to squares, as inference takes them; varied in batches, as a training
takes them, once with nothing kept in memory and once with all of it. Prints a Markdown table: run it as
`python -m glr_assets_tests.benchmarks.loader --photos FOLDER --threads 1 2`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from glr_assets.images.reader import ImageReader
from glr_assets.packing.pack import pack
from glr_assets.recipes import Learning, Recipe, load_recipe
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets.training.photographs import Augmentation, EpochBatches, Pictures, decode, in_threads, squares
from glr_assets.training.samplers import shuffled
from glr_assets_tests.benchmarks.measure import PHOTOS, machine, markdown, verdict
from glr_assets_tests.lineage import curate

TARGET = 0.9
DECODED = "decoded, nothing else"


def stored(photos: Path, non_landmarks: Path | None, work: Path, recipe: Recipe, seed: int) -> Store:
    """A store with the photographs of a bucket that is packed of them."""
    bucket, store = Store(str(work / f"bucket{seed}")), Store(str(work / f"store{seed}"))
    pack(photos, bucket, non_landmarks=non_landmarks, seed=seed, warn=lambda line: None)
    curate(open_source(bucket.url), store, recipe)
    return store


def ways(reader: ImageReader, size: int, batch_size: int, threads: int) -> dict[str, Callable[[], int]]:
    """Each goes through all images once and gives how many it gave; the last keeps what it has read."""
    ids = list(reader.ids)
    draws = shuffled(ids, [0] * len(ids), Learning(batch_size=batch_size), seed=0, epoch=0)
    kept = Pictures(reader.read, size)

    def batches(pictures: Pictures) -> Iterator[int]:
        found = EpochBatches(draws, pictures, size=size, seed=0, epoch=0, workers=threads, augmentation=Augmentation())
        return (len(pixels) for pixels, _ in found)

    def decoded() -> int:
        return sum(1 for _ in in_threads(lambda image_id: decode(reader.read(image_id)), ids, threads))

    return {
        DECODED: decoded,
        f"squares of {size}": lambda: sum(len(b) for b in squares(map(reader.read, ids), size, batch_size, threads)),
        f"batches of {size}, nothing kept": lambda: sum(batches(Pictures(reader.read, size, 0))),
        f"batches of {size}, all kept": lambda: sum(batches(kept)),
    }


def rates(reader: ImageReader, size: int, batch_size: int, threads: int, rounds: int) -> dict[str, float]:
    """Images a second of each way, the median of the rounds; a first round is not counted."""
    told: dict[str, list[float]] = {}
    found = ways(reader, size, batch_size, threads)
    for number in range(rounds + 1):
        for name, way in found.items():
            began = time.perf_counter()
            images = way()
            if number:
                told.setdefault(name, []).append(images / (time.perf_counter() - began))
    return {name: statistics.median(values) for name, values in told.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, default=PHOTOS / "landmarks")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224, 384])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    if not arguments.photos.is_dir():
        sys.exit(f"error: {arguments.photos}: no such folder; give --photos FOLDER with one folder a landmark")
    print(machine() + "\n")
    with tempfile.TemporaryDirectory(prefix="glr-loader-") as work:
        store = stored(arguments.photos, None, Path(work), load_recipe("small"), 0)
        reader = ImageReader.of_split(store, "train")
        rows = []
        for threads in arguments.threads:
            for size in arguments.sizes:
                found = rates(reader, size, arguments.batch, threads, arguments.rounds)
                for name, rate in found.items():
                    share = rate / found[DECODED]
                    met = "" if name == DECODED else verdict(share, TARGET, at_least=True)
                    rows.append((name, threads, f"{rate:.0f}", f"{share:.2f}", met))
    print(f"{len(reader)} stored images.\n")
    print(markdown(("way", "threads", "images/s", "of decoding alone", f"at least {TARGET}"), rows))


if __name__ == "__main__":
    main()
