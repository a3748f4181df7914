"""infra/backup.sh and infra/restore.sh on real databases: what is lost comes back."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.store import Store
from glr_assets_tests.infra.cluster import BIN, ROOT, Postgres
from glr_assets_tests.lineage import digests
from glr_assets_tests.test_mirror import made, work_going_on

Script = Callable[..., subprocess.CompletedProcess[str]]


@dg.asset
def noted() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"rows": 3})


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("DAGSTER_HOME", str(folder))
    return folder


@pytest.fixture
def run(home: Path, store: Store) -> Script:
    def run(script: str, *arguments: str | Path, **settings: str) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
        environment |= {name: value for name, value in os.environ.items() if name.startswith("DAGSTER_")}
        environment |= {"DAGSTER_HOME": str(home), "GLR_STORE": store.url} | settings
        command = [str(ROOT / "infra" / script), *map(str, arguments)]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


def told(home: Path) -> list[tuple[str, object]]:
    """What an instance knows: its runs, the materialisations, the partitions and a pool's limit."""
    with dg.DagsterInstance.from_config(str(home)) as instance:
        rows: list[tuple[str, object]] = [(run.run_id, run.status.value) for run in instance.get_runs()]
        latest = instance.get_latest_materialization_event(dg.AssetKey("noted"))
        rows.append(("rows", latest.asset_materialization.metadata["rows"].value if latest else None))  # type: ignore[union-attr]
        rows.append(("shards", instance.get_dynamic_partitions("train_shards")))
        pools = instance.event_log_storage.get_concurrency_keys()
        return [*rows, ("pools", sorted(pools))]


def work(home: Path) -> None:
    with dg.DagsterInstance.from_config(str(home)) as instance:
        assert dg.materialize([noted], instance=instance).success
        instance.add_dynamic_partitions("train_shards", ["000", "001"])
        instance.event_log_storage.set_concurrency_slots("gpu", 2)


@pytest.fixture
def postgres(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    pytest.importorskip("dagster_postgres")
    with Postgres(tmp_path) as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server


def test_sqlite_and_the_store_come_back(home: Path, store: Store, run: Script, tmp_path: Path) -> None:
    shutil.copy(ROOT / "infra" / "laptop" / "dagster.yaml", home)
    made(store, "train_manifest", "a")
    work(home)
    before, files = told(home), digests(tmp_path / "store")
    assert run("backup.sh", tmp_path / "backup").returncode == 0
    work(home)  # what comes after the backup is not in it
    assert told(home) != before
    shutil.rmtree(home)
    shutil.rmtree(tmp_path / "store")
    done = run("restore.sh", tmp_path / "backup")
    assert done.returncode == 0, done.stderr
    assert told(home) == before
    assert digests(tmp_path / "store") == files


def test_postgresql_and_the_store_come_back(
    home: Path, store: Store, run: Script, postgres: Postgres, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "infra" / "team" / "dagster.yaml", home)
    made(store, "train_manifest", "a")
    work(home)
    before, files = told(home), digests(tmp_path / "store")
    done = run("backup.sh", tmp_path / "backup")
    assert done.returncode == 0, done.stderr
    work(home)
    assert told(home) != before
    shutil.rmtree(tmp_path / "store")
    subprocess.run([*postgres.client("dropdb"), "dagster"], check=True)
    subprocess.run([*postgres.client("createdb"), "dagster"], check=True)
    done = run("restore.sh", tmp_path / "backup")
    assert done.returncode == 0, done.stderr
    assert told(home) == before
    assert digests(tmp_path / "store") == files
    # Over a database that is there as well, and what was added since is gone.
    work(home)
    assert run("restore.sh", tmp_path / "backup").returncode == 0
    assert told(home) == before


def test_a_database_that_is_away_leaves_the_last_backup(
    home: Path, run: Script, postgres: Postgres, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "infra" / "team" / "dagster.yaml", home)
    work(home)
    assert run("backup.sh", tmp_path / "backup").returncode == 0
    dump = (tmp_path / "backup" / "instance" / "postgresql.dump").read_bytes()
    failed = run("backup.sh", tmp_path / "backup", DAGSTER_POSTGRES_PORT="1")
    assert failed.returncode != 0
    assert "refused" in failed.stderr
    assert (tmp_path / "backup" / "instance" / "postgresql.dump").read_bytes() == dump


def test_a_folder_without_a_backup_is_refused(home: Path, run: Script, tmp_path: Path) -> None:
    shutil.copy(ROOT / "infra" / "laptop" / "dagster.yaml", home)
    refused = run("restore.sh", tmp_path)
    assert refused.returncode == 1
    assert "holds no backup" in refused.stderr


def backed_up(home: Path, store: Store, run: Script, target: Path) -> None:
    shutil.copy(ROOT / "infra" / "laptop" / "dagster.yaml", home)
    for name in ("train_manifest", "image_catalog"):
        made(store, name, f"the text of {name}")
    work(home)
    done = run("backup.sh", target)
    assert done.returncode == 0, done.stderr


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_a_store_that_is_not_named_is_not_left_out_in_silence(
    home: Path, store: Store, run: Script, tmp_path: Path
) -> None:
    shutil.copy(ROOT / "infra" / "laptop" / "dagster.yaml", home)
    made(store, "train_manifest", "a")
    work(home)
    for script in ("backup.sh", "restore.sh"):
        refused = run(script, tmp_path / "backup", GLR_STORE="")
        assert refused.returncode != 0
        if script == "backup.sh":
            assert "GLR_STORE: set it to the root URL of the store, or give --instance-only" in refused.stderr
            assert not (tmp_path / "backup").exists()
    assert run("backup.sh", "--instance-only", tmp_path / "backup", GLR_STORE="").returncode == 0
    assert not (tmp_path / "backup/store").exists()
    # And what holds no store is not restored as one.
    refused = run("restore.sh", tmp_path / "backup")
    assert refused.returncode == 1
    assert "holds no store; give --instance-only" in refused.stderr
    assert run("restore.sh", "--instance-only", tmp_path / "backup", GLR_STORE="").returncode == 0


def test_options_that_are_none_are_refused(run: Script, tmp_path: Path) -> None:
    for script in ("backup.sh", "restore.sh"):
        for arguments in ([], ["--nonsense", tmp_path], [tmp_path, tmp_path]):
            refused = run(script, *arguments)
            assert refused.returncode == 2
            assert refused.stderr.startswith(f"Usage: infra/{script}")


def test_a_damaged_backup_is_found(home: Path, store: Store, run: Script, tmp_path: Path) -> None:
    target = tmp_path / "backup"
    backed_up(home, store, run, target)
    whole = run("backup.sh", "--verify", target, DAGSTER_HOME="", GLR_STORE="")
    assert whole.returncode == 0, whole.stderr
    assert "whole: 2 files of 2 receipts" in whole.stdout
    flip(target / "store/manifests/train_manifest")
    found = run("backup.sh", "--verify", target)
    assert found.returncode == 1
    assert "damaged: manifests/train_manifest (train_manifest): expected SHA-256" in found.stdout
    # What cannot be right is not restored; what lies there stays.
    good = (tmp_path / "store/manifests/train_manifest").read_bytes()
    (tmp_path / "store/manifests/train_manifest").write_bytes(b"lost here too")
    before = digests(tmp_path / "store")
    refused = run("restore.sh", target)
    assert refused.returncode == 1
    assert "left out, damaged: train_manifest" in refused.stderr
    assert "the instance not at all" in refused.stderr
    assert digests(tmp_path / "store") == before
    (tmp_path / "store/manifests/train_manifest").write_bytes(good)
    assert run("backup.sh", target).returncode == 0  # which mends it
    assert run("backup.sh", "--verify", target).returncode == 0
    database = next(path for path in sorted((target / "instance").rglob("*.db")) if path.stat().st_size > 8192)
    data = bytearray(database.read_bytes())
    data[4096:8192] = bytes(4096)
    database.write_bytes(data)
    found = run("backup.sh", "--verify", target)
    assert found.returncode == 1
    assert f"error: {database}: damaged:" in found.stderr


def test_a_restore_mends_a_damaged_store(home: Path, store: Store, run: Script, tmp_path: Path) -> None:
    """Damage of the same size is damage; what was made since stays."""
    backed_up(home, store, run, tmp_path / "backup")
    good = digests(tmp_path / "store")
    flip(tmp_path / "store/manifests/train_manifest")
    flip(tmp_path / "store/receipts/image_catalog.json")
    made(store, "deduped_manifest", "since")
    since = digests(tmp_path / "store")
    done = run("restore.sh", tmp_path / "backup")
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "store") == since | good
    flip(tmp_path / "store/manifests/train_manifest")
    assert run("restore.sh", "--quick", tmp_path / "backup").returncode == 0
    assert digests(tmp_path / "store") != since | good


def test_backups_while_work_goes_on(home: Path, store: Store, run: Script, tmp_path: Path) -> None:
    shutil.copy(ROOT / "infra" / "laptop" / "dagster.yaml", home)
    work(home)
    with work_going_on(store):
        for _ in range(2):
            done = run("backup.sh", tmp_path / "backup")
            assert done.returncode == 0, done.stderr
            assert "Traceback" not in done.stderr
            verified = run("backup.sh", "--verify", tmp_path / "backup")
            assert verified.returncode == 0, verified.stdout
