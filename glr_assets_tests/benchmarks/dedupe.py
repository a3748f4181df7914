"""Near-duplicates and diverse subsets: speed beside the earlier system, full size, precision and recall on photographs.

- The images of one class (n = 1000): all pairs and the selection as the earlier system does them (001: imagehash
  objects, a dict of pairs, sorted), `np.bitwise_count` of all pairs, imagededup and faiss' binary range search.
- Every near-duplicate among 5,000 hashes: imagededup, faiss and ours, which must find the same pairs.
- All classes of GLDv2 at its published sizes, with the hashes of `full_store`, through the functions of the assets:
  each step in a process of its own, from Parquet to Parquet, without galleries.
- Precision and recall by distance on the photographs beside the checkout, and the least distance of each method's set.

Prints Markdown with the targets: `python -m glr_assets_tests.benchmarks.dedupe`, or with `--scale 0.01` a hundredth.
imagededup is measured where it is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.dedupe import competition_images, dedupe, extreme_pairs
from glr_assets.curation.diversity import chosen, extreme_rows, farthest_pairs
from glr_assets.curation.fates import asked, fates, stored_images
from glr_assets.curation.fill import fill, shortfall
from glr_assets.curation.leaks import OTHERS, label_conflicts, train_leaks
from glr_assets.curation.near_duplicates import leaders, near_others
from glr_assets.curation.schemas import (
    DEDUPED_MANIFEST,
    FILL_SHORTFALL,
    LABEL_CONFLICTS,
    TRAIN_EXTRA,
    TRAIN_TEST_LEAKS,
    decision_counts,
)
from glr_assets.images.pixels import Refused, downsize
from glr_assets.planning.schemas import CLASS_COUNTS, FILL_PLAN
from glr_assets.recipes import Dedupe, Images
from glr_assets.store import Store
from glr_assets.tables import read_table, write_table
from glr_assets_tests.benchmarks import imagededup_search
from glr_assets_tests.benchmarks.full_size import GLDV2
from glr_assets_tests.benchmarks.full_store import FILL, Hashes, smooth_hashes, with_near_duplicates, write_store
from glr_assets_tests.benchmarks.measure import (
    PHOTOS,
    cpu_seconds,
    in_a_process,
    machine,
    markdown,
    peak_megabytes,
    verdict,
)

MODULE = "glr_assets_tests.benchmarks.dedupe"
DEDUPE = Dedupe()
CLASS_SIZE = 1000
COMPARED = 5000
TIMES_THE_SEED, SECONDS_OF_DEDUPE = 500, 60
MAX_DISTANCE = 12
Pairs = npt.NDArray[np.int64]
#: Photographs of the folder `near_duplicates` by what they were made from; all others are their own.
ORIGINALS = (
    (r"near_duplicates/skyscraper_aug/.*/(IMG_\d+)", "{}"),
    (r"landmarks/[a-z_]*/(IMG_\d+)\.jpg", "{}"),
    (r"(ukbench\d+)", "{}"),
    (r"alpha_channel_image", "ukbench00120"),
)
#: Pairs that turned up among the other photographs and are the same photograph to the eye.
SEEN_TO_BE_THE_SAME = (
    ("landmarks/chichen_itza/0f9711dc5b.jpg", "landmarks/chichen_itza/6fa24f8dc9.jpg"),
    ("landmarks/christ_the_reedemer/3b93d7cbed.jpg", "landmarks/christ_the_reedemer/6817e8faae.jpg"),
    ("landmarks/statue_of_liberty/45edf2da4a.jpg", "landmarks/statue_of_liberty/9bd5d54851.jpg"),
)


def run_dedupe(store: Store) -> dict[str, float]:
    """`deduped_manifest` with the pairs of its gallery."""
    images = competition_images(store)
    deduped = dedupe(images, DEDUPE, 0)
    with store.writing(DEDUPED_MANIFEST.path) as file:
        write_table(DEDUPED_MANIFEST, deduped.manifest, file)
    extreme_pairs(images.filter(pc.equal(images["status"], "stored")), 6)
    return {"rows": images.num_rows, "found": deduped.counts["near_duplicates"], **decision_counts(deduped.manifest)}


def run_conflicts(store: Store) -> dict[str, float]:
    """`label_conflicts`."""
    images = stored_images(store, "train", ("landmark_id", "source_xxh3", "dhash"))
    found = label_conflicts(images, DEDUPE.near_duplicate_bits)
    with store.writing(LABEL_CONFLICTS.path) as file:
        write_table(LABEL_CONFLICTS, found, file)
    return {"rows": images.num_rows, "found": found.num_rows}


def run_leaks(store: Store) -> dict[str, float]:
    """`train_test_leaks`."""
    train = stored_images(store, "train", ("landmark_id", "source_xxh3", "dhash"))
    rows = train.num_rows
    parts = []
    for split in OTHERS:
        others = stored_images(store, split, ("source_xxh3", "dhash"))
        rows += others.num_rows
        parts.append(train_leaks(train, others, split, DEDUPE.near_duplicate_bits))
    found = pa.concat_tables(parts)
    with store.writing(TRAIN_TEST_LEAKS.path) as file:
        write_table(TRAIN_TEST_LEAKS, found, file)
    return {"rows": rows, "found": found.num_rows}


def run_fill(store: Store) -> dict[str, float]:
    """`train_extra` and `fill_shortfall`."""
    found = fates(store, "train")
    deduped = read_table(store, DEDUPED_MANIFEST, ["id", "landmark_id", "decision"])
    kept = deduped.filter(pc.equal(deduped["decision"], "kept")).drop_columns(["decision"])
    plan = asked(read_table(store, FILL_PLAN), found)
    extra = fill(plan, asked(kept, found), FILL.threshold, DEDUPE.near_duplicate_bits)
    short = shortfall(deduped, extra, read_table(store, CLASS_COUNTS), FILL.threshold)
    for table, data in ((TRAIN_EXTRA, extra), (FILL_SHORTFALL, short)):
        with store.writing(table.path) as file:
            write_table(table, data, file)
    return {"rows": extra.num_rows, "found": short.num_rows, **decision_counts(extra)}


STEPS: dict[str, tuple[Callable[[Store], dict[str, float]], str]] = {
    "deduped_manifest": (run_dedupe, "near-duplicates dropped"),
    "label_conflicts": (run_conflicts, "pairs told"),
    "train_test_leaks": (run_leaks, "pairs told"),
    "train_extra, fill_shortfall": (run_fill, "classes short"),
}


def measured(step: str, store: Store) -> dict[str, float]:
    """Run one step in this process: wall and CPU seconds, compiling included, and the peak of memory."""
    wall, cpu = time.perf_counter(), time.process_time()
    figures = STEPS[step][0](store)
    return figures | {
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "peak": peak_megabytes(),
    }


def seed_pairs(hashes: Hashes) -> list[tuple[str, int]]:
    """The earlier system's list of all pairs of a class, sorted."""
    import imagehash

    names = [f"{number:016x}" for number in range(len(hashes))]
    objects = [imagehash.hex_to_hash(f"{value:016x}") for value in hashes.tolist()]
    pairs = {}
    for i in range(len(objects)):
        for j in range(i + 1, len(objects)):
            pairs[f"{names[i]}_{names[j]}"] = objects[i] - objects[j]
    return sorted(pairs.items(), key=lambda item: item[1])


def seed_selection(pairs: list[tuple[str, int]], keep: int) -> set[str]:
    """The earlier system's selection from that list."""
    names: set[str] = set()
    for index in range(len(pairs)):
        names.update(pairs[-index][0].split("_"))
        if len(names) >= keep:
            break
    return names


def class_ways(hashes: Hashes) -> dict[str, Callable[[], object]]:
    """Ways to compare and select the images of one class, by name; the seed's first."""
    starts, draw = np.array([0, len(hashes)]), np.arange(len(hashes))
    return {
        "seed: all pairs and selection": lambda: seed_selection(seed_pairs(hashes), DEDUPE.keep),
        **pair_ways(hashes, DEDUPE.near_duplicate_bits),
        "np.bitwise_count: all pairs": lambda: np.bitwise_count(hashes[:, None] ^ hashes[None, :]),
        "ours: near-duplicates collapsed": lambda: leaders(hashes, starts, DEDUPE.near_duplicate_bits),
        "ours: closest and farthest pair": lambda: extreme_rows(hashes, starts),
        "ours: the earlier method": lambda: farthest_pairs(hashes, starts, DEDUPE.keep),
        "ours: max-min of 25": lambda: chosen("max_min", hashes, starts, draw, DEDUPE.keep),
    }


def pair_ways(hashes: Hashes, bits: int) -> dict[str, Callable[[], Pairs]]:
    """Ways to find every pair of hashes at most `bits` apart, by name: each gives the pairs, the lower row first."""
    import faiss

    def by_faiss() -> Pairs:
        codes = np.ascontiguousarray(hashes).view(np.uint8).reshape(-1, 8)
        index = faiss.IndexBinaryFlat(64)
        index.add(codes)
        limits, _, other = index.range_search(codes, bits + 1)
        return in_order(np.repeat(np.arange(len(hashes)), np.diff(limits.astype(np.int64))), other)

    def ours() -> Pairs:
        found = near_others(hashes, np.arange(len(hashes)), bits)
        return in_order(found.row, found.other)

    def by_imagededup(method: str) -> Callable[[], Pairs]:
        return lambda: in_order(*imagededup_search.near_duplicates(hashes, bits, method))

    theirs = imagededup_search.METHODS if imagededup_search.installed() else {}
    return {
        **{f"imagededup: find_duplicates, {name}": by_imagededup(method) for name, method in theirs.items()},
        "faiss: binary range search": by_faiss,
        "ours: every near-duplicate": ours,
    }


def in_order(row: npt.NDArray[np.integer], other: npt.NDArray[np.integer]) -> Pairs:
    """Each pair that either row names, once and in order: int64 [pairs, 2]."""
    return np.unique(np.stack([row, other], axis=1)[row < other].astype(np.int64), axis=0)


def times_of(ways: Mapping[str, Callable[[], object]], slow: Callable[[str], bool]) -> dict[str, float]:
    """Median CPU milliseconds of each way, its processes' included: of 30 times, of three where it is slow."""
    found = {}
    for name, way in ways.items():
        if not slow(name):
            way()  # compiled
        times = []
        for _ in range(3 if slow(name) else 30):
            began = cpu_seconds()
            way()
            times.append(1e3 * (cpu_seconds() - began))
        found[name] = median(times)
    return found


def one_class() -> dict[str, float]:
    """Median CPU milliseconds of each way at n = 1000."""
    return times_of(class_ways(smooth_hashes(CLASS_SIZE, 7)), lambda name: name.startswith(("seed", "imagededup")))


def all_pairs() -> dict[str, float]:
    """Median CPU milliseconds of each way of finding the pairs of `COMPARED` hashes, and how many all of them find.

    Raises:
        ValueError: two ways find different pairs.
    """
    hashes = with_near_duplicates(smooth_hashes(COMPARED, 8), np.random.default_rng(9))
    ways = pair_ways(hashes, DEDUPE.near_duplicate_bits)
    pairs = {name: way() for name, way in ways.items()}
    name, first = next(iter(pairs.items()))
    for other, found in pairs.items():
        if not np.array_equal(found, first):
            raise ValueError(f"{other} finds {len(found)} pairs, {name} {len(first)}, or others of them")
    return times_of(ways, lambda way: way.startswith("imagededup")) | {"pairs": len(first)}


def original_of(path: str) -> str:
    """What a photograph was made from, by its name."""
    for pattern, name in ORIGINALS:
        match = re.search(pattern, path)
        if match:
            return name.format(*match.groups())
    for pair in SEEN_TO_BE_THE_SAME:
        if path in pair:
            return pair[0]
    return path


def photograph_hashes(
    folder: Path, parts: Sequence[str] = ("near_duplicates", "landmarks", "non_landmarks", "gldv2")
) -> dict[str, int]:
    """The dhash that ingest would store of each photograph in these folders of `folder`, by path."""
    found = {}
    for part in parts:
        for path in sorted(file for file in (folder / part).rglob("*") if file.is_file()):
            stored = downsize(path.read_bytes(), Images())
            if not isinstance(stored, Refused):
                found[path.relative_to(folder).as_posix()] = stored.dhash
    return found


def precision_and_recall(hashes: Mapping[str, int]) -> list[dict[str, float]]:
    """By distance: pairs within it, how many of them are of one photograph, and shares.

    Pairs are of one photograph by `original_of`; mirrored and turned ones count, and no difference hash finds them:
    `upright` is the recall without them.
    """
    names = list(hashes)
    values = np.array(list(hashes.values()), np.uint64)
    originals = np.array([original_of(name) for name in names])
    turned = np.array([bool(re.search("hflip|rotation", name)) for name in names])
    first, second = np.triu_indices(len(names), 1)
    bits = np.bitwise_count(values[first] ^ values[second])
    same = originals[first] == originals[second]
    upright = same & (turned[first] == turned[second])
    rows = []
    for distance in range(MAX_DISTANCE + 1):
        near = bits <= distance
        found = int((near & same).sum())
        rows.append(
            {
                "distance": distance,
                "pairs": int(near.sum()),
                "true": found,
                "precision": found / max(int(near.sum()), 1),
                "recall": found / int(same.sum()),
                "upright": int((near & upright).sum()) / int(upright.sum()),
                "false per million": 1e6 * int((near & ~same).sum()) / int((~same).sum()),
            }
        )
    return rows


def least_distances(hashes: Mapping[str, int], keep: int) -> dict[str, list[int]]:
    """Of each landmark's photographs the least distance of the set that each method keeps."""
    classes: dict[str, list[int]] = {}
    for name, value in hashes.items():
        if name.startswith("landmarks/"):
            classes.setdefault(name.split("/")[1], []).append(value)
    found: dict[str, list[int]] = {}
    for values in classes.values():
        if len(values) <= keep:
            continue
        mine, starts = np.array(values, np.uint64), np.array([0, len(values)])
        draw = np.random.default_rng(0).permutation(len(values))
        sets = {name: chosen(name, mine, starts, draw, keep) for name in ("max_min", "farthest_pairs", "random")}  # type: ignore[arg-type]
        sets["farthest_pairs, without its first pair"] = farthest_pairs(mine, starts, keep, closest_first=False)
        for name, marked in sets.items():
            found.setdefault(name, []).append(
                min(int(np.bitwise_count(a ^ b)) for a, b in combinations(mine[marked], 2))
            )
    return found


def print_class(found: Mapping[str, float]) -> None:
    """The table of one class."""
    seed = next(iter(found.values()))
    print(f"## One class of {CLASS_SIZE} images\n")
    print(
        markdown(
            ("way", "CPU ms", "times the seed"), [(n, f"{ms:,.2f}", f"{seed / ms:,.0f}") for n, ms in found.items()]
        )
    )
    ours = found["ours: near-duplicates collapsed"] + found["ours: max-min of 25"]
    ratio = seed / ours
    print(
        f"Target: at least {TIMES_THE_SEED} times the seed, near-duplicates and selection together: "
        f"{ratio:,.0f}, {verdict(ratio, TIMES_THE_SEED, at_least=True)}\n"
    )


def print_pairs(found: Mapping[str, float]) -> None:
    """The table of ways to find all pairs."""
    ways = {name: ms for name, ms in found.items() if name != "pairs"}
    ours = ways["ours: every near-duplicate"]
    print(f"## Near-duplicates among {COMPARED} images: each way finds the same {found['pairs']:,.0f} pairs\n")
    rows = [(name, f"{ms:,.2f}", f"{ms / ours:,.1f}") for name, ms in ways.items()]
    print(markdown(("way", "CPU ms", "times ours"), rows))
    if not imagededup_search.installed():
        print("imagededup is not installed.\n")


def print_full_size(work: Path, scale: float) -> None:
    """The table of all classes, a step after the other."""
    store = Store(str(work))
    write_store(store, GLDV2.scaled(scale))
    rows, dedupe_seconds = [], 0.0
    for step, (_, word) in STEPS.items():
        found = in_a_process(MODULE, "--step", step, "--work", str(work))
        told = f"{found['found']:,.0f} {word}"
        rows.append(
            (
                step,
                f"{found['rows']:,.0f}",
                f"{found['wall']:.1f}",
                f"{found['cpu']:.1f}",
                f"{found['peak']:,.0f}",
                told,
            )
        )
        dedupe_seconds = dedupe_seconds or found["cpu"]
    print(f"## All classes of GLDv2 (scale {scale:g}), one thread\n")
    print(markdown(("step", "images", "wall s", "CPU s", "peak MB", "found"), rows))
    met = verdict(dedupe_seconds, SECONDS_OF_DEDUPE, at_least=False)
    print(f"Target: dedupe of all classes within {SECONDS_OF_DEDUPE} s of one core: {dedupe_seconds:.1f} s, {met}\n")


def print_photographs(folder: Path) -> None:
    """Precision and recall by distance, and the least distances of the methods."""
    hashes = photograph_hashes(folder)
    print(f"## Near-duplicates among {len(hashes)} photographs\n")
    columns = ("distance", "pairs", "true", "precision", "recall", "upright", "false per million")
    formats = ("{:.0f}", "{:.0f}", "{:.0f}", "{:.3f}", "{:.3f}", "{:.3f}", "{:.1f}")
    rows = [
        [form.format(row[name]) for name, form in zip(columns, formats, strict=True)]
        for row in precision_and_recall(hashes)
    ]
    print(markdown(columns, rows))
    for keep in (5, 10):
        found = least_distances(hashes, keep)
        mine = np.array(found["max_min"])
        rows = [
            [name, f"{np.mean(values):.1f}", str(min(values)), f"{np.mean(mine >= np.array(values)):.0%}"]
            for name, values in found.items()
        ]
        print(f"Least distance of {keep} photographs chosen of each of {len(mine)} landmarks:\n")
        print(markdown(("method", "mean bits", "least bits", "max_min is not under it"), rows))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", type=float, default=1.0, help="part of GLDv2's size")
    parser.add_argument("--photos", type=Path, default=PHOTOS, help="folder of the photographs")
    parser.add_argument("--work", type=Path, help="folder to work in; by default one that is removed afterwards")
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--hashes", choices=("class", "pairs"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(measured(arguments.step, Store(str(arguments.work)))))
        return
    if arguments.hashes:
        print(json.dumps({"class": one_class, "pairs": all_pairs}[arguments.hashes]()))
        return
    print(machine() + "\n")
    print_class(in_a_process(MODULE, "--hashes", "class"))
    print_pairs(in_a_process(MODULE, "--hashes", "pairs"))
    with tempfile.TemporaryDirectory(prefix="glr-dedupe-", dir=arguments.work) as work:
        print_full_size(Path(work), arguments.scale)
    if arguments.photos.is_dir():
        print_photographs(arguments.photos)
    else:
        print(f"No photographs: {arguments.photos} is not there.")


if __name__ == "__main__":
    main()
