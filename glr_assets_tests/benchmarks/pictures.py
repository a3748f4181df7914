"""What long pictures, color profiles and hostile uploads cost: seconds and peak of memory, beside ways without limits.

Each figure is of a process of its own. Prints Markdown: `python -m glr_assets_tests.benchmarks.pictures`.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from typing import Any

import numpy as np
from PIL import Image

from glr_assets.codecs.cost import measure
from glr_assets.images.pixels import StoredImage, downsize
from glr_assets.recipes import Images
from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets_tests.benchmarks.measure import PHOTOS, in_a_process, machine, markdown, peak_megabytes
from glr_assets_tests.codecs.test_cost import HOSTILE
from glr_assets_tests.codecs.test_decode import DISPLAY_P3
from glr_assets_tests.images.handmade import picture

MODULE = "glr_assets_tests.benchmarks.pictures"
LONG = (384, 65_500)
FEATURES = 800
RECIPES = {
    "no limits, as before": Images(max_side=65_500, max_stored_pixels=178_956_970),
    "the recipe's limits": Images(),
}


def long_png() -> bytes:
    """Grey blocks, so that the file is small and has corners."""
    coarse = np.random.default_rng(0).integers(0, 255, (LONG[1] // 100, LONG[0] // 96)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(np.kron(coarse, np.ones((100, 96), np.uint8))).save(file, "PNG")
    return file.getvalue()


def of_long(recipe: str, size: str) -> dict[str, Any]:
    """Storing a picture and extracting its features, as the service and verification do."""
    import cv2

    data = long_png() if size == "long" else picture(1, (512, 384))
    downsize(picture(2, (600, 500)), Images())
    began = time.perf_counter()
    found = downsize(data, RECIPES[recipe])
    stored_at = time.perf_counter()
    assert isinstance(found, StoredImage)
    pixels = cv2.imdecode(np.frombuffer(found.jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    RootSift(FEATURES).extract([np.asarray(pixels)])
    return {
        "size": "x".join(map(str, found.size)),
        "store": stored_at - began,
        "features": time.perf_counter() - stored_at,
        "peak": peak_megabytes(),
    }


def of_profiles() -> dict[str, float]:
    """CPU milliseconds of photographs without a profile, and of the same with Display P3's."""
    block = b"ICC_PROFILE\0\x01\x01" + DISPLAY_P3
    segment = b"\xff\xe2" + (len(block) + 2).to_bytes(2, "big") + block
    plain = [path.read_bytes() for path in sorted((PHOTOS / "gldv2").glob("*.jpg"))]
    plain = plain or [picture(n, (800, 600)) for n in range(20)]
    ways = {"no profile": plain, "Display P3": [data[:2] + segment + data[2:] for data in plain]}
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(4):
        for way, files in ways.items():
            began = time.process_time()
            for data in files:
                downsize(data, Images())
            best[way] = min(best[way], (time.process_time() - began) / len(files) * 1e3)
    return best


def of_hostile() -> list[tuple[str, float, float]]:
    """File by file: megabytes, and milliseconds until its structure has it refused."""
    rows = []
    for kind, (make, _) in HOSTILE.items():
        data = make()
        began = time.perf_counter()
        measure(data)
        rows.append((kind, len(data) / 2**20, (time.perf_counter() - began) * 1e3))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--part", choices=["long", "profiles"])
    parser.add_argument("--recipe", choices=list(RECIPES))
    parser.add_argument("--size", choices=["long", "ordinary"])
    options = parser.parse_args()
    if options.part == "long":
        print(json.dumps(of_long(options.recipe, options.size)))
        return
    if options.part == "profiles":
        print(json.dumps(of_profiles()))
        return
    print(machine(), "\n", sep="")
    before, limited = RECIPES
    rows = []
    for size, recipe in (("long", before), ("long", limited), ("ordinary", limited)):
        told = in_a_process(MODULE, "--part", "long", "--recipe", recipe, "--size", size)
        name = f"{LONG[0]}x{LONG[1]} PNG" if size == "long" else "512x384 JPEG"
        figures = f"{told['store']:.2f}", f"{told['features']:.2f}", f"{told['peak']:.0f}"
        rows.append((f"{name}, {recipe}", told["size"], *figures))
    columns = ["picture", "stored as", "to store, s", f"{FEATURES} RootSIFT features, s", "peak of memory, MB"]
    print(markdown(columns, rows), "\n")
    profiles = [(way, f"{value:.2f}") for way, value in in_a_process(MODULE, "--part", "profiles").items()]
    print(markdown(["photographs of GLDv2", "CPU ms an image"], profiles), "\n")
    hostile = [(kind, f"{size:.1f}", f"{spent:.1f}") for kind, size, spent in of_hostile()]
    print(markdown(["hostile file", "MiB", "refused after, ms"], hostile))


if __name__ == "__main__":
    main()
