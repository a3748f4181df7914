"""Decoding in processes of their own: what ingest stores, and limits that hold whatever is uploaded."""

from __future__ import annotations

import fcntl
import io
import os
import resource
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from glr_assets.images.pixels import StoredImage, downsize
from glr_assets.recipes import Images
from glr_assets.serving.decoder_pool import DecoderPool
from glr_assets.serving.limits import Limits, RefusedError
from glr_assets_tests.codecs.test_cost import HOSTILE
from glr_assets_tests.serving.conftest import encoded

RECIPE = Images()
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def decode(pool: DecoderPool, data: bytes, limits: Limits | None = None) -> StoredImage:
    """The bytes lie behind others in their file, as in a form of several."""
    return pool.decode(io.BytesIO(b"another" + data + b"more"), 7, len(data), RECIPE, limits or Limits())


def refusal(pool: DecoderPool, data: bytes, limits: Limits | None = None) -> tuple[int, str]:
    with pytest.raises(RefusedError) as caught:
        decode(pool, data, limits)
    assert caught.value.reason.isprintable()
    return caught.value.status, caught.value.code


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch) -> Iterator[DecoderPool]:
    """One of its own, of a service that has settings and secrets."""
    for name in ("GLR_SERVE_TOKEN", "AWS_SECRET_ACCESS_KEY", "GLR_STORE_OPTIONS", "DATABASE_PASSWORD"):
        monkeypatch.setenv(name, "a secret")
    found = DecoderPool()
    yield found
    found.close()


def starter(pool: DecoderPool) -> Path:
    """What the system tells of the process that starts workers."""
    assert pool._starter is not None
    return Path("/proc", str(pool._starter.process.pid))


def workers(pool: DecoderPool) -> list[Path]:
    """The same of the workers."""
    of = starter(pool)
    return [of.with_name(pid) for pid in (of / "task" / of.name / "children").read_text().split()]


def files(process: Path) -> list[tuple[Path, str]]:
    """The open files of a process, and what they are."""
    return [(one, str(one.readlink())) for one in (process / "fd").iterdir()]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "PPM"])
@pytest.mark.parametrize("size", [(320, 240), (1200, 900)])
def test_a_photograph_is_what_ingest_stores(decoders: DecoderPool, kind: str, size: tuple[int, int]) -> None:
    data = encoded(kind, size)
    assert decode(decoders, data) == downsize(data, RECIPE)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_are_refused_at_once(decoders: DecoderPool, kind: str) -> None:
    data = HOSTILE[kind][0]()
    ended = decoders.ended.total()
    assert refusal(decoders, data, Limits(max_bytes=len(data))) == (422, "undecodable")
    assert decoders.ended.total() == ended


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"]), st.integers(0, 10_000), st.binary(max_size=8))
def test_damage_is_told_as_ingest_tells_it(decoders: DecoderPool, kind: str, at: int, damage: bytes) -> None:
    whole = encoded(kind, (48, 32))
    place = at % len(whole)
    data = whole[:place] + damage + whole[place + len(damage) :]
    expected = downsize(data, RECIPE)
    if isinstance(expected, StoredImage):
        assert decode(decoders, data) == expected
    else:
        assert refusal(decoders, data)[0] in {413, 415, 422}


def large_png() -> bytes:
    """16 million pixels, which take about half a second and 50 MB."""
    file = io.BytesIO()
    Image.effect_noise((128, 128), 60).resize((4000, 4000)).convert("RGB").save(file, "PNG", compress_level=1)
    return file.getvalue()


def too_slow(pool: DecoderPool, data: bytes, limits: Limits) -> None:
    """It is refused by its CPU time; on a machine that is busy the clock is first, and then it may come again."""
    before = pool.ended.copy()
    ends = {(422, "too_costly"): "time", (503, "busy"): "busy"}[refusal(pool, data, limits)]
    assert pool.ended - before == {ends: 1}


def test_time_and_memory_are_limited(pool: DecoderPool) -> None:
    data, small = large_png(), encoded()
    too_slow(pool, data, Limits(decode_seconds=0.1))
    ended = pool.ended.copy()
    assert decode(pool, small) == downsize(small, RECIPE)
    assert refusal(pool, data, Limits(decode_memory=64 * 2**20)) == (422, "too_costly")
    # It was refused within the process, which goes on; the one that was ended may not be gone yet.
    worker = workers(pool)[-1]
    assert decode(pool, data) == downsize(data, RECIPE)
    assert workers(pool)[-1] == worker
    assert pool.ended == ended


def test_a_decoder_that_crashes_costs_its_photograph_alone(pool: DecoderPool) -> None:
    data, small = large_png(), encoded()
    decode(pool, small)
    (worker,) = workers(pool)
    crash = threading.Timer(0.1, os.kill, [int(worker.name), signal.SIGSEGV])
    crash.start()
    assert refusal(pool, data) == (422, "undecodable")
    assert pool.ended == {"crash": 1}
    assert decode(pool, small) == downsize(small, RECIPE)
    wait_until_gone([worker])


def wait_until_gone(processes: list[Path]) -> None:
    deadline = time.monotonic() + 10
    while any(one.exists() for one in processes):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_starts_decoders_is_started_again(pool: DecoderPool) -> None:
    small = encoded()
    decode(pool, small)
    assert pool._starter is not None
    first = pool._starter.process
    first.kill()
    first.wait()
    # The worker that is there goes on; another one cannot be had from it.
    with pool._worker() as one:
        assert one.starter.process is first
        assert refusal(pool, small) == (503, "not_ready")
    pool._failed_at = -100.0
    assert decode(pool, small) == downsize(small, RECIPE)
    assert pool._starter.process is not first


def test_a_decoder_knows_no_secrets_and_may_do_little(pool: DecoderPool) -> None:
    decode(pool, encoded())
    (worker,) = workers(pool)
    for process in (worker, starter(pool)):
        environment = (process / "environ").read_text()
        assert "secret" not in environment
        assert not [name for name in environment.split("\0") if name.startswith(("GLR_", "AWS_"))]
        assert {what for one, what in files(process) if one.name in {"0", "1", "2"}} == {os.devnull}
    pid = int(worker.name)
    for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
        assert resource.prlimit(pid, limit) == (0, 0)
    size = int((worker / "statm").read_text().split()[0]) * resource.getpagesize()
    assert resource.prlimit(pid, resource.RLIMIT_AS)[0] <= size + Limits().decode_memory
    # Sockets of the service and of other workers are not its own.
    assert len([what for _, what in files(worker) if "socket" in what]) == 1


def test_large_images_are_decoded_one_at_a_time_in_all_processes(pool: DecoderPool) -> None:
    small, large = encoded(), io.BytesIO()
    Image.new("RGB", (4200, 4100)).save(large, "PNG")
    decode(pool, small)
    (worker,) = workers(pool)
    lock = next(one for one, what in files(worker) if "(deleted)" in what)
    limits = Limits(decode_seconds=0.5)
    with lock.open("r+b") as held:
        fcntl.lockf(held, fcntl.LOCK_EX)
        began = time.monotonic()
        assert refusal(pool, large.getvalue(), limits) == (503, "busy")
        assert 1.5 <= time.monotonic() - began < 10
        assert pool.ended == {"busy": 1}
        assert decode(pool, small, limits) == downsize(small, RECIPE)
    assert decode(pool, large.getvalue()) == downsize(large.getvalue(), RECIPE)
    # One that is ended while it holds the lock leaves it to the next.
    too_slow(pool, large.getvalue(), Limits(decode_seconds=0.05))
    assert decode(pool, large.getvalue()) == downsize(large.getvalue(), RECIPE)


def test_a_kept_picture_loses_megabytes_of_metadata_and_no_pixel(decoders: DecoderPool) -> None:
    whole = encoded("JPEG", (64, 48))
    for comments, stripped in ((1, False), (40, True)):
        data = whole[:2] + b"".join(b"\xff\xfe" + b"\xff\xf0" + bytes(0xFFF0 - 2) for _ in range(comments)) + whole[2:]
        found = decode(decoders, data)
        assert found.pixel_path == "kept-2"
        assert (found.jpeg != data) == stripped
        assert len(found.jpeg) < 100_000
        assert Image.open(io.BytesIO(found.jpeg)).tobytes() == Image.open(io.BytesIO(whole)).tobytes()
    # What follows the picture is of no use, but cannot be told from it by its header.
    assert refusal(decoders, whole + bytes(6 * 2**20)) == (413, "too_large")


def test_all_processes_end_with_the_pool(pool: DecoderPool) -> None:
    decode(pool, encoded())
    processes = [starter(pool), *workers(pool)]
    assert len(processes) == 2
    pool.close()
    wait_until_gone(processes)
    assert refusal(pool, encoded()) == (503, "not_ready")
