"""Dry runs: they answer as a run would decide, and change nothing."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glr_assets.dry_run import Answer, Change, Verdict, current, dry_run, need_done
from glr_assets.errors import MissingInputError, StoreError
from glr_assets.receipts import Made, Summary, Unfinished, Writer, fetch_receipts, forcing, make, receipt_path
from glr_assets.snapshot import SnapshotStore, kept_by
from glr_assets.store import Store
from glr_assets_tests.lineage import digests

INPUTS = {"source:train/000": "a", "fill_plan": "b"}
PARAMETERS = {"keep": 25, "judge": {"cap": 500, "kinds": ["near"]}}


def made(
    store: Store,
    inputs: dict[str, str] = INPUTS,
    parameters: dict[str, Any] = PARAMETERS,
    code_version: str = "1",
    name: str = "asset",
) -> Made:
    def build(writer: Writer) -> Summary:
        writer.write(f"{name}/file", b"bytes")
        return {}

    return make(store, name, inputs=inputs, parameters=parameters, code_version=code_version, build=build)


def texts(store: Store, **changed: Any) -> list[str]:
    with dry_run() as run:
        return [change.text for change in run.ask("asset", partial(made, store, **changed)).changes]


def test_what_was_never_made(store: Store) -> None:
    assert texts(store) == ["never made"]
    assert not Path(store.root).exists()


def test_finished_work_is_done(store: Store) -> None:
    made(store)
    with dry_run() as run:
        assert run.ask("asset", partial(made, store)).is_done
        assert run.verdicts == {"asset": Verdict("asset")}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"inputs": INPUTS | {"fill_plan": "c"}}, ["fill_plan changed"]),
        ({"inputs": {"fill_plan": "b"}}, ["source:train/000 is gone"]),
        ({"inputs": INPUTS | {"source:train/001": "c"}}, ["source:train/001 is new"]),
        ({"parameters": PARAMETERS | {"keep": 12}}, ["keep: 25 → 12"]),
        ({"parameters": PARAMETERS | {"judge": {"cap": 9, "kinds": ["near"]}}}, ["judge.cap: 500 → 9"]),
        ({"parameters": PARAMETERS | {"judge": {"cap": 500, "kinds": []}}}, ['judge.kinds: ["near"] → []']),
        ({"parameters": PARAMETERS | {"more": None}}, ["more: absent → null"]),
        ({"code_version": "2"}, ["code version 1 → 2"]),
        (
            {"inputs": {"fill_plan": "c"}, "parameters": PARAMETERS | {"keep": 12}, "code_version": "2"},
            ["fill_plan changed", "source:train/000 is gone", "keep: 25 → 12", "code version 1 → 2"],
        ),
    ],
)
def test_every_change_is_named(store: Store, changed: dict[str, Any], said: list[str]) -> None:
    made(store)
    assert texts(store, **changed) == said


def test_numbers_that_are_equal_are_no_change(store: Store) -> None:
    made(store)
    assert texts(store, parameters=PARAMETERS | {"keep": 25.0}) == []
    assert made(store, parameters=PARAMETERS | {"keep": 25.0}).reused


def test_a_file_that_is_gone_or_cut(store: Store) -> None:
    made(store)
    store.write("asset/file", b"byte")
    assert texts(store) == ["files: asset/file has 4 bytes, expected 5"]
    store.remove("asset/file")
    assert texts(store) == ["files: asset/file is gone"]


def test_other_bytes_of_the_same_size_show_where_bytes_are_compared(store: Store) -> None:
    made(store)
    store.write("asset/file", b"BYTES")
    assert texts(store) == []
    with dry_run(check_bytes=True) as run:
        (change,) = run.ask("asset", partial(made, store)).changes
    assert change.text.startswith("files: asset/file has SHA-256")
    assert not made(store).reused


def test_forced_work_is_made_again(store: Store) -> None:
    made(store)
    with forcing("asset"):
        assert texts(store) == ["forced"]


def test_an_unfinished_make_is_named(store: Store) -> None:
    made(store)
    mark = Unfinished(name="asset", earlier=None, paths=(), reason="it is damaged")
    store.write(receipt_path("asset"), mark.to_bytes())
    assert texts(store) == ["unfinished: it is damaged"]


def test_what_stops_a_run_is_the_answer(store: Store) -> None:
    def stopped() -> None:
        raise MissingInputError("upstream has not been made")

    with dry_run() as run:
        verdict = run.ask("asset", stopped)
    assert (verdict.error, verdict.changes, verdict.is_done) == ("upstream has not been made", (), False)


def test_code_that_never_asks_is_a_fault(store: Store) -> None:
    with dry_run() as run:
        assert "report this" in run.ask("asset", lambda: None).error


def test_nothing_after_the_comparison_runs(store: Store) -> None:
    made(store)
    after: list[str] = []

    def asset() -> None:
        try:
            made(store)
        except Exception:  # noqa: BLE001 - as code that notes failures does
            after.append("failed")
        after.append("went on")

    with dry_run() as run:
        assert run.ask("asset", asset).is_done
    assert after == []


def test_several_partitions_are_asked_at_once(store: Store) -> None:
    for key in ("000", "001", "003"):
        made(store, name=f"asset/{key}")
    runs = {f"asset/{key}": partial(made, store, name=f"asset/{key}") for key in ("000", "001", "002", "003")}
    with dry_run() as run:
        run.ask_each(runs)
    assert list(run.verdicts) == list(runs)
    assert [name for name, verdict in run.verdicts.items() if not verdict.is_done] == ["asset/002"]
    assert run.verdicts["asset/002"].changes == (Change("never made"),)


def test_outside_of_the_block_everything_is_made(store: Store) -> None:
    with dry_run(), pytest.raises(Answer):
        made(store)
    assert current() is None
    assert not made(store).reused


def test_a_dry_run_changes_no_file_and_takes_no_lock(store: Store, disk_calls: Any) -> None:
    made(store)
    store.write("asset/file", b"cut")
    before = digests(Path(store.root))
    disk_calls.seen.clear()
    assert texts(store, code_version="2")
    assert texts(store)
    assert disk_calls.seen == []
    assert digests(Path(store.root)) == before


def test_need_done_names_what_is_not(store: Store) -> None:
    with dry_run(), pytest.raises(MissingInputError, match=r"the sample is not there .*never made"):
        need_done("the sample", partial(made, store))
    made(store)
    with dry_run():
        need_done("the sample", partial(made, store))


#: Few values, so that drawing the same twice is common; among them some that are equal and of different types.
VALUES = st.sampled_from([0, 1, 1.0, True, "1", None, [], [1], {}, {"a": 1}, {"a": {"b": 2}}, {"a": {}}])
DOCUMENTS = st.dictionaries(st.sampled_from(["x", "y"]), VALUES, max_size=2)
WORK = st.fixed_dictionaries(
    {
        "inputs": st.dictionaries(st.sampled_from(["source:train", "plan"]), st.sampled_from(["1", "2"]), max_size=2),
        "parameters": DOCUMENTS,
        "code_version": st.sampled_from(["1", "2"]),
    }
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(first=WORK, then=WORK)
def test_it_says_made_again_exactly_where_a_run_makes(store: Store, first: Any, then: Any) -> None:
    made(store, **first)
    said = texts(store, **then)
    assert made(store, **then).reused == (not said)


class Requests:
    """The requests that a file system gets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, store: Store) -> None:
        self.seen: list[str] = []
        for name in ("ls", "info", "cat_file"):
            monkeypatch.setattr(store.fs, name, self._counted(name, getattr(store.fs, name)))

    def _counted(self, name: str, call: Any) -> Any:
        def counted(*arguments: Any, **more: Any) -> Any:
            self.seen.append(name)
            return call(*arguments, **more)

        return counted


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Store, Requests]]:
    store = Store(f"memory://dry-run-{os.getpid()}")
    yield store, Requests(monkeypatch, store)
    store.fs.rm(store.root, recursive=True)


def test_a_snapshot_asks_once_for_each_receipt_and_folder(remote: tuple[Store, Requests]) -> None:
    store, requests = remote
    keys = [f"{number:03d}" for number in range(30)]
    for key in keys:
        made(store, name=f"asset/{key}")
    view = SnapshotStore(store)
    requests.seen.clear()
    fetch_receipts(view)
    assert requests.seen.count("cat_file") == len(keys)
    runs = {f"asset/{key}": partial(made, view, name=f"asset/{key}") for key in keys}
    for _ in range(3):  # as assets do that read the same receipts
        with dry_run() as run:
            run.ask_each(runs)
        assert all(verdict.is_done for verdict in run.verdicts.values())
    assert requests.seen.count("cat_file") == len(keys)
    assert requests.seen.count("info") == 0
    # Of the folders of receipts while they are fetched and when they are looked up, and of each file's folder.
    assert requests.seen.count("ls") <= 2 * 2 + len(keys) + 2


def test_a_snapshot_shows_what_the_store_shows(store: Store) -> None:
    made(store)
    view = SnapshotStore(store)
    assert (view.size("asset/file"), view.size("asset/none"), view.size("nowhere/file")) == (5, None, None)
    assert view.read("asset/file") == b"bytes"
    assert view.exists("asset/file")
    with pytest.raises(StoreError, match="not a path inside the store"):
        view.size("../file")


def test_a_snapshot_refuses_every_change(store: Store) -> None:
    made(store)
    view = SnapshotStore(store)
    before = digests(Path(store.root))
    for change in (
        lambda: view.write("asset/file", b""),
        lambda: view.remove("asset/file"),
        lambda: view.move("asset/file", "asset/other"),
        lambda: view.create("asset/other", b""),
        lambda: view.locked("asset"),
        lambda: view.locked_if_free("asset"),
        lambda: made(view, code_version="2"),
    ):
        with pytest.raises(StoreError, match="read only"):
            change()
    assert digests(Path(store.root)) == before


def test_a_snapshot_keeps_what_was_found_and_no_error(store: Store) -> None:
    view, calls = SnapshotStore(store), []

    def find() -> int:
        calls.append(1)
        if len(calls) == 1:
            raise StoreError("out of reach")
        return len(calls)

    with pytest.raises(StoreError):
        kept_by(view, "key", find)
    assert [kept_by(view, "key", find), kept_by(view, "key", find)] == [2, 2]
    assert [kept_by(store, "key", find), kept_by(store, "key", find)] == [3, 4]
