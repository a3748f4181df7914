"""A curated store with a pooling embedder brought in and every shard embedded, made once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from glr_assets.recipes import Recipe, load_recipe
from glr_assets.source import Source, open_source
from glr_assets.store import Store
from glr_assets_tests.lineage import curate, embed, index, write_pooling_embedder, write_recipe


@dataclass(frozen=True)
class Embedded:
    source: Source
    store: Store
    recipe: Recipe


@pytest.fixture(scope="session")
def embedded_once(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    folder = tmp_path_factory.mktemp("embedded")
    recipe = load_recipe(str(write_recipe(folder / "quick.toml", write_pooling_embedder(folder / "grid.pt"))))
    source, store = open_source(bucket), Store(str(folder / "store"))
    curate(source, store, recipe)
    embed(source, store, recipe)
    return Embedded(source, store, recipe)


@pytest.fixture
def embedded(embedded_once: Embedded, tmp_path: Path) -> Embedded:
    """A copy that a test may change."""
    copy = tmp_path / "copy"
    shutil.copytree(embedded_once.store.root, copy)
    return Embedded(embedded_once.source, Store(str(copy)), embedded_once.recipe)


@pytest.fixture(scope="session")
def indexed_once(embedded_once: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    """That, with index, local features and recognition model."""
    copy = tmp_path_factory.mktemp("indexed") / "store"
    shutil.copytree(embedded_once.store.root, copy)
    found = Embedded(embedded_once.source, Store(str(copy)), embedded_once.recipe)
    index(found.source, found.store, found.recipe)
    return found


@pytest.fixture
def indexed(indexed_once: Embedded, tmp_path: Path) -> Embedded:
    """A copy that a test may change."""
    copy = tmp_path / "copy"
    shutil.copytree(indexed_once.store.root, copy)
    return Embedded(indexed_once.source, Store(str(copy)), indexed_once.recipe)


@pytest.fixture(scope="session")
def headed_once(embedded_once: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    """That, with an embedder that was trained, under a head, all embedded and indexed anew."""
    folder = tmp_path_factory.mktemp("headed")
    shutil.copytree(embedded_once.store.root, folder / "store")
    recipe = load_recipe(str(write_recipe(folder / "trained.toml")))
    found = Embedded(embedded_once.source, Store(str(folder / "store")), recipe)
    embed(found.source, found.store, found.recipe)
    index(found.source, found.store, found.recipe)
    return found


@pytest.fixture
def headed(headed_once: Embedded, tmp_path: Path) -> Embedded:
    """A copy that a test may change."""
    copy = tmp_path / "copy"
    shutil.copytree(headed_once.store.root, copy)
    return Embedded(headed_once.source, Store(str(copy)), headed_once.recipe)
