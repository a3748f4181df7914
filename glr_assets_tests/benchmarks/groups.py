"""Calibrated groups against the raw maximum softmax, on real photographs, over several seeds.

Packs the photographs afresh with each seed (another split each time), trains the groups' classifiers twice, with images
of other groups as a class of their own and, as published, without, and calibrates both. The queries are the bucket's
test images, which nothing was trained or calibrated on; those of no landmark that calibrate (Usage Ignored) are left
out. Prints a Markdown table: run it as
`python -m glr_assets_tests.benchmarks.groups --photos FOLDER --non-landmarks FOLDER --seeds 1 2 3`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from glr_assets.evaluation.answers import scores_of_answers
from glr_assets.evaluation.scored import scored_recognition
from glr_assets.images.reader import ImageReader
from glr_assets.packing.pack import pack
from glr_assets.recipes import Recipe, load_recipe
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets.training.group_calibration import make_group_calibration, open_groups
from glr_assets.training.group_classifiers import make_group_classifier
from glr_assets.training.group_map import NO_LANDMARK, expected_calibration_error
from glr_assets.training.groups import group_keys, make_training_groups
from glr_assets_tests.lineage import curate

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "photos"
WAYS = ("raw maximum", "calibrated")
COLUMNS = ("GAP", "GAP, landmarks only", "top-1", "calibration error")


def queries(store: Store) -> tuple[list[str], np.ndarray]:
    """The test images that are scored, and the landmark of each."""
    landmarks = scored_recognition(store, "group_calibration")[0].landmarks
    reader = ImageReader.of_split(store, "test", list(landmarks))
    ids = sorted(query for query in landmarks if query in reader)
    return ids, np.array([min(landmarks[query], default=NO_LANDMARK) for query in ids])


def scored(store: Store, recipe: Recipe) -> dict[str, dict[str, float]]:
    """Train and calibrate the groups of `recipe`, and score both ways of answering."""
    for group in group_keys(recipe.groups):
        made = make_group_classifier(store, group, recipe, lambda line: None)
        print(f"  group {group}: {made.receipt.summary}", file=sys.stderr, flush=True)
    make_group_calibration(store, recipe, scores_of_answers)
    ids, shown = queries(store)
    reader = ImageReader.of_split(store, "test", ids)
    found = {}
    for way, answers in zip(reversed(WAYS), open_groups(store, recipe)(map(reader.read, ids)), strict=True):
        scores = scores_of_answers(ids, answers.landmark_ids, answers.probability, shown)
        error = expected_calibration_error(answers.probability, answers.landmark_ids == shown)
        found[way] = dict(zip(COLUMNS, [*scores.values(), error], strict=True))
    return found


def one_seed(arguments: argparse.Namespace, seed: int, work: Path) -> dict[str, dict[str, float]]:
    """The scores of one split: of each way of training and of answering."""
    bucket, store = Store(str(work / f"bucket{seed}")), Store(str(work / f"store{seed}"))
    pack(arguments.photos, bucket, non_landmarks=arguments.non_landmarks, seed=seed, warn=lambda line: None)
    settings = {"count": arguments.groups, "epochs": arguments.epochs, "image_size": arguments.image_size}
    recipe = load_recipe("small").overridden({"groups": settings}, seed=seed)
    curate(open_source(bucket.url), store, recipe)
    make_training_groups(store, recipe)
    found = {}
    for name, outsiders in (("no outsiders", 0.0), ("outsiders", recipe.groups.outsiders)):
        own = recipe.overridden({"groups": {"outsiders": outsiders}})
        found |= {f"{name}, {way}": scores for way, scores in scored(store, own).items()}
    return found


def main() -> None:
    """Print the table; exit 1 where a seed's calibrated GAP is not above its raw."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, default=SHARED / "landmarks")
    parser.add_argument("--non-landmarks", type=Path, default=SHARED / "non_landmarks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--groups", type=int, default=11)
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--image-size", type=int, default=96)
    arguments = parser.parse_args()
    if not arguments.photos.is_dir():
        sys.exit(f"error: {arguments.photos}: no such folder; give --photos FOLDER with one folder a landmark")
    rows: dict[str, dict[str, dict[str, float]]] = {}
    with tempfile.TemporaryDirectory(prefix="glr-groups-") as work:
        for seed in arguments.seeds:
            began = time.monotonic()
            rows[str(seed)] = one_seed(arguments, seed, Path(work))
            print(f"seed {seed}: {time.monotonic() - began:.0f} s, {rows[str(seed)]}", file=sys.stderr, flush=True)
    names = list(next(iter(rows.values())))
    rows["mean"] = {
        name: {column: statistics.fmean(row[name][column] for row in rows.values()) for column in COLUMNS}
        for name in names
    }
    print("| seed | training, answer | " + " | ".join(COLUMNS) + " |")
    print("|---" * (len(COLUMNS) + 2) + "|")
    for seed, row in rows.items():
        for name in names:
            print(f"| {seed} | {name} | " + " | ".join(f"{row[name][column]:.3f}" for column in COLUMNS) + " |")
    beaten = all(
        row[f"{training}, calibrated"]["GAP"] > row[f"{training}, raw maximum"]["GAP"]
        for row in rows.values()
        for training in ("no outsiders", "outsiders")
    )
    print("\ncalibrated above raw with every seed" if beaten else "\ncalibrated is not above raw with every seed")
    sys.exit(not beaten)


if __name__ == "__main__":
    main()
