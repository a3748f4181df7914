"""The recognition service under hostile uploads and slow clients: memory, and how long other clients wait.

Serves the built-in sample's store, or the one of `--store`, in a process of its own on loopback. Two ordinary clients
ask with photographs from 127.0.0.1 throughout. Beside them, phase by phase: clients that upload the costliest files
that are known, 600 slow clients of one address, 600 of as many addresses, and both kinds together. All of
127.0.0.0/8 is this machine, so each client has the address that it wants.

Memory is that of the process and of all it started, 20 times a second: resident bytes, pages that several of them share
counted once (PSS) and, beside it, as often as they are mapped (RSS).

Run it with `python -m glr_assets_tests.benchmarks.hostile_uploads`. Exits with 1 where memory is ever over 1.5 times
its idle size plus 300 MB, or where an ordinary client waits longer than a minute or gets anything but an answer, after
it has come back as often as it is told to.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import multiprocessing
import os
import random
import selectors
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from glr_assets.images.reader import ImageReader
from glr_assets.serving.limits import Limits
from glr_assets.store import Store
from glr_assets_tests.benchmarks.serving import GLR, ready, sample_store
from glr_assets_tests.codecs.test_cost import HOSTILE
from glr_assets_tests.codecs.test_turbojpeg import of_scans

PROCESSES = multiprocessing.get_context("fork")
SLOW = 600
#: The files have as many bytes as are taken by default, and a header more.
MAX_BYTES = Limits().max_bytes + 2**20
PATIENCE_SECONDS = 60.0
#: Bound of memory: so many times the idle size, and so many bytes.
FACTOR, ALLOWANCE = 1.5, 300e6


@dataclass
class Seen:
    """What clients of one kind saw in one phase.

    Attributes:
        seconds: from a request to its answer of 200, over all that it came back.
        statuses: of every response; 0 where the connection was closed.
    """

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    slowest: tuple[float, str] = (0.0, "")


def together(all_seen: list[Seen]) -> Seen:
    """What several saw."""
    return Seen(
        [second for seen in all_seen for second in seen.seconds],
        sum((seen.statuses for seen in all_seen), Counter()),
        max((seen.slowest for seen in all_seen), default=(0.0, "")),
    )


class Memory(threading.Thread):
    """Watches the resident bytes of a process and its children."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self._process, self._ends = process, threading.Event()
        self.pss = self.rss = 0

    def run(self) -> None:
        """Watch until `end`."""
        while not self._ends.wait(0.05):
            pss, rss = resident(self._process)
            self.pss, self.rss = max(self.pss, pss), max(self.rss, rss)

    def end(self) -> None:
        """Watch no longer."""
        self._ends.set()
        self.join()


def resident(process: int) -> tuple[int, int]:
    """Bytes of a process and all its descendants: PSS and RSS."""
    pss = rss = 0
    left = [process]
    while left:
        of = Path("/proc", str(left.pop()))
        with contextlib.suppress(OSError):
            left += map(int, (of / "task" / of.name / "children").read_text().split())
            rows = [line.split() for line in (of / "smaps_rollup").read_text().splitlines()]
            pss += sum(int(row[1]) * 1024 for row in rows if row[0] == "Pss:")
            rss += sum(int(row[1]) * 1024 for row in rows if row[0] == "Rss:")
    return pss, rss


def noise(kind: str, side: int, **options: object) -> bytes:
    """A picture within all limits that costs its decoder much."""
    file = io.BytesIO()
    Image.effect_noise((512, 512), 60).resize((side, side), Image.Resampling.NEAREST).convert("RGB").save(
        file, kind, **options
    )
    return file.getvalue()


def uploads() -> dict[str, bytes]:
    """The files that are refused by their structure, and the costliest of those that are not."""
    found = {name: make() for name, (make, _) in HOSTILE.items()}
    found |= {
        "JPEG of 63 scans of 4096x4096": of_scans(60, 4096),
        "JPEG of 64 million pixels": noise("JPEG", 8000, quality=30),
        "progressive JPEG of 64 million pixels": noise("JPEG", 8000, quality=30, progressive=True),
        "PNG of 64 million pixels": noise("PNG", 8000, compress_level=1),
        "PNG of 16 million pixels": noise("PNG", 4096, compress_level=1),
        "WebP of 16 million pixels": noise("WEBP", 4096, method=0, quality=30),
    }
    return {name: data for name, data in found.items() if len(data) <= MAX_BYTES}


def post(url: str, host: str, data: bytes) -> httpx.Response:
    """The answer to one photograph, asked from an address of this machine."""
    transport = httpx.HTTPTransport(local_address=host)
    with httpx.Client(base_url=url, timeout=120, transport=transport) as http:
        return http.post("/recognize", files={"image": data})


def ordinary(url: str, photos: list[bytes], seen: Seen, ends: Event) -> None:
    """A client that asks again as soon as it is answered, and comes back when it is told to."""
    number = 0
    while not ends.is_set():
        began, status = time.perf_counter(), 0
        while status != 200 and not ends.is_set():
            try:
                response = post(url, "127.0.0.1", photos[number % len(photos)])
            except httpx.TransportError:
                seen.statuses[0] += 1
                continue
            status = response.status_code
            seen.statuses[status] += 1
            if status in {429, 503}:
                ends.wait(float(response.headers["retry-after"]))
        seen.seconds.append(time.perf_counter() - began)
        number += 1


def attacker(url: str, host: str, files: dict[str, bytes], seen: Seen, ends: Event) -> None:
    """A client that uploads one file after the other, and never waits."""
    order, own = list(files), random.Random(os.getpid())
    while not ends.is_set():
        own.shuffle(order)
        for name in order:
            if ends.is_set():
                return
            began = time.perf_counter()
            try:
                seen.statuses[post(url, host, files[name]).status_code] += 1
            except httpx.TransportError:
                seen.statuses[0] += 1
            took = time.perf_counter() - began
            seen.seconds.append(took)
            seen.slowest = max(seen.slowest, (took, name))


def slow_clients(port: int, hosts: list[str], seen: Seen, ends: Event) -> None:
    """As many slow uploads as hosts are named: a part of the body, then some bytes every second; each comes again."""
    start = (
        b"POST /recognize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10000000\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="p"\r\n\r\n' + bytes(60_000)
    )
    opened: dict[socket.socket, str] = {}
    waiting = list(hosts)
    with selectors.DefaultSelector() as selector:

        def close(one: socket.socket, status: int) -> None:
            seen.statuses[status] += 1
            selector.unregister(one)
            waiting.append(opened.pop(one))
            one.close()

        while not ends.is_set():
            for _ in range(min(len(waiting), 100)):
                host = waiting.pop(0)
                try:
                    one = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(host, 0))
                    one.sendall(start)
                except OSError:
                    seen.statuses[0] += 1
                    waiting.append(host)
                    continue
                one.setblocking(False)
                opened[one] = host
                selector.register(one, selectors.EVENT_READ)
            until = time.monotonic() + 1
            while time.monotonic() < until and not ends.is_set():
                for key, _ in selector.select(0.1):
                    one = key.fileobj
                    assert isinstance(one, socket.socket)
                    try:
                        answer = one.recv(65536)
                    except OSError:
                        answer = b""
                    close(one, int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else 0)
            for one in list(opened):
                try:
                    one.send(bytes(100))
                except OSError:
                    close(one, 0)
        for one in opened:
            one.close()


Job = Callable[[Seen, Event], None]
"""Clients that run until the event is set."""


class Clients:
    """Clients in a process of their own, so that those of other processes wait for none of them."""

    def __init__(self, job: Job) -> None:
        self._ends = PROCESSES.Event()
        self._result, theirs = PROCESSES.Pipe(duplex=False)
        self._process = PROCESSES.Process(target=self._run, args=(job, theirs))
        self._process.start()

    def _run(self, job: Job, result: Connection) -> None:
        seen = Seen()
        job(seen, self._ends)
        result.send(seen)

    def end(self) -> Seen:
        """What they saw."""
        self._ends.set()
        seen: Seen = self._result.recv()
        self._process.join()
        return seen


def phases(port: int, files: dict[str, bytes]) -> dict[str, list[Job]]:
    """What runs beside the ordinary clients, by phase."""
    url = f"http://127.0.0.1:{port}"

    def uploading(host: str) -> Job:
        return partial(attacker, url, host, files)

    one = ["127.0.0.3"] * SLOW
    many = [f"127.1.{number // 250}.{number % 250 + 1}" for number in range(SLOW)]
    slow = partial(partial, slow_clients, port)
    four = [uploading(f"127.0.0.{number}") for number in (4, 4, 5, 6)]
    return {
        "nothing": [],
        "4 clients upload hostile files": four,
        "600 slow clients of one address": [slow(one)],
        "600 slow clients of 600 addresses": [slow(many)],
        "4 clients that upload, 600 slow ones of 301 addresses": [*four, slow([*one[: SLOW // 2], *many[: SLOW // 2]])],
    }


def main() -> None:
    """Print the table; exit 1 where a bound is not kept."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", help="a store with an index; by default the sample's lineage is made")
    parser.add_argument("--seconds", type=float, default=40.0, help="of each phase")
    arguments = parser.parse_args()
    wrong = []
    with tempfile.TemporaryDirectory(prefix="glr-hostile-") as folder:
        store = arguments.store or sample_store(Path(folder))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        reader = ImageReader.of_split(Store(store), "test")
        photos = [reader.read(image_id) for image_id in reader.ids[:64]]
        files = uploads()
        url = f"http://127.0.0.1:{port}"
        command = [GLR, "serve", "--port", str(port), "--store", store]
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"GLR_SERVE_MAX_BYTES": str(MAX_BYTES)},
        )
        try:
            ready(url, process)
            for photo in photos[:4]:
                post(url, "127.0.0.1", photo)
            time.sleep(3)
            idle, idle_rss = resident(process.pid)
            bound = FACTOR * idle + ALLOWANCE
            print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before; {len(files)} hostile files")
            print(f"idle {idle / 1e6:.0f} MB (RSS {idle_rss / 1e6:.0f}), so at most {bound / 1e6:.0f} MB\n")
            print(
                "| beside 2 ordinary clients | their answers/s | p50 s | p99 s | longest s | their 200/429/503/other ",
                end="",
            )
            print("| peak MB | peak RSS MB | statuses of the others | longest hostile upload s |")
            print("|---|" + "---:|" * 7 + "---|---|")
            for name, jobs in phases(port, files).items():
                memory = Memory(process.pid)
                memory.start()
                hostile_clients = [Clients(job) for job in jobs]
                ordinary_clients = [Clients(partial(ordinary, url, photos)) for _ in range(2)]
                time.sleep(arguments.seconds)
                seen = together([clients.end() for clients in ordinary_clients])
                hostile = together([clients.end() for clients in hostile_clients])
                memory.end()
                p50, p99 = np.percentile(seen.seconds or [np.inf], [50, 99])
                longest = max(seen.seconds, default=float("inf"))
                other = seen.statuses.total() - sum(seen.statuses[status] for status in (200, 429, 503))
                own = "/".join(str(seen.statuses[status]) for status in (200, 429, 503))
                statuses = ", ".join(f"{status or 'closed'}: {n}" for status, n in sorted(hostile.statuses.items()))
                print(
                    f"| {name} | {len(seen.seconds) / arguments.seconds:.1f} | {p50:.2f} | {p99:.2f} | {longest:.2f} | "
                    f"{own}/{other} | {memory.pss / 1e6:.0f} | {memory.rss / 1e6:.0f} | {statuses or '-'} | "
                    f"{hostile.slowest[0]:.1f} {hostile.slowest[1]} |",
                    flush=True,
                )
                if memory.pss > bound:
                    wrong.append(f"{name}: {memory.pss / 1e6:.0f} MB")
                if other or longest > PATIENCE_SECONDS:
                    wrong.append(f"{name}: an ordinary client waited {longest:.0f} s, or got {dict(seen.statuses)}")
                if process.poll() is not None:
                    sys.exit(f"error: glr serve ended with {process.returncode}")
        finally:
            process.terminate()
            process.wait(30)
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
