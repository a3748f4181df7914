"""What a store remembers, and in which order settings hold: option, environment, store, default."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.build import ASSETS
from glr_assets.defs.platform import Platform
from glr_assets.errors import StoreError
from glr_assets.settings import Settings
from glr_assets.store import Store
from glr_assets.store_settings import PATH, StoreSettings, read_store_settings, write_store_settings

GLR = str(Path(sys.executable).with_name("glr"))


def remembering(folder: Path, **values: str | None) -> str:
    kept = {"source": None, "openimages": None, "recipe": "small"} | values
    write_store_settings(Store(str(folder)), StoreSettings(**kept))  # type: ignore[arg-type]
    return str(folder)


def resolved(store: str, **given: str) -> tuple[str | None, str]:
    found = Settings.from_environment(store=store, **given).resolved
    return found.source, found.recipe


def test_option_before_environment_before_store_before_default(
    tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh, kept = str(tmp_path / "fresh"), remembering(tmp_path / "kept", source="s3://kept/bucket", recipe="full")
    assert resolved(fresh) == (None, "small")
    assert resolved(fresh, source=bucket) == (bucket, "own_photos")
    assert resolved(fresh, source="s3://google-landmark") == ("s3://google-landmark", "full")
    assert resolved(fresh, source="kaggle:///folder") == ("kaggle:///folder", "full")
    assert resolved(kept) == ("s3://kept/bucket", "full")
    assert resolved(kept, recipe="small") == ("s3://kept/bucket", "small")
    # The remembered recipe was chosen for the remembered source.
    assert resolved(kept, source=bucket) == (bucket, "own_photos")
    monkeypatch.setenv("GLR_SOURCE", "s3://environment/bucket")
    monkeypatch.setenv("GLR_RECIPE", "small")
    assert resolved(kept) == ("s3://environment/bucket", "small")
    assert resolved(kept, source=bucket, recipe="full") == (bucket, "full")


def test_source_and_open_images_are_opened_as_remembered(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "openimages").mkdir()
    store = remembering(tmp_path / "store", source=bucket, openimages=str(tmp_path / "openimages"))
    settings = Settings.from_environment(store=store)
    assert settings.open_source().url == bucket
    assert settings.load_recipe().name == "small"
    with pytest.raises(Exception, match=re.escape(str(tmp_path / "openimages"))):
        settings.open_openimages()


def test_secrets_are_not_remembered(tmp_path: Path) -> None:
    store = remembering(
        tmp_path, source="s3://key:hunter2@bucket/folder?token=hunter2", openimages="https://u:hunter2@h/x"
    )
    assert "hunter2" not in (tmp_path / PATH).read_text()
    settings = Settings.from_environment(store=store, source_options={"secret": "hunter3"})
    assert settings.resolved.source == "s3://bucket/folder"
    again = Settings.from_environment(store=store, source="s3://bucket/folder")
    assert again.conflicts() == []
    assert not write_store_settings(Store(store), again.resolved.model_copy(update={"openimages": "https://h/x"}))


def test_what_is_given_otherwise_than_remembered_is_said(tmp_path: Path, bucket: str) -> None:
    store = remembering(tmp_path, source="s3://kept/bucket", recipe="full")
    assert Settings.from_environment(store=store).conflicts() == []
    assert Settings.from_environment(store=store, source="s3://kept/bucket").conflicts() == []
    told = Settings.from_environment(store=store, source=bucket).conflicts()
    assert len(told) == 2
    assert f"made with source s3://kept/bucket, now {bucket}" in told[0]
    assert "made with recipe full, now own_photos" in told[1]


def test_a_damaged_memory_is_named_with_its_mend(tmp_path: Path) -> None:
    Store(str(tmp_path)).write(PATH, b'{"source": 3}')
    with pytest.raises(StoreError, match=r"runs/settings\.json: expected JSON with source"):
        Settings.from_environment(store=str(tmp_path)).load_recipe()
    assert Settings.from_environment(store=str(tmp_path), source="s3://b", recipe="small").load_recipe().name == "small"


def test_the_first_materialization_writes_it_and_checks_alone_do_not(tmp_path: Path, bucket: str) -> None:
    store = Store(str(tmp_path / "store"))
    platform = Platform(source=bucket, store=store.url)

    def materialize(**platform_values: str) -> None:
        of_run = Platform(**({"source": bucket, "store": store.url} | platform_values))
        dg.materialize(ASSETS, selection="train_metadata", resources={"platform": of_run})

    assert read_store_settings(store) is None
    assert platform.load_recipe().name == "own_photos"
    assert read_store_settings(store) is None
    materialize()
    assert read_store_settings(store) == StoreSettings(source=bucket, openimages=None, recipe="own_photos")
    stamp = store.info(PATH)["mtime"]
    dg.materialize(ASSETS, selection="competition_train", resources={"platform": Platform(store=store.url)})
    assert store.info(PATH)["mtime"] == stamp
    assert read_store_settings(store).source == bucket  # type: ignore[union-attr]
    materialize(recipe="full")
    assert read_store_settings(store).recipe == "full"  # type: ignore[union-attr]


def test_dev_opens_the_ui_over_a_store_with_its_runs(tmp_path: Path, bucket: str, free_tcp_port: int) -> None:
    store = tmp_path / "store"
    home = store / ".dagster"
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLR_", "DAGSTER_"))}
    made = subprocess.run(
        [GLR, "shards", "sync", "--source", bucket, "--store", str(store)],
        env=kept, capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    remembering(store, source=bucket, recipe="own_photos")
    process = subprocess.Popen(
        [GLR, "dev", "--store", "store", "--port", str(free_tcp_port)],
        env=kept, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path,
    )  # fmt: skip
    query = {"query": "{ repositoriesOrError { ... on RepositoryConnection { nodes { location { name } } } } }"}
    request = urllib.request.Request(
        f"http://127.0.0.1:{free_tcp_port}/graphql", json.dumps(query).encode(), {"Content-Type": "application/json"}
    )
    try:
        until = time.monotonic() + 120
        while True:
            assert process.poll() is None, process.communicate()[0]
            try:
                with urllib.request.urlopen(request, timeout=10) as answer:
                    nodes = json.load(answer)["data"]["repositoriesOrError"]["nodes"]
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.5)
    finally:
        process.terminate()
        told, _ = process.communicate(timeout=60)
    assert [node["location"]["name"] for node in nodes] == ["glr_assets"]
    assert str(bucket) in told
    assert "own_photos" in told
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert instance.get_dynamic_partitions("train_shards")
    assert (home / "dagster.yaml").read_bytes() == Path("infra/laptop/dagster.yaml").read_bytes()
