"""What tests of the whole lineage share: a small embedder, recipes that take seconds, a curated store, digests."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from glr_assets.metadata.tables import make_recognition_solution, make_retrieval_solution
from glr_assets.receipts import find_receipt, receipt_path
from glr_assets.recipes import Recipe
from glr_assets.retrieval.embeddings import make_embeddings, make_non_landmark_embeddings
from glr_assets.retrieval.index import make_faiss_index
from glr_assets.retrieval.local import make_search_features, make_test_features, wanted_of_search, wanted_of_tests
from glr_assets.retrieval.recognition_model import make_recognition_model
from glr_assets.source import Source
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store
from glr_assets.training.versions import held_out_ids, make_embedder, open_embedder
from glr_assets.verification.local_features import Wanted, make_local_features
from glr_assets_tests.images.handmade import make_curated

SIDE = 64


def write_pooling_embedder(path: Path) -> Path:
    """A TorchScript embedder without learnt weights: mean colours of an 8x8 grid, [B,3,H,W] to [B,192]."""
    import torch

    class Grid(torch.nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.adaptive_avg_pool2d(pixels, 8).flatten(1)

    torch.jit.save(torch.jit.script(Grid()), str(path))
    return path


@dataclass(frozen=True)
class Lineage:
    """A store, the source it was made from and the recipe it was made by."""

    source: Source
    store: Store
    recipe: Recipe

    def copied(self, folder: Path) -> Self:
        """The same with a copy of the store, that a test may change."""
        shutil.copytree(self.store.root, folder)
        return replace(self, store=Store(str(folder)))


def write_recipe(path: Path, embedder: Path | None = None, **tables: dict[str, object]) -> Path:
    """A recipe on the base of `small`: with that embedder brought in, or training a tiny network for two epochs."""
    if embedder is not None:
        own: dict[str, object] = {"torchscript": str(embedder), "image_size": SIDE}
    else:
        own = {"backbone": "resnet-tiny", "image_size": SIDE, "dimensions": 32, "epochs": 2, "batch_size": 8}
    groups: dict[str, object] = {"image_size": SIDE, "epochs": 2, "batch_size": 8}
    learns = groups if embedder is None else {"torchscript": str(embedder), "image_size": SIDE}
    sections = {"embedder": own, "groups": groups, "filter": learns} | tables
    lines = ['base = "small"']
    for section, values in sections.items():
        lines.append(f"[{section}]")
        lines += [f"{key} = {_toml(value)}" for key, value in values.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"'{value}'" if isinstance(value, str) else str(value)


def rewritten(store: Store, name: str, **changes: object) -> None:
    """Another receipt in a receipt's place, with these values of its own."""
    receipt = find_receipt(store, name)
    assert receipt is not None
    store.write(receipt_path(name), receipt.model_copy(update=changes).to_bytes())


def digests(root: Path, *folders: str) -> dict[str, str]:
    """SHA-256 of every file below `root`, or below these folders of it, by relative path.

    What tells of runs, Dagster's instance among it, is left out: their times are their own.
    """
    roots = [root / folder for folder in folders] or [root]
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in roots
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(root).parts[0] not in {"runs", ".dagster"}
    }


def curate(source: Source, store: Store, recipe: Recipe) -> None:
    """Everything up to the ledger by the stages' own functions, without Dagster, and both solutions."""
    make_curated(source, store, recipe)
    make_recognition_solution(source, store)
    make_retrieval_solution(source, store)


def embed(source: Source, store: Store, recipe: Recipe) -> None:
    """The embedder of a curated store, every shard's embeddings, and the gallery of non-landmarks."""
    make_embedder(store, recipe, print)
    for split in SPLITS:
        for shard in source.shards(split):
            make_embeddings(store, split, shard, lambda: open_embedder(store, recipe.execution))
    make_non_landmark_embeddings(source, store, recipe.retrieval)


def index(source: Source, store: Store, recipe: Recipe) -> None:
    """The index of an embedded store, local features of what is searched and asked, and the recognition model."""
    make_faiss_index(source, store, recipe.retrieval, recipe.seed)
    compared, searched = Wanted.of(store, recipe.verification, recipe.seed), wanted_of_search(store, recipe)
    for shard in source.shards("train"):
        make_local_features(store, shard, compared, recipe.verification, recipe.execution)
        make_search_features(store, shard, searched, recipe)
    tests = wanted_of_tests(store, recipe)
    for shard in source.shards("test"):
        make_test_features(store, shard, tests, recipe)
    make_recognition_model(source, store, recipe, held_out_ids(store))
