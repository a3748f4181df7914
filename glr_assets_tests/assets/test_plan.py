"""The plan of a change, over a store that was made up to the filter of non-landmarks."""

from __future__ import annotations

import json
import shutil
import tarfile
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from glr_assets.defs.build import build_definitions
from glr_assets.defs.plan import Plan, PlannedAsset, plan_changes, plan_markdown, plan_text, shown_bytes, shown_seconds
from glr_assets.defs.platform import Platform, platform_of
from glr_assets.images.shard_runs import find_run, write_run
from glr_assets.planning.schemas import FILL_PLAN
from glr_assets.receipts import find_receipt
from glr_assets.settings import Settings
from glr_assets.store import Store
from glr_assets_tests.assets.conftest import Runner, Templates, instance_of, with_recipe
from glr_assets_tests.assets.test_dry_runs import NOT_MADE
from glr_assets_tests.integration.conftest import Glr
from glr_assets_tests.lineage import digests, rewritten


def concerned(plan: Plan) -> dict[str, PlannedAsset]:
    """What a plan says of what the template holds."""
    return {one.asset: one for one in plan.assets if one.asset not in NOT_MADE}


def shard_file(settings: Settings, split: str, shard: str) -> Path:
    (path,) = Path(settings.source or "").rglob(f"{split}/images_{shard}.tar")
    return path


def with_other_md5(settings: Settings, split: str, shard: str) -> None:
    (path,) = (path for path in Path(settings.source or "").rglob(f"*images_{shard}.txt") if split in str(path.parent))
    path.write_text("0" * 32 + path.read_text()[32:])


def test_nothing_has_changed(settings: Settings) -> None:
    plan = plan_changes(settings)
    assert concerned(plan) == {}
    assert {one.asset for one in plan.assets} == NOT_MADE
    assert all(reason.why == ["never made"] for one in plan.assets for reason in one.made)
    assert (plan.bytes, plan.gone, plan.seconds) == (0, [], None)
    assert plan.seconds_unknown == [one.asset for one in plan.assets]


def test_a_value_of_the_recipe(settings: Settings) -> None:
    plan = plan_changes(with_recipe(settings, dedupe={"keep": 20}))
    found = concerned(plan)
    assert [reason.why for reason in found["deduped_manifest"].made] == [["[dedupe] keep: 25 → 20"]]
    assert {name for name, one in found.items() if one.made} == {"deduped_manifest"}
    assert found["train_extra"].follows[0].why == ["deduped_manifest"]
    assert found["train_manifest"].follows[0].why == ["deduped_manifest", "train_extra"]
    assert found["cleaned_manifest"].follows
    # What was decided before it cannot follow.
    assert not found.keys() & {"train_images", "image_catalog", "train_test_leaks", "openimages_images"}
    text = plan_text(plan)
    assert "deduped_manifest" in text
    assert "[dedupe] keep: 25 → 20" in text
    assert r"\[dedupe\] keep: 25 → 20" in plan_markdown(plan)


def test_shards_that_appeared_and_went(settings: Settings) -> None:
    new = shard_file(settings, "train", "000").with_name("images_009.tar")
    shutil.copy(shard_file(settings, "train", "000"), new)
    (checksum,) = (path for path in Path(settings.source or "").rglob("*images_000.txt") if "train" in str(path.parent))
    shutil.copy(checksum, checksum.with_name(checksum.name.replace("000", "009")))
    shard_file(settings, "test", "001").unlink()
    plan = plan_changes(settings)
    found = concerned(plan)
    assert [(reason.why, reason.partitions) for reason in found["train_images"].made] == [(["never made"], ["009"])]
    assert found["train_images"].bytes == new.stat().st_size
    assert plan.gone == ["test_images/001"]
    (catalog,) = found["image_catalog"].made
    assert catalog.why == ["test_images is gone: 001", "train_shards_missing: 0 → 1"]
    assert "train_images/009" not in plan_text(plan)


def test_a_changed_shard_is_fetched_whole_and_followed_by_its_own_partitions(settings: Settings) -> None:
    with_other_md5(settings, "train", "001")
    found = concerned(plan_changes(settings))
    assert found["train_images"].bytes == shard_file(settings, "train", "001").stat().st_size
    assert [(reason.why, reason.partitions) for reason in found["train_images"].made] == [
        (["source_train_shards changed"], ["001"])
    ]
    assert found["image_catalog"].follows[0].why == ["train_images"]
    # By the classifier all scores follow; the shard's own images are a reason for its own alone.
    of_shard = next(reason for reason in found["non_landmark_scores"].follows if "train_images" in reason.why)
    assert of_shard.partitions == ["001"]


def test_images_that_are_wanted_now_are_fetched_by_their_ranges(settings: Settings) -> None:
    store = Store(settings.store)
    listed = pq.read_table(store.path(FILL_PLAN.path))["id"].to_pylist()
    newly = _leave_out(store, sorted(listed)[:2])
    assert newly
    receipt = find_receipt(store, "fill_plan")
    assert receipt is not None
    outputs = {path: written.model_copy(update={"sha256": "0" * 64}) for path, written in receipt.outputs.items()}
    rewritten(store, "fill_plan", outputs=outputs)
    found = concerned(plan_changes(settings))
    sizes: dict[str, int] = {}
    for shard in ("000", "001", "002", "003"):
        with tarfile.open(shard_file(settings, "train", shard)) as tar:
            sizes |= {Path(member.name).stem: member.size for member in tar.getmembers()}
    assert found["train_images"].bytes == sum(sizes[image] for image in newly)
    assert all(reason.why == ["fill_plan changed"] for reason in found["train_images"].made)


def _leave_out(store: Store, images: list[str]) -> list[str]:
    """Have indexes say of these images that they were not wanted; returns those that an index holds."""
    held = []
    for shard in ("000", "001", "002", "003"):
        path = f"images/train/{shard}.parquet"
        table = pq.read_table(store.path(path))
        rows = table.to_pylist()
        mine = [row for row in rows if row["id"] in images and row["status"] == "stored"]
        held += [row["id"] for row in mine]
        for row in mine:
            row["status"], row["reason"] = "skipped", "not wanted"
        pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), store.path(path))
        receipt = find_receipt(store, f"train_images/{shard}")
        assert receipt is not None
        size = Path(store.path(path)).stat().st_size
        outputs = receipt.outputs | {path: receipt.outputs[path].model_copy(update={"size": size})}
        rewritten(store, f"train_images/{shard}", outputs=outputs)
    return held


def test_times_are_those_of_past_runs(settings: Settings, templates: Templates) -> None:
    store = Store(settings.store)
    for number, shard in enumerate(("000", "001", "002", "003")):
        run = find_run(store, "train", shard)
        assert run is not None
        write_run(store, "train", shard, run.model_copy(update={"seconds": 1.0 + number}))
    with_other_md5(settings, "train", "001")
    with_other_md5(settings, "train", "003")
    platform = platform_of(settings)
    with instance_of(platform) as instance:
        run_asset = Runner(platform, instance, templates)
        rewritten(store, "label_conflicts", code_version="0")
        assert run_asset("label_conflicts").success
        assert run_asset("label_conflicts").success  # found done: it tells nothing of the time
        made_by = instance.get_runs()[1].run_id
        rewritten(store, "label_conflicts", code_version="0")
        found = concerned(plan_changes(settings, instance))
        (step,) = instance.get_run_step_stats(made_by, ["label_conflicts"])
        took = (step.end_time or 0) - (step.start_time or 0)
    assert (found["train_images"].seconds, found["train_images"].seconds_from) == (5.0, "run records of 4 shards")
    assert found["label_conflicts"].seconds == pytest.approx(took, abs=0.05)
    assert found["label_conflicts"].seconds_from == f"run {made_by[:8]}"
    assert found["deduped_manifest"].seconds_following is None


def test_it_is_a_job_whose_run_shows_the_plan_and_changes_nothing(settings: Settings, tmp_path: Path) -> None:
    before = digests(Path(settings.store))
    other = tmp_path / "other.toml"
    shutil.copy(str(settings.recipe), other)
    with_recipe(settings.model_copy(update={"recipe": str(other)}), dedupe={"keep": 20})
    platform: Platform = platform_of(settings)
    with instance_of(platform) as instance:
        job = build_definitions(platform).get_job_def("plan_changes")
        config = {"ops": {"plan": {"config": {"recipe": str(other)}}}}
        result = job.execute_in_process(run_config=config, instance=instance)
        (output,) = (event for event in result.all_node_events if event.is_successful_output)
        told = output.step_output_data.metadata
        assert r"\[dedupe\] keep: 25 → 20" in str(told["plan"].value)
        assert told["recipe"].value == "other"
        assert not instance.fetch_observations(dg.AssetKey("recipe_dedupe"), limit=1).records
    assert digests(Path(settings.store)) == before


def test_glr_plan(settings: Settings, tmp_path: Path) -> None:
    before = sorted(str(path) for path in Path(settings.store).rglob("*"))
    glr = Glr(tmp_path)
    with_recipe(settings, dedupe={"keep": 20})
    given = ["--store", settings.store, "--source", str(settings.source), "--recipe", str(settings.recipe)]
    done = glr("plan", *given, "--json", "plan.json")
    assert done.returncode == 0, done.stderr
    assert "[dedupe] keep: 25 → 20" in done.stdout
    plan = Plan.model_validate_json((tmp_path / "plan.json").read_text())
    assert plan == plan_changes(settings)
    assert json.loads((tmp_path / "plan.json").read_text()).keys() == Plan.model_fields.keys()
    assert sorted(str(path) for path in Path(settings.store).rglob("*")) == before


def test_a_store_without_anything(tmp_path: Path) -> None:
    plan = plan_changes(Settings(store=str(tmp_path / "store"), recipe="small"))
    assert plan.done == 0
    assert plan.source == "the built-in sample, not written yet"
    assert plan.bytes is None
    assert all(reason.why == ["never made"] for one in plan.assets for reason in one.made)
    assert not (tmp_path / "store").exists()


def test_figures_for_people() -> None:
    assert [shown_bytes(size) for size in (0, 999, 1500, 2_100_000_000, None)] == [
        "0 B",
        "999 B",
        "1.5 kB",
        "2.1 GB",
        "unknown",
    ]
    assert [shown_seconds(seconds) for seconds in (0.0, 4.25, 40, 300, 9000, None)] == [
        "under 0.1 s",
        "4.2 s",
        "40 s",
        "5 min",
        "2.5 h",
        "unknown",
    ]
