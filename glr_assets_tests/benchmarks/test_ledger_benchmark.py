"""That the benchmark of the ledger measures what it says, and that other ways of searching and joining agree."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from glr_assets.curation.schemas import TRAIN_MANIFEST
from glr_assets.ledger.schemas import IMAGE_LEDGER
from glr_assets.store import Store
from glr_assets.tables import read_table, write_table
from glr_assets_tests.benchmarks import dedupe, full_store, imagededup_search, ledger
from glr_assets_tests.benchmarks.full_size import GLDV2

SCALE = 0.002
SMALL = GLDV2.scaled(SCALE)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ledger")
    ledger.write_inputs(folder, SCALE)
    return folder


@pytest.fixture(scope="module")
def measured(work: Path) -> dict[str, dict[str, float]]:
    found = {step: way(work) for step, way in ledger.steps().items()}
    ids = ledger.asked_ids(work)
    assert len(set(ids)) == ledger.ASKED
    return found | {"why of an id": ledger.ask(work, ids), "glr why": ledger.ask_by_command(work, ids[0])}


def test_the_ledger_has_every_image_and_every_fate(work: Path, measured: dict[str, dict[str, float]]) -> None:
    rows = read_table(ledger.store_of(work), IMAGE_LEDGER)
    assert rows.num_rows == measured["image_ledger"]["rows"] == SMALL.train + SMALL.index + SMALL.test
    fates = set(zip(rows["split"].to_pylist(), rows["status"].to_pylist(), strict=True))
    assert {("train", word) for word in ("stored", "skipped", "failed", "missing")} <= fates
    assert pc.all(rows["author"].is_valid().filter(pc.equal(rows["split"], "train"))).as_py()
    assert set(rows["planned"].to_pylist()) == {"competition", "extra", "reserve", None}
    assert pc.sum(rows["in_train"]).as_py() == read_table(ledger.store_of(work), TRAIN_MANIFEST).num_rows > 0
    versions = [decision["version"] for row in rows["decisions"].to_pylist() for decision in row]
    # What no shard holds has no shard's version.
    assert versions.count(None) == pc.sum(pc.equal(rows["status"], "missing")).as_py() > 0


def test_other_ways_of_joining_find_the_ledger(work: Path, measured: dict[str, dict[str, float]]) -> None:
    ways = [way for way in ledger.OTHERS_FILES if way in measured]
    assert ledger.PANDAS in ways
    for way in ways:
        assert ledger.different(work, ledger.OTHERS_FILES[way]) == []
        assert f"| {way} | {measured['image_ledger']['rows']:,.0f} |" in ledger.report(measured)


def test_a_way_that_finds_another_ledger_is_told(work: Path, measured: dict[str, dict[str, float]]) -> None:
    assert measured
    rows = read_table(ledger.store_of(work), IMAGE_LEDGER)
    authors = ["another", *rows["author"].to_pylist()[1:]]
    place = rows.schema.get_field_index("author")
    with (work / "other.parquet").open("wb") as file:
        write_table(IMAGE_LEDGER, rows.set_column(place, "author", pa.array(authors, pa.string())), file)
    assert ledger.different(work, "other.parquet") == ["author"]


def test_the_store_without_receipts_has_the_fates_of_the_one_with(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    full_store.write_store(store, SMALL)
    images = full_store.members(SMALL, full_store.train_images(SMALL), np.zeros(0, np.intp))
    assert [held.split for held in images] == ["index", "test", "train"]
    failed = read_table(store, full_store.IMAGE_CATALOG).filter(
        pc.equal(read_table(store, full_store.IMAGE_CATALOG, ["status"])["status"], "failed")
    )
    assert failed.num_rows > 0
    assert pc.all(failed["dhash"].is_null()).as_py()
    assert set(failed["split"].to_pylist()) == {"train"}


def test_ways_to_find_pairs_find_the_same() -> None:
    hashes = full_store.with_near_duplicates(full_store.smooth_hashes(300, 1), np.random.default_rng(2))
    distance = np.bitwise_count(hashes[:, None] ^ hashes)
    expected = np.argwhere(np.triu(distance <= 3, 1))
    assert len(expected) > 10
    ways = dedupe.pair_ways(hashes, 3)
    assert len(ways) >= 2
    for name, way in ways.items():
        np.testing.assert_array_equal(way(), expected, err_msg=name)


def test_imagededups_search_loads_no_torchvision() -> None:
    pytest.importorskip("imagededup")
    before = set(sys.modules)
    module = imagededup_search.hashing()
    assert module.HashEval.__module__ == "imagededup.handlers.search.retrieval"
    assert module is imagededup_search.hashing()
    assert not {"torchvision", "sklearn", "imagededup.methods.cnn"} & (set(sys.modules) - before)
