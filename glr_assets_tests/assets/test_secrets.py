"""What Dagster keeps of runs, good ones and failed ones, holds no secret of the settings."""

from __future__ import annotations

import json
import sqlite3
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.lineage import open_instance
from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import sync_shards
from glr_assets.settings import Settings
from glr_assets.store import Store
from glr_assets_tests.assets.conftest import Runner

SHARD = "000"
SECRETS = ("AKIA-PLANTED-KEY", "planted/secret+of=store", "planted-secret-of-source", "planted-webhook", "planted-pw")


def kept(home: Path) -> Iterator[str]:
    """All that an instance keeps, as text: rows of its databases, unpacked where they are compressed, and files."""
    for path in home.rglob("*"):
        if not path.is_file():
            continue
        yield path.read_bytes().decode("latin-1")
        if path.suffix != ".db":
            continue
        with sqlite3.connect(path) as database:
            tables = [name for (name,) in database.execute("select name from sqlite_master where type = 'table'")]
            for table in tables:
                for row in database.execute(f"select * from {table}"):
                    for value in row:
                        if isinstance(value, bytes):
                            try:
                                yield zlib.decompress(value).decode("latin-1")
                            except zlib.error:
                                yield value.decode("latin-1")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "dagster"
    folder.mkdir()
    (folder / "dagster.yaml").write_text("telemetry:\n  enabled: false\n")
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    monkeypatch.setenv("GLR_ALERT_WEBHOOK", f"https://hooks.example.org/{SECRETS[3]}")
    return folder


def test_no_secret_is_in_what_dagster_keeps(
    home: Path,
    bucket: str,
    recipe_file: Path,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = f"secrets-{uuid.uuid4().hex}"
    Store(f"s3://{name}", {"endpoint_url": s3_endpoint}).fs.mkdir(name)
    options = {"endpoint_url": s3_endpoint, "key": SECRETS[0], "secret": SECRETS[1]}
    monkeypatch.setenv("GLR_STORE_OPTIONS", json.dumps(options))
    good = Platform(source=bucket, store=f"s3://{name}/made", recipe=str(recipe_file))
    bad_sources = {
        "s3://closed/x": {"endpoint_url": "http://127.0.0.1:1", "key": SECRETS[2], "secret": SECRETS[2]},
        "s3://both/x": {"endpoint_url": f"http://u:{SECRETS[4]}@127.0.0.1:1", "key": "key", "secret": SECRETS[2]},
        "s3://unknown/x": {"nonsense": SECRETS[2]},
        "s3://wrong/x": [SECRETS[2]],
        f"ftp://ann:{SECRETS[4]}@127.0.0.1:1/x": {},
    }
    with open_instance() as instance:
        sync_shards(instance, good.open_source())
        run = Runner(good, instance)
        assert run("train_metadata", "test_metadata").success
        assert run("test_images", shards=run.range_of("test")).success
        for source, source_options in bad_sources.items():
            monkeypatch.setenv("GLR_SOURCE_OPTIONS", json.dumps(source_options))
            url = source if SECRETS[4] not in source else None
            if url is None:
                monkeypatch.setenv("GLR_SOURCE", source)
            bad = Runner(Platform(source=url, store=good.store, recipe=good.recipe), instance)
            assert not bad("train_metadata").success
            assert not bad("test_images", shard=SHARD).success
        monkeypatch.delenv("GLR_SOURCE")
        monkeypatch.setenv("GLR_SOURCE_OPTIONS", "{}")
        shown = repr(Settings.from_environment(store=good.store)) + repr(good) + capfd.readouterr().err
        events = "".join(entry.to_json() for found in instance.get_runs() for entry in instance.all_logs(found.run_id))
        failed = instance.get_runs(filters=dg.RunsFilter(statuses=[dg.DagsterRunStatus.FAILURE]))
        assert len(failed) == 2 * len(bad_sources)
    for words in ("no server listens", "'nonsense'", "GLR_SOURCE_OPTIONS", "ftp://***@127.0.0.1"):
        assert words in events
    everything = [shown, events, *kept(home)]
    assert [secret for secret in SECRETS for text in everything if secret in text] == []
