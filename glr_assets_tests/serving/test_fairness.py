"""Whom requests are counted for, and whose is computed next."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.errors import SettingsError
from glr_assets.serving.clients import Rate, client_of, is_proxy, slowest_of_greediest
from glr_assets.serving.limits import Limits, RefusedError
from glr_assets.serving.turns import Turns

PROXIES = (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("192.0.2.7", [], "192.0.2.7"),
        (None, ["198.51.100.1"], "local"),
        ("testclient", [], "local"),
        # A stranger's word is not taken.
        ("192.0.2.7", ["198.51.100.1"], "192.0.2.7"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        # The rightmost that is no proxy is what the proxies have seen; all before it may be made up.
        ("10.0.0.1", ["203.0.113.9, 198.51.100.1, 10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["203.0.113.9", "198.51.100.1", "10.0.0.2"], "198.51.100.1"),
        ("10.0.0.1", ["10.0.0.3"], "10.0.0.3"),
        ("10.0.0.1", ["198.51.100.1, nonsense"], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1, 10.0.0.2, unknown"], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("10.0.0.1", ["198.51.100.1:4711"], "198.51.100.1"),
        ("10.0.0.1", ['"[2001:db8:1:2:3::4]:80"'], "2001:db8:1:2::/64"),
        ("::ffff:10.0.0.1", ["198.51.100.1"], "198.51.100.1"),
        ("::ffff:192.0.2.7", [], "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", [], "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", [], "2001:db8:1:2::/64"),
        ("fe80::1%eth0", [], "fe80::/64"),
        ("fd00::5", ["2001:db8::1"], "2001:db8::/64"),
    ],
)
def test_a_client_is_an_address_or_a_network(peer: str | None, forwarded: list[str], client: str) -> None:
    assert client_of(peer, forwarded, PROXIES) == client


@given(st.text(max_size=60), st.lists(st.text(max_size=60), max_size=4))
def test_whatever_is_forwarded_there_is_a_client(peer: str, forwarded: list[str]) -> None:
    assert client_of(peer, forwarded, PROXIES)
    assert client_of("10.1.1.1", forwarded, PROXIES)


def test_proxies_are_known_by_their_networks() -> None:
    assert is_proxy("10.9.9.9", PROXIES)
    assert is_proxy("::ffff:10.9.9.9", PROXIES)
    assert not is_proxy("11.0.0.1", PROXIES)
    assert not is_proxy(None, PROXIES)


@dataclass
class Held:
    client_key: str
    received: int
    age: float = 10.0
    since: float = field(init=False)

    def __post_init__(self) -> None:
        self.since = time.monotonic() - self.age


def test_the_slowest_of_the_client_that_holds_most_makes_room() -> None:
    slow, fast, other = Held("a", 100), Held("a", 10**6), Held("b", 0)
    assert slowest_of_greediest([slow, fast, other], "b", 100) is slow
    assert slowest_of_greediest([slow, fast, other], "c", 100) is slow
    assert slowest_of_greediest([fast, Held("a", 10**7), other], "c", 100) is fast
    # Of clients with as many each the slowest of all; also for one that holds none yet.
    assert slowest_of_greediest([slow, other], "c", 100) is other
    assert slowest_of_greediest([], "c", 100) is None


def test_a_client_with_most_gives_up_a_slow_one_of_its_own_or_nothing() -> None:
    slow, fast, new, other = Held("a", 100), Held("a", 10**6), Held("a", 0, age=0.5), Held("b", 0)
    assert slowest_of_greediest([slow, fast, new, other], "a", 100) is slow
    assert slowest_of_greediest([fast, new, Held("b", 10**6)], "a", 100) is None
    assert slowest_of_greediest([other], "b", 100) is other


def test_a_client_with_few_takes_the_place_of_any_slow_one() -> None:
    slow = [Held(name, number) for number, name in enumerate("abcdefgh")]
    fast = [Held("z", 10**7) for _ in range(8)]
    assert slowest_of_greediest(slow + fast[:7], "z", 100) is slow[0]
    assert slowest_of_greediest(slow + fast, "z", 100) is None
    assert slowest_of_greediest(slow + fast, "z", 1000) is slow[0]
    assert slowest_of_greediest([Held("b", 0, age=0.5), *fast[:1]], "z", 100) is None


def test_a_client_may_ask_so_often_and_others_too() -> None:
    now = [0.0]
    rate = Rate(60, clock=lambda: now[0])
    for _ in range(10):
        rate.check("a")
    with pytest.raises(RefusedError) as caught:
        rate.check("a")
    assert (caught.value.status, caught.value.code, caught.value.retry_after) == (429, "too_often", 1)
    rate.check("b")
    now[0] = 0.9
    with pytest.raises(RefusedError):
        rate.check("a")
    now[0] = 1.9
    rate.check("a")
    with pytest.raises(RefusedError):
        rate.check("a")
    now[0] = 1000.0
    for _ in range(10):
        rate.check("a")
    with pytest.raises(RefusedError):
        rate.check("a")
    never = Rate(0)
    for _ in range(1000):
        never.check("a")
    rare = Rate(0.5, clock=lambda: now[0])
    rare.check("a")
    with pytest.raises(RefusedError) as caught:
        rare.check("a")
    assert caught.value.retry_after == 120


def test_what_clients_asked_takes_bounded_memory() -> None:
    rate = Rate(60)
    for number in range(30_000):
        rate.check(str(number))
    assert len(rate._buckets) == 10_000


class Queue:
    """Requests that compute until they are told to end, and in which order they began."""

    def __init__(self, **limits: float) -> None:
        self.turns = Turns(Limits(**limits))  # type: ignore[arg-type]
        self.began: list[str] = []
        self.ends: dict[str, asyncio.Event] = {}
        self.gone: dict[str, asyncio.Event] = {}

    def ask(self, name: str) -> asyncio.Task[None]:
        """By the client of the name's first letter."""
        self.ends[name], self.gone[name] = asyncio.Event(), asyncio.Event()

        async def request() -> None:
            async with self.turns.one(name[0], self.gone[name].wait):
                self.began.append(name)
                await self.ends[name].wait()

        return asyncio.create_task(request())

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await settled()


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


def run(test: Callable[[], Coroutine[None, None, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 20))


def test_clients_take_turns_however_many_one_of_them_asks() -> None:
    async def test() -> None:
        queue = Queue(computing=1, waiting=32)
        asked = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
        tasks = [queue.ask(name) for name in asked]
        await settled()
        assert queue.turns.held == 7
        for _ in asked:
            await queue.end(queue.began[-1])
        await asyncio.gather(*tasks)
        assert queue.began == ["a1", "a2", "b1", "c1", "a3", "b2", "a4"]
        assert queue.turns.held == 0

    run(test)


def test_a_turn_goes_to_the_client_with_fewest_under_way() -> None:
    async def test() -> None:
        queue = Queue(computing=3, waiting=32)
        tasks = [queue.ask(name) for name in ("a1", "a2", "b1", "a3", "b2", "c1")]
        await settled()
        assert queue.began == ["a1", "a2", "b1"]
        await queue.end("b1")
        assert queue.began[3:] == ["b2"]  # of a are two under way, and c began to wait last
        await queue.end("a1")
        assert queue.began[4:] == ["c1"]
        await queue.end("a2")
        for name in ("a3", "b2", "c1"):
            await queue.end(name)
        await asyncio.gather(*tasks)

    run(test)


def test_a_newcomer_takes_the_place_of_the_last_of_the_greediest() -> None:
    async def test() -> None:
        queue = Queue(computing=1, waiting=3)
        tasks = {name: queue.ask(name) for name in ("a1", "a2", "a3", "a4")}
        await settled()
        with pytest.raises(RefusedError) as caught:
            await queue.ask("a5")
        assert (caught.value.status, caught.value.retry_after) == (503, 1)
        tasks["b1"] = queue.ask("b1")
        with pytest.raises(RefusedError):
            await tasks.pop("a4")
        # Now two of a wait and one of b: another of b would leave a with fewer.
        with pytest.raises(RefusedError):
            await queue.ask("b2")
        for name in ("a1", "a2", "b1", "a3"):
            await queue.end(name)
        await asyncio.gather(*tasks.values())
        assert queue.began == ["a1", "a2", "b1", "a3"]

    run(test)


def test_who_has_gone_or_waited_too_long_waits_no_more() -> None:
    async def test() -> None:
        queue = Queue(computing=1, waiting=3, wait_seconds=0.2)
        first, leaves, waits = queue.ask("a1"), queue.ask("b1"), queue.ask("c1")
        await settled()
        queue.gone["b1"].set()
        with pytest.raises(RefusedError, match="gone away"):
            await leaves
        assert queue.turns.held == 2
        with pytest.raises(RefusedError) as caught:
            await waits
        assert caught.value.status == 503
        await queue.end("a1")
        await first
        assert queue.turns.held == 0
        assert queue.began == ["a1"]

    run(test)


def test_a_turn_that_was_given_to_one_who_is_cancelled_goes_on() -> None:
    async def test() -> None:
        queue = Queue(computing=1, waiting=3)
        first, second, third = queue.ask("a1"), queue.ask("b1"), queue.ask("c1")
        await settled()
        queue.ends["a1"].set()
        await asyncio.sleep(0)  # a1 has handed its turn to b1, which has not noticed yet
        second.cancel()
        await settled()
        assert queue.began == ["a1", "c1"]
        await queue.end("c1")
        await asyncio.gather(first, third)
        assert queue.turns.held == 0

    run(test)


def test_limits_are_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLR_SERVE_MAX_BYTES", "1000")
    monkeypatch.setenv("GLR_SERVE_TRUSTED_PROXIES", "10.0.0.0/8, fd00::/8,")
    monkeypatch.setenv("GLR_SERVE_RATE", "")
    # As Kubernetes sets them for a service of that name.
    monkeypatch.setenv("GLR_SERVE_PORT", "tcp://10.0.0.1:8000")
    found = Limits.from_environment()
    assert found == Limits(max_bytes=1000, trusted_proxies=PROXIES)
    for name, value in (
        ("MAX_BYTES", "0"),
        ("UPLOAD_SECONDS", "nan"),
        ("TRUSTED_PROXIES", "10.0.0.1/8"),
        ("WAITING", "x"),
    ):
        monkeypatch.setenv(f"GLR_SERVE_{name}", value)
        with pytest.raises(SettingsError, match=f"GLR_SERVE_{name} = '{value}': "):
            Limits.from_environment()
        monkeypatch.delenv(f"GLR_SERVE_{name}")


def test_the_page_lists_every_limit_with_its_default() -> None:
    lines = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text().splitlines()
    rows = [re.split(r" *\| *", line.strip("| ")) for line in lines if line.startswith("| `GLR_SERVE_")]
    assert rows == [
        [f"`GLR_SERVE_{name.upper()}`", default_of(field.default), field.description]
        for name, field in Limits.model_fields.items()
    ]


def default_of(value: object) -> str:
    if isinstance(value, int | float):
        return f"{value // 2**20:g} MiB" if value >= 2**20 and value % 2**20 == 0 else f"{value:.9g}"
    return "none" if value == () else "the CPUs"
