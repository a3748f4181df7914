"""Source and store on a real S3 server on loopback: the same manifests as on files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from glr_assets.store import Store
from glr_assets_tests.integration.conftest import Glr
from glr_assets_tests.lineage import digests


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


def test_source_and_store_on_s3_give_the_same_files(
    glr: Glr, bucket: str, quick: str, endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    options = {"endpoint_url": endpoint}
    store = Store("s3://glr-store/run", options)
    for name in ("glr-source", "glr-store"):
        store.fs.mkdir(name)
    store.fs.put(f"{bucket}/", "glr-source/", recursive=True)
    done = glr(
        "demo",
        "--recipe",
        quick,
        GLR_SOURCE="s3://glr-source",
        GLR_SOURCE_OPTIONS=json.dumps(options),
        GLR_STORE="s3://glr-store/run",
        GLR_STORE_OPTIONS=json.dumps(options),
        **CREDENTIALS,
    )
    assert done.returncode == 0, done.stderr
    local = glr("demo", "--source", bucket, "--store", "store", "--recipe", quick)
    assert local.returncode == 0, local.stderr
    store.fs.invalidate_cache()
    store.fs.get("glr-store/run/", str(tmp_path / "fetched"), recursive=True)
    trees = ("metadata", "manifests", "images", "embeddings", "index", "submissions", "reports")
    assert digests(tmp_path / "fetched", *trees) == digests(tmp_path / "store", *trees)


def test_a_closed_port_is_one_line(glr: Glr, quick: str, free_tcp_port: int) -> None:
    options = json.dumps({"endpoint_url": f"http://127.0.0.1:{free_tcp_port}"})
    done = glr("demo", "--recipe", quick, GLR_SOURCE="s3://glr-source", GLR_SOURCE_OPTIONS=options, **CREDENTIALS)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "s3://glr-source" in line
