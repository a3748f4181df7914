"""The recognition service under load: requests a second and how long they take, by clients at once.

Serves the embedded sample's store, or the one of `--store`, in a process of its own on loopback and asks it with one
photograph after the other from 1, 8 and 64 clients; a client that is told to come back does so after the time it is
told. Run it with `python -m glr_assets_tests.benchmarks.serving`. Exits with 1 where an answer is neither 200 nor 503.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np

from glr_assets.images.reader import ImageReader
from glr_assets.serving.client import Client
from glr_assets.serving.limits import RefusedError
from glr_assets.store import Store

GLR = str(Path(sys.executable).with_name("glr"))
START_SECONDS = 300


@dataclass
class Load:
    """What clients saw together."""

    seconds: list[float] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)


def sample_store(folder: Path) -> str:
    """The embedded sample's whole lineage, about two minutes."""
    store = str(folder / "store")
    subprocess.run([GLR, "demo", "--store", store], check=True, capture_output=True)
    return store


def ready(url: str, process: subprocess.Popen[bytes]) -> None:
    """Wait until the service has an index."""
    began = time.monotonic()
    with Client(url) as glr:
        while time.monotonic() - began < START_SECONDS:
            if process.poll() is not None:
                sys.exit(f"error: glr serve ended with {process.returncode}")
            try:
                found = glr.ready()
                print(f"{found.images} photographs of {found.landmarks} landmarks, ready in", end=" ")
                print(f"{time.monotonic() - began:.1f} s", flush=True)
                return
            except (RefusedError, httpx.TransportError):
                time.sleep(0.1)
    sys.exit("error: glr serve was not ready in time")


def loaded(url: str, photos: list[bytes], clients: int, seconds: float) -> Load:
    """So many clients, each asking again as soon as it is answered."""
    load, lock = Load(), threading.Lock()
    until = time.monotonic() + seconds

    def client(number: int) -> None:
        with httpx.Client(base_url=url, timeout=60) as http:
            at = number
            while time.monotonic() < until:
                began = time.perf_counter()
                response = http.post("/recognize", files={"image": photos[at % len(photos)]})
                took = time.perf_counter() - began
                with lock:
                    load.statuses[response.status_code] += 1
                    if response.status_code == 200:
                        load.seconds.append(took)
                if response.status_code == 503:
                    time.sleep(float(response.headers["retry-after"]))
                at += 1

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return load


def main() -> None:
    """Print the table; exit 1 where an answer is neither 200 nor 503."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--store", help="a store with an index; by default the sample's lineage is made")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--seconds", type=float, default=15.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="glr-serving-") as folder:
        store = arguments.store or sample_store(Path(folder))
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = int(probe.getsockname()[1])
        reader = ImageReader.of_split(Store(store), "test")
        photos = [reader.read(image_id) for image_id in reader.ids[:64]]
        url = f"http://127.0.0.1:{port}"
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen([GLR, "serve", "--port", str(port), "--store", store], **quiet)  # type: ignore[call-overload]
        wrong = 0
        try:
            ready(url, process)
            print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before\n")
            print("| clients | answers/s | p50 ms | p99 ms | 200 | 503 | other |\n|---|---|---|---|---|---|---|")
            loaded(url, photos, 1, 3.0)
            for clients in arguments.clients:
                began = time.monotonic()
                load = loaded(url, photos, clients, arguments.seconds)
                rate = len(load.seconds) / (time.monotonic() - began)
                p50, p99 = np.percentile(load.seconds, [50, 99]) * 1000
                other = load.statuses.total() - load.statuses[200] - load.statuses[503]
                wrong += other
                print(
                    f"| {clients} | {rate:.1f} | {p50:.0f} | {p99:.0f} | {load.statuses[200]} | "
                    f"{load.statuses[503]} | {other} |",
                    flush=True,
                )
        finally:
            process.terminate()
            process.wait(30)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
