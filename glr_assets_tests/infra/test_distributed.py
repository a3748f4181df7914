"""The whole lineage on a cluster of real processes that is broken in every way while it works."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from glr_assets.settings import Settings
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store
from glr_assets_tests.conftest import s3_credentials
from glr_assets_tests.infra.cluster import PATIENT, Cluster, Gate, wait_until
from glr_assets_tests.integration.conftest import Glr
from glr_assets_tests.lineage import digests

pytestmark = pytest.mark.slow
pytest.importorskip("dagster_celery")
pytest.importorskip("dagster_postgres")

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
S3_AWAY = 30.0
POSTGRES_AWAY = 3.0
ATTEMPTS = 10
#: A level of the lineage costs a tick of 30 s, and each fault its discovery and a run begun again.
WHOLE = 2400.0

LAUNCH = """mutation ($launch: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $launch) {
    ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }"""
ASSETS = "{ assetNodes { assetKey { path } isMaterializable } }"
BACKFILL = """query ($id: String!) { partitionBackfillOrError(backfillId: $id) {
    ... on PartitionBackfill { status error { message } } ... on PythonError { message } } }"""
RUNS = """{ runsOrError(limit: 500) { ... on Runs { results {
    runId status assetSelection { path } } } ... on PythonError { message } } }"""
STEPS = """query ($run: ID!, $after: String) { logsForRun(runId: $run, afterCursor: $after, limit: 1000) {
    ... on PythonError { message }
    ... on EventConnection { cursor hasMore events {
        ... on EngineEvent { stepKey metadataEntries { label ... on TextMetadataEntry { text } } } } } } }"""


class CannotTellError(Exception):
    """The webserver has no answer."""


def _unions(data: dict[str, Any]) -> list[dict[str, Any]]:
    return [value for value in data.values() if isinstance(value, dict)]


class Operator:
    """Who asks the webserver what it knows."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/graphql"

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The answer; asked again where there is none, as a restarted database costs each old connection a request."""
        for _ in range(ATTEMPTS):
            try:
                answer = httpx.post(self.url, json={"query": query, "variables": variables}, timeout=60).json()
            except (httpx.HTTPError, ValueError) as error:
                answer = {"errors": str(error)}
            if "errors" not in answer and all(value.keys() != {"message"} for value in _unions(answer["data"])):
                return dict(answer["data"])
            time.sleep(2)
        raise CannotTellError(answer)

    def runs(self) -> list[dict[str, Any]]:
        return list(self.ask(RUNS)["runsOrError"]["results"])

    def running(self, asset: str) -> bool:
        """Whether a run of the asset has started."""
        return any(
            run["status"] == "STARTED" and [asset] in [key["path"] for key in run["assetSelection"] or []]
            for run in self.runs()
        )

    def workers(self) -> dict[str, set[str]]:
        """By step the workers that were at it."""
        found: dict[str, set[str]] = {}
        for run in self.runs():
            after, more = None, True
            while more:
                events = self.ask(STEPS, run=run["runId"], after=after)["logsForRun"]
                after, more = events["cursor"], events["hasMore"]
                for event in events["events"]:
                    for entry in event.get("metadataEntries", []):
                        if entry["label"] == "Celery worker":
                            found.setdefault(event["stepKey"], set()).add(entry["text"].partition("@")[0])
        return found


@pytest.fixture
def line(s3_server: str) -> Iterator[Gate]:
    gate = Gate(int(s3_server.rpartition(":")[2]))
    gate.open()
    yield gate
    gate.shut()


def test_the_whole_lineage_survives_the_loss_of_every_part(
    bucket: str,
    quick: str,
    s3_server: str,
    line: Gate,
    glr: Glr,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    s3_credentials(monkeypatch)
    direct = Store("s3://cluster-store/run", {"endpoint_url": s3_server})
    for name in ("cluster-source", "cluster-store"):
        direct.fs.mkdir(name)
    direct.fs.put(f"{bucket}/", "cluster-source/", recursive=True)
    # Of each file that is written S3 keeps every version, so that whatever is made twice is seen.
    direct.fs.call_s3("put_bucket_versioning", Bucket="cluster-store", VersioningConfiguration={"Status": "Enabled"})
    options = json.dumps({"endpoint_url": line.url} | PATIENT)
    settings = CREDENTIALS | {
        "GLR_SOURCE": "s3://cluster-source",
        "GLR_SOURCE_OPTIONS": options,
        "GLR_STORE": "s3://cluster-store/run",
        "GLR_STORE_OPTIONS": options,
        "GLR_RECIPE": quick,
    }
    with Cluster(tmp_path, settings) as cluster:
        operator = Operator(cluster.web_port)
        try:
            _run_broken(cluster, operator, line)
        except BaseException:
            for service in cluster.services.values():
                print(f"--- {service.name}\n{service.told()[-3000:]}")
            raise
        at = operator.workers()
    # Each blow has struck.
    assert cluster.services["cpu"].starts == cluster.services["redis"].starts == cluster.postgres.service.starts == 2
    assert "cannot be reached, while it was at this step" in cluster.services["lost-steps"].told()

    # By one process, of and to the same server: receipts name inputs by what S3 tells of them.
    alone = glr("demo", **settings | {"GLR_STORE": "s3://cluster-store/alone"})
    assert alone.returncode == 0, alone.stderr
    direct.fs.invalidate_cache()
    for name in ("run", "alone"):
        direct.fs.get(f"cluster-store/{name}/", str(tmp_path / "fetched" / name), recursive=True)
    assert digests(tmp_path / "fetched" / "run") == digests(tmp_path / "fetched" / "alone")

    versions = direct.fs.call_s3("list_object_versions", Bucket="cluster-store", Prefix="run/images/")
    assert not versions["IsTruncated"]
    written = Counter(str(version["Key"]) for version in versions["Versions"])
    shards = {path: times for path, times in written.items() if path.endswith(".tar")}
    source = Settings(source=bucket).open_source()
    assert len(shards) == sum(len(source.shards(split)) for split in SPLITS)
    assert set(shards.values()) == {1}, shards
    # Each kind of worker had the steps that are its own, and none of the other's.
    assert at["embedder"] == {"gpu"}
    assert at["train_metadata"] == {"cpu"}
    assert all(len(workers) == 1 for workers in at.values()), at


def _run_broken(cluster: Cluster, operator: Operator, line: Gate) -> None:
    """Launch a backfill of all assets and, as it comes by them, break one thing after the other."""
    cluster.run("glr", "shards", "sync")
    assets = [node["assetKey"] for node in operator.ask(ASSETS)["assetNodes"] if node["isMaterializable"]]
    launched = operator.ask(LAUNCH, launch={"assetSelection": assets, "allPartitions": True})
    backfill = launched["launchPartitionBackfill"]["backfillId"]

    wait_until(lambda: operator.running("train_metadata"), "the first run starts")
    wait_until(lambda: "Task execute_plan[" in cluster.services["cpu"].told(), "a worker is at a step")
    cluster.services["cpu"].kill()

    wait_until(lambda: operator.running("train_images"), "the shards' run starts", WHOLE)
    line.shut()
    time.sleep(S3_AWAY)
    line.open()

    wait_until(lambda: operator.running("train_manifest"), "the manifests' run starts", WHOLE)
    cluster.services["redis"].kill()

    wait_until(lambda: operator.running("train_embeddings"), "the embeddings' run starts", WHOLE)
    cluster.restart_postgres(POSTGRES_AWAY)

    def ended() -> bool:
        found = operator.ask(BACKFILL, id=backfill)["partitionBackfillOrError"]
        assert found["status"] in ("REQUESTED", "COMPLETED_SUCCESS"), found
        return bool(found["status"] == "COMPLETED_SUCCESS")

    wait_until(ended, "the backfill is complete", WHOLE)
