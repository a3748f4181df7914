"""Local features: images a second of each extractor on one core, what SIFT's threshold is worth, what eight bits lose.

All of it on photographs in their stored size. Speed does not depend on what a network has learnt, so SuperPoint's is
measured with random weights of the published architecture; DeLF's needs its module: `--delf FOLDER`. Where a GPU is at
hand, SuperPoint runs there too, in float32 and in bfloat16. Prints Markdown:
`python -m glr_assets_tests.benchmarks.features`.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glr_assets.images.dataset import decoded as decoded_image
from glr_assets.images.pixels import StoredImage, downsize
from glr_assets.recipes import Images
from glr_assets.verification.extractors.base import Extractor, Pixels, unit_length
from glr_assets.verification.extractors.delf import Delf
from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets.verification.extractors.superpoint import SuperPoint
from glr_assets.verification.features import Features, code_scale, decoded, encoded
from glr_assets_tests.benchmarks.measure import PHOTOS, in_a_process, machine, markdown

MODULE = "glr_assets_tests.benchmarks.features"
MOST = 500
CONTRASTS = (0.02, 0.04)
Floats = npt.NDArray[np.float32]


def rgb(photograph: bytes) -> Pixels:
    """The pixels that are stored of a photograph."""
    stored = downsize(photograph, Images())
    if not isinstance(stored, StoredImage):
        raise ValueError(stored.reason)
    return decoded_image(stored.jpeg)


def nearest_of_each_other(one: Floats, other: Floats) -> set[tuple[int, int]]:
    """The rows of two arrays [n, d], [m, d] that are each other's nearest by cosine."""
    products = unit_length(one.astype(np.float32)) @ unit_length(other.astype(np.float32)).T
    there, back = products.argmax(axis=1), products.argmax(axis=0)
    return {(row, int(column)) for row, column in enumerate(there) if back[column] == row}


def photographs(each: int) -> list[list[Path]]:
    """The first photographs of each landmark."""
    folders = sorted(path for path in (PHOTOS / "landmarks").iterdir() if path.is_dir())
    return [sorted(folder.glob("*.jpg"))[:each] for folder in folders]


def random_superpoint(folder: Path) -> None:
    """The published architecture, its weights random."""
    import torch
    from transformers import SuperPointConfig, SuperPointForKeypointDetection

    torch.manual_seed(0)
    SuperPointForKeypointDetection(SuperPointConfig()).save_pretrained(folder)


def opened(name: str, module: str | None, device: str) -> Extractor:
    """An extractor by the name it has in the table."""
    if name.startswith("rootsift"):
        return RootSift(MOST, float(name.split()[1]))
    if name == "delf":
        return Delf.opened(module, MOST, device)
    return SuperPoint.opened(module, MOST, device)


def speed(name: str, module: str | None, device: str, count: int) -> dict[str, float]:
    """Images and features a second of one extractor, the first images not counted."""
    import cv2

    cv2.setNumThreads(1)
    extractor = opened(name, module, device)
    paths = [path for folder in photographs(1 + count // 25) for path in folder][:count]
    images = [rgb(path.read_bytes()) for path in paths]
    extractor.extract(images[: extractor.batch])
    on_gpu = device == "cuda"
    if on_gpu:
        import torch

        torch.cuda.reset_peak_memory_stats()
        half = torch.autocast("cuda", torch.bfloat16) if name.endswith("bfloat16") else nullcontext()
    else:
        half = nullcontext()
    # On a GPU the wall's time counts, elsewhere that of the core.
    clock = time.perf_counter if on_gpu else time.process_time
    began, found = clock(), 0
    with half:
        for first in range(0, len(images), extractor.batch):
            found += sum(len(f.places) for f in extractor.extract(images[first : first + extractor.batch]))
    seconds = clock() - began
    gigabytes = 0.0
    if on_gpu:
        gigabytes = torch.cuda.max_memory_allocated() / 1e9
    return {
        "images/s": len(images) / seconds,
        "features/s": found / seconds,
        "features": found / len(images),
        "GPU GB": gigabytes,
    }


def affine_inliers(one: Features, other: Features) -> int:
    """Matches of two images that agree with one affine model within 8 pixels, by OpenCV's MAGSAC."""
    import cv2

    pairs = [
        (row, column)
        for row, column in sorted(nearest_of_each_other(one.descriptors, other.descriptors))
        if one.descriptors[row] @ other.descriptors[column] >= RootSift.min_cosine
    ]
    if len(pairs) < 4:
        return 0
    rows, columns = np.array(pairs).T
    cv2.setRNGSeed(0)
    _, agrees = cv2.estimateAffine2D(
        one.places[rows, :2], other.places[columns, :2], method=cv2.USAC_MAGSAC, ransacReprojThreshold=8.0
    )
    return 0 if agrees is None else int(agrees.sum())


def contrasts(images: Sequence[Sequence[Pixels]]) -> list[list[str]]:
    """What SIFT's threshold changes: images with few features, and inliers of true and of chance pairs."""
    rows = []
    for contrast in CONTRASTS:
        found = [RootSift(MOST, contrast).extract(of_landmark) for of_landmark in images]
        counts = np.array([len(f.places) for of_landmark in found for f in of_landmark])
        same = [affine_inliers(f[a], f[b]) for f in found for a in range(len(f)) for b in range(a)]
        chance = [
            affine_inliers(found[one][a], found[(one + step) % len(found)][a])
            for one in range(len(found))
            for step in (1, 2)
            for a in range(min(map(len, found)))
        ]
        rows.append(
            [
                f"{contrast}",
                f"{counts.mean():.0f}",
                f"{(counts < MOST).mean():.1%}",
                f"{int(counts.min())}",
                f"{np.mean(np.array(same) >= 11):.1%} of {len(same)}",
                f"{np.mean(same):.1f}",
                f"{np.mean(np.array(chance) >= 11):.1%} of {len(chance)}",
            ]
        )
    return rows


def stand_ins(found: Sequence[Sequence[Features]], dimensions: int) -> list[list[Features]]:
    """The features with whitened principal components of their descriptors for descriptors: with signs, as DeLF's."""
    rows = np.concatenate([f.descriptors for of_landmark in found for f in of_landmark]).astype(np.float64)
    mean = rows.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov((rows - mean).T))
    matrix = vectors[:, -dimensions:] / np.sqrt(values[-dimensions:])
    return [
        [
            Features(f.places, unit_length(((f.descriptors - mean) @ matrix).astype(np.float32)), f.width, f.height)
            for f in of_landmark
        ]
        for of_landmark in found
    ]


def losses(found: Sequence[Sequence[Features]], signed: bool) -> dict[str, list[str]]:
    """What rounding to eight bits and to float16 changes of cosines and of mutual nearest neighbours."""
    dimensions = found[0][0].descriptors.shape[1]
    limit = (127 if signed else 255) / code_scale(dimensions, signed)
    every = np.concatenate([f.descriptors for of_landmark in found for f in of_landmark])

    def eight(f: Features) -> Floats:
        return decoded(encoded(f, signed), len(f.places), dimensions, signed, f.width, f.height).codes

    rows = {}
    for name, kept, each, clipped in (
        ("eight bits", eight, dimensions, f"{(np.abs(every) > limit + 1 / 1024).mean():.2e}"),
        ("float16", lambda f: f.descriptors.astype(np.float16).astype(np.float32), 2 * dimensions, "0"),
    ):
        errors, own, same, all_of_them = [], [], 0, 0
        for of_landmark in found:
            rounded = [kept(f) for f in of_landmark]
            own += [
                np.einsum("nd,nd->n", f.descriptors, unit_length(k)) for f, k in zip(of_landmark, rounded, strict=True)
            ]
            for a in range(len(of_landmark)):
                for b in range(a):
                    exact = nearest_of_each_other(of_landmark[a].descriptors, of_landmark[b].descriptors)
                    changed = nearest_of_each_other(rounded[a], rounded[b])
                    same, all_of_them = same + len(exact & changed), all_of_them + len(exact)
                    cosines = of_landmark[a].descriptors @ of_landmark[b].descriptors.T
                    codes = unit_length(rounded[a]) @ unit_length(rounded[b]).T
                    errors.append(np.abs(cosines - codes).ravel())
        error = np.concatenate(errors)
        rows[name] = [
            f"{each}",
            f"{np.sqrt((error**2).mean()):.5f}",
            f"{error.max():.4f}",
            f"{1 - np.concatenate(own).min():.4f}",
            f"{same / all_of_them:.2%} of {all_of_them}",
            clipped,
        ]
    return rows


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--images", type=int, default=50, help="photographs each extractor is timed on")
    parser.add_argument("--each", type=int, default=6, help="photographs of a landmark that are compared")
    parser.add_argument("--gpu-images", type=int, default=440, help="the same on a GPU")
    parser.add_argument("--delf", help="folder or URL of DeLF's module")
    parser.add_argument("--one", nargs=4, metavar=("NAME", "MODULE", "DEVICE", "IMAGES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        name, module, device, count = arguments.one
        print(json.dumps(speed(name, module or None, device, int(count))))
        return
    if not PHOTOS.is_dir():
        sys.exit(f"error: {PHOTOS}: no such folder; the photographs are measured")
    import torch

    print(f"{machine()}\n")
    columns = ("extractor", "images/s", "features/s", "features an image", "GPU memory, GB")
    timed = []
    with tempfile.TemporaryDirectory(prefix="glr-features-") as scratch:
        random_superpoint(Path(scratch))
        ways = [(f"rootsift {contrast}", "", "cpu", arguments.images) for contrast in CONTRASTS]
        ways += [("delf", arguments.delf, "cpu", arguments.images)] if arguments.delf else []
        ways += [("superpoint", scratch, "cpu", max(arguments.images // 5, 1))]
        if torch.cuda.is_available():
            precisions = ("superpoint float32", "superpoint bfloat16")
            ways += [(name, scratch, "cuda", arguments.gpu_images) for name in precisions]
        for name, module, device, count in ways:
            print(f"{name} on {device}", file=sys.stderr, flush=True)
            row = in_a_process(MODULE, "--one", name, module, device, str(count))
            figures = (row["images/s"], row["features/s"], row["features"])
            where = f"{name}, {'one core' if device == 'cpu' else 'GPU'}"
            timed.append(
                [where, *(f"{figure:.1f}" for figure in figures), f"{row['GPU GB']:.1f}" if row["GPU GB"] else ""]
            )
    print("## Speed\n\nTime of one core; on a GPU of the wall, with the images decoded beforehand.\n")
    print(markdown(columns, timed))
    print("contrast", file=sys.stderr, flush=True)
    images = [[rgb(path.read_bytes()) for path in folder] for folder in photographs(arguments.each)]
    print(f"## SIFT's threshold of contrast\n\n{MOST} features at most, MAGSAC within 8 pixels.\n")
    print(
        markdown(
            (
                "threshold",
                "features an image",
                f"images below {MOST}",
                "fewest",
                "pairs of a landmark with 11 inliers",
                "their mean inliers",
                "chance pairs with 11 inliers",
            ),
            contrasts(images),
        )
    )
    print("rounding", file=sys.stderr, flush=True)
    found = [RootSift(MOST).extract(of_landmark) for of_landmark in images]
    kinds = (
        ("RootSIFT, 128 without signs", found, False),
        ("its 40 whitened components, as DeLF's", stand_ins(found, 40), True),
        ("its 120 whitened components", stand_ins(found, 120), True),
    )
    rows = [
        [f"{kind}: {name}", *figures]
        for kind, features, signed in kinds
        for name, figures in losses(features, signed).items()
    ]
    print("## What rounding loses\n\nBeside float32, between photographs of a landmark.\n")
    print(
        markdown(
            (
                "descriptors",
                "bytes",
                "cosine: root mean square error",
                "largest error",
                "largest turn of one (1 - cosine)",
                "mutual nearest neighbours kept",
                "values clipped",
            ),
            rows,
        )
    )


if __name__ == "__main__":
    main()
