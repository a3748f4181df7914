"""Quality of the whole lineage on real photographs, step by step and beside its controls, over several seeds.

Packs the photographs afresh with each seed (another split each time), runs `glr demo` on the bucket and prints
one row a seed, their mean, least and greatest as Markdown tables, and the CPU, on which training depends: run it with
`make bench`, or `python -m glr_assets_tests.benchmarks.quality --photos FOLDER --non-landmarks FOLDER --seeds 1 2 3`.

`--nested` is for choosing values: what would be queries is left out, and the training photographs alone are split
again, so that no value is chosen by the photographs it is judged by.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

SHARED = Path(__file__).resolve().parents[2].parent / "shared" / "photos"
CONTROLS = ("untrained embedder", "pixel neighbours", "dhash neighbours", "RootSIFT vote")
GLR = str(Path(sys.executable).with_name("glr"))


def pack(photos: Path, non_landmarks: Path | None, seed: int, bucket: Path) -> None:
    """Make a bucket of photographs, split by a seed."""
    extra = ["--non-landmarks", str(non_landmarks)] if non_landmarks else []
    subprocess.run(
        [GLR, "pack", str(photos), str(bucket), "--seed", str(seed), *extra], check=True, capture_output=True
    )


def left_to_train(bucket: Path, photos: Path, non_landmarks: Path) -> None:
    """Unpack what a bucket does not ask: its training photographs by landmark, and non-landmarks that never count."""
    rows = _rows(bucket / "metadata" / "train.csv")
    folder_of = {row["id"]: photos / f"landmark {row['landmark_id']}" for row in rows}
    rows = _rows(bucket / "ground_truth" / "recognition_solution_v2.1.csv")
    unasked = {row["id"]: non_landmarks for row in rows if row["Usage"] == "Ignored" and not row["landmarks"]}
    for split, wanted in (("train", folder_of), ("test", unasked)):
        for shard in sorted((bucket / split).glob("*.tar")):
            with tarfile.open(shard) as tar:
                for member in tar:
                    name = Path(member.name)
                    data = tar.extractfile(member) if name.stem in wanted else None
                    if data is not None:
                        wanted[name.stem].mkdir(parents=True, exist_ok=True)
                        (wanted[name.stem] / name.name).write_bytes(data.read())


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def one_seed(
    photos: Path, non_landmarks: Path | None, seed: int, recipe: str, work: Path, nested: bool
) -> dict[str, float]:
    """Scores and seconds of one seed: the seed of the split and of the recipe alike."""
    bucket, store, report = work / f"bucket{seed}", work / f"store{seed}", work / f"report{seed}.json"
    pack(photos, non_landmarks, seed, bucket)
    if nested:
        left, others = work / f"photos{seed}", work / f"others{seed}"
        left_to_train(bucket, left, others)
        bucket = work / f"nested{seed}"
        pack(left, others if others.is_dir() else None, seed, bucket)
    own = work / f"seed{seed}.toml"
    own.write_text(f"base = {json.dumps(recipe)}\nseed = {seed}\n[evaluation]\nvote = true\n")
    began = time.monotonic()
    demo = [GLR, "demo", "--source", str(bucket), "--store", str(store), "--recipe", str(own), "--json", str(report)]
    subprocess.run(demo, check=True, capture_output=True)
    seconds = time.monotonic() - began
    scores = json.loads(report.read_text())
    told = json.loads((store / "reports" / "evaluation.json").read_text())
    row = {"GAP": scores["gap"], "top-1": scores["top1"], "mAP@100": scores["map100"], "ECE": told["confidence"]["ece"]}
    row |= {f"GAP by {step}": of["gap"] for step, of in told["ablation"].items()}
    for control in CONTROLS:
        row |= {f"GAP {control}": scores["controls"][control]["gap"]}
        row |= {f"top-1 {control}": scores["controls"][control]["top1"]}
        if scores["controls"][control]["map100"] is not None:
            row |= {f"mAP@100 {control}": scores["controls"][control]["map100"]}
    return row | {"training s": scores["seconds"]["embedder"], "demo s": seconds}


def cpu() -> str:
    """The CPU's model, as Linux tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def main() -> None:
    """Print the table; exit 1 where a control is not beaten."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, default=SHARED / "landmarks")
    parser.add_argument("--non-landmarks", type=Path, default=SHARED / "non_landmarks")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--recipe", default="small")
    parser.add_argument("--nested", action="store_true", help="split the training photographs alone once more")
    arguments = parser.parse_args()
    if not arguments.photos.is_dir():
        sys.exit(f"error: {arguments.photos}: no such folder; give --photos FOLDER with one folder a landmark")
    with tempfile.TemporaryDirectory(prefix="glr-quality-") as work:
        rows = {}
        for seed in arguments.seeds:
            rows[str(seed)] = one_seed(
                arguments.photos, arguments.non_landmarks, seed, arguments.recipe, Path(work), arguments.nested
            )
            print(f"seed {seed}: {rows[str(seed)]}", file=sys.stderr, flush=True)
    columns = list(next(iter(rows.values())))
    seeds = list(rows.values())
    for name, figure in (("mean", statistics.fmean), ("least", min), ("greatest", max)):
        rows[name] = {column: figure([row[column] for row in seeds]) for column in columns}
    print(f"{cpu()}, {os.cpu_count()} cores\n")
    print("| seed | " + " | ".join(columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for seed, row in rows.items():
        print(
            f"| {seed} | "
            + " | ".join(f"{row[c]:.0f}" if c.endswith(" s") else f"{row[c]:.3f}" for c in columns)
            + " |"
        )
    beaten = all(row["GAP"] > row[f"GAP {control}"] for row in seeds for control in CONTROLS)
    print("\nevery control beaten with every seed" if beaten else "\na control was not beaten")
    sys.exit(not beaten)


if __name__ == "__main__":
    main()
