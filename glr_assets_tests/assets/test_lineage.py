"""The lineage that the UI shows is what was read: every input of a receipt is a dependency of its asset."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import dagster as dg
import hypothesis.strategies as st
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest
from hypothesis import given

from glr_assets.curation.chosen import CHOSEN_BY
from glr_assets.defs.automation.roots import sync_roots
from glr_assets.defs.build import ROOTS, build_definitions
from glr_assets.defs.dry_runs import DryPlatform, dry_verdicts
from glr_assets.defs.lineage import LineageError, Progress, Step, materialise_lineage
from glr_assets.defs.platform import Platform
from glr_assets.defs.recipes import report_recipe
from glr_assets.defs.reconfirmation import confirm_unchanged
from glr_assets.defs.shards import contiguous
from glr_assets.defs.source import openimages_roots, shard_roots, table_roots
from glr_assets.evaluation.schemas import CONFUSED_LANDMARKS, LANDMARK_ACCURACY
from glr_assets.integrity import verify
from glr_assets.integrity.contents import ASSETS as KNOWN_ASSETS
from glr_assets.integrity.contents import FOLDERS
from glr_assets.interrupts import Interrupted, raising_interrupts
from glr_assets.manifests import MANIFESTS
from glr_assets.receipts import need_receipt, receipt_names
from glr_assets.settings import Settings
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store
from glr_assets.tables import read_table, stored_problems
from glr_assets.training.versions import embedder_folder
from glr_assets_tests.assets.recipe_reads import IDLE, Key, Reader, idle, undeclared
from glr_assets_tests.lineage import digests

#: A chosen manifest depends on all sets that the recipe may name, and one of them is its input. What is made of the
#: chosen one names that set in its receipt, and depends on the chosen manifest.
CHOSEN_BY_RECIPE = {*MANIFESTS, "image_catalog"}
#: Of these a receipt names the digest of the rows that count, under the name of a part: what changed elsewhere in a
#: table makes nothing anew. Every stored image is cleaned where the recipe says so, and then the catalog is read.
READ_IN_PART = {
    "test_features": {"image_catalog"},
    "verified_pairs": {"local_features"},
    "non_landmark_embeddings": {"train_embeddings", "non_landmark_filter"},
}
PARTS = ("wanted:", "features")
#: The quick recipe reads the boxes of the validation images alone.
NOT_READ_BY_RECIPE = {
    "source_openimages_hierarchy",
    *(f"source_openimages_{subset}_{kind}" for subset in ("train", "test") for kind in ("boxes", "image_list")),
}
UP_TO_LEDGER = (
    *("train_metadata", "train_attribution", "landmark_labels", "competition_train", "index_metadata", "test_metadata"),
    *("class_counts", "fill_plan", "train_images", "index_images", "test_images", "image_catalog"),
    *("label_conflicts", "train_test_leaks", "deduped_manifest", "train_extra", "train_manifest", "image_ledger"),
)
OUTSIDE = ("source:", "file:", "hub:", "openimages:")


def test_inputs_are_dependencies_and_dependencies_inputs(platform: Platform, instance: dg.DagsterInstance) -> None:
    settings = platform.settings()
    begun: list[Step] = []
    told: list[str] = []
    progress = Progress(begun.append, lambda step, seconds, warnings: told.extend(warnings))
    seconds = materialise_lineage(settings, instance, progress)
    assert [step.asset for step in begun] == list(seconds)
    assert [step.number for step in begun] == list(range(1, len(begun) + 1))
    # No check warns, nor does it when there is nothing to do.
    assert told == []
    assert unwell(instance) == {}
    _errors_are_told(platform.open_store())
    # A look afterwards finds nothing to report, and Dagster calls nothing stale.
    assert sync_roots(settings, instance).observations == 0
    assert stale(instance) == {}
    # With nothing changed there is no further run.
    runs = instance.get_runs_count()
    skipped: list[str] = []
    assert materialise_lineage(settings, instance, replace(progress, skipped=skipped.extend)) == {}
    assert instance.get_runs_count() == runs
    assert skipped == list(seconds)
    _values_without_effect_leave_all_up_to_date(settings, instance, _recipe_is_declared(settings))
    inputs: dict[str, set[str]] = {}
    store = platform.open_store()
    for receipt in (need_receipt(store, name) for name in receipt_names(store)):
        read = {name.split("/")[0] for name in receipt.inputs if not name.startswith(OUTSIDE + PARTS)}
        inputs.setdefault(receipt.name.split("/")[0], set()).update(read)
    # What stands in for a root of Open Images is rendered into the store, and is no asset.
    del inputs["openimages_sample"]
    roots = {root.key.to_user_string() for root in ROOTS}
    read_of_roots = _roots_as_receipts_have_them(platform)
    of_source = {root for root in roots if root.startswith("source_")}
    declared = {
        spec.key.to_user_string(): {dep.asset_key.to_user_string() for dep in spec.deps}
        for spec in build_definitions().resolve_all_asset_specs()
        if spec.key.to_user_string() not in roots
    }
    for asset, names in declared.items():
        assert read_of_roots.get(asset, set()) <= names, asset
        assert names & of_source <= read_of_roots.get(asset, set()) | NOT_READ_BY_RECIPE, asset
    dependencies = {asset: names - roots for asset, names in declared.items()}
    assert inputs.keys() == dependencies.keys() == seconds.keys()
    for asset, read in inputs.items():
        chosen = dependencies[asset] & CHOSEN_BY.keys()
        through = {name for manifest in chosen for name in inputs[manifest]}
        assert read <= dependencies[asset] | through, asset
        unread = CHOSEN_BY_RECIPE if asset in CHOSEN_BY else chosen
        assert dependencies[asset] - read <= unread | READ_IN_PART.get(asset, set()), asset
    # What `glr verify` knows as assets, and as files that need no receipt, is what the lineage makes.
    assert dependencies.keys() == KNOWN_ASSETS
    report = verify(store)
    assert report.problems == []
    assert report.unchecked.keys() == {"records of runs"}
    assert report.files > len(dependencies)
    outputs = {path for name in receipt_names(store) for path in need_receipt(store, name).outputs}
    assert {path.partition("/")[0] for path in outputs} <= FOLDERS


def unwell(instance: dg.DagsterInstance) -> dict[str, str]:
    """The checks of the lineage whose latest result is none, fails or is of an earlier materialization, by partition.

    Of a check without partitions of its own the results of single partitions count for nothing.
    """
    graph = build_definitions().resolve_asset_graph()
    found = {}
    for key in graph.asset_check_keys:
        partitions = graph.get(key).partitions_def
        keys = [None] if partitions is None else partitions.get_partition_keys(dynamic_partitions_store=instance)
        infos = {i.partition_key: i for i in instance.event_log_storage.get_asset_check_partition_info([key])}
        for partition in keys:
            info = infos.get(partition)
            status = "none" if info is None else info.latest_execution_status.value
            if partitions is not None and info is not None and not info.is_current:
                status = "of an earlier materialization"
            if status != "SUCCEEDED":
                found["/".join(filter(None, (key.to_user_string(), partition)))] = status
    return found


def test_a_shard_that_comes_later_leaves_no_check_that_warns(
    platform: Platform, instance: dg.DagsterInstance, tmp_path: Path
) -> None:
    shutil.copytree(str(platform.source), tmp_path / "bucket")
    platform = Platform(source=str(tmp_path / "bucket"), store=platform.store, recipe=platform.recipe)
    shard = sorted((tmp_path / "bucket" / "train").glob("images_*.tar"))[-1]
    shard.rename(tmp_path / shard.name)
    told: list[str] = []
    progress = Progress(lambda _: None, lambda step, seconds, warnings: told.extend(warnings))
    for _ in range(2):  # a warning is not lost where nothing has changed
        told.clear()
        materialise_lineage(platform.settings(), instance, progress, UP_TO_LEDGER)
        assert [warning.partition(":")[0] for warning in told] == ["check wanted_images_are_held"]
    (tmp_path / shard.name).rename(shard)
    for _ in range(2):  # and with nothing to do
        told.clear()
        materialise_lineage(platform.settings(), instance, progress, UP_TO_LEDGER)
        assert told == []
    wrong = {name: status for name, status in unwell(instance).items() if name.partition(":")[0] in UP_TO_LEDGER}
    assert wrong == {}


class Walks:
    """Walks up to the ledger, one after the other, over a store and a recipe file of their own."""

    def __init__(self, platform: Platform, folder: Path) -> None:
        self.recipe = folder / "own.toml"
        shutil.copy(str(platform.recipe), self.recipe)
        self.settings = platform.model_copy(update={"recipe": str(self.recipe)}).settings()
        self.store = Path(platform.open_store().root)

    def __call__(self, instance: dg.DagsterInstance, force: tuple[str, ...] = ()) -> dict[str, int]:
        """By asset that was run the number of its partitions."""
        begun: dict[str, int] = {}
        skipped: list[str] = []
        progress = Progress(lambda step: begun.update({step.asset: step.partitions}), lambda *_: None, skipped.extend)
        runs = instance.get_runs_count()
        materialise_lineage(self.settings, instance, progress, UP_TO_LEDGER, force)
        assert {*begun, *skipped} == {*UP_TO_LEDGER}
        assert len(begun) + len(skipped) == len(UP_TO_LEDGER)
        assert bool(begun) == (instance.get_runs_count() > runs)
        return begun


def test_only_what_is_not_up_to_date_is_run(platform: Platform, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    walk = Walks(platform, tmp_path)
    everything = walk(instance)
    assert everything.keys() == {*UP_TO_LEDGER}
    # By its origin the UI finds the code location that a run is re-executed by.
    origins = [run.remote_job_origin for run in instance.get_runs()]
    assert {origin and origin.repository_origin.get_label() for origin in origins} == {"__repository__@glr_assets"}
    assert walk(instance) == {}
    # An instance that knows nothing gets its materializations.
    with dg.DagsterInstance.ephemeral() as another:
        assert walk(another) == everything
    # Damage: a file that is gone costs its shard alone, a changed bit its table and what the same run makes of it.
    before = digests(walk.store)
    shard = sorted((walk.store / "images" / "train").glob("*.tar"))[1]
    shard.unlink()
    manifest = walk.store / "manifests" / "deduped_manifest.parquet"
    data = bytearray(manifest.read_bytes())
    data[len(data) // 2] ^= 1
    manifest.write_bytes(data)
    of_training = dict.fromkeys(("deduped_manifest", "train_extra", "train_manifest", "image_ledger"), 0)
    assert walk(instance) == {"train_images": 1} | of_training
    assert digests(walk.store) == before
    walk.recipe.write_text(f"{walk.recipe.read_text()}\n[dedupe]\nkeep = 24\n")
    assert walk(instance) == of_training
    # What Dagster calls stale is run, so that it is fresh, and found done.
    version = {"dagster/data_version": "reported by hand"}
    instance.report_runless_asset_event(dg.AssetMaterialization("class_counts", tags=version))
    assert walk(instance, force=("label_conflicts",)) == {"fill_plan": 0, "label_conflicts": 0}
    assert walk(instance) == {}


def test_a_check_that_failed_is_evaluated_again_though_the_work_is_done(
    platform: Platform, instance: dg.DagsterInstance, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    walk = Walks(platform, tmp_path)
    with monkeypatch.context() as broken:
        broken.setattr("glr_assets.curation.checks.overfull", lambda *_: "a class is too large")
        for _ in range(2):
            with pytest.raises(LineageError, match=r"train_manifest: check class_sizes: a class is too large"):
                walk(instance)
    # The ledger was made in the run in which the check failed.
    assert walk(instance).keys() == {"train_manifest", "image_ledger"}
    assert walk(instance) == {}


def stale(instance: dg.DagsterInstance) -> dict[str, list[str]]:
    """What of the lineage Dagster does not call fresh, with the causes."""
    graph = build_definitions().resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    found = {}
    for node in graph.asset_nodes:
        if not node.is_materializable:
            continue
        partitions = node.partitions_def
        keys = [None] if partitions is None else partitions.get_partition_keys(dynamic_partitions_store=instance)
        for key in keys:
            if resolver.get_status(node.key, key) != StaleStatus.FRESH:
                name = "/".join(filter(None, (node.key.to_user_string(), key)))
                found[name] = [
                    f"{cause.reason} {cause.dependency}" for cause in resolver.get_stale_causes(node.key, key)
                ]
    return found


def _roots_as_receipts_have_them(platform: Platform) -> dict[str, set[str]]:
    """By asset the source's roots that its receipts name; their data versions are what the receipts name."""
    store, source, recipe = platform.open_store(), platform.open_source(), platform.load_recipe()
    # The sample as a root like any other, whose files are hashed.
    platform_with_root = platform.model_copy(update={"openimages": platform.open_openimages().url})
    found = [*table_roots(source), *openimages_roots(platform_with_root.settings(), store, recipe)]
    for split in SPLITS:
        found += shard_roots(source, store, split, source.shard_stamps(split), [], require_md5=True)
    versions: dict[str, tuple[str, str]] = {}
    for root in found:
        version = root.version(None)
        assert version is not None
        if root.asset.startswith("source_openimages"):
            file, _, digest = version.version.partition(" ")
            name = f"openimages:images/{root.partition}" if root.partition else f"openimages:{file}"
            versions[name] = (root.asset, version.version if root.partition else digest)
        else:
            split = root.asset.removeprefix("source_").removesuffix("_shards")
            versions[f"source:{split}/{root.partition}" if root.partition else f"source:{split}"] = (
                root.asset,
                version.version,
            )
    read: dict[str, set[str]] = {}
    for receipt in (need_receipt(store, name) for name in receipt_names(store)):
        asset, _, part = receipt.name.partition("/")
        for name, digest in receipt.inputs.items():
            if name.startswith(("source:", "openimages:")):
                root_name, version_of = versions[f"{name}/{part}" if name == "openimages:images" else name]
                assert version_of == digest, name
                read.setdefault(asset, set()).add(root_name)
    return read


def _recipe_is_declared(settings: Settings) -> dict[str, set[Key]]:
    """Assets depend on the keys of the recipe that change what a run of them would find; returns those without effect.

    These are by asset.
    """
    reader = Reader(settings)
    assert undeclared(reader) == []
    found = idle(reader)
    for asset, keys in found.items():
        assert keys <= IDLE.get(asset, set()), asset
    return found


def _values_without_effect_leave_all_up_to_date(
    settings: Settings, instance: dg.DagsterInstance, idle_keys: Mapping[str, set[Key]]
) -> None:
    """A changed value outdates what a run would make, once `confirm_unchanged` has asked for what only declares it."""
    reader, graph = Reader(settings), build_definitions().resolve_asset_graph()

    def outdated() -> set[str]:
        return {name.partition("/")[0] for name in stale(instance)}

    assert {"local_features", "openimages_annotations", "submission"} <= idle_keys.keys()
    for key in sorted(set().union(*idle_keys.values())):
        platform = DryPlatform.of(settings, reader.with_others(key))
        report_recipe(instance, platform.load_recipe())
        idle_assets = {asset for asset, keys in idle_keys.items() if key in keys}
        assert idle_assets <= outdated(), key
        confirm_unchanged(platform, instance, graph)
        assert not idle_assets & outdated(), key
        verdicts = (verdict for of in dry_verdicts(platform, outdated()).values() for verdict in of.values())
        assert [verdict.name for verdict in verdicts if verdict.is_done] == [], key
    report_recipe(instance, settings.load_recipe())
    confirm_unchanged(DryPlatform.of(settings), instance, graph)
    assert stale(instance) == {}
    # Their checks still count as those of what is there.
    assert unwell(instance) == {}


def _errors_are_told(store: Store) -> None:
    """Every query of a landmark and every held-out photograph is counted once, and scores lie with their embedder."""
    assert stored_problems(store, CONFUSED_LANDMARKS) == stored_problems(store, LANDMARK_ACCURACY) == []
    rows = read_table(store, LANDMARK_ACCURACY).to_pylist()
    confused = read_table(store, CONFUSED_LANDMARKS).to_pylist()
    report = store.read_json("reports/evaluation.json")
    of_queries = [row for row in rows if row["asked"] == "queries"]
    assert sum(row["images"] for row in of_queries) == report["landmark_queries"]
    assert sum(row["right"] for row in of_queries) == round(report["top1"] * report["landmark_queries"])
    held_out = store.read_json(f"{embedder_folder(store)}/history.json")["held_out"]
    assert sum(row["images"] for row in rows if row["asked"] == "held-out") == len(held_out)
    wrong = sum(row["images"] - row["right"] for row in rows)
    assert sum(row["images"] for row in confused) == wrong - (report["queries"] - report["predicted"])
    kept = store.read_json(f"{embedder_folder(store)}/evaluation.json")
    assert {name: kept[name] for name in ("gap", "top1", "map100")} == {
        name: report[name] for name in ("gap", "top1", "map100")
    }


def test_shards_that_another_source_left_in_the_instance_are_left_alone(platform: Platform) -> None:
    with dg.DagsterInstance.ephemeral() as instance:
        instance.add_dynamic_partitions("train_shards", ["000", "001x", "002"])
        instance.add_dynamic_partitions("index_shards", ["zzz"])
        materialise_lineage(platform.settings(), instance, Progress(lambda _: None, lambda *_: None))
        for split in ("train", "index", "test"):
            made = instance.get_materialized_partitions(dg.AssetKey(f"{split}_images"))
            assert set(made) == set(platform.open_source().shards(split))


@given(st.lists(st.integers(0, 30), unique=True), st.sets(st.integers(0, 30)))
def test_ranges_hold_the_wanted_keys_and_no_other(registered: list[int], wanted: set[int]) -> None:
    keys = [str(number) for number in registered]
    mine = {str(number) for number in wanted}
    ranges = contiguous(keys, mine)
    held = [key for first, last in ranges for key in keys[keys.index(first) : keys.index(last) + 1]]
    assert held == [key for key in keys if key in mine]
    assert all(keys.index(one[1]) + 1 < keys.index(other[0]) for one, other in itertools.pairwise(ranges))


def test_the_first_asset_that_fails_is_named_and_no_later_run_is_begun(
    platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glr_assets.planning import fill_plan

    def broken(*_: object) -> None:
        raise ZeroDivisionError("nothing to divide by")

    monkeypatch.setattr(fill_plan, "plan_fill", broken)
    begun: list[str] = []
    progress = Progress(lambda step: begun.append(step.asset), lambda *_: None)
    settings: Settings = platform.settings()
    with pytest.raises(LineageError, match=r"fill_plan: .*nothing to divide by"):
        materialise_lineage(settings, instance, progress)
    assert "fill_plan" in begun
    assert not {"train_images", "image_catalog"} & set(begun)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_interrupted_is_canceled(
    platform: Platform, instance: dg.DagsterInstance, tmp_path: Path, number: signal.Signals
) -> None:
    settings = platform.settings().model_copy(update={"store": str(tmp_path)})

    def stop(_: Step) -> None:
        os.kill(os.getpid(), number)

    with raising_interrupts(), pytest.raises(Interrupted) as stopped:
        materialise_lineage(settings, instance, Progress(stop, lambda *_: None), ["train_metadata"])
    assert stopped.value.signal == number
    (run,) = instance.get_runs(filters=dg.RunsFilter(tags={"glr/asked_by": "a program"}), limit=1)
    assert run.status == dg.DagsterRunStatus.CANCELED
