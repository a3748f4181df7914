"""A curated store with a pooling embedder brought in and every shard embedded, made once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from glr_assets.recipes import load_recipe
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets_tests.lineage import Lineage, curate, embed, index, write_pooling_embedder, write_recipe


class Embedded(Lineage):
    """Every shard of it is embedded."""


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
    return embedded_once.copied(tmp_path / "copy")


@pytest.fixture(scope="session")
def indexed_once(embedded_once: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    """That, with index, local features and recognition model."""
    found = embedded_once.copied(tmp_path_factory.mktemp("indexed") / "store")
    index(found.source, found.store, found.recipe)
    return found


@pytest.fixture
def indexed(indexed_once: Embedded, tmp_path: Path) -> Embedded:
    """A copy that a test may change."""
    return indexed_once.copied(tmp_path / "copy")


@pytest.fixture(scope="session")
def headed_once(embedded_once: Embedded, tmp_path_factory: pytest.TempPathFactory) -> Embedded:
    """That, with an embedder that was trained, under a head, all embedded and indexed anew."""
    folder = tmp_path_factory.mktemp("headed")
    recipe = load_recipe(str(write_recipe(folder / "trained.toml")))
    found = replace(embedded_once.copied(folder / "store"), recipe=recipe)
    embed(found.source, found.store, found.recipe)
    index(found.source, found.store, found.recipe)
    return found


@pytest.fixture
def headed(headed_once: Embedded, tmp_path: Path) -> Embedded:
    """A copy that a test may change."""
    return headed_once.copied(tmp_path / "copy")
