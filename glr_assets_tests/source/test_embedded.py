"""The embedded sample: made once in a store, made again where it is not whole, by one process of many."""

from __future__ import annotations

import multiprocessing
import shutil
import tarfile
from functools import partial
from pathlib import Path

import pytest

from glr_assets.receipts import find_receipt
from glr_assets.settings import Settings
from glr_assets.source import sample
from glr_assets.source.embedded import embedded_sample
from glr_assets.store import Store

PROCESSES = multiprocessing.get_context("fork")


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the full sample, written by the code that users run."""
    root = tmp_path_factory.mktemp("embedded") / "store"
    embedded_sample(Store(str(root)))
    return root


@pytest.fixture
def few_landmarks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A sample of two landmarks, for tests of when it is written; tells each time that it is."""
    written: list[str] = []
    original = partial(sample.write_sample, landmarks=sample.LANDMARKS[-2:], non_landmarks=2)

    def telling(bucket: Store, **options: int) -> sample.PackSummary:
        written.append(bucket.url)
        return original(bucket, seed=options["seed"])

    monkeypatch.setattr(sample, "write_sample", telling)
    return written


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_unset_the_source_is_the_sample_in_the_store(whole: Path) -> None:
    source = Settings.from_environment(store=str(whole)).open_source()
    assert source.url == f"{whole}/sample"
    assert source.shards("train") == ["000", "001", "002", "003"]
    assert source.shards("index") == source.shards("test") == ["000", "001"]
    seen = 0
    for shard in source.shards("train"):
        members = list(source.members("train", shard, require_md5=True, max_member_bytes=2**26))
        assert all(member.kind == "file" for member in members)
        seen += len(members)
    train = source.open_table("train")
    assert train is not None
    with train:
        assert len(train.read().splitlines()) - 1 == seen
    for tar in (whole / "sample").rglob("*.tar"):
        with tarfile.open(tar) as opened:
            assert opened.getnames()


def test_a_second_use_writes_nothing(whole: Path, few_landmarks: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert embedded_sample(Store(str(whole))).url == f"{whole}/sample"
    assert few_landmarks == []
    after = {path: path.stat().st_mtime_ns for path in whole.rglob("*") if path.is_file()}
    assert {path: time for path, time in after.items() if path.suffix != ".lock"} == {
        path: time for path, time in before.items() if path.suffix != ".lock"
    }


def test_a_sample_that_is_not_whole_is_made_again(store: Store, few_landmarks: list[str]) -> None:
    embedded_sample(store)
    root = Path(store.root)
    good = files(root)
    (root / "sample/metadata/train.csv").unlink()
    (root / "sample/train/images_001.tar").unlink()
    embedded_sample(store)
    assert files(root) == good
    (root / "receipts/sample.json").unlink()  # as a killed run leaves it
    (root / "sample/metadata/train.csv").unlink()
    embedded_sample(store)
    assert files(root) == good
    assert len(few_landmarks) == 3


def test_a_sample_of_another_version_is_made_again(
    store: Store, few_landmarks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded_sample(store)
    monkeypatch.setattr(sample, "SAMPLE_VERSION", "another")
    embedded_sample(store)
    embedded_sample(store)
    assert len(few_landmarks) == 2
    receipt = find_receipt(store, "sample")
    assert receipt is not None
    assert receipt.code_version == "another"


def test_stores_hold_the_same_sample(store: Store, few_landmarks: list[str]) -> None:
    memory = Store("memory://embedded/store")
    source = embedded_sample(memory)
    embedded_sample(store)
    root = Path(store.root) / "sample"
    for path in (p for p in root.rglob("*") if p.is_file()):
        assert source.files.read(str(path.relative_to(root))) == path.read_bytes()
    assert len(few_landmarks) == 2


def open_it(root: str, log: str) -> None:
    original = sample.write_sample

    def logging(bucket: Store, **options: int) -> sample.PackSummary:
        with Path(log).open("a") as file:
            file.write("written\n")
        return original(bucket, **options)

    sample.write_sample = logging  # type: ignore[assignment]
    source = embedded_sample(Store(root))
    for shard in source.shards("train"):
        list(source.members("train", shard, require_md5=True, max_member_bytes=2**26))


@pytest.mark.usefixtures("few_landmarks")
def test_of_many_processes_one_writes_it(store: Store, tmp_path: Path) -> None:
    log = tmp_path / "log"
    processes = [PROCESSES.Process(target=open_it, args=(store.url, str(log))) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert log.read_text() == "written\n"


def test_a_copied_store_keeps_its_sample(whole: Path, tmp_path: Path, few_landmarks: list[str]) -> None:
    copied = shutil.copytree(whole, tmp_path / "copied")
    assert embedded_sample(Store(str(copied))).shards("test") == ["000", "001"]
    assert few_landmarks == []
