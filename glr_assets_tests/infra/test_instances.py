"""The instances' configuration, as Dagster itself reads it, and the executors of the code locations."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.errors import DagsterInvalidConfigError
from dagster._core.instance.config import dagster_instance_config
from dagster._core.run_coordinator import QueuedRunCoordinator

from glr_assets.defs.conventions import GPU_TAGS
from glr_assets.defs.executors import CELERY_SETTINGS, DEFAULT_QUEUE
from glr_assets_tests.infra.cluster import ROOT

INFRA = ROOT / "infra"


def home(folder: Path, kind: str) -> str:
    shutil.copy(INFRA / kind / "dagster.yaml", folder)
    return str(folder)


def test_the_laptops_instance_opens(tmp_path: Path) -> None:
    with dg.DagsterInstance.from_config(home(tmp_path, "laptop")) as instance:
        assert isinstance(instance.run_coordinator, QueuedRunCoordinator)
        assert instance.run_monitoring_enabled
        assert not instance.telemetry_enabled


def test_the_teams_instance_is_what_dagster_reads(tmp_path: Path) -> None:
    config, _ = dagster_instance_config(home(tmp_path, "team"))
    assert set(config["storage"]) == {"postgres"}
    assert config["run_retries"] == {"enabled": True, "max_retries": 2, "retry_on_asset_or_op_failure": True}
    assert config["run_monitoring"]["enabled"]
    assert config["freshness"] == {"enabled": True}
    assert config["telemetry"] == {"enabled": False}
    assert config["concurrency"]["pools"] == {"default_limit": 1, "granularity": "op"}


@pytest.mark.parametrize("kind", ["laptop", "team"])
def test_a_misspelt_key_is_refused(kind: str, tmp_path: Path) -> None:
    path = Path(home(tmp_path, kind)) / "dagster.yaml"
    path.write_text(path.read_text().replace("start_timeout_seconds", "start_timeout_second"))
    with pytest.raises(DagsterInvalidConfigError, match="start_timeout_second"):
        dagster_instance_config(str(tmp_path))


def test_the_teams_database_is_told_by_the_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dagster_postgres")
    from dagster_postgres.utils import pg_url_from_config

    told = yaml.safe_load((INFRA / "team" / "dagster.yaml").read_text())["storage"]["postgres"]["postgres_db"]
    names = {key: value["env"] for key, value in told.items() if isinstance(value, dict)}
    assert names.keys() == {"hostname", "port", "db_name", "username", "password"}
    for key, variable in names.items():
        monkeypatch.setenv(variable, "5432" if key == "port" else f"the-{key}")
    config, _ = dagster_instance_config(home(tmp_path, "team"))
    given = {key: value if key == "scheme" else f"the-{key}" for key, value in told.items()}
    given |= {"port": 5432, "params": {}}
    # SQLAlchemy finds the driver that dagster-postgres brings.
    import sqlalchemy

    engine = sqlalchemy.create_engine(pg_url_from_config({"postgres_db": given}))
    assert engine.driver == "psycopg2"
    assert set(config["storage"]["postgres"]["postgres_db"]) >= set(names)


def test_the_workspace_leads_to_the_code_server(monkeypatch: pytest.MonkeyPatch) -> None:
    from dagster._core.remote_origin import GrpcServerCodeLocationOrigin
    from dagster._core.workspace.load import location_origins_from_yaml_paths

    monkeypatch.setenv("GLR_CODE_HOST", "code")
    (origin,) = location_origins_from_yaml_paths([str(INFRA / "team" / "workspace.yaml")])
    assert isinstance(origin, GrpcServerCodeLocationOrigin)
    assert (origin.host, origin.port, origin.location_name) == ("code", 4000, "glr_assets")


def test_the_code_location_has_one_name_however_it_is_opened(tmp_path: Path) -> None:
    import tomllib

    from dagster._core.workspace.load import location_origins_from_yaml_paths

    from glr_assets.defs.code_location import LOCATION
    from glr_assets.dev import WORKSPACE, dev_command

    root = INFRA.parent
    # `dg dev` takes the folder's name where the project gives none.
    dg_dev = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["dg"]["project"]["code_location_name"]
    dev_command(tmp_path, "127.0.0.1", 3000)
    opened = [
        origin.location_name
        for file in (root / "workspace.yaml", tmp_path / WORKSPACE)
        for origin in location_origins_from_yaml_paths([str(file)])
    ]
    assert {dg_dev, *opened} == {LOCATION}


def test_each_code_location_has_its_executor() -> None:
    pytest.importorskip("dagster_celery")
    pytest.importorskip("dagster_k8s")
    from glr_assets import clusters, definitions
    from glr_assets.defs.automation.jobs import LAUNCHED
    from glr_assets.defs.reconfirmation import JOB

    # Jobs without work for a cluster: they start backfills, or compare receipts.
    in_process = {*LAUNCHED, "retry_failed_shards", JOB}
    found = {}
    for name, location in (("own", definitions.defs), ("celery", clusters.celery), ("k8s", clusters.kubernetes)):
        built = location()
        found[name] = {job.executor_def.name for job in built.resolve_all_job_defs() if job.name not in in_process}
        assert built.resolve_asset_graph().get_all_asset_keys()
    assert found == {"own": {"in_process"}, "celery": {"celery"}, "k8s": {"k8s"}}


def test_loading_a_code_location_asks_nothing_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dagster_celery")
    from glr_assets import clusters

    monkeypatch.delenv("GLR_REDIS_URL", raising=False)
    assert clusters.celery() is not None


def test_workers_need_their_broker_and_have_the_executors_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dagster_celery")
    import importlib
    import sys

    from glr_assets.errors import SettingsError

    monkeypatch.delitem(sys.modules, "glr_assets.defs.workers", raising=False)
    monkeypatch.delenv("GLR_REDIS_URL", raising=False)
    with pytest.raises(SettingsError, match="GLR_REDIS_URL is not set"):
        importlib.import_module("glr_assets.defs.workers")
    monkeypatch.setenv("GLR_REDIS_URL", "redis://127.0.0.1:1/3")
    app = importlib.import_module("glr_assets.defs.workers").app
    assert app.conf.broker_url == app.conf.result_backend == "redis://127.0.0.1:1/3"
    for name, value in CELERY_SETTINGS.items():
        assert app.conf[name] == value, name
    # Names that Celery does not know it would pass over in silence.
    from celery.app.defaults import NAMESPACES, flatten

    assert set(CELERY_SETTINGS) <= {name for name, _ in flatten(NAMESPACES)}


def test_the_workers_of_compose_serve_every_queue_of_the_assets() -> None:
    queues = {DEFAULT_QUEUE, GPU_TAGS["dagster-celery/queue"]}
    compose = yaml.safe_load((INFRA / "compose.yaml").read_text())["services"]
    further = yaml.safe_load((INFRA / "celery" / "compose.yaml").read_text())["services"]
    alone = compose["worker"]["environment"]["GLR_QUEUES"]
    assert set(alone.removeprefix("${GLR_CPU_QUEUES:-").removesuffix("}").split(",")) == queues
    assert {further[name]["environment"]["GLR_QUEUES"] for name in ("worker", "worker-gpu")} == queues
    assert "-Q gpu " in compose["worker-gpu"]["command"][2]


def test_an_earlier_versions_configuration_is_brought_up_to_date_and_a_persons_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import hashlib

    from glr_assets import dev

    earlier = b"telemetry:\n  enabled: false\n"
    monkeypatch.setattr(dev, "SUPERSEDED", frozenset({hashlib.sha256(earlier).hexdigest()}))
    config = tmp_path / "dagster.yaml"
    for written, kept in ((earlier, False), (earlier + b"# mine\n", True)):
        config.write_bytes(written)
        dev.prepared_home(tmp_path)
        assert (config.read_bytes() == written) == kept
