"""The recipe as roots of the lineage: what is observed, and whom a changed value makes stale."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.definitions.events import AssetKeyPartitionKey
from dagster._core.definitions.observe import observe
from dagster._core.loader import LoadingContextForTest

from glr_assets.defs.platform import Platform
from glr_assets.defs.recipes import (
    NODES,
    changed_observations,
    recipe_observations,
    recipe_values,
    report_recipe,
)
from glr_assets.recipes import Dedupe, load_recipe

KEEP = dg.AssetKey("recipe_dedupe")


@dg.asset(deps=[recipe_values("dedupe", "keep", "sample")], code_version="1")
def pruned(platform: Platform) -> dg.MaterializeResult:
    platform.load_recipe()
    return dg.MaterializeResult(data_version=dg.DataVersion("1"))


@dg.asset(deps=[recipe_values("dedupe", "near_duplicate_bits"), recipe_values("seed")], code_version="1")
def compared(platform: Platform) -> dg.MaterializeResult:
    platform.load_recipe()
    return dg.MaterializeResult(data_version=dg.DataVersion("1"))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "own.toml"
    path.write_text('base = "small"\n')
    return path


def platform_of(recipe: Path) -> Platform:
    return Platform(source=None, store=str(recipe.parent / "store"), openimages=None, recipe=str(recipe))


def made(instance: dg.DagsterInstance, recipe: Path) -> None:
    assets = [pruned, compared, *NODES]
    resources = {"platform": platform_of(recipe)}
    assert dg.materialize(assets, selection=["pruned", "compared"], instance=instance, resources=resources).success


def stale(instance: dg.DagsterInstance) -> dict[str, list[str]]:
    """By asset that is stale, the causes: dependency and partition."""
    definitions = dg.Definitions(assets=[pruned, compared, *NODES], resources={"platform": Platform(source=None)})
    resolver = CachingStaleStatusResolver(instance, definitions.resolve_asset_graph(), LoadingContextForTest(instance))
    causes = {asset: resolver.get_stale_causes(dg.AssetKey(asset)) for asset in ("pruned", "compared")}
    return {asset: [_shown(cause.dependency) for cause in found] for asset, found in causes.items() if found}


def _shown(dependency: object) -> str:
    assert isinstance(dependency, AssetKeyPartitionKey)
    return f"{dependency.asset_key.to_user_string()} {dependency.partition_key}"


def test_an_observation_has_the_digest_of_the_value_and_tells_what_the_key_is() -> None:
    observed = recipe_observations(load_recipe("small"))["recipe_dedupe"]["keep"]
    assert observed.partition == "keep"
    assert observed.tags["dagster/data_version"] == hashlib.sha256(b"25").hexdigest()
    assert observed.description == "[dedupe] keep = 25"
    assert {name: value.value for name, value in observed.metadata.items()} == {
        "key": "[dedupe] keep",
        "value": 25,
        "default": 25,
        "limits": "a whole number, 1 to 100000",
        "description": "images a class keeps; smaller classes stay whole",
        "recipe": "small",
    }
    unset = recipe_observations(load_recipe("small"))["recipe_filter"]["threshold"]
    assert unset.tags["dagster/data_version"] == hashlib.sha256(b"null").hexdigest()
    assert unset.metadata["value"].value == "unset"


def test_values_that_have_not_changed_are_not_reported_again(instance: dg.DagsterInstance) -> None:
    recipe = load_recipe("small")
    every = sum(len(keys) for keys in recipe_observations(recipe).values())
    assert len(report_recipe(instance, recipe)) == every
    assert report_recipe(instance, recipe) == changed_observations(instance, recipe) == []
    other = recipe.overridden({"dedupe": {"keep": 24}}, seed=5)
    assert report_recipe(instance, other) == ["[dedupe] keep", "seed"]
    assert report_recipe(instance, recipe) == ["[dedupe] keep", "seed"]


def test_a_changed_value_makes_its_dependents_stale_and_no_others(instance: dg.DagsterInstance, recipe: Path) -> None:
    made(instance, recipe)
    assert stale(instance) == {}
    recipe.write_text('base = "small"\n[dedupe]\nkeep = 24\n')
    report_recipe(instance, load_recipe(str(recipe)))
    assert stale(instance) == {"pruned": ["recipe_dedupe keep"]}
    recipe.write_text('base = "small"\nseed = 3\n[dedupe]\nkeep = 25\nnear_duplicate_bits = 2\n')
    report_recipe(instance, load_recipe(str(recipe)))
    assert stale(instance) == {"compared": ["recipe_dedupe near_duplicate_bits", "recipe_seed seed"]}


def test_a_run_right_after_an_edit_is_one_of_the_new_value(instance: dg.DagsterInstance, recipe: Path) -> None:
    made(instance, recipe)
    recipe.write_text('base = "small"\n[dedupe]\nkeep = 24\n')
    made(instance, recipe)
    # A sensor that comes by later finds nothing that the run had not seen.
    assert report_recipe(instance, load_recipe(str(recipe))) == []
    assert stale(instance) == {}


def test_the_observe_button_logs_every_key_with_its_metadata(instance: dg.DagsterInstance, recipe: Path) -> None:
    (node,) = (node for node in NODES if node.key == KEEP)
    assert observe([node], instance=instance, resources={"platform": platform_of(recipe)}).success
    records = instance.fetch_observations(KEEP, limit=100).records
    found = {record.partition_key: record.asset_observation for record in records}
    assert found.keys() == set(Dedupe.model_fields)
    assert found["keep"].metadata["value"].value == 25  # type: ignore[union-attr]
    assert [name for name in report_recipe(instance, load_recipe("small")) if name.startswith("[dedupe]")] == []


def test_a_key_that_is_none_of_the_table_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'keeps' is not in list"):
        recipe_values("dedupe", "keeps")
    with pytest.raises(ValueError, match="name the keys"):
        recipe_values("dedupe")
