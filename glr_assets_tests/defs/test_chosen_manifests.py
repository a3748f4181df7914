"""Chosen manifests: what reads one is stale for the set that the recipe names and for no other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver
from dagster._core.loader import LoadingContextForTest

from glr_assets.curation.chosen import TRAINING_MANIFEST, chosen_inputs, make_chosen_manifest
from glr_assets.defs.build import ASSETS, ROOTS, build_definitions
from glr_assets.defs.platform import Platform
from glr_assets.defs.reconfirmation import reconfirm_chosen_manifests
from glr_assets.errors import MissingInputError
from glr_assets.manifests import MANIFESTS
from glr_assets.receipts import find_receipt, make, need_receipt
from glr_assets.recipes import load_recipe
from glr_assets.store import Store

KEY = dg.AssetKey(TRAINING_MANIFEST)
SMALL = load_recipe("small")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store in which every curated set has been made, of no images."""
    found = Store(str(tmp_path / "store"))
    for name in MANIFESTS:
        remade(found, name, "first")
    return found


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as found:
        yield found


def remade(store: Store, name: str, content: str) -> str:
    """A curated set's receipt, of a file with that content; returns its digest."""

    def build(writer: Any) -> dict[str, Any]:
        writer.write(f"manifests/{name}.parquet", content.encode())
        return {"kept": len(content)}

    made = make(store, name, inputs={}, parameters={"content": content}, code_version="1", build=build)
    return made.receipt.digest


def report(instance: dg.DagsterInstance, store: Store, name: str) -> None:
    version = need_receipt(store, name).digest
    instance.report_runless_asset_event(dg.AssetMaterialization(name, tags={"dagster/data_version": version}))


def causes(instance: dg.DagsterInstance) -> list[str]:
    graph = build_definitions().resolve_asset_graph()
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    return [
        str(cause.dependency_asset_key and cause.dependency_asset_key.to_user_string())
        for cause in resolver.get_stale_causes(KEY)
    ]


def test_it_names_the_set_that_the_recipe_chooses_and_its_images(store: Store) -> None:
    made = make_chosen_manifest(store, TRAINING_MANIFEST, "cleaned_manifest")
    assert made.receipt.inputs == {"cleaned_manifest": need_receipt(store, "cleaned_manifest").digest}
    assert made.receipt.summary == {"manifest": "cleaned_manifest", "rows": 5}
    assert store.read_json("manifests/training_manifest.json") == {
        "manifest": "cleaned_manifest",
        "digest": need_receipt(store, "cleaned_manifest").digest,
    }
    assert make_chosen_manifest(store, TRAINING_MANIFEST, "cleaned_manifest").reused
    assert make_chosen_manifest(store, TRAINING_MANIFEST, "train_manifest").receipt.digest != made.receipt.digest


def test_readers_have_the_chosen_set_as_their_input_and_refuse_an_outdated_choice(store: Store) -> None:
    expected = {"train_manifest": need_receipt(store, "train_manifest").digest}
    # As in a store of an earlier release.
    assert chosen_inputs(store, TRAINING_MANIFEST, "train_manifest") == expected
    make_chosen_manifest(store, TRAINING_MANIFEST, "train_manifest")
    assert chosen_inputs(store, TRAINING_MANIFEST, "train_manifest") == expected
    with pytest.raises(MissingInputError, match="is of train_manifest, the recipe names cleaned_manifest: materialize"):
        chosen_inputs(store, TRAINING_MANIFEST, "cleaned_manifest")
    remade(store, "train_manifest", "second")
    with pytest.raises(MissingInputError, match="is of an earlier train_manifest: materialize training_manifest again"):
        chosen_inputs(store, TRAINING_MANIFEST, "train_manifest")
    make_chosen_manifest(store, TRAINING_MANIFEST, "train_manifest")
    assert chosen_inputs(store, TRAINING_MANIFEST, "train_manifest") != expected


def test_a_change_of_a_set_that_the_recipe_does_not_name_leaves_it_up_to_date(
    store: Store, instance: dg.DagsterInstance
) -> None:
    for name in MANIFESTS:
        report(instance, store, name)
    platform = Platform(source=None, store=store.url, openimages=None, recipe="small")
    assets = [*ASSETS, *ROOTS]
    assert dg.materialize(
        assets, selection=[TRAINING_MANIFEST], instance=instance, resources={"platform": platform}
    ).success
    first = instance.get_latest_materialization_event(KEY)
    assert first is not None
    graph = build_definitions(platform).resolve_asset_graph()
    assert causes(instance) == []
    assert reconfirm_chosen_manifests(instance, graph, store, SMALL) == []

    remade(store, "cleaned_manifest", "another")
    report(instance, store, "cleaned_manifest")
    assert causes(instance) == ["cleaned_manifest"]
    assert reconfirm_chosen_manifests(instance, graph, store, SMALL) == [TRAINING_MANIFEST]
    assert causes(instance) == []
    assert reconfirm_chosen_manifests(instance, graph, store, SMALL) == []
    again = instance.get_latest_materialization_event(KEY)
    assert again is not None
    # What the page of the asset shows, and the version that its readers compare, are as they were.
    before, after = first.asset_materialization, again.asset_materialization
    assert before is not None
    assert after is not None
    assert after.metadata == before.metadata
    assert (after.tags or {})["dagster/data_version"] == (before.tags or {})["dagster/data_version"]

    remade(store, "train_manifest", "another")
    report(instance, store, "train_manifest")
    assert causes(instance) == ["train_manifest"]
    assert reconfirm_chosen_manifests(instance, graph, store, SMALL) == []
    assert causes(instance) == ["train_manifest"]


def test_it_is_not_reported_where_the_recipe_names_another_set(store: Store, instance: dg.DagsterInstance) -> None:
    for name in MANIFESTS:
        report(instance, store, name)
    make_chosen_manifest(store, TRAINING_MANIFEST, "train_manifest")
    report(instance, store, TRAINING_MANIFEST)
    report(instance, store, "cleaned_manifest")
    graph = build_definitions().resolve_asset_graph()
    other = SMALL.overridden({"training": {"manifest": "cleaned_manifest"}})
    assert reconfirm_chosen_manifests(instance, graph, store, other) == []
    assert find_receipt(store, TRAINING_MANIFEST) is not None
