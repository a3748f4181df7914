"""What is stale by Dagster's rules and has nothing to make: when it is asked for, and when it is reported again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from glr_assets.curation.chosen import TRAINING_MANIFEST
from glr_assets.defs import reconfirmation
from glr_assets.defs.build import ASSETS, build_definitions
from glr_assets.defs.dry_runs import DryPlatform
from glr_assets.defs.platform import Platform
from glr_assets.defs.reconfirmation import JOB, Confirmed, Seen, confirm_unchanged, partial_readers, request_of_job
from glr_assets.manifests import MANIFESTS
from glr_assets.receipts import LOCKS, need_receipt
from glr_assets.recipes import load_recipe
from glr_assets.store import Store
from glr_assets_tests.assets.recipe_reads import IDLE
from glr_assets_tests.assets.test_lineage import READ_IN_PART
from glr_assets_tests.defs.test_chosen_manifests import remade

KEY = dg.AssetKey(TRAINING_MANIFEST)
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class Scene:
    """A store with every curated set, of no images, and the manifest that trains; an instance that knows of them."""

    def __init__(self, folder: Path, instance: dg.DagsterInstance, repository: dg.RepositoryDefinition) -> None:
        self.store, self.instance = Store(str(folder / "store")), instance
        self.platform = Platform(source=None, store=self.store.url, openimages=None, recipe="small")
        self.repository, self.graph = repository, repository.asset_graph
        self.seen = Seen()
        for name in MANIFESTS:
            self.change(name, "first")
        made = dg.materialize(
            [asset for asset in ASSETS if asset.key == KEY],
            selection=[TRAINING_MANIFEST],
            instance=instance,
            resources={"platform": self.platform},
            run_config=QUIET,
        )
        assert made.success

    def change(self, name: str, content: str) -> None:
        """Make a set of other content, and report it."""
        remade(self.store, name, content)
        self.report(name, need_receipt(self.store, name).digest)

    def report(self, name: str, version: str) -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization(name, tags={"dagster/data_version": version}))

    def causes(self) -> list[str]:
        """What the manifest is stale for."""
        resolver = CachingStaleStatusResolver(self.instance, self.graph, LoadingContextForTest(self.instance))
        return [cause.dependency.asset_key.to_user_string() for cause in resolver.get_stale_causes(KEY)]

    def latest(self) -> dg.EventLogRecord:
        found = self.instance.get_latest_data_version_record(KEY)
        assert found is not None
        return found

    def confirm(self, **recipe: Any) -> Confirmed:
        platform = DryPlatform.of(self.platform.settings(), load_recipe("small").overridden(recipe))
        return confirm_unchanged(platform, self.instance, self.graph)

    def tick(self) -> list[dg.RunRequest]:
        """What a tick of the sensor requests."""
        self.seen, request = request_of_job(self.instance, self.repository, self.seen)
        return [] if request is None else [request]

    def run(self, status: dg.DagsterRunStatus, *assets: str, job: str = "__ASSET_JOB") -> dg.DagsterRun:
        """A run that nobody is at."""
        run = dg.DagsterRun(job_name=job, status=status, asset_selection={dg.AssetKey(name) for name in assets} or None)
        return self.instance.add_run(run)


@pytest.fixture(scope="module")
def repository() -> dg.RepositoryDefinition:
    return build_definitions().get_repository_def()


@pytest.fixture
def scene(tmp_path: Path, repository: dg.RepositoryDefinition) -> Iterator[Scene]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield Scene(tmp_path, instance, repository)


def test_a_change_of_a_set_that_the_recipe_does_not_name_leaves_it_up_to_date(scene: Scene) -> None:
    assert scene.causes() == []
    assert scene.confirm() == Confirmed()
    before = scene.latest().asset_materialization

    scene.change("cleaned_manifest", "another")
    assert scene.causes() == ["cleaned_manifest"]
    assert scene.confirm() == Confirmed(reported=[TRAINING_MANIFEST])
    assert scene.causes() == []
    assert scene.confirm() == Confirmed()
    after = scene.latest().asset_materialization
    # What the page of the asset shows, and the version that its readers compare, are as they were.
    assert before is not None
    assert after is not None
    assert after.metadata == before.metadata
    assert (after.tags or {})["dagster/data_version"] == (before.tags or {})["dagster/data_version"]

    scene.change("train_manifest", "another")
    assert scene.confirm() == Confirmed(due=[TRAINING_MANIFEST])
    assert scene.causes() == ["train_manifest"]


def test_what_a_run_would_make_or_fail_at_is_not_reported(scene: Scene) -> None:
    scene.change("cleaned_manifest", "another")
    assert scene.confirm(training={"manifest": "cleaned_manifest"}) == Confirmed(due=[TRAINING_MANIFEST])
    scene.store.remove("receipts/train_manifest.json")
    found = scene.confirm()
    assert found.failing.keys() == {TRAINING_MANIFEST}
    assert found.reported == []
    assert scene.causes() == ["cleaned_manifest"]


def test_what_dagster_has_another_version_of_or_a_run_is_at_is_not_reported(scene: Scene) -> None:
    scene.change("cleaned_manifest", "another")
    version = need_receipt(scene.store, TRAINING_MANIFEST).digest
    with scene.store.locked(f"{LOCKS}/{TRAINING_MANIFEST}"):
        assert scene.confirm() == Confirmed(changed=[TRAINING_MANIFEST])
    scene.report(TRAINING_MANIFEST, "of another store")
    scene.change("cleaned_manifest", "a third")
    assert scene.confirm() == Confirmed(changed=[TRAINING_MANIFEST])
    scene.report(TRAINING_MANIFEST, version)
    scene.change("cleaned_manifest", "a fourth")
    assert scene.confirm() == Confirmed(reported=[TRAINING_MANIFEST])


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Something happens right after the dry runs."""

    def happens(event: Callable[[], None]) -> None:
        original = reconfirmation.dry_verdicts

        def asked(*given: Any, **named: Any) -> Any:
            found = original(*given, **named)
            event()
            return found

        monkeypatch.setattr(reconfirmation, "dry_verdicts", asked)

    return happens


def test_a_run_that_ends_meanwhile_has_the_last_word(
    scene: Scene, meanwhile: Callable[[Callable[[], None]], None]
) -> None:
    scene.change("cleaned_manifest", "another")
    version = need_receipt(scene.store, TRAINING_MANIFEST).digest
    meanwhile(lambda: scene.report(TRAINING_MANIFEST, version))
    assert scene.confirm() == Confirmed(changed=[TRAINING_MANIFEST])


def test_a_dependency_that_changes_meanwhile_leaves_it_stale(
    scene: Scene, meanwhile: Callable[[Callable[[], None]], None]
) -> None:
    scene.change("cleaned_manifest", "another")
    meanwhile(lambda: scene.change("train_manifest", "another"))
    assert scene.confirm() == Confirmed(reported=[TRAINING_MANIFEST])
    assert scene.causes() == ["train_manifest"]


def test_it_is_asked_for_once_for_each_state_that_lasts(scene: Scene) -> None:
    assert [scene.tick() for _ in range(3)] == [[], [], []]
    keys = []
    for content in ("another", "first", "another"):
        scene.change("cleaned_manifest", content)
        assert scene.tick() == []
        (request,) = scene.tick()
        assert request.run_config == {"ops": {"confirm": {"config": {"assets": [TRAINING_MANIFEST]}}}}
        assert request.tags["glr/asked_by"] == "sensor observe_roots"
        keys.append(request.run_key)
        assert [scene.tick() for _ in range(2)] == [[], []]
        assert scene.confirm().reported == [TRAINING_MANIFEST]
        assert [scene.tick() for _ in range(2)] == [[], []]
    # Dagster requests no run twice for one key, and the third state is the first one again.
    assert len(set(keys)) == 3
    # The same version made again is no state of its own.
    scene.change("cleaned_manifest", "another")
    assert [scene.tick() for _ in range(2)] == [[], []]


@pytest.mark.parametrize(
    ("assets", "job"), [(["train_manifest"], "__ASSET_JOB"), ([], "curate"), ([], JOB)], ids=["asset", "job", "itself"]
)
def test_it_waits_for_runs_that_make_it_or_something_upstream(scene: Scene, assets: list[str], job: str) -> None:
    scene.change("cleaned_manifest", "another")
    unrelated = scene.run(dg.DagsterRunStatus.STARTED, "train_zip")
    run = scene.run(dg.DagsterRunStatus.STARTED, *assets, job=job)
    assert [scene.tick() for _ in range(3)] == [[], [], []]
    scene.instance.report_run_canceled(run)
    assert scene.tick() == []
    assert len(scene.tick()) == 1
    assert not unrelated.is_finished


def test_assets_that_were_seen_to_read_a_part_are_declared(scene: Scene) -> None:
    declared = {key.to_user_string() for key in partial_readers(scene.graph)}
    assert declared >= READ_IN_PART.keys() | IDLE.keys()


def test_a_name_that_is_no_such_asset_fails_the_job(tmp_path: Path) -> None:
    platform = Platform(source=str(tmp_path), store=str(tmp_path / "store"), recipe="small")
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            build_definitions(platform)
            .resolve_job_def(JOB)
            .execute_in_process(
                {"ops": {reconfirmation.OP: {"config": {"assets": ["embeder"]}}}}, instance, raise_on_error=False
            )
        )
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    assert not result.success
    assert "embeder: expected assets with the tag glr/reads = part: " in str(failed.step_failure_data.user_failure_data)
