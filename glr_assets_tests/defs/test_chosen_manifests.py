"""Chosen manifests: what reads one is stale for the set that the recipe names and for no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from glr_assets.curation.chosen import TRAINING_MANIFEST, chosen_inputs, make_chosen_manifest
from glr_assets.errors import MissingInputError
from glr_assets.manifests import MANIFESTS
from glr_assets.receipts import make, need_receipt
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


def remade(store: Store, name: str, content: str) -> str:
    """A curated set's receipt, of a file with that content; returns its digest."""

    def build(writer: Any) -> dict[str, Any]:
        writer.write(f"manifests/{name}.parquet", content.encode())
        return {"kept": len(content)}

    made = make(store, name, inputs={}, parameters={"content": content}, code_version="1", build=build)
    return made.receipt.digest


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
