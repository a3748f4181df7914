"""A bucket of tiny shards, and ticks of sensors whose requests are carried out in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from glr_assets.defs import tags
from glr_assets.defs.automation import SCHEDULES, SENSORS
from glr_assets.defs.build import ASSET_CHECKS, ASSETS, ROOTS, build_definitions
from glr_assets.defs.platform import Platform
from glr_assets.defs.reconfirmation import JOB
from glr_assets.defs.shards import carry_out, contiguous
from glr_assets_tests.automation.simulated import Requested, requested_by
from glr_assets_tests.automation.tiny_shards import Shards
from glr_assets_tests.lineage import write_pooling_embedder, write_recipe


class Desk:
    """What the daemon does with sensors and schedules, in this process: ticks with cursors, and the runs asked for."""

    def __init__(self, platform: Platform, instance: dg.DagsterInstance) -> None:
        self.platform, self.instance = platform, instance
        self.definitions = build_definitions(platform)
        self.cursors: dict[str, str | None] = {}
        self.events: list[Any] = []

    def tick(self, name: str) -> list[dg.RunRequest]:
        """One tick; partitions are registered, runs are only given back."""
        (sensor,) = (found for found in SENSORS if found.name == name)
        with dg.build_sensor_context(
            instance=self.instance,
            cursor=self.cursors.get(name),
            definitions=self.definitions,
            resources={"platform": self.platform},
        ) as context:
            found = sensor.evaluate_tick(context)
            self.skipped = found.skip_message or ""
            self.cursors[name] = found.cursor
        self.events = list(found.asset_events)
        for event in self.events:
            self.instance.report_runless_asset_event(event)
        carry_out(self.instance, found.dynamic_partitions_requests or [])
        return list(found.run_requests or [])

    def night(self, name: str) -> list[dg.RunRequest]:
        """One tick of a schedule."""
        (schedule,) = (found for found in SCHEDULES if found.name == name)
        with dg.build_schedule_context(
            instance=self.instance,
            repository_def=self.definitions.get_repository_def(),
            resources={"platform": self.platform},
            scheduled_execution_time=datetime(2026, 11, 21, 2, tzinfo=UTC),
        ) as context:
            found = schedule.evaluate_tick(context)
        self.skipped = found.skip_message or ""
        return list(found.run_requests or [])

    def carry_out(self, requests: Sequence[dg.RunRequest], job_assets: Sequence[str] = ()) -> list[bool]:
        """The runs, those of a backfill in the order of the lineage, one after the other; whether each ended well."""
        return [ended for request in requests for ended in self._ended(request, job_assets)]

    def _ended(self, request: dg.RunRequest, job_assets: Sequence[str]) -> Iterator[bool]:
        if not request.requires_backfill_daemon():
            assets = request.asset_selection or [dg.AssetKey(name) for name in job_assets]
            yield self.run(assets, request.tags, request.partition_key)
            return
        subset, graph = request.asset_graph_subset, self.definitions.resolve_asset_graph()
        assert subset is not None
        for key in (key for level in graph.toposorted_asset_keys_by_level for key in sorted(level)):
            part, partitions = subset.get_asset_subset(key), graph.get(key).partitions_def
            if part is None or part.is_empty:
                continue
            if partitions is None:
                yield self.run([key], request.tags)
                continue
            registered = partitions.get_partition_keys(dynamic_partitions_store=self.instance)
            for first, last in contiguous(list(registered), set(part.subset_value.get_partition_keys())):
                yield self.run([key], request.tags | {tags.RANGE_START: first, tags.RANGE_END: last})

    def run(self, assets: Iterable[dg.AssetKey], run_tags: Mapping[str, str], partition: str | None = None) -> bool:
        """One run in this process; whether it ended well."""
        return dg.materialize(
            [*ASSETS, *ROOTS, *ASSET_CHECKS],
            selection=dg.AssetSelection.assets(*assets),
            instance=self.instance,
            partition_key=partition,
            resources={"platform": self.platform},
            tags=dict(run_tags),
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            raise_on_error=False,
        ).success

    def run_job(self, request: dg.RunRequest) -> None:
        """A run of the job `confirm_unchanged` in this process; it must end well."""
        job = self.definitions.get_repository_def().get_job(JOB)
        config = {**request.run_config, "loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
        assert job.execute_in_process(config, self.instance, tags=dict(request.tags)).success

    def switched_on(self) -> list[Requested]:
        """Ticks of the roots' sensor and of the switch, whose requests are carried out, until one requests nothing."""
        done: list[Requested] = []
        for _ in range(20):
            self.tick("observe_roots")
            asked = self.tick("automation")
            if not asked:
                return done
            done.append(requested_by(asked))
            self.ended = self.carry_out(asked)
        raise AssertionError(f"20 ticks in a row requested something: {done[-3:]}")

    def to_images(self) -> list[dg.RunRequest]:
        """Everything registered and the tables made; gives back the requests of the shards."""
        self.tick("observe_roots")
        assert self.carry_out(self.tick("automation")) == [True]
        self.tick("observe_roots")
        return self.tick("automation")


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small images and an embedder that is brought in."""
    folder = tmp_path_factory.mktemp("recipe")
    tables: dict[str, Any] = {"images": {"min_side": 32}, "verification": {"max_false_rate": 0.05}}
    return write_recipe(folder / "tiny.toml", write_pooling_embedder(folder / "grid.pt"), **tables)


@pytest.fixture
def shards(tmp_path: Path) -> Callable[..., Shards]:
    def make(there: int, of: int | None = None) -> Shards:
        return Shards(tmp_path / "bucket", there, of or there)

    return make


@pytest.fixture
def desk(tmp_path: Path, tiny_recipe: Path) -> Iterator[Desk]:
    platform = Platform(source=str(tmp_path / "bucket"), store=str(tmp_path / "store"), recipe=str(tiny_recipe))
    with dg.DagsterInstance.ephemeral() as instance:
        yield Desk(platform, instance)


@pytest.fixture
def lasting_desk(tmp_path: Path, desk: Desk) -> Iterator[Desk]:
    """The same with an instance in a folder, by which contexts of schedules open it."""
    (tmp_path / "instance").mkdir()
    with dg.DagsterInstance.local_temp(str(tmp_path / "instance")) as instance:
        yield Desk(desk.platform, instance)


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards that fail are tried again at once."""
    monkeypatch.setattr("glr_assets.images.ingest.RETRY_SECONDS", 0.0)


@pytest.fixture(scope="session")
def recipe_with_grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small recipe with an embedder that is brought in, for a bucket of photographs."""
    folder = tmp_path_factory.mktemp("grid")
    return write_recipe(folder / "grid.toml", write_pooling_embedder(folder / "grid.pt"))
