"""How many foreign images cleaning lets stay: measured on photographs, and how far its bound and its check hold.

- Every pair of the photographs beside the checkout is compared once. Thresholds are chosen by pairs of a half of each
  landmark's photographs; the other photographs, and those of no landmark, are then planted as foreign images in classes
  of 25, 100 and 400 of landmarks other than theirs. Their chance to stay is exact over all such classes of the images
  at hand; ten halves, with an interval over landmarks drawn with replacement. Beside it the earlier way: the share of
  pairs, whatever the class.
- How many photographs are verified by others of their landmark at each rate.
- Verifiers whose rates are known: how often the bound holds, beside that of independent pairs; and 300 arbitrary ones,
  of which those that let too many stay are to be reported.

Prints Markdown: `python -m glr_assets_tests.benchmarks.false_images`, or `--part planted|verifiers`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
from threadpoolctl import threadpool_limits

from glr_assets.recipes import Verification
from glr_assets.verification.calibration import (
    ClassThresholds,
    Thresholds,
    calibrated,
    image_rate_of,
    judged,
    overlapping,
)
from glr_assets.verification.checks import too_often_wrong
from glr_assets.verification.evidence import Judge
from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets.verification.matching import Matcher
from glr_assets.verification.schemas import DIFFERENT_PAIRS
from glr_assets.verification.tail import TELLING
from glr_assets_tests.benchmarks.measure import PHOTOS, machine, markdown
from glr_assets_tests.benchmarks.verification import photographs
from glr_assets_tests.verification.test_tail import coverage
from glr_assets_tests.verification.worlds import Verifier, as_table, foreign_pairs

RECIPE = Verification()
PARTS = ("planted", "verifiers")
HALVES = 10
WORLDS = 100
VERIFIERS = 300
PAIRS = 20_000
CLASSES = (25, 100, 400)
RATES = (0.05, 0.01, 0.001)
#: The earlier way's ranges of putative matches.
EARLIER_RANGES = 4


@dataclass(frozen=True)
class Compared:
    """All pairs of some images.

    Attributes:
        landmark: [n] of each image; those of no landmark have one each, from `strangers` on.
        strangers: the first of these.
        putative: [n, n].
        inliers: [n, n], 0 of refused pairs.
        refused: [n, n].
    """

    landmark: np.ndarray
    strangers: int
    putative: np.ndarray
    inliers: np.ndarray
    refused: np.ndarray

    @classmethod
    def of(cls, folder: Path) -> Compared:
        """The photographs of a folder, by the recipe's default."""
        extractor = RootSift(RECIPE.max_features)
        judge = Judge(Matcher(RootSift.min_cosine, RECIPE.residual, True), RECIPE.min_inliers, True)
        landmarks, others = (
            photographs(folder / "landmarks", extractor),
            photographs(folder / "non_landmarks", extractor),
        )
        names = sorted({photo.group for photo in landmarks})
        numbers = [names.index(photo.group) for photo in landmarks]
        prepared = [photo.prepared() for photo in [*landmarks, *others]]
        count = len(prepared)
        putative, inliers = np.zeros((2, count, count), np.int64)
        refused = np.zeros((count, count), bool)
        for one in range(count):
            for other in range(one + 1, count):
                found = judge(prepared[one], prepared[other])
                for place in ((one, other), (other, one)):
                    putative[place], inliers[place] = found.putative, 0 if found.refusal else found.inliers
                    refused[place] = bool(found.refusal)
        landmark = np.array([*numbers, *(len(names) + number for number in range(len(others)))])
        return cls(landmark, len(names), putative, inliers, refused)

    @property
    def shows_landmark(self) -> np.ndarray:
        """Which images do."""
        return self.landmark < self.strangers

    def pairs_among(self, images: np.ndarray, most: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of different landmarks, [m, 2] images, and their table."""
        one, other = np.triu_indices(len(self.landmark), 1)
        may = np.flatnonzero(images[one] & images[other] & (self.landmark[one] != self.landmark[other]))
        drawn = may if len(may) <= most else np.sort(random.choice(may, most, replace=False))
        one, other = one[drawn], other[drawn]
        landmarks = np.stack([self.landmark[one], self.landmark[other]], axis=1)
        putative, inliers, refused = (of[one, other] for of in (self.putative, self.inliers, self.refused))
        table = as_table(inliers, landmarks, putative)
        traps = pa.array(["a trap" if of else "" for of in refused])
        overlap = pa.array(overlapping(landmarks, putative, inliers, refused))
        for name, column in (("refusal", traps), ("overlap", overlap)):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, DIFFERENT_PAIRS.schema.field(name), column)
        return np.stack([one, other], axis=1), table

    def staying(self, foreign: np.ndarray, pool: np.ndarray, size: int, wanted: Thresholds) -> np.ndarray:
        """How likely each foreign image stays in a class of `size`: one of size - 1 of the pool accepts it."""
        found = np.zeros(len(foreign))
        for place, image in enumerate(foreign.tolist()):
            others = np.flatnonzero(pool & (self.landmark != self.landmark[image]))
            hits = int((self.inliers[image, others] >= wanted.of_all(self.putative[image, others])).sum())
            left = len(others) - np.arange(min(size - 1, len(others)))
            with np.errstate(divide="ignore"):
                found[place] = 1 - np.exp(np.log(np.maximum(left - hits, 0) / left).sum()) if hits else 0.0
        return found


def earlier(table: pa.Table, rate: float) -> Thresholds:
    """The least that accepts a share of pairs, by range of putative matches, and no less than in the range before."""
    putative, inliers = table["putative"].to_numpy(), table["inliers"].to_numpy()
    inner = np.quantile(putative, np.arange(1, EARLIER_RANGES) / EARLIER_RANGES, method="higher").astype(np.int64)
    number, wanted, least = np.searchsorted(inner, putative, side="right"), [], RECIPE.min_inliers
    for part in range(EARLIER_RANGES):
        falling = np.sort(inliers[number == part])[::-1]
        least = max(least, int(falling[int(rate * len(falling))]) + 1)
        wanted.append(least)
    return Thresholds(np.array([0, *inner]), np.array(wanted))


def print_planted(compared: Compared) -> None:
    """The table of planted foreign images, and that of photographs verified."""
    found: dict[tuple[float, int, str], list[tuple[np.ndarray, np.ndarray]]] = {}
    wanted: dict[tuple[float, int, str], list[int]] = {}
    for seed in range(HALVES):
        random = np.random.default_rng(seed)
        first = (random.random(len(compared.landmark)) < 0.5) & compared.shows_landmark
        _, table = compared.pairs_among(first, PAIRS, random)
        foreign = np.flatnonzero(~first)
        for rate in RATES:
            new = ClassThresholds.of(calibrated(table, RECIPE.model_copy(update={"max_false_rate": rate})))
            before = earlier(table, rate)
            for size in CLASSES:
                # The second half has too few photographs for the largest class.
                pool = compared.shows_landmark & (~first | (size > CLASSES[1]))
                ways: dict[str, Thresholds] = {"pairs, as before": before, "images": new.for_class(size)}
                for name, thresholds in ways.items():
                    stays = compared.staying(foreign, pool, size, thresholds)
                    found.setdefault((rate, size, name), []).append((compared.landmark[foreign], stays))
                    wanted.setdefault((rate, size, name), []).extend(thresholds.inliers.tolist())
    rows = []
    for (rate, size, name), parts in found.items():
        landmarks, stays = (np.concatenate(column) for column in zip(*parts, strict=True))
        low, high = interval(landmarks, stays)
        of = np.array(wanted[rate, size, name])
        told = f"{of.min()}–{of.max()}, median {np.median(of):.0f}"
        rows.append((f"{rate:.1%} of {name}", size, told, f"{stays.mean():.4f}", f"{low:.4f} to {high:.4f}"))
    print("## Planted foreign images\n")
    print(markdown(("allowed", "class", "inliers wanted", "stay", "95 %"), rows))
    _, table = compared.pairs_among(compared.shows_landmark, PAIRS, np.random.default_rng(0))
    rows = []
    for rate in RATES:
        recipe = RECIPE.model_copy(update={"max_false_rate": rate})
        new, before = ClassThresholds.of(calibrated(table, recipe)), earlier(table, rate)
        (*_, largest) = judged(table, recipe).to_pylist()
        rows.append(
            (
                f"{rate:.1%}",
                verified(compared, lambda _, before=before: before),  # type: ignore[misc]
                verified(compared, new.for_class),
                f"{largest['image_rate']:.4f}, at least {largest['image_rate_least']:.4f}",
            )
        )
    print("## Photographs verified, of 442\n")
    print(markdown(("allowed", "of pairs, as before", "of images", f"judged in a class of {RECIPE.cap}"), rows))


def interval(landmarks: np.ndarray, values: np.ndarray, draws: int = 2000) -> tuple[float, float]:
    """95 % of the mean of values, over landmarks drawn with replacement."""
    _, number = np.unique(landmarks, return_inverse=True)
    sums, counts = np.bincount(number, values), np.bincount(number)
    random = np.random.default_rng(0)
    times = random.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), draws)
    low, high = np.quantile((times @ sums) / (times @ counts), [0.025, 0.975])
    return float(low), float(high)


def verified(compared: Compared, thresholds: Callable[[int], Thresholds]) -> int:
    """Photographs that another of their landmark verifies."""
    kept = 0
    for landmark in range(compared.strangers):
        images = np.flatnonzero(compared.landmark == landmark)
        inliers, putative = (of[np.ix_(images, images)] for of in (compared.inliers, compared.putative))
        wanted = thresholds(len(images)).of_all(putative.reshape(-1)).reshape(putative.shape)
        kept += int((inliers >= wanted).any(axis=1).sum())
    return kept


def print_verifiers() -> None:
    """The tables of the bound and of arbitrary verifiers."""
    rows = []
    for landmarks, each, pairs in ((25, 18, 20_000), (60, 10, 20_000), (600, 1, 20_000), (40, 5, 4000)):
        for images, of_landmarks in ((0.0, 0.0), (1.0, 0.5), (0.5, 1.0)):
            verifier = Verifier(0.01, 1.6, 0.1, images, of_landmarks)
            held, before = coverage(verifier, landmarks, each, pairs, WORLDS)
            rows.append((landmarks, each, f"{pairs:,}", images, of_landmarks, f"{held:.2f}", f"{before:.2f}"))
    print(f"## The bound of 95 %: how often it holds in {WORLDS} worlds\n")
    head = ("landmarks", "images of each", "pairs", "spread of images", "of landmarks", "here", "independent pairs")
    print(markdown(head, rows), flush=True)
    random = np.random.default_rng(0)
    calibrating, not_calibrating = (Verification(calibrate=of, cap=100, keep=100) for of in (True, False))
    names = ("thresholds of .1 % of pairs, checked as before", "11 inliers", "calibrated")
    outcomes: dict[str, list[tuple[float, bool]]] = {name: [] for name in names}
    for seed in range(VERIFIERS):
        verifier = Verifier.arbitrary(random)
        inliers, landmarks = foreign_pairs(verifier, 30, 6, 4000, np.random.default_rng(seed))
        table = as_table(inliers, landmarks, seed=seed)
        before = max(RECIPE.min_inliers, int(np.sort(inliers)[::-1][4]) + 1)
        here = ClassThresholds.of(calibrated(table, calibrating)).for_class(100)(600)
        accepted_before = int(np.count_nonzero(inliers >= before))
        reported = (
            accepted_before > 0.001 * len(inliers),
            *(
                bool(too_often_wrong(judged(table, recipe), RECIPE.max_false_rate, TELLING))
                for recipe in (not_calibrating, calibrating)
            ),
        )
        for name, threshold, of in zip(names, (before, RECIPE.min_inliers, here), reported, strict=True):
            outcomes[name].append((staying(verifier, threshold), of))
    rows = []
    for low, high in pairwise((0, 0.005, 0.01, 0.02, 0.05, 0.2, 1.1)):
        cells = []
        for name in names:
            reported_of = [of for rate, of in outcomes[name] if low <= rate < high]
            cells.append(f"{sum(reported_of)} of {len(reported_of)}")
        rows.append((f"{low:.1%} to {min(high, 1):.1%}", *cells))
    print(f"## {VERIFIERS} arbitrary verifiers, at most {RECIPE.max_false_rate:.1%} allowed: how many are reported\n")
    print(markdown(("foreign images that stay in a class of 100", *names), rows))


def staying(verifier: Verifier, threshold: int) -> float:
    """The share of foreign images that stay in a class of 100."""
    return float(image_rate_of(float(verifier.rates(np.array([threshold]), 100_000)[0]), 100))


def main() -> None:
    """Print the parts that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, action="append")
    parser.add_argument("--photos", type=Path, default=PHOTOS)
    chosen = parser.parse_args()
    print(f"{machine()}\n")
    with threadpool_limits(1):
        if "planted" in (chosen.part or PARTS):
            print_planted(Compared.of(chosen.photos))
        if "verifiers" in (chosen.part or PARTS):
            print_verifiers()


if __name__ == "__main__":
    main()
