from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from glr_assets.receipts import need_receipt, receipt_path
from glr_assets.retrieval.index import make_faiss_index
from glr_assets.retrieval.schemas import INDEX_FILE, MODEL_FILE
from glr_assets.serving.live import Live
from glr_assets.serving.recogniser import Recogniser
from glr_assets.store import Store
from glr_assets_tests.lineage import rewritten
from glr_assets_tests.serving.conftest import Served


def watched(store: Store) -> tuple[Live, list[str]]:
    told: list[str] = []
    return Live(store, told.append), told


def test_a_new_index_takes_the_place_of_the_old_and_nothing_else_does(served: Served) -> None:
    live, told = watched(served.store)
    assert live.current is None
    assert live.refresh()
    first = live.current
    assert first is not None
    assert not live.refresh()
    assert live.current is first
    served.index_again(per_landmark=1)
    assert live.refresh()
    assert live.current is not None
    assert len(live.current.recogniser) < len(first.recogniser)
    assert live.current.recogniser.version != first.recogniser.version
    assert (live.loads, live.failures, live.stale_since, told) == (2, {}, None, [])


def test_the_same_index_made_again_is_no_new_one(served: Served) -> None:
    live, _ = watched(served.store)
    live.refresh()
    first = live.current
    served.store.remove(receipt_path("faiss_index"))
    served.index_again()
    assert not live.refresh()
    assert live.current is first
    assert live.loads == 1


def test_an_index_that_is_being_made_is_not_taken(served: Served) -> None:
    live, told = watched(served.store)
    live.refresh()
    first = live.current
    receipt = served.store.read(receipt_path("faiss_index"))
    served.store.remove(receipt_path("faiss_index"))
    served.store.write(INDEX_FILE, b"half of it")
    assert not live.refresh()
    assert not live.refresh()
    assert live.current is first
    assert live.failures == {"incomplete": 2}
    assert live.stale_since is not None
    assert [line for line in told if "faiss_index" in line] == told != []
    # A receipt over files that are not whole is not believed either.
    served.store.write(receipt_path("faiss_index"), receipt)
    assert not live.refresh()
    assert live.current is first
    served.store.remove(receipt_path("faiss_index"))
    served.index_again(per_landmark=2)
    assert live.refresh()
    assert live.current is not first


def test_files_of_the_right_size_that_cannot_be_read_are_not_taken(served: Served) -> None:
    live, told = watched(served.store)
    live.refresh()
    first = live.current
    size = len(served.store.read(MODEL_FILE))
    served.store.write(MODEL_FILE, b"x" * size)
    served.store.write(receipt_path("recognition_model"), served.store.read(receipt_path("recognition_model")))
    assert not live.refresh()
    assert live.current is first
    assert len(told) == 1
    assert f"{MODEL_FILE}: expected SHA-256" in told[0]


def test_an_index_of_another_embedder_is_not_taken(served: Served) -> None:
    live, told = watched(served.store)
    inputs = need_receipt(served.store, "faiss_index").inputs
    rewritten(served.store, "faiss_index", inputs=inputs | {"embedder": "0" * 64})
    assert not live.refresh()
    assert live.current is None
    assert len(told) == 1
    assert "another embedder" in told[0]


def test_a_model_of_another_index_is_not_taken(served: Served) -> None:
    live, told = watched(served.store)
    changed = served.recipe.retrieval.model_copy(update={"per_landmark": 1})
    make_faiss_index(served.source, served.store, changed, served.recipe.seed)
    assert not live.refresh()
    assert "recognition_model" in told[0]
    assert "another faiss_index" in told[0]
    served.index_again(per_landmark=1)
    assert live.refresh()


def test_watching_waits_for_an_index_and_takes_it_up(served: Served) -> None:
    receipt = served.store.read(receipt_path("faiss_index"))
    served.store.remove(receipt_path("faiss_index"))
    live, told = watched(served.store)
    thread = live.watch(0.01)
    while not told:
        assert thread.is_alive()
    assert live.current is None
    served.store.write(receipt_path("faiss_index"), receipt)
    while live.current is None:
        assert thread.is_alive()
    live.stop()
    thread.join(120)  # it may be compiling what compares features
    assert not thread.is_alive()


class PanicError(BaseException):
    """As what compiled libraries raise: no Exception."""


@pytest.mark.parametrize("error", [AttributeError("shape"), MemoryError(), RecursionError("deep"), PanicError("panic")])
def test_watching_survives_any_exception_and_then_takes_the_new_index(
    served: Served, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    live, told = watched(served.store)
    assert live.refresh()
    first = live.current
    thread = live.watch(0.01)
    with monkeypatch.context() as broken:
        broken.setattr(Recogniser, "open", raising(error))
        served.index_again(per_landmark=1)
        wait_until(lambda: live.failures["unexpected"] > 0, thread.is_alive)
        assert live.current is first
        assert live.stale_since is not None
        # Told once, however often it is tried.
        assert not live.refresh()
        assert not live.refresh()
        assert live.failures["unexpected"] >= 3
        assert len([line for line in told if type(error).__name__ in line]) == 1
    served.store.write(receipt_path("faiss_index"), served.store.read(receipt_path("faiss_index")))  # another stamp
    wait_until(lambda: live.current is not first, thread.is_alive)
    assert live.stale_since is None
    live.stop()
    thread.join(120)


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


def wait_until(true: Callable[[], bool], alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not true():
        assert alive()
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_files_that_do_not_load_are_left_alone_for_a_while_unless_they_change(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, _ = watched(served.store)
    with monkeypatch.context() as broken:
        broken.setattr(Recogniser, "open", raising(ValueError("damaged")))
        for _ in range(5):
            assert not live.refresh(patient=True)
        assert live.failures == {"unreadable": 1}
        served.index_again(per_landmark=1)
        assert not live.refresh(patient=True)
        assert live.failures == {"unreadable": 2}
    assert not live.refresh(patient=True)
    assert live.refresh()
