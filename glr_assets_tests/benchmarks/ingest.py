"""CPU milliseconds, quality and memory of one image's way into the store, beside the ways of others.

All ways take one image after another in turn, in one process and one thread, several rounds over; the figure is the
mean over images of the median over rounds. Corpus B is `gldv2`, GLDv2's own files larger than 384 pixels; corpus A are
the photographs of about 1600 pixels. Prints Markdown: `python -m glr_assets_tests.benchmarks.ingest`.
"""

from __future__ import annotations

import argparse
import io
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from glr_assets.codecs import turbojpeg
from glr_assets.images import pixels, resample
from glr_assets.images.pixels import StoredImage, downsize
from glr_assets.recipes import Images
from glr_assets_tests.benchmarks.measure import (
    PHOTOS,
    forget_peak,
    in_a_process,
    machine,
    markdown,
    peak_megabytes,
    verdict,
)
from glr_assets_tests.images.handmade import picture

MODULE = "glr_assets_tests.benchmarks.ingest"
SIDE, QUALITY = 384, 70
RECIPE = Images(min_side=SIDE, jpeg_quality=QUALITY)
Pixels = npt.NDArray[np.uint8]
OURS, SEED, SEED_HASHED, IMG2DATASET = (
    "glr_assets, dhash included",
    "seed 000",
    "seed 000, and 001's dhash",
    "img2dataset's core",
)
PYVIPS, PILLOW, DHASH = "pyvips thumbnail", "Pillow: full decode, LANCZOS", "floor: dhash of the stored luma"
DECODE, ENTROPY = "floor: planes decoded, full size", "floor: decoded to 1/8, about the entropy decoding"


@dataclass(frozen=True)
class Way:
    """One way of making the stored JPEG.

    Attributes:
        run: what is timed; gives the stored JPEG, or nothing where the way is a part of one.
        pixels: RGB just before encoding, where there are such.
        given: what `run` is given, made of the file's bytes and not timed.
    """

    run: Callable[[Any], bytes | None]
    pixels: Callable[[bytes], Pixels] | None = None
    given: Callable[[bytes], Any] = lambda data: data


def corpora(folder: Path) -> dict[str, list[bytes]]:
    """The files of A and of B, in the order of their names."""
    found: dict[str, list[bytes]] = {"A": [], "B": []}
    for path in photographs(folder):
        with Image.open(path) as image:
            small, large = sorted(image.size)
        if small > SIDE and path.parent.name == "gldv2":
            found["B"].append(path.read_bytes())
        elif small > SIDE and 1500 <= large <= 1700:
            found["A"].append(path.read_bytes())
    return found


def photographs(folder: Path) -> list[Path]:
    """Every photograph that is not there to be nasty or corrupt."""
    return [
        path
        for path in sorted(folder.rglob("*.jpg"))
        if "nasty" not in path.relative_to(folder).parts and not path.stem.endswith("_corrupt")
    ]


def ours(data: bytes) -> bytes:
    """This project's way."""
    stored = downsize(data, RECIPE)
    assert isinstance(stored, StoredImage)
    return stored.jpeg


def before_encoding(data: bytes) -> tuple[Pixels, tuple[Pixels, Pixels]]:
    """The planes that this project's way gives its encoder."""
    given: list[tuple[Pixels, tuple[Pixels, Pixels]]] = []

    def encode(luma: Pixels, chroma: tuple[Pixels, Pixels], quality: int) -> bytes:
        given.append((luma, chroma))
        return b""

    with replaced(pixels, "encode_planes", encode):
        ours(data)
    return given[0]


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute is another for a while."""
    kept = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, kept)


def as_rgb(luma: Pixels, chroma: tuple[Pixels, Pixels]) -> Pixels:
    """Planes in 4:2:0 as RGB, chroma enlarged by cubic interpolation, as a viewer may."""
    height, width = luma.shape
    large = [
        Image.fromarray(plane).resize((2 * plane.shape[1], 2 * plane.shape[0]), Image.Resampling.BICUBIC)
        for plane in chroma
    ]
    bands = [Image.fromarray(luma), *(plane.crop((0, 0, width, height)) for plane in large)]
    return np.asarray(Image.merge("YCbCr", bands).convert("RGB"))


def reference(data: bytes, size: tuple[int, int]) -> Image.Image:
    """The file decoded whole by Pillow and resized by its LANCZOS."""
    return upright(data).convert("RGB").resize(size, Image.Resampling.LANCZOS)


def upright(data: bytes) -> Image.Image:
    """The image as EXIF turns it."""
    return ImageOps.exif_transpose(Image.open(io.BytesIO(data)))


def in_420(data: bytes) -> Pixels:
    """The reference with its own chroma halved by LANCZOS, as 4:2:0 has it."""
    stored = downsize(data, RECIPE)
    assert isinstance(stored, StoredImage)
    luma, *chroma = (np.asarray(band) for band in reference(data, stored.size).convert("YCbCr").split())
    half = -(-luma.shape[1] // 2), -(-luma.shape[0] // 2)
    blue, red = (np.asarray(Image.fromarray(plane).resize(half, Image.Resampling.LANCZOS)) for plane in chroma)
    return as_rgb(luma, (blue, red))


def seed_pixels(data: bytes) -> Pixels:
    """As `downsize_single_image` of seed 000 resizes."""
    import cv2
    import imageio.v2 as imageio

    image = imageio.imread(data)
    height, width, _ = image.shape
    ratio = SIDE / min(width, height)
    size = int(width * ratio), int(height * ratio)
    return cv2.resize(np.asarray(image), size, interpolation=cv2.INTER_LANCZOS4)


def seed(data: bytes) -> bytes:
    """As seed 000 stores: its TensorFlow encodes by libjpeg-turbo too, with Huffman tables of the image's own."""
    import cv2

    image = cv2.cvtColor(seed_pixels(data), cv2.COLOR_RGB2BGR)
    return _encoded(image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE, 1])


def seed_hashed(data: bytes) -> bytes:
    """The same, and the hash of the original as seed 001 takes it."""
    import imagehash

    imagehash.dhash(Image.open(io.BytesIO(data)))
    return seed(data)


def img2dataset_pixels(data: bytes) -> Pixels:
    """As img2dataset's Resizer (`keep_ratio`) decodes and resizes, BGR."""
    import cv2

    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    height, width = image.shape[:2]
    scale = SIDE / min(height, width)
    return cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)


def img2dataset(data: bytes) -> bytes:
    """As it stores."""
    import cv2

    return _encoded(img2dataset_pixels(data), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])


def _encoded(image: Pixels, options: list[int]) -> bytes:
    import cv2

    done, encoded = cv2.imencode(".jpg", image, options)
    assert done
    return encoded.tobytes()


def _thumbnail(data: bytes) -> Any:
    import pyvips

    whole = pyvips.Image.new_from_buffer(data, "")
    scale = SIDE / min(whole.width, whole.height)
    size = round(whole.width * scale), round(whole.height * scale)
    return pyvips.Image.thumbnail_buffer(data, size[0], height=size[1], size="force")


def pillow_pixels(data: bytes) -> Image.Image:
    """Whole decode and LANCZOS."""
    image = Image.open(io.BytesIO(data))
    scale = SIDE / min(image.size)
    return image.convert("RGB").resize(
        (round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS
    )


def pillow(data: bytes) -> bytes:
    """As Pillow stores."""
    file = io.BytesIO()
    pillow_pixels(data).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def _nothing(work: Callable[[Any], object]) -> Callable[[Any], None]:
    def run(given: Any) -> None:
        work(given)

    return run


def ways() -> dict[str, Way]:
    """Every way that this machine has the libraries for."""
    found = {
        OURS: Way(ours, lambda data: as_rgb(*before_encoding(data))),
        SEED: Way(seed, seed_pixels),
        SEED_HASHED: Way(seed_hashed, seed_pixels),
        IMG2DATASET: Way(img2dataset, lambda data: img2dataset_pixels(data)[..., ::-1]),
        PYVIPS: Way(lambda data: _thumbnail(data).jpegsave_buffer(Q=QUALITY), lambda data: _thumbnail(data).numpy()),
        PILLOW: Way(pillow, lambda data: np.asarray(pillow_pixels(data))),
        DECODE: Way(_nothing(turbojpeg.decode_planes)),
        ENTROPY: Way(_nothing(lambda data: turbojpeg.decode_planes(data, 8))),
        DHASH: Way(_nothing(resample.dhash), given=lambda data: before_encoding(data)[0]),
    }
    if vips_is_missing():
        del found[PYVIPS]
    return found


def vips_is_missing() -> str:
    """Why pyvips cannot be measured; nothing where it can."""
    try:
        import pyvips  # noqa: F401
    except (ImportError, OSError) as error:
        return str(error).splitlines()[0]
    return ""


def one_thread() -> None:
    """Hold to one thread what the environment does not."""
    import cv2

    cv2.setNumThreads(1)


def times(found: Mapping[str, Way], files: Sequence[bytes], rounds: int) -> dict[str, float]:
    """CPU milliseconds an image of each way: all take each image in turn."""
    given = {name: [way.given(data) for data in files] for name, way in found.items()}
    taken = {name: np.zeros((rounds, len(files))) for name in found}
    for way_round in range(-1, rounds):  # one to warm up
        for i in range(len(files)):
            for name, way in found.items():
                began = time.process_time()
                way.run(given[name][i])
                if way_round >= 0:
                    taken[name][way_round, i] = time.process_time() - began
    return {name: float(np.median(seconds, axis=0).mean() * 1e3) for name, seconds in taken.items()}


def psnr(image: Pixels, data: bytes) -> float:
    """Decibels between RGB and the reference of its size."""
    wanted = np.asarray(reference(data, (image.shape[1], image.shape[0])), np.float64)
    return float(10 * np.log10(255**2 / max(1e-9, np.mean((image - wanted) ** 2))))


def quality(way: Way, files: Sequence[bytes]) -> dict[str, float]:
    """PSNR before encoding and as stored, mean and least, and the bytes stored."""
    figures: dict[str, float] = {}
    if way.pixels is not None:
        before = [psnr(way.pixels(data), data) for data in files]
        figures |= {"before": statistics.fmean(before), "least": min(before)}
        jpegs = [jpeg for data in files if (jpeg := way.run(way.given(data))) is not None]
        stored = [
            psnr(np.asarray(Image.open(io.BytesIO(j)).convert("RGB")), d) for j, d in zip(jpegs, files, strict=True)
        ]
        figures |= {"stored": statistics.fmean(stored), "bytes": statistics.fmean(map(len, jpegs))}
    return figures


def hashes(folder: Path) -> dict[str, float]:
    """How far this project's hash is from `imagehash.dhash` of the original, over all photographs."""
    import imagehash

    apart = []
    for path in photographs(folder):
        data = path.read_bytes()
        stored = downsize(data, RECIPE)
        assert isinstance(stored, StoredImage)
        apart.append((int(str(imagehash.dhash(upright(data))), 16) ^ stored.dhash).bit_count())
    distances = np.array(apart)
    return {
        "photographs": len(distances),
        "mean": float(distances.mean()),
        "most": int(distances.max()),
        "equal": float((distances == 0).mean()),
    }


def hash_of_original(data: bytes) -> None:
    """As seed 001."""
    import imagehash

    imagehash.dhash(Image.open(io.BytesIO(data)))


def profile(files: Sequence[bytes], rounds: int) -> dict[str, float]:
    """CPU milliseconds of the parts of this project's way, an image, by timers around them."""
    parts = {
        "header and EXIF": ((pixels, "read_size"), (pixels, "read_header")),
        "planes decoded": ((pixels, "decode_planes"),),
        "Lanczos on three planes": ((pixels, "_shrunk"),),
        "dhash": ((resample, "dhash"),),
        "JPEG encoded": ((pixels, "encode_planes"),),
    }
    spent = dict.fromkeys(parts, 0.0)

    def timed(part: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def run(*arguments: Any) -> Any:
            began = time.process_time()
            try:
                return work(*arguments)
            finally:
                spent[part] += time.process_time() - began

        return run

    found: dict[str, list[float]] = {name: [] for name in (*parts, "Python between them", "all")}
    kept = [(owner, name, getattr(owner, name)) for places in parts.values() for owner, name in places]
    try:
        for part, places in parts.items():
            for owner, name in places:
                setattr(owner, name, timed(part, getattr(owner, name)))
        for _ in range(rounds):
            spent.update(dict.fromkeys(parts, 0.0))
            began = time.process_time()
            for data in files:
                ours(data)
            whole = time.process_time() - began
            rest = whole - sum(spent.values())
            for name, seconds in (spent | {"Python between them": rest, "all": whole}).items():
                found[name].append(seconds * 1e3 / len(files))
    finally:
        for owner, name, value in kept:
            setattr(owner, name, value)
    return {name: statistics.median(values) for name, values in found.items()}


def child(part: str, folder: Path, rounds: int) -> Any:
    """What one process measures."""
    one_thread()
    files = corpora(folder)
    if part == "times":
        hashing = {"imagehash.dhash of the original": Way(_nothing(hash_of_original))}
        return {corpus: times(ways() | hashing, files[corpus], rounds) for corpus in files}
    if part == "profile":
        for corpus in files.values():
            profile(corpus, 1)
        return {corpus: profile(files[corpus], rounds) for corpus in files}
    if part == "quality":
        control = {"control": Way(ours, in_420)}
        return {
            name: {corpus: quality(way, files[corpus]) for corpus in files} for name, way in (ways() | control).items()
        }
    if part == "hashes":
        return hashes(folder)
    way = ways()[part]
    way.run(way.given(picture(0, (500, 400))))  # loads its libraries
    before = forget_peak()
    for data in (*files["A"], *files["B"]):
        way.run(way.given(data))
    return peak_megabytes() - before


def report(folder: Path, rounds: int) -> Iterator[str]:
    """The Markdown, a table at a time."""
    files = corpora(folder)
    sizes = {corpus: statistics.fmean(map(len, of)) / 1e3 for corpus, of in files.items()}
    yield f"{machine()}\n"
    missing = vips_is_missing()
    if missing:
        yield f"pyvips is left out: {missing}\n"

    def measured(part: str) -> Any:
        return in_a_process(MODULE, "--part", part, "--photos", str(folder), "--rounds", str(rounds))

    milliseconds, seen, hashed, parts = (measured(part) for part in ("times", "quality", "hashes", "profile"))
    yield (
        f"A: {len(files['A'])} photographs of about 1600 px, {sizes['A']:.0f} kB; "
        f"B: {len(files['B'])} of GLDv2, {sizes['B']:.0f} kB. CPU time of one thread, {rounds} rounds in turn. "
        "Memory: how far one process that goes this way alone, over all of A and B, rises above its libraries.\n"
    )
    a, b = milliseconds["A"], milliseconds["B"]

    def ratio(slow: str, name: str) -> str:
        return f"{a[slow] / a[name]:.2f} / {b[slow] / b[name]:.2f}"

    def both(figures: Mapping[str, Mapping[str, float]], key: str, form: str) -> str:
        return " / ".join(format(figures[corpus][key], form) for corpus in "AB" if key in figures[corpus])

    rows = []
    for name in ways():
        whole = "before" in seen[name]["A"]
        rows.append(
            (
                name,
                f"{a[name]:.2f}",
                f"{b[name]:.2f}",
                ratio(SEED, name) if whole else "",
                ratio(IMG2DATASET, name) if whole else "",
                both(seen[name], "before", ".1f"),
                both(seen[name], "stored", ".1f"),
                both(seen[name], "bytes", ",.0f"),
                f"{measured(name):.0f}",
            )
        )
    yield markdown(
        (
            "way",
            "A ms",
            "B ms",
            "times as fast as the seed, A / B",
            "as img2dataset",
            "PSNR before encoding, dB",
            "PSNR stored, dB",
            "stored bytes",
            "memory, MB",
        ),
        rows,
    )
    yield (
        "PSNR is that of RGB against Pillow's full decode and LANCZOS at the same size, the mean over images. Of this "
        "project's way chroma is already halved *before encoding*; the reference with its own chroma halved has "
        f"{both(seen['control'], 'before', '.1f')} dB.\n"
    )
    yield markdown(
        ("dhash", "A ms", "B ms", "distance to imagehash.dhash of the original: mean", "most", "equal"),
        (
            (
                "from the stored luma",
                f"{a[DHASH]:.2f}",
                f"{b[DHASH]:.2f}",
                f"{hashed['mean']:.3f}",
                hashed["most"],
                f"{hashed['equal']:.1%} of {hashed['photographs']}",
            ),
            (
                "imagehash.dhash, decoding included",
                *(f"{m['imagehash.dhash of the original']:.2f}" for m in (a, b)),
                0,
                0,
                "",
            ),
        ),
    )
    yield markdown(
        ("where an image's time goes", "A ms", "B ms", "share of B"),
        [
            (name, f"{parts['A'][name]:.2f}", f"{parts['B'][name]:.2f}", f"{parts['B'][name] / parts['B']['all']:.0%}")
            for name in parts["B"]
        ],
    )
    least = min(seen[OURS][corpus]["before"] for corpus in "AB")
    targets = (
        ("A: times as fast as the seed", a[SEED] / a[OURS], 3.5, True),
        ("B: times as fast as the seed", b[SEED] / b[OURS], 2.5, True),
        ("A: times as fast as img2dataset's core", a[IMG2DATASET] / a[OURS], 1.25, True),
        ("B: times as fast as img2dataset's core", b[IMG2DATASET] / b[OURS], 1.25, True),
        ("PSNR before encoding, dB", least, 40, True),
        ("dhash, ms", max(a[DHASH], b[DHASH]), 0.7, False),
        ("dhash, mean distance", hashed["mean"], 0.3, False),
        ("dhash, largest distance", hashed["most"], 3, False),
    )
    yield markdown(
        ("target", "reached", "wanted", "met"),
        (
            (name, f"{reached:.2f}", f"{'≥' if more else '≤'} {wanted}", verdict(reached, wanted, at_least=more))
            for name, reached, wanted, more in targets
        ),
    )


def main() -> None:
    """Print the report, or as JSON what a process of its own measures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder with a folder gldv2 and others beside it")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        print(json.dumps(child(arguments.part, arguments.photos, arguments.rounds)))
        return
    if not (arguments.photos / "gldv2").is_dir():
        sys.exit(f"error: {arguments.photos}: no folder gldv2 there; give --photos FOLDER")
    for text in report(arguments.photos, arguments.rounds):
        print(text, flush=True)


if __name__ == "__main__":
    main()
