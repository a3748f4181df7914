"""Indexes beside Flat: recall, time, memory and bytes on clustered vectors; and blocks of queries in flat memory.

Vectors are made up: `--rows` of `--dimensions`, gathered around landmarks as embeddings are. Each kind of index is
built and asked in a process of its own, on one thread. Run it with
`python -m glr_assets_tests.benchmarks.search`; it prints its section of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glr_assets_tests.benchmarks.measure import (
    forget_peak,
    in_a_process,
    machine,
    markdown,
    peak_megabytes,
    verdict,
)

MODULE = "glr_assets_tests.benchmarks.search"
A_LANDMARK = 5
ASKED = 1000
NEAREST = 5
#: Test images of GLDv2.
QUERIES = 117_577
KINDS = ("flat", "ivf", "hnsw", "pq")

Floats = npt.NDArray[np.float32]


def clustered(rows: int, dimensions: int, seed: int, landmarks: int) -> Floats:
    """Unit vectors around `landmarks` centres, the centres around fewer: as landmarks of a kind are alike."""
    random = np.random.default_rng(0)
    kinds = random.standard_normal((max(1, landmarks // 50), dimensions), np.float32)
    centres = kinds[random.integers(0, len(kinds), landmarks)] + random.standard_normal(
        (landmarks, dimensions), np.float32
    )
    random = np.random.default_rng(seed)
    found = np.empty((rows, dimensions), np.float32)
    for start in range(0, rows, 16_384):
        part = found[start : start + 16_384]
        part[:] = centres[random.integers(0, landmarks, len(part))]
        part += 1.2 * random.standard_normal(part.shape, np.float32)
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return found


def _exact(work: Path, rows: int) -> Any:
    from glr_assets.retrieval.scoring import PenalisedIndex

    vectors, penalties = np.load(work / "vectors.npy"), np.load(work / "penalties.npy")
    return PenalisedIndex(
        [f"{number:08d}" for number in range(rows)], np.arange(rows) // A_LANDMARK, vectors, penalties
    )


def one_kind(work: Path, kind: str, rows: int) -> dict[str, float]:
    """Build an index of a kind, ask it; recall is against what flat found in an earlier process."""
    from glr_assets.retrieval.index import approximate

    exact = _exact(work, rows)
    queries = np.load(work / "queries.npy")
    began = time.process_time()
    index = exact if kind == "flat" else approximate(exact, kind, 0.99, seed=0)[0]  # type: ignore[arg-type]
    built = time.process_time() - began
    index.search(queries[:20], NEAREST)
    took = []
    for row in range(200):
        began = time.perf_counter()
        index.search(queries[row : row + 1], NEAREST)
        took.append(time.perf_counter() - began)
    began = time.process_time()
    found = index.search(queries, NEAREST)[1]
    together = time.process_time() - began
    if kind == "flat":
        np.save(work / "truth.npy", found)
    truth = np.load(work / "truth.npy")
    return {
        "recall": float((truth[:, None, :] == found[:, :, None]).any(axis=1).mean()),
        "alone ms": 1000 * float(np.median(took)),
        "together ms": 1000 * together / len(queries),
        "MB": len(index.to_bytes()) / 1e6,
        "build s": built if kind != "flat" else 0.0,
        "effort": index.proposer.effort if index.proposer is not None else 0,
    }


def blocks(work: Path, rows: int, queries: int) -> dict[str, float]:
    """Answer so many queries block by block, none kept; how far memory rises beyond index and gallery."""
    from glr_assets.recipes import Retrieval
    from glr_assets.retrieval.answering import Witness
    from glr_assets.retrieval.calibration import Calibration
    from glr_assets.retrieval.embeddings import NonLandmarks, Vectors
    from glr_assets.retrieval.index import approximate
    from glr_assets.retrieval.model import RecognitionModel

    exact = _exact(work, rows)
    index, _ = approximate(exact, "ivf", 0.99, seed=0)
    some = np.load(work / "queries.npy")
    gallery = NonLandmarks(Vectors([f"n{number:05d}" for number in range(len(some))], some))
    witness = Witness(index, gallery, Retrieval(rerank=0))
    model = RecognitionModel(calibration=Calibration(slope=1, intercept=0))
    asked = clustered(queries, some.shape[1], 3, rows // A_LANDMARK)
    ids = [f"q{number:06d}" for number in range(queries)]
    for _ in witness.of(Vectors(ids[:1000], asked[:1000])):
        pass
    before = forget_peak()
    began = time.process_time()
    answered = sum(bool(model.ranked(found)) for found in witness.of(Vectors(ids, asked)))
    return {
        "queries": answered,
        "CPU s": time.process_time() - began,
        "rises MB": peak_megabytes() - before,
    }


def main() -> None:
    """Print the section; exit 1 where a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--dimensions", type=int, default=512)
    parser.add_argument("--queries", type=int, default=QUERIES)
    parser.add_argument("--kinds", nargs="+", default=list(KINDS))
    parser.add_argument("--one", nargs=2, metavar=("WORK", "KIND"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        import faiss

        faiss.omp_set_num_threads(1)
        work, kind = Path(arguments.one[0]), arguments.one[1]
        one = (
            blocks(work, arguments.rows, arguments.queries)
            if kind == "blocks"
            else one_kind(work, kind, arguments.rows)
        )
        print(json.dumps(one))
        return
    with tempfile.TemporaryDirectory(prefix="glr-search-") as folder:
        work = Path(folder)
        landmarks = arguments.rows // A_LANDMARK
        np.save(work / "vectors.npy", clustered(arguments.rows, arguments.dimensions, 1, landmarks))
        np.save(work / "queries.npy", clustered(ASKED, arguments.dimensions, 2, landmarks))
        np.save(work / "penalties.npy", np.random.default_rng(4).random(arguments.rows).astype(np.float32) / 10)
        sizes = ["--rows", str(arguments.rows), "--queries", str(arguments.queries)]
        kinds = [kind for kind in KINDS if kind in {*arguments.kinds, "flat"}]
        found = {kind: in_a_process(MODULE, "--one", folder, kind, *sizes) for kind in kinds}
        sized = [] if arguments.queries < 2 else [arguments.queries // 4, arguments.queries]
        asked = [
            in_a_process(MODULE, "--one", folder, "blocks", "--rows", sizes[1], "--queries", str(n)) for n in sized
        ]
    flat = found["flat"]
    print(f"{machine()}\n\n{arguments.rows:,} vectors of {arguments.dimensions}, {ASKED} queries, one thread.\n")
    columns = (
        "index",
        "recall@5",
        "alone ms",
        "times as fast",
        "together ms",
        "times as fast",
        "MB",
        "build CPU s",
        "effort",
    )
    rows = [
        (
            kind,
            f"{of['recall']:.4f}",
            f"{of['alone ms']:.2f}",
            f"{flat['alone ms'] / of['alone ms']:.1f}",
            f"{of['together ms']:.2f}",
            f"{flat['together ms'] / of['together ms']:.1f}",
            f"{of['MB']:.0f}",
            f"{of['build s']:.0f}",
            int(of["effort"]),
        )
        for kind, of in found.items()
    ]
    print(markdown(columns, rows))
    if asked:
        print(
            markdown(
                ("queries in blocks", "CPU s", "memory rises by, MB"),
                [(f"{int(of['queries']):,}", f"{of['CPU s']:.0f}", f"{of['rises MB']:.0f}") for of in asked],
            )
        )
    fast = max(
        (of for kind, of in found.items() if kind != "flat" and of["recall"] >= 0.99), key=lambda of: -of["alone ms"]
    )
    times = flat["alone ms"] / fast["alone ms"]
    reached = verdict(times, 10, at_least=True)
    print(f"An index of recall@5 of .99 at least 10 times as fast as Flat: {reached} ({times:.1f}).")
    sys.exit(times < 10)


if __name__ == "__main__":
    main()
