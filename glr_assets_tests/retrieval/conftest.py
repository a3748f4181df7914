"""A curated store with a pooling embedder brought in and every shard embedded, made once."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from glr_assets.recipes import Recipe, load_recipe
from glr_assets.retrieval.embeddings import make_embeddings, make_non_landmark_embeddings
from glr_assets.source import Source, open_source
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store
from glr_assets.training.versions import make_embedder, open_embedder
from glr_assets_tests.lineage import curate, write_pooling_embedder, write_recipe


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
    make_embedder(store, recipe, print)
    for split in SPLITS:
        for shard in source.shards(split):
            make_embeddings(store, split, shard, lambda: open_embedder(store, recipe.execution))
    make_non_landmark_embeddings(source, store, recipe.retrieval.non_landmark_usage)
    return Embedded(source, store, recipe)


@pytest.fixture
def embedded(embedded_once: Embedded, tmp_path: Path) -> Embedded:
    """A copy that a test may change."""
    copy = tmp_path / "copy"
    shutil.copytree(embedded_once.store.root, copy)
    return Embedded(embedded_once.source, Store(str(copy)), embedded_once.recipe)
