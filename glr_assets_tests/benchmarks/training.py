"""What training and embedding cost by backbone, and whether a warm start helps, on real photographs.

`--part speed`: images a second through each backbone, its batches on the device already and fed from stored images; a
training's images a second and peak of memory; and, on a GPU, what its time goes to. It takes the GPU where torch has
one, in bfloat16, else the processor. `--part warm-start`: the embedder of recipe `small` trained without and with a
warm start, another split with each seed; queries are answered by their nearest train image, without penalties,
calibration or re-ranking. Both print Markdown tables: run it as
`python -m glr_assets_tests.benchmarks.training --part speed --backbones resnet-34 --size 384`, or
`python -m glr_assets_tests.benchmarks.training --part warm-start --seeds 1 2 3`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch

from glr_assets.evaluation.answers import scores_of_answers
from glr_assets.images.reader import ImageReader
from glr_assets.manifests import kept_images
from glr_assets.recipes import Embedder, Recipe, load_recipe
from glr_assets.store import Store
from glr_assets.training.backbones import BACKBONES, pooled
from glr_assets.training.embedding import Floats, embed
from glr_assets.training.fitting import fit
from glr_assets.training.model import initial, untrained
from glr_assets.training.photographs import CACHE_BYTES, TrainingSet, normalised
from glr_assets.training.warm_start import warm_start
from glr_assets_tests.benchmarks.groups import queries
from glr_assets_tests.benchmarks.loader import stored
from glr_assets_tests.benchmarks.measure import PHOTOS, forget_peak, machine, markdown, peak_megabytes

#: Backbones that are small enough to be told of on a processor.
ON_CPU = ("resnet-tiny", "resnet-18", "resnet-34", "resnet-50", "convnext-tiny", "dinov2-small")
WARM_EPOCHS = 40


def recipe_of(backbone: str, size: int, batch: int) -> Embedder:
    """As `full` has it, with that backbone; a DINOv2 sees whole patches and its class token."""
    values = load_recipe("full").embedder.model_dump() | {"backbone": backbone, "batch_size": batch, "epochs": 2}
    if backbone.startswith("dinov2"):
        values |= {"image_size": size // 14 * 14, "pooling": "class_token"}
    else:
        values |= {"image_size": size}
    return Embedder.model_validate(values)


def rate(work: Callable[[], int], rounds: int) -> float:
    """Images a second, the median of the rounds after a first."""
    told = []
    for number in range(rounds + 1):
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        began = time.perf_counter()
        images = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        if number:
            told.append(images / (time.perf_counter() - began))
    return statistics.median(told)


def embedding(recipe: Embedder, reader: ImageReader, images: int, rounds: int) -> tuple[float, float]:
    """Images a second: of a batch that is on the device already, and from stored bytes."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = untrained(recipe, 0).to(device)
    if device.type == "cuda":
        network = network.to(memory_format=torch.channels_last)
    pixels = torch.randint(0, 256, (recipe.batch_size, recipe.image_size, recipe.image_size, 3), dtype=torch.uint8)
    pixels = pixels.to(device)
    half = device.type == "cuda" and recipe.precision == "bfloat16"

    def resident() -> int:
        with torch.inference_mode(), torch.autocast(device.type, dtype=torch.bfloat16, enabled=half):
            batches = max(1, images // recipe.batch_size)
            for _ in range(batches):
                network(normalised(pixels))
        return batches * recipe.batch_size

    def fed() -> int:
        ids = islice(cycle(reader.ids), images)
        found = embed(
            network,
            map(reader.read, ids),
            recipe.image_size,
            batch_size=recipe.batch_size,
            workers=os.cpu_count() or 1,
            precision=recipe.precision,
        )
        return len(found)

    return rate(resident, rounds), rate(fed, rounds)


def training(recipe: Embedder, reader: ImageReader, images: int) -> tuple[float, float]:
    """Images a second of the second of two epochs, with nothing kept in memory, and the peak of memory in MB."""
    names = [f"{number} {image_id}" for number, image_id in enumerate(islice(cycle(reader.ids), images))]
    # The landmark counts for nothing here but the head's width.
    part = TrainingSet(
        tuple(names), tuple(n % 25 for n in range(images)), lambda name: reader.read(name.split(" ", 1)[1])
    )
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        forget_peak()
    fitted = fit(part, None, recipe, seed=0, workers=os.cpu_count() or 1, cache_bytes=0)
    peak = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else peak_megabytes()
    seen = max(1, images // recipe.batch_size) * recipe.batch_size
    return seen / fitted.history[-1].seconds, peak


def profile(recipe: Embedder, reader: ImageReader, images: int) -> str:
    """What the device's time of a training goes to, the ten longest."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as told:
        training(recipe, reader, images)
    return told.key_averages().table(sort_by="cuda_time_total", row_limit=10)


def speed(arguments: argparse.Namespace) -> None:
    """Print the table of the backbones."""
    on_gpu = torch.cuda.is_available()
    print((torch.cuda.get_device_name() + ", bfloat16; " if on_gpu else "") + machine() + "\n")
    rows = []
    with tempfile.TemporaryDirectory(prefix="glr-training-") as work:
        store = stored(arguments.photos, None, Path(work), load_recipe("small"), 0)
        reader = ImageReader.of_split(store, "train")
        for backbone in arguments.backbones:
            recipe = recipe_of(backbone, arguments.size, arguments.batch)
            alone, fed = embedding(recipe, reader, arguments.images, arguments.rounds)
            trains, peak = training(recipe, reader, arguments.images)
            figures = (f"{alone:.1f}", f"{fed:.1f}", f"{fed / alone:.2f}", f"{trains:.1f}", f"{peak:.0f}")
            rows.append((backbone, recipe.image_size, *figures))
            print(f"{backbone}: {figures}", file=sys.stderr, flush=True)
        columns = ("backbone", "px", "embeds images/s", "from stored images", "share", "trains images/s", "peak MB")
        print(markdown(columns, rows))
        if on_gpu:
            print(profile(recipe_of(arguments.backbones[0], arguments.size, arguments.batch), reader, arguments.images))


class Pooled(torch.nn.Module):
    """A backbone's own features as an embedding."""

    def __init__(self, backbone: torch.nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return pooled(self.backbone, pixels)


def answered(network: torch.nn.Module, store: Store, searched: TrainingSet, size: int) -> dict[str, float]:
    """Each test image's landmark is that of its nearest train image, and how sure that is, their cosine."""
    ids, shown = queries(store)
    test = ImageReader.of_split(store, "test", ids)
    known = embed(network, map(searched.read, searched.ids), size)
    # Centred: what has not been trained with labels has most of its features in common.
    mean = known.mean(axis=0)
    known, asked = (unit(rows - mean) for rows in (known, embed(network, map(test.read, ids), size)))
    cosines = asked @ known.T
    nearest = np.array(searched.landmark_ids)[cosines.argmax(axis=1)]
    return scores_of_answers(ids, nearest, cosines.max(axis=1), shown)


def unit(rows: Floats) -> Floats:
    """Rows of unit length."""
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def starts(store: Store, recipe: Recipe, warm_epochs: int) -> dict[str, dict[str, float]]:
    """Scores of the network as it is, after a warm start alone, and trained without and with one."""
    manifest = kept_images(store, recipe.training.manifest)
    ids, landmarks = manifest["id"].to_pylist(), manifest["landmark_id"].to_pylist()
    searched = TrainingSet(tuple(ids), tuple(landmarks), ImageReader.of_split(store, "train", ids).read)
    cold = recipe.embedder
    warm = cold.model_copy(update={"warm_start_epochs": warm_epochs})
    networks: dict[str, Callable[[], torch.nn.Module]] = {
        "untrained, its features": lambda: Pooled(untrained(cold, recipe.seed).backbone),
        "warm start alone, its features": lambda: warmed(searched, warm, recipe.seed),
        "trained": lambda: fit(searched, None, cold, seed=recipe.seed).network,
        "trained after a warm start": lambda: fit(searched, None, warm, seed=recipe.seed).network,
    }
    found = {}
    for name, made in networks.items():
        began = time.monotonic()
        network = made().eval()
        seconds = time.monotonic() - began
        found[name] = answered(network, store, searched, cold.image_size) | {"seconds": seconds}
        print(f"  {name}: {found[name]}", file=sys.stderr, flush=True)
    return found


def warmed(photographs: TrainingSet, recipe: Embedder, seed: int) -> torch.nn.Module:
    """The features of a backbone that has learnt without labels."""
    backbone = initial(recipe, seed).backbone
    told = warm_start(backbone, photographs, recipe, seed=seed, fingerprint="", cache_bytes=CACHE_BYTES)
    first, last = told.history[0], told.history[-1]
    print(
        f"  spread {first.spread:.2f} to {last.spread:.2f}, loss {first.loss:.3f} to {last.loss:.3f}", file=sys.stderr
    )
    return Pooled(backbone)


def warm_starts(arguments: argparse.Namespace) -> None:
    """Print the table of the seeds."""
    values = {"image_size": arguments.size, "epochs": arguments.epochs}
    print(machine() + "\n")
    by_way: dict[str, list[dict[str, float]]] = {}
    rows = []
    with tempfile.TemporaryDirectory(prefix="glr-warm-start-") as work:
        for seed in arguments.seeds:
            recipe = load_recipe("small").overridden({"embedder": values}, seed=seed)
            store = stored(arguments.photos, arguments.non_landmarks, Path(work), recipe, seed)
            print(f"seed {seed}", file=sys.stderr, flush=True)
            for name, scores in starts(store, recipe, arguments.warm_epochs).items():
                by_way.setdefault(name, []).append(scores)
                rows.append((name, seed, *(f"{value:.3f}" for value in scores.values())))
    for name, told in by_way.items():
        means = [statistics.fmean(scores[column] for scores in told) for column in told[0]]
        rows.append((name, "mean", *(f"{value:.3f}" for value in means)))
    print(markdown(("network", "seed", *next(iter(by_way.values()))[0]), rows))


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--part", choices=("speed", "warm-start"), default="speed")
    parser.add_argument("--photos", type=Path, default=PHOTOS / "landmarks")
    parser.add_argument("--non-landmarks", type=Path, default=PHOTOS / "non_landmarks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--warm-epochs", type=int, default=WARM_EPOCHS)
    on_gpu = torch.cuda.is_available()
    parser.add_argument(
        "--backbones", nargs="+", choices=BACKBONES, default=["resnet-34", *ON_CPU] if on_gpu else list(ON_CPU)
    )
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--size", type=int)
    parser.add_argument("--batch", type=int, default=256 if on_gpu else 16)
    parser.add_argument("--images", type=int, default=20_000 if on_gpu else 64)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.size = arguments.size or (128 if arguments.part == "warm-start" else 384 if on_gpu else 224)
    if not arguments.photos.is_dir():
        sys.exit(f"error: {arguments.photos}: no such folder; give --photos FOLDER with one folder a landmark")
    (speed if arguments.part == "speed" else warm_starts)(arguments)


if __name__ == "__main__":
    main()
