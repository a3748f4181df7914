"""Launchpads: what they open with is what the recipe says, and what a run overrides is told and stale."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._config import process_config
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from glr_assets.defs import launchpad
from glr_assets.defs.conventions import table_asset
from glr_assets.defs.platform import Platform
from glr_assets.defs.recipes import NODES
from glr_assets.defs.results import result_of
from glr_assets.receipts import Made, Receipt, Written
from glr_assets.recipes import NAMED_RECIPES, load_recipe
from glr_assets.recipes.describe import SEED, keys_of, sections

EVERY_KEY = {table: [key.name for key in keys_of(table)] for table in sections()} | {SEED: []}
KEY = dg.AssetKey("pruned")


@table_asset(None, group="curation", code_version="1", kinds={"json"}, recipe={"dedupe": {"keep", "sample"}})
def pruned(platform: Platform) -> dg.MaterializeResult:
    """An asset whose content is the recipe's values."""
    dedupe = platform.load_recipe().dedupe
    content = Written(size=1, sha256=f"{dedupe.keep} of {dedupe.sample}")
    parameters = {"keep": dedupe.keep, "sample": dedupe.sample}
    receipt = Receipt(
        name="pruned", code_version="1", inputs={}, parameters=parameters, outputs={"a": content}, summary=parameters
    )
    return result_of(Made(receipt, reused=False))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return Platform(source=None, store=str(tmp_path / "store"), openimages=None, recipe="small")


def made(instance: dg.DagsterInstance, platform: Platform, **config: object) -> dg.AssetMaterialization:
    ops = {"pruned": {"config": config}} if config else {}
    done = dg.materialize(
        [pruned, *NODES],
        selection=["pruned"],
        instance=instance,
        resources={"platform": platform},
        run_config={"ops": ops},
    )
    (event,) = done.get_asset_materialization_events()
    return event.materialization


def stale_keys(instance: dg.DagsterInstance, platform: Platform) -> set[str | None]:
    graph = dg.Definitions(assets=[pruned, *NODES], resources={"platform": platform}).resolve_asset_graph()
    causes = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance)).get_stale_causes(KEY)
    assert all(cause.dependency_asset_key == dg.AssetKey("recipe_dedupe") for cause in causes)
    return {cause.dependency_partition_key for cause in causes}


@pytest.mark.parametrize("name", NAMED_RECIPES)
def test_what_a_launchpad_opens_with_changes_nothing_of_the_recipe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(name)
    monkeypatch.setattr(launchpad, "recipe_when_loaded", lambda: recipe)
    opened = launchpad.launchpad("everything", EVERY_KEY)
    done = process_config(opened.config_type, {})
    assert done.success, done.errors
    assert launchpad.overridden(recipe, done.value) == recipe


def test_a_recipe_that_is_not_known_at_loading_shows_no_values_and_checks_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launchpad, "recipe_when_loaded", lambda: None)
    opened = launchpad.launchpad("everything", EVERY_KEY)
    assert process_config(opened.config_type, {}).value == {table: {} for table in (*sections(), "execution")}
    assert process_config(opened.config_type, {"dedupe": {"keep": -3}}).success
    assert not process_config(opened.config_type, {"dedupe": {"keep": "x"}}).success


def test_a_run_without_config_uses_the_recipe_as_it_is_then(
    instance: dg.DagsterInstance, platform: Platform, tmp_path: Path
) -> None:
    """Whatever it was when definitions were loaded: here `small`, of which `keep` is 25."""
    own = tmp_path / "own.toml"
    own.write_text('base = "small"\n[dedupe]\nkeep = 31\n')
    found = made(instance, Platform(source=None, store=platform.store, openimages=None, recipe=str(own)))
    assert found.metadata["keep"].value == 31
    assert "overrides" not in found.metadata


def test_an_override_is_told_and_what_is_made_by_it_is_stale_until_the_recipe_made_it(
    instance: dg.DagsterInstance, platform: Platform
) -> None:
    found = made(instance, platform, dedupe={"keep": 28})
    assert found.metadata["keep"].value == 28
    assert found.metadata["overrides"].value == {"[dedupe] keep": "28 in place of 25"}
    assert "keep" in stale_keys(instance, platform)
    assert "overrides" not in made(instance, platform).metadata
    assert stale_keys(instance, platform) == set()


def test_the_recipes_own_values_are_no_override(instance: dg.DagsterInstance, platform: Platform) -> None:
    found = made(instance, platform, dedupe={"keep": 25, "sample": 1000}, execution={"force": True})
    assert "overrides" not in found.metadata
    assert stale_keys(instance, platform) == set()
