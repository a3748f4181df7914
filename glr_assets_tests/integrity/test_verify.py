"""Verification and repair of a store: what is not whole is named, removed where asked, and nothing else is."""

from __future__ import annotations

import hashlib
import json
import os
import random
import resource
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from glr_assets.cli import app
from glr_assets.errors import MissingInputError
from glr_assets.integrity import Problem, Progress, verify
from glr_assets.integrity import hashing as hashing_module
from glr_assets.receipts import (
    LOCKS,
    Summary,
    Unfinished,
    Writer,
    Written,
    digest_of,
    find_receipt,
    make,
    need_receipt,
    receipt_names,
    receipt_path,
)
from glr_assets.store import Store
from glr_assets_tests.faulty_s3 import FaultyS3
from glr_assets_tests.test_mirror import work_going_on

FILES = {
    "train_images/000": {
        "images/train/000.tar": b"tar of shard 0" * 50,
        "images/train/000.parquet": b"index of shard 0",
    },
    "train_images/001": {
        "images/train/001.tar": b"tar of shard 1" * 50,
        "images/train/001.parquet": b"index of shard 1",
    },
    "image_catalog": {"metadata/image_catalog.parquet": b"catalog"},
    "faiss_index": {"index/faiss_index.faiss": b"faiss", "index/faiss_index.json": b"{}"},
}
EMBEDDER = {
    f"models/embedder/{version}/{name}": f"{name} of {version}".encode()
    for version in "ab"
    for name in ("embedder.pt", "card.md")
}


def made(store: Store, name: str, files: dict[str, bytes], **changes: object) -> None:
    def build(writer: Writer) -> Summary:
        for path, data in files.items():
            writer.write(path, data)
        return {}

    work: dict[str, object] = {"inputs": {}, "parameters": {}, "code_version": "1"}
    make(store, name, **(work | changes), build=build)  # type: ignore[arg-type]


def fill(store: Store) -> None:
    """Make what `FILES` names, and two versions of a model."""
    for name, files in FILES.items():
        made(store, name, files)
    for version in "ab":
        files = {path: data for path, data in EMBEDDER.items() if f"/{version}/" in path}
        made(store, "embedder", files, code_version=version, keep_earlier=True)


@pytest.fixture
def filled(store: Store) -> Store:
    fill(store)
    return store


def every_file(store: Store) -> dict[str, bytes]:
    return {path: store.read(path) for path, _ in store.walk()}


def path_of(store: Store, name: str) -> Path:
    return Path(store.path(name))


def found(store: Store, **options: object) -> dict[str, str]:
    """The kinds of problems by path."""
    return {problem.path: problem.kind for problem in verify(store, **options).problems}  # type: ignore[arg-type]


def test_a_whole_store_is_whole(filled: Store) -> None:
    seen: list[Progress] = []
    report = verify(filled, told=seen.append)
    data = [*(data for files in FILES.values() for data in files.values()), *EMBEDDER.values()]
    assert (report.whole, report.problems, report.unchecked, report.running) == (True, [], {}, [])
    assert (report.files, report.bytes) == (len(data), sum(map(len, data)))
    assert report.receipts == len(FILES) + 2  # one of them archived
    assert (seen[-1].files, seen[-1].bytes) == (seen[-1].of_files, seen[-1].of_bytes) == (report.files, report.bytes)
    assert verify(filled, repair=True).whole
    assert verify(Store(f"{filled.url}-absent")).whole


DAMAGE: dict[str, tuple[str, Callable[[bytes], bytes | None]]] = {
    "a bit": ("damaged", lambda data: data[:1] + bytes([data[1] ^ 1]) + data[2:]),
    "zeros": ("damaged", lambda data: bytes(len(data))),
    "cut": ("cut", lambda data: data[:-1]),
    "emptied": ("cut", lambda _: b""),
    "grown": ("grown", lambda data: data + b"\0"),
    "deleted": ("missing", lambda _: None),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_each_file_that_is_not_as_it_was_written_is_named_and_repaired(store: Store, damage: str) -> None:
    """Afterwards the store is whole, and what is made again has the bytes that it had."""
    fill(store)
    good = every_file(store)
    kind, change = DAMAGE[damage]
    for path in [path for files in FILES.values() for path in files] + list(EMBEDDER):
        data = change(good[path])
        if data is None:
            path_of(store, path).unlink()
        else:
            path_of(store, path).write_bytes(data)
        (problem,) = verify(store).problems
        owner = next((name for name, files in FILES.items() if path in files), "embedder")
        assert (problem.kind, problem.path) == (kind, path)
        assert problem.receipt.removeprefix("archive/").startswith(owner)
        if damage == "a bit":
            assert problem.expected == f"SHA-256 {hashlib.sha256(good[path]).hexdigest()}"
            assert problem.found == f"SHA-256 {hashlib.sha256(data or b'').hexdigest()}"
        assert f"glr verify --repair {owner}" in problem.told()
        report = verify(store, repair=True)
        assert not report.whole
        assert [(of.path, of.repaired) for of in report.problems] == [(path, True)]
        assert not store.exists(path)
        again = verify(store)
        assert again.problems == []
        # What is made from scratch again has its bytes; of a model that stays an earlier version goes.
        fill(store)
        assert {path: data for path, data in every_file(store).items() if "archive" not in path} == {
            path: data for path, data in good.items() if "archive" not in path
        }
        assert verify(store).whole


def test_files_of_models_that_are_whole_stay_with_what_is_known_of_them(filled: Store) -> None:
    """They cost hours. A card that is damaged costs the card, and its receipt's place says why."""
    weights, card = "models/embedder/b/embedder.pt", "models/embedder/b/card.md"
    path_of(filled, card).write_bytes(b"nothing")
    verify(filled, repair=True)
    assert filled.read(weights) == EMBEDDER[weights]
    assert not filled.exists(card)
    with pytest.raises(MissingInputError, match=f"embedder in .* is unfinished: {card} was cut and has been removed"):
        need_receipt(filled, "embedder")
    assert verify(filled).unfinished == ["embedder"]
    path_of(filled, weights).write_bytes(bytes(len(EMBEDDER[weights])))
    assert found(filled) == {weights: "damaged"}
    assert found(filled, repair=True) == {weights: "damaged"}
    assert not filled.exists(weights)
    assert verify(filled).problems == []


def test_of_an_earlier_version_that_somebody_removed_the_repair_forgets(filled: Store) -> None:
    for path in [path for path in EMBEDDER if "/a/" in path]:
        filled.remove(path)
    assert set(found(filled).values()) == {"missing"}
    verify(filled, ["embedder"], repair=True)
    assert verify(filled).whole
    assert need_receipt(filled, "embedder").outputs
    assert [name for name in receipt_names(filled) if name.startswith("archive/")] == []


@pytest.mark.parametrize("fault", ["a bit", "cut", "no JSON", "of another", "names nothing"])
def test_each_receipt_that_is_not_its_own_is_named_and_costs_no_other_a_file(filled: Store, fault: str) -> None:
    good = every_file(filled)
    for name in [*FILES, "embedder"]:
        path = receipt_path(name)
        receipt = need_receipt(filled, name)
        changed = {
            "a bit": good[path].replace(b'"code_version": "', b'"code_version": "x', 1),
            "cut": good[path][:-20],
            "no JSON": b"\x00" * len(good[path]),
            "of another": receipt.model_copy(update={"name": "submission"}).to_bytes(),
            "names nothing": receipt.model_copy(update={"outputs": {}}).to_bytes(),
        }[fault]
        path_of(filled, path).write_bytes(changed)
        problems = verify(filled).problems
        assert (problems[0].kind, problems[-1].path) == ("left over", path) or problems[0].path == path
        assert {problem.kind for problem in problems} <= {"receipt", "left over"}
        assert {of.path for of in problems if of.kind == "left over"} <= set(receipt.outputs)
        verify(filled, repair=True)
        assert verify(filled).whole
        others = {of: data for of, data in good.items() if of not in receipt.outputs and of != path}
        assert {of: data for of, data in every_file(filled).items() if of in others} == others
        fill(filled)
        assert every_file(filled).keys() >= {of for of in good if "archive" not in of}


def test_swapped_receipts_and_swapped_files(filled: Store) -> None:
    good = every_file(filled)
    first, second = (receipt_path(f"train_images/{key}") for key in ("000", "001"))
    filled.write(first, good[second])
    filled.write(second, good[first])
    kinds = found(filled)
    assert {kinds[first], kinds[second]} == {"receipt"}
    verify(filled, repair=True)
    assert verify(filled).whole
    fill(filled)
    assert every_file(filled) == good
    first, second = "images/train/000.tar", "images/train/001.tar"
    filled.write(first, good[second])
    filled.write(second, good[first])
    assert found(filled) == {first: "damaged", second: "damaged"}
    verify(filled, repair=True)
    fill(filled)
    assert every_file(filled) == good


def test_a_receipt_of_another_store_is_found_by_its_files_and_costs_the_right_ones_nothing(
    filled: Store, tmp_path: Path
) -> None:
    there = Store(str(tmp_path / "there"))
    made(there, "train_images/000", {"images/train/000.tar": b"other", "metadata/image_catalog.parquet": b"another"})
    filled.write(receipt_path("train_images/000"), there.read(receipt_path("train_images/000")))
    kinds = found(filled)
    assert kinds["images/train/000.tar"] == "cut" or kinds["images/train/000.tar"] == "grown"
    verify(filled, repair=True)
    assert filled.read("metadata/image_catalog.parquet") == b"catalog"
    assert need_receipt(filled, "image_catalog").digest
    assert verify(filled).whole


def test_a_receipt_of_a_later_release_is_left_alone(filled: Store) -> None:
    document = {"format": 3, "name": "faiss_index", "files": ["index/faiss_index.faiss"]}
    data = json.dumps(document | {"seal": digest_of(document)}).encode()
    filled.write(receipt_path("faiss_index"), data)
    report = verify(filled)
    (of_receipt,) = (problem for problem in report.problems if problem.kind == "receipt")
    assert "is of form 3" in of_receipt.found
    verify(filled, ["faiss_index"], repair=True)
    assert filled.read(receipt_path("faiss_index")) == data


# Left over


def test_what_is_left_over_is_named_and_removed_and_what_is_not_stays(filled: Store) -> None:
    left_over = {
        "images/train/002.tar": "of a run that was killed before its receipt",
        "metadata/.image_catalog.parquet.part": "a part of a killed writer",
        "receipts/train_images/.003.json.part": "another",
        "reports/old.png": "of an earlier version",
        "openimages/fetched/00/abc.jpg": "of a part that is finished",
        "runs/incoming/abc": "of a copy that was killed",
    }
    stays = {
        "models/embedder/c/checkpoint.ckpt": "the state of a training",
        "models/embedder/c/progress.json": "its epochs",
        "openimages/fetched/01/abc.jpg": "of a part that is not finished",
        "sample/metadata/train.csv": "of a sample without a receipt",
        "runs/train_images/000.json": "what the last run did",
        "runs/settings.json": '{"source": null, "openimages": null, "recipe": "small"}',
        "runs/locks/train_images/.000.lock": "a lock of a killed process",
        ".dagster/dagster.yaml": "the instance's",
        "notes.txt": "a person's",
        "my-photos/1.jpg": "a person's",
    }
    made(filled, "openimages_images/00", {"openimages/images/00.tar": b"x"})
    for path, text in (left_over | stays).items():
        path_of(filled, path).parent.mkdir(parents=True, exist_ok=True)
        path_of(filled, path).write_text(text)
    run = '{"outcome":"ingested","error":"","source":"","permanent":false,"failures":0,"seconds":1,"attempts":1,'
    run += '"read_bytes":1,"spared_bytes":0,"decoded":1,"carried":0,"members":{}}'
    path_of(filled, "runs/train_images/000.json").write_text(run)
    report = verify(filled)
    assert {problem.path: problem.kind for problem in report.problems} == dict.fromkeys(left_over, "left over")
    assert report.unchecked == {
        "of trainings that are not finished": 2,
        "fetched for a part that is not finished": 1,
        "of a sample without a receipt": 1,
        "records of runs": 2,
        "not of the store": 3,
    }
    before = every_file(filled)
    assert all(problem.repaired for problem in verify(filled, repair=True).problems)
    assert every_file(filled) == {path: data for path, data in before.items() if path not in left_over}
    assert verify(filled).whole


def test_files_of_a_killed_make_are_left_over_by_its_mark(filled: Store) -> None:
    receipt = need_receipt(filled, "faiss_index")
    mark = Unfinished(name="faiss_index", earlier=receipt, paths=("index/rows.npy",))
    filled.write(receipt_path("faiss_index"), mark.to_bytes())
    filled.write("index/rows.npy", b"new")
    report = verify(filled)
    assert report.unfinished == ["faiss_index"]
    assert {problem.path for problem in report.problems} == {*receipt.outputs, "index/rows.npy"}
    assert {(problem.kind, problem.receipt) for problem in report.problems} == {("left over", "faiss_index")}
    verify(filled, repair=True)
    assert verify(filled).whole
    assert find_receipt(filled, "faiss_index") is None


def test_receipts_of_unknown_assets_are_left_over_with_their_files(filled: Store) -> None:
    made(
        filled,
        "renamed_long_ago/00",
        {"manifests/renamed.parquet": b"x", "images/train/000.tar": FILES["train_images/000"]["images/train/000.tar"]},
    )
    assert found(filled) == {receipt_path("renamed_long_ago/00"): "left over"}
    verify(filled, repair=True)
    assert verify(filled).whole
    assert not filled.exists("manifests/renamed.parquet")
    assert filled.exists("images/train/000.tar")  # which another receipt names


def test_records_that_cannot_be_read_are_named(filled: Store) -> None:
    filled.write("runs/train_images/000.json", b"{")
    filled.write("runs/index_images/000.json", b'{"outcome": "unheard of"}')
    filled.write("runs/settings.json", b"[]")
    kinds = dict.fromkeys(["runs/train_images/000.json", "runs/index_images/000.json", "runs/settings.json"], "record")
    assert found(filled) == kinds
    verify(filled, repair=True)
    # What the store is made from is a person's to say again.
    assert found(filled) == {"runs/settings.json": "record"}


def version_record(files: dict[str, bytes]) -> bytes:
    from glr_assets.training.record import ModelRecord

    record = ModelRecord(
        model="embedder",
        version="old",
        origin="trained",
        code_version="1",
        seed=0,
        recipe={},
        data_versions={},
        libraries={},
        parameters=1,
        image_size=64,
        outputs=2,
        landmarks=1,
        training_images=1,
        outsiders=0,
        held_out=0,
        epochs=1,
        loss=None,
        validation_top1=None,
        by_class_size=(),
        files={name: Written(size=len(data), sha256=hashlib.sha256(data).hexdigest()) for name, data in files.items()},
        script="embedder.pt",
    )
    return record.model_dump_json().encode()


def test_versions_that_an_earlier_release_left_are_verified_by_their_records(filled: Store) -> None:
    files = {"embedder.pt": b"weights", "history.json": b"{}"}
    for name, data in files.items():
        filled.write(f"models/embedder/old/{name}", data)
    filled.write("models/embedder/old/metrics.json", version_record(files))
    report = verify(filled)
    assert report.whole
    assert report.unchecked == {"of earlier versions of models, without a receipt": 3}
    filled.write("models/embedder/old/embedder.pt", b"WEIGHTS")
    (problem,) = verify(filled).problems
    assert (problem.kind, problem.path) == ("damaged", "models/embedder/old/embedder.pt")
    verify(filled, repair=True)
    assert filled.read("models/embedder/old/embedder.pt") == b"WEIGHTS"  # a person decides
    filled.write("models/embedder/old/metrics.json", b"{}")
    assert found(filled) == {"models/embedder/old/metrics.json": "record"}


# Work that goes on


def test_what_a_running_job_holds_is_left_alone(filled: Store) -> None:
    receipt = need_receipt(filled, "faiss_index")
    for name in ("faiss_index", "image_catalog"):
        (path, *_) = FILES[name]
        path_of(filled, path).write_bytes(b"?")
    filled.write("images/train/002.tar", b"of a shard that is made for the first time")
    with filled.locked(f"{LOCKS}/faiss_index"), filled.locked(f"{LOCKS}/train_images/002"):
        report = verify(filled, repair=True)
        assert report.running == ["faiss_index", "train_images/002"]
        state = {problem.path: (problem.held, problem.repaired) for problem in report.problems}
        assert state == {
            "index/faiss_index.faiss": (True, False),
            "metadata/image_catalog.parquet": (False, True),
        }
        assert report.unchecked == {"of work that goes on, perhaps": 1}
        assert need_receipt_document(filled, "faiss_index") == receipt.to_bytes()
        assert filled.exists("images/train/002.tar")
    assert found(filled, repair=True).keys() == {"index/faiss_index.faiss", "images/train/002.tar"}
    assert verify(filled).whole


def need_receipt_document(store: Store, name: str) -> bytes:
    return store.read(receipt_path(name))


def test_a_store_that_is_written_meanwhile_is_whole(store: Store) -> None:
    with work_going_on(store):
        for _ in range(6):
            report = verify(store)
            assert [problem.told() for problem in report.problems if problem.kind != "left over"] == []
            assert report.problems == []


def test_repairs_while_work_goes_on_take_nothing_from_it(store: Store) -> None:
    """Its processes would end by an error where a file of theirs vanished."""
    with work_going_on(store):
        for _ in range(6):
            verify(store, repair=True)
    kinds = {problem.kind for problem in verify(store).problems}
    assert kinds <= {"left over"}  # of the killed ones
    verify(store, repair=True)
    assert verify(store).problems == []


def test_a_receipt_that_is_made_again_while_its_files_are_hashed(
    filled: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed, times = hashing_module._hashed, []

    def changing(store: Store, path: str, *more: object) -> object:
        state = hashed(store, path, *more)  # type: ignore[arg-type]
        if path == "index/faiss_index.faiss" and not times:
            times.append(1)
            made(
                store,
                "faiss_index",
                {"index/faiss_index.faiss": b"new", "index/faiss_index.json": b"[]"},
                code_version="2",
            )
        return state

    monkeypatch.setattr(hashing_module, "_hashed", changing)
    assert verify(filled).whole
    assert times == [1]


# Names, S3, memory


def test_only_what_is_named_is_looked_at(filled: Store) -> None:
    for path, *_ in FILES.values():
        path_of(filled, path).write_bytes(b"?")
    filled.write("reports/left_over.png", b"x")
    with pytest.raises(MissingInputError, match="nonsense has no receipt"):
        verify(filled, ["train_images", "nonsense"])
    assert found(filled, names=["train_images/001"]) == {"images/train/001.tar": "cut"}
    assert found(filled, names=["train_images"]).keys() == {"images/train/000.tar", "images/train/001.tar"}
    assert found(filled, names=["train_images"], repair=True).keys() == {"images/train/000.tar", "images/train/001.tar"}
    assert found(filled, names=["image_catalog"]).keys() == {"metadata/image_catalog.parquet"}


def on_s3(endpoint: str, bucket: str) -> Store:
    store = Store(f"s3://{bucket}/store", {"endpoint_url": endpoint})
    store.fs.mkdir(bucket)
    return store


def test_on_s3_it_is_the_same(s3_endpoint: str) -> None:
    store = on_s3(s3_endpoint, "verified")
    fill(store)
    report = verify(store)
    assert (report.whole, report.unchecked) == (True, {})
    assert report.files == sum(map(len, FILES.values())) + len(EMBEDDER)
    with store.locked(f"{LOCKS}/faiss_index"):
        assert verify(store).running == ["faiss_index"]
    good = every_file(store)
    tar = FILES["train_images/000"]["images/train/000.tar"]
    store.write("images/train/000.tar", tar[:5] + b"X" + tar[6:])
    store.write("images/train/001.tar", tar[:5])
    store.remove("index/faiss_index.json")
    store.write("images/train/002.tar", b"left over")
    kinds = {
        "images/train/000.tar": "damaged",
        "images/train/001.tar": "cut",
        "index/faiss_index.json": "missing",
        "images/train/002.tar": "left over",
    }
    assert found(store) == kinds
    assert found(store, repair=True) == kinds
    assert verify(store).whole
    fill(store)
    assert every_file(store) == good


def test_on_s3_a_lease_of_a_dead_job_holds_nothing(s3_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glr_assets.integrity.scrub.DEAD_AFTER", 0.5)
    monkeypatch.setattr("glr_assets.integrity.scrub.POLL", 0.05)
    store = on_s3(s3_endpoint, "dead-lease")
    fill(store)
    store.write(f"{LOCKS}/faiss_index.lock", b'{"holder": "dead", "beat": 7}')
    store.write("index/faiss_index.json", b"[]")
    (problem,) = verify(store, repair=True).problems
    assert (problem.held, problem.repaired) == (False, True)
    assert verify(store).whole
    assert not store.exists(f"{LOCKS}/faiss_index.lock")


def test_on_s3_many_files_are_read_at_once(proxy: FaultyS3) -> None:
    store = on_s3(proxy.url, "at-once")
    for number in range(20):
        made(
            store,
            f"train_images/{number:03d}",
            {f"images/train/{number:03d}.tar": random.Random(number).randbytes(3000)},
        )
    most, now, lock = 0, 0, threading.Lock()
    hashed = hashing_module._hashed

    def counting(*arguments: object) -> object:
        nonlocal most, now
        with lock:
            now += 1
            most = max(most, now)
        try:
            return hashed(*arguments)  # type: ignore[arg-type]
        finally:
            with lock:
                now -= 1

    hashing_module._hashed, before = counting, hashed  # type: ignore[assignment]
    try:
        assert verify(store).whole
    finally:
        hashing_module._hashed = before
    assert most == 16


def test_memory_does_not_grow_with_the_files(store: Store) -> None:
    """A store of 768 MB: holes in files take no disk, and are hashed all the same."""
    size = 256 * 2**20
    digest = hashlib.sha256()
    for _ in range(size // 2**20):
        digest.update(bytes(2**20))
    for number in range(3):
        made(store, f"train_images/{number:03d}", {f"images/train/{number:03d}.tar": b"x"})
        path = f"images/train/{number:03d}.tar"
        os.truncate(path_of(store, path), 0)
        os.truncate(path_of(store, path), size)
        receipt = need_receipt_of(store, f"train_images/{number:03d}", path, size, digest.hexdigest())
        store.write(receipt_path(f"train_images/{number:03d}"), receipt)
    program = (
        "import resource, sys; from glr_assets.integrity import verify; from glr_assets.store import Store;"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; report = verify(Store(sys.argv[1]));"
        "assert report.whole and report.bytes == 768 * 2**20, report;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", program, store.url], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 64 * 1024  # KiB
    assert resource.RUSAGE_SELF == 0


def need_receipt_of(store: Store, name: str, path: str, size: int, sha256: str) -> bytes:
    receipt = find_receipt(store, name)
    assert receipt is not None
    return receipt.model_copy(update={"outputs": {path: Written(size=size, sha256=sha256)}}).to_bytes()


# Any damage


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=15)
@given(
    damage=st.dictionaries(
        st.sampled_from(sorted([*(path for files in FILES.values() for path in files), *map(receipt_path, FILES)])),
        st.one_of(st.none(), st.binary(max_size=40), st.sampled_from(["flip", "copy"])),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_is_damaged_is_whole_after_a_repair_and_as_before_after_a_run(
    damage: dict[str, bytes | str | None], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(str(tmp_path_factory.mktemp("any") / "store"))
    fill(store)
    good = every_file(store)
    for path, change in damage.items():
        target = path_of(store, path)
        if change is None:
            target.unlink()
        elif change == "flip":
            target.write_bytes(bytes([good[path][0] ^ 8]) + good[path][1:])
        elif change == "copy":
            target.write_bytes(good[receipt_path("embedder")])
        else:
            target.write_bytes(change)  # type: ignore[arg-type]
    changed = {path for path in damage if every_file(store).get(path) != good[path]}
    problems = verify(store).problems
    files = {path for path in changed if not path.startswith("receipts/")}
    of_receipts = {name for name in FILES if receipt_path(name) in changed}
    # Each damaged file is named, and, where its receipt is gone, as one that nothing names.
    named = {problem.path for problem in problems}
    gone = {path for path in files if not store.exists(path)}
    lost = {path for name in of_receipts for path in FILES[name]}
    assert named >= files - (gone & lost)
    verify(store, repair=True)
    assert verify(store).whole
    fill(store)
    assert every_file(store) == good


def test_what_results_were_made_from_is_needed_until_it_is_made_again(filled: Store) -> None:
    made(
        filled,
        "submission",
        {"submissions/submission.csv": b"id,landmarks"},
        inputs={"faiss_index": "1", "file:x": "2"},
    )
    assert verify(filled).needed == []
    path_of(filled, "index/faiss_index.faiss").write_bytes(b"FAISS")
    assert not verify(filled, repair=True).whole
    report = verify(filled)
    assert (report.whole, report.needed) == (True, ["faiss_index"])
    with filled.locked(f"{LOCKS}/faiss_index"):
        assert verify(filled).needed == []
    fill(filled)
    assert verify(filled).needed == []


def test_the_command_is_content_only_where_nothing_is_missing(tmp_path: Path) -> None:
    def run(store: Path) -> tuple[int, str]:
        result = CliRunner().invoke(app, ["verify", "--store", str(store)])
        return result.exit_code, " ".join(f"{result.output}{result.exception or ''}".split())

    for nowhere in (tmp_path / "nowhere", tmp_path):
        code, said = run(nowhere)
        assert code == 1
        assert "nothing has been made there; check --store" in said
    store = Store(str(tmp_path / "store"))
    fill(store)
    made(store, "submission", {"submissions/submission.csv": b"id,landmarks"}, inputs={"faiss_index": "1"})
    code, said = run(tmp_path / "store")
    assert (code, said.partition(":")[0]) == (0, "whole")
    store.remove(receipt_path("faiss_index"))
    for name in FILES["faiss_index"]:
        store.remove(name)
    code, said = run(tmp_path / "store")
    assert code == 1
    assert "not made: faiss_index" in said
    assert "nothing damaged, 1 to be made again by a run" in said


def test_problems_read_as_one_line() -> None:
    problem = Problem(kind="cut", path="a/b", receipt="a", expected="3 bytes", found="2 bytes", fix="make it again")
    assert problem.told() == "cut: a/b (a): expected 3 bytes, found 2 bytes; make it again"
    assert (
        problem.model_copy(update={"repaired": True}).told() == "cut: a/b (a): expected 3 bytes, found 2 bytes; removed"
    )
    assert problem.model_copy(update={"held": True}).told().endswith("left alone, as a running job is at it")
    assert Problem(kind="receipt", path="receipts/a.json", receipt="a", found="no JSON", fix="x").told() == (
        "receipt: receipts/a.json: no JSON; x"
    )
