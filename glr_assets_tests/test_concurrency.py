"""Lanes on shared threads, the byte budget, and thread limits of libraries under overlapping callers."""

from __future__ import annotations

import multiprocessing
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from threadpoolctl import threadpool_info, threadpool_limits

from glr_assets.concurrency import ByteBudget, Lane, Library, single_threaded


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


def threads_of(library: Library) -> int:
    return cv2.getNumThreads() if library == "opencv" else max(blas_threads())


@pytest.fixture(autouse=True)
def _three_threads() -> Iterator[None]:
    """OpenCV and BLAS have three threads each, and must have them again at the end."""
    np.ones((2, 2)) @ np.ones((2, 2))
    usual = cv2.getNumThreads()
    with threadpool_limits(3, user_api="blas"):
        cv2.setNumThreads(3)
        try:
            yield
            assert cv2.getNumThreads() == 3
            assert set(blas_threads()) == {3}
        finally:
            cv2.setNumThreads(usual)


@pytest.mark.parametrize("library", ["blas", "opencv"])
def test_a_limit_holds_until_the_last_of_overlapping_blocks_ends(library: Library) -> None:
    first, second = single_threaded(library), single_threaded(library)
    first.__enter__()
    second.__enter__()
    assert threads_of(library) == 1
    first.__exit__(None, None, None)
    assert threads_of(library) == 1
    second.__exit__(None, None, None)
    assert threads_of(library) == 3


@given(st.lists(st.integers(0, 5), max_size=24))
def test_any_order_of_entering_and_leaving_restores_what_was(turns: list[int]) -> None:
    blocks = {}
    for turn in turns:
        if turn in blocks:
            blocks.pop(turn).__exit__(None, None, None)
        else:
            blocks[turn] = single_threaded("opencv", "blas")
            blocks[turn].__enter__()
        expected = 1 if blocks else 3
        assert threads_of("opencv") == expected
        assert set(blas_threads()) == {expected}
    for block in blocks.values():
        block.__exit__(None, None, None)


def test_a_limit_is_lifted_after_an_error() -> None:
    with pytest.raises(ValueError, match="no"), single_threaded("blas", "opencv"):
        raise ValueError("no")


def test_a_block_entered_before_a_fork_may_end_in_the_child() -> None:
    with single_threaded("opencv"):
        child = multiprocessing.get_context("fork").Process(target=_leave_and_work)
        child.start()
        child.join(60)
    assert child.exitcode == 0


def _leave_and_work() -> None:
    with single_threaded("opencv"):
        assert cv2.getNumThreads() == 1
    assert Lane(2).submit(lambda: 7).result(30) == 7


def test_a_lane_runs_no_more_at_once_than_it_has_workers() -> None:
    running, most = 0, 0
    lock = threading.Lock()

    def work(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1
        return number

    lane = Lane(3)
    futures = [lane.submit(lambda number=number: work(number)) for number in range(40)]
    assert [future.result() for future in futures] == list(range(40))
    assert most == 3


def test_what_is_cancelled_before_its_turn_never_runs() -> None:
    lane, begun, go = Lane(1), [], threading.Event()
    first = lane.submit(lambda: go.wait(30))
    second = lane.submit(lambda: begun.append(2))
    third = lane.submit(lambda: begun.append(3))
    assert second.cancel()
    go.set()
    assert first.result() is True
    third.result()
    assert begun == [3]
    with pytest.raises(CancelledError):
        second.result()


def test_an_error_is_raised_where_the_result_is_taken_and_the_lane_goes_on() -> None:
    lane = Lane(1)
    with pytest.raises(ZeroDivisionError):
        lane.submit(lambda: 1 / 0).result()
    assert lane.submit(lambda: 5).result() == 5


def test_a_budget_takes_one_item_of_any_size_and_else_its_limit() -> None:
    budget = ByteBudget(10)
    assert budget.fits(99)
    budget.take(7)
    assert budget.fits(3)
    assert not budget.fits(4)
    budget.release(7)
    assert budget.fits(11)
