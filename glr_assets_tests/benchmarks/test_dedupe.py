"""That the benchmark of dedupe measures what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pytest

from glr_assets.curation.dedupe import competition_images
from glr_assets.curation.diversity import farthest_pairs
from glr_assets.store import Store
from glr_assets_tests.benchmarks import dedupe
from glr_assets_tests.benchmarks.full_size import GLDV2


def test_the_earlier_method_is_the_seeds_but_for_its_last_image() -> None:
    hashes = dedupe.smooth_hashes(60, 0)
    names = sorted(dedupe.seed_selection(dedupe.seed_pairs(hashes), 24))
    seed = {int(name, 16) for name in names}
    marked = set(np.flatnonzero(farthest_pairs(hashes, np.array([0, 60]), 24)).tolist())
    assert len(marked) == 24
    assert marked <= seed
    assert len(seed) <= 25


def test_pairs_of_one_photograph_are_told_by_their_names() -> None:
    hashes = {
        "near_duplicates/skyscraper_aug/skyscraper_IMG_000/IMG_000.jpg": 0b0,
        "near_duplicates/skyscraper_aug/skyscraper_IMG_000/IMG_000_01.jpg": 0b11,
        "near_duplicates/imagededup/mixed_images/ukbench00120.jpg": 0xFF << 40,
        "near_duplicates/imagededup/mixed_images/ukbench00120_hflip.jpg": 0xFF << 52,
        "gldv2/a.jpg": 0b111,
    }
    rows = dedupe.precision_and_recall(hashes)
    two, three = rows[2], rows[3]
    assert (two["pairs"], two["true"], two["precision"], two["recall"], two["upright"]) == (2, 1, 0.5, 0.5, 1.0)
    assert (three["pairs"], three["true"]) == (3, 1)
    assert two["false per million"] == pytest.approx(1e6 / 8)


def test_each_step_runs_on_a_small_store(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    size = GLDV2.scaled(0.001)
    dedupe.write_store(store, size)
    images = competition_images(store)
    assert images.num_rows == size.competition
    assert pc.sum(pc.equal(images["status"], "stored")).as_py() > 0.99 * size.competition
    found = {step: dedupe.measured(step, store) for step in dedupe.STEPS}
    assert found["deduped_manifest"]["rows"] == size.competition
    assert min(figures["found"] for figures in found.values()) > 0


def test_at_the_recipes_distance_what_is_found_among_photographs_is_true(shared_photos: Path) -> None:
    hashes = dedupe.photograph_hashes(shared_photos, ("near_duplicates", "landmarks"))
    rows = dedupe.precision_and_recall(hashes)
    chosen = rows[dedupe.DEDUPE.near_duplicate_bits]
    assert chosen["precision"] == 1
    assert chosen["upright"] > 0.7
    assert rows[-1]["precision"] < 0.9  # farther apart other photographs come in
