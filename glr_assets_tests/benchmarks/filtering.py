"""How well photographs that show no landmark are found among those of landmarks, and what that does to the answers.

With each seed the photographs without landmark are parted anew: a third, labelled by what they show, becomes a root of
Open Images' shape, from which the filter learns; a third is planted into the landmarks' own photographs before they
are packed; the last third are queries and gallery. The lineage is then run twice, with the set as it is and with the
filtered one, both with the embedder that is brought in. Prints Markdown tables: run it as
`python -m glr_assets_tests.benchmarks.filtering --embedder FILE --seeds 1 2 3`.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import shutil
import statistics
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import dagster as dg

from glr_assets.defs.lineage import Progress, materialise_lineage
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER
from glr_assets.packing.pack import pack
from glr_assets.seeded import derived_seed
from glr_assets.settings import Settings
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets_tests.benchmarks.measure import PHOTOS, machine, markdown
from glr_assets_tests.openimages.handmade import Root, box

EMBEDDER = PHOTOS.parent / "weights" / "squeezenet1_1_gem.pt"
#: What a photograph shows, by the first letters of its file's name: numbers of WordNet, as ImageNet has them.
CATEGORIES = {"n01": "Animal", "n02": "Animal", "n07": "Food", "n": "Object", "": "Other"}
#: What the answers do not need.
LEFT_OUT = {"training_groups", "group_classifiers", "group_calibration", "train_tfrecords", "train_zip"}
PLANTED = "planted"


@dataclass(frozen=True)
class Found:
    """What became of the planted photographs, and of the others."""

    planted: int
    dropped: int
    planted_dropped: int
    unverified: int
    planted_unverified: int

    @property
    def precision(self) -> float:
        """Share of what was dropped that had been planted."""
        return self.planted_dropped / self.dropped if self.dropped else float("nan")

    @property
    def recall(self) -> float:
        """Share of what had been planted that was dropped."""
        return self.planted_dropped / self.planted


def category_of(name: str) -> str:
    """What a photograph shows, told by its file's name."""
    return next(category for start, category in CATEGORIES.items() if name.startswith(start))


def parted(non_landmarks: Path, seed: int) -> tuple[list[Path], list[Path], list[Path]]:
    """The photographs without landmark: to learn from, to plant, to ask and compare with."""
    files = sorted(
        (p for p in non_landmarks.iterdir() if p.is_file()), key=lambda p: derived_seed("part", seed, p.name)
    )
    third = len(files) // 3
    return files[:third], files[third : 2 * third], files[2 * third :]


def write_root(files: list[Path], folder: Path) -> None:
    """A root of Open Images' shape: each photograph has one box, all of it."""
    names = sorted(set(CATEGORIES.values()))
    root = Root(folder, labels={f"/m/{name.lower()}": name for name in names})
    for file in files:
        image_id = f"{derived_seed('image', file.name):016x}"
        root.add(image_id, file.read_bytes(), box(image_id, f"/m/{category_of(file.name).lower()}", (0, 1, 0, 1)))
    root.write()


def plant(photos: Path, files: list[Path], folder: Path, seed: int) -> None:
    """A copy of the landmarks' folders with some photographs that show none among them."""
    for landmark in sorted(p for p in photos.iterdir() if p.is_dir()):
        (folder / landmark.name).mkdir(parents=True)
        for file in landmark.iterdir():
            (folder / landmark.name / file.name).symlink_to(file.resolve())
    landmarks = sorted(folder.iterdir())
    for file in files:
        landmark = landmarks[derived_seed("plant", seed, file.name) % len(landmarks)]
        (landmark / f"{PLANTED} {file.name}").symlink_to(file.resolve())


def planted_ids(bucket: Path, split: str, planted: list[Path]) -> set[str]:
    """Ids of a split's images that were planted: a JPEG is packed byte for byte."""
    digests = {hashlib.sha256(file.read_bytes()).digest() for file in planted}
    found = set()
    for shard in sorted((bucket / split).glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                data = tar.extractfile(member)
                if data is not None and hashlib.sha256(data.read()).digest() in digests:
                    found.add(Path(member.name).stem)
    return found


def unask(bucket: Path, ids: set[str]) -> None:
    """Let no query be of these ids: that a planted photograph shows its landmark is not to be answered."""
    path = bucket / "ground_truth" / "recognition_solution_v2.1.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(row | {"landmarks": "", "Usage": "Ignored"} if row["id"] in ids else row for row in rows)


def recipe_text(seed: int, manifest: str, embedder: Path, trained: bool) -> str:
    """The recipe: everything brought in, and the filter too unless it is to be trained."""
    categories = json.dumps(sorted(set(CATEGORIES.values())))
    lines = [
        'base = "small"',
        f"seed = {seed}",
        "[openimages]",
        f"categories = {categories}",
        'subsets = ["train"]',
        "parts = 1",
        "[training]",
        f'manifest = "{manifest}"',
        "[retrieval]",
        f'manifest = "{manifest}"',
        "[embedder]",
        f"torchscript = {json.dumps(str(embedder))}",
        "image_size = 384",
        "[filter]",
        "max_false_rate = 0.02",
    ]
    lines += (
        ["image_size = 128", "epochs = 40"]
        if trained
        else [f"torchscript = {json.dumps(str(embedder))}", "image_size = 224"]
    )
    return "\n".join(lines) + "\n"


def run(work: Path, seed: int, manifest: str, embedder: Path, trained: bool, store: Path) -> dict[str, float]:
    """The lineage by one recipe; its scores."""
    recipe = work / f"{manifest}{seed}{'t' if trained else ''}.toml"
    recipe.write_text(recipe_text(seed, manifest, embedder, trained))
    settings = Settings.from_environment(
        source=str(work / "bucket"), store=str(store), openimages=str(work / "openimages"), recipe=str(recipe)
    )
    from glr_assets.defs.build import ASSETS

    wanted = {key.to_user_string() for asset in ASSETS for key in asset.keys} - LEFT_OUT
    with dg.DagsterInstance.ephemeral() as instance:
        materialise_lineage(settings, instance, Progress(lambda step: None, lambda step, seconds, told: None), wanted)
    scores: dict[str, float] = json.loads((store / "reports" / "evaluation.json").read_text())
    return scores


def found_of(store: Path, planted: set[str]) -> Found:
    """What the filter did."""
    rows = read_table(Store(str(store)), NON_LANDMARK_FILTER).to_pylist()
    dropped = {row["id"] for row in rows if row["decision"] == "dropped"}
    unverified = {row["id"] for row in rows if not row["verified"]}
    there = planted & {row["id"] for row in rows}
    return Found(len(there), len(dropped), len(dropped & there), len(unverified), len(unverified & there))


def one_seed(photos: Path, non_landmarks: Path, embedder: Path, seed: int, work: Path) -> dict[str, object]:
    """The filter's figures, brought in and trained, and GAP without it and with it."""
    learn, planted, others = parted(non_landmarks, seed)
    write_root(learn, work / "openimages")
    plant(photos, planted, work / "photos", seed)
    asked = work / "asked"
    asked.mkdir()
    for file in others:
        (asked / file.name).symlink_to(file.resolve())
    pack(work / "photos", Store(str(work / "bucket")), non_landmarks=asked, seed=seed, warn=lambda line: None)
    ids = planted_ids(work / "bucket", "train", planted)
    unask(work / "bucket", planted_ids(work / "bucket", "test", planted))
    store = work / "store"
    before = run(work, seed, "train_manifest", embedder, False, store)
    figures: dict[str, object] = {"filter": found_of(store, ids), "GAP": before["gap"], "top-1": before["top1"]}
    after = run(work, seed, "non_landmark_filter", embedder, False, store)
    figures |= {"GAP filtered": after["gap"], "top-1 filtered": after["top1"]}
    return figures


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, default=PHOTOS / "landmarks")
    parser.add_argument("--non-landmarks", type=Path, default=PHOTOS / "non_landmarks")
    parser.add_argument("--embedder", type=Path, default=EMBEDDER)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    for path in (arguments.photos, arguments.non_landmarks, arguments.embedder):
        if not path.exists():
            sys.exit(f"error: {path}: no such file or folder; give --photos, --non-landmarks and --embedder")
    print(machine() + "\n", flush=True)
    rows: list[list[str]] = []
    gains = []
    for seed in arguments.seeds:
        work = Path(tempfile.mkdtemp(prefix="glr-filtering-"))
        try:
            told = one_seed(arguments.photos, arguments.non_landmarks, arguments.embedder, seed, work)
        finally:
            shutil.rmtree(work, ignore_errors=True)
        found = told["filter"]
        assert isinstance(found, Found)
        gains.append(float(str(told["GAP filtered"])) - float(str(told["GAP"])))
        rows.append(
            [
                str(seed),
                f"{found.planted}",
                f"{found.planted_unverified}",
                f"{found.dropped}",
                f"{found.precision:.2f}",
                f"{found.recall:.2f}",
                f"{told['GAP']:.3f}",
                f"{told['GAP filtered']:.3f}",
            ]
        )
        print(f"seed {seed}: {told}", flush=True)
    header = ("seed", "planted", "of them unverified", "dropped", "precision", "recall", "GAP", "GAP, filtered set")
    print("\n" + markdown(header, rows))
    print(f"\nGAP changes by {statistics.mean(gains):+.3f} on average.")


if __name__ == "__main__":
    main()
