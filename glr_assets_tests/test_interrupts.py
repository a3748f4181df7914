from __future__ import annotations

import os
import signal
import threading

import dagster as dg
import pytest

from glr_assets.defs.lineage import _was_interrupted
from glr_assets.interrupts import Interrupted, raise_if_interrupted, raising_interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_raised_with_its_exit_status(number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with pytest.raises(Interrupted) as stopped, raising_interrupts():
        os.kill(os.getpid(), number)
    assert stopped.value.exit_status == 128 + number
    assert str(stopped.value) == number.name
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_dagster_keeps_to_itself_is_raised_after_its_run(number: signal.Signals) -> None:
    @dg.asset
    def stopping() -> None:
        os.kill(os.getpid(), number)
        threading.Event().wait(10)

    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    with raising_interrupts():
        result = dg.materialize([stopping], raise_on_error=False, run_config=quiet)
        assert _was_interrupted(result)
        with pytest.raises(Interrupted) as stopped:
            raise_if_interrupted(surely=True)
    assert stopped.value.signal == number


def test_a_signal_that_is_swallowed_is_still_seen() -> None:
    with raising_interrupts():
        raise_if_interrupted()
        signal.signal(signal.SIGTERM, lambda *_: None)
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Interrupted, match="SIGTERM"):
            raise_if_interrupted()
        raise_if_interrupted()


def test_nobody_listens_outside_and_in_threads() -> None:
    raise_if_interrupted()
    seen: list[object] = []

    def elsewhere() -> None:
        with raising_interrupts():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
