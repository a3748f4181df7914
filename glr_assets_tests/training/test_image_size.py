"""The image size of an external network: declared, set, or searched; a contradiction is reported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch

from glr_assets.errors import EmbedderError, RecipeError
from glr_assets.receipts import need_receipt
from glr_assets.recipes import load_recipe
from glr_assets.recipes.learning import Embedder
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets.training import image_size, versions
from glr_assets.training.embedder import load_config
from glr_assets.training.image_size import SIDES, drawn_photographs, mean_average_precision, searched_precisions
from glr_assets.training.photographs import TrainingSet
from glr_assets.training.record import kept_record
from glr_assets.training.torchscript import load_external
from glr_assets_tests.images.handmade import make_curated
from glr_assets_tests.lineage import write_pooling_embedder


class Declaring(torch.nn.Module):
    """Mean colors of a grid, and a size as an attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.image_size = 96

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)


class OfOneSize(torch.nn.Module):
    """Tells photographs apart at 224 pixels alone; at any other side all are nearly the same."""

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        grid = torch.nn.functional.adaptive_avg_pool2d(pixels, 4).flatten(1)
        if pixels.shape[2] != 224:
            grid = torch.fmod(grid.abs() * 9973.0, 1.0)
        return grid


@pytest.fixture(scope="module")
def curated(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("curated") / "store"))
    make_curated(open_source(bucket), store, load_recipe("small"))
    return store


def recipe_file(folder: Path, embedder: Path, more: str = "") -> str:
    path = folder / "own.toml"
    path.write_text(f'base = "small"\n[embedder]\ntorchscript = "{embedder}"\nonnx = false\n{more}\n')
    return str(path)


def saved(path: Path, module: torch.nn.Module, extra: Mapping[str, str] | None = None) -> Path:
    torch.jit.save(torch.jit.script(module), str(path), _extra_files=dict(extra or {}))
    return path


def summary_of(store: Store, name: str) -> Mapping[str, object]:
    versions.make_embedder(store, load_recipe(name), print)
    return need_receipt(store, "embedder").summary


def test_another_network_does_not_take_over_the_size_of_the_base(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    assert load_recipe("small").embedder.image_size == 128
    assert load_recipe(recipe_file(tmp_path, path)).embedder.image_size == 0
    assert load_recipe(recipe_file(tmp_path, path, "image_size = 288")).embedder.image_size == 288
    # The base's size is that of the base's file.
    (tmp_path / "base.toml").write_text(f'base = "small"\n[embedder]\ntorchscript = "{path}"\nimage_size = 288\n')
    derived = tmp_path / "derived.toml"
    derived.write_text('base = "base.toml"\nseed = 2\n[embedder]\nflip = true\n')
    assert load_recipe(str(derived)).embedder.image_size == 288
    derived.write_text('base = "base.toml"\n[embedder]\ntorchscript = "other.pt"\n')
    assert load_recipe(str(derived)).embedder.image_size == 0
    small = load_recipe("small")
    assert small.overridden({"embedder": {"torchscript": "net.pt"}}).embedder.image_size == 0
    assert small.overridden({"embedder": {"torchscript": "net.pt", "image_size": 64}}).embedder.image_size == 64
    assert small.overridden({"filter": {"torchscript": "net.pt"}}).filter.image_size == 0
    assert Embedder(torchscript="net.pt").image_size == 0
    assert Embedder(torchscript="net.pt", scales=(0.7, 1.0)).image_size == 0
    for values in ({"image_size": 0}, {"image_size": 20}, {"image_size": 20, "torchscript": "net.pt"}):
        with pytest.raises(RecipeError, match=r"\[embedder\] image_size = .* expected 28 or more"):
            small.overridden({"embedder": values})


@pytest.mark.parametrize("how", ["attribute", "extra file"])
def test_a_declared_size_is_used(curated: Store, tmp_path: Path, how: str) -> None:
    if how == "attribute":
        path, side = saved(tmp_path / "net.pt", Declaring()), 96
    else:
        path, side = saved(tmp_path / "net.pt", OfOneSize(), {"image_size": " 160\n"}), 160
    summary = summary_of(curated, recipe_file(tmp_path, path))
    assert (summary["image_size"], summary["image_size_source"]) == (side, "declared")
    assert summary["image_size_warning"] is None
    folder = versions.embedder_folder(curated)
    config = load_config(curated, folder)
    assert config.image_size == config.recipe.image_size == side
    # Its own export declares the size too, so that another store uses it alike.
    _, extra = load_external(f"{curated.root}/{folder}/embedder.pt", "own export")
    assert extra == str(side)


def test_a_recipe_that_contradicts_the_declaration_is_reported(curated: Store, tmp_path: Path) -> None:
    path = saved(tmp_path / "net.pt", Declaring())
    lines: list[str] = []
    recipe = load_recipe(recipe_file(tmp_path, path, "image_size = 64"))
    versions.make_embedder(curated, recipe, lines.append)
    summary = need_receipt(curated, "embedder").summary
    assert (summary["image_size"], summary["image_size_source"]) == (64, "recipe")
    assert "image_size = 64, but the TorchScript file declares 96" in str(summary["image_size_warning"])
    assert summary["image_size_warning"] in lines
    # And so it is told again by a version that was finished before.
    again = recipe.overridden({"embedder": {"flip": True}})
    versions.make_embedder(curated, again, lines.append)
    assert need_receipt(curated, "embedder").summary["image_size_warning"] == summary["image_size_warning"]


@pytest.mark.parametrize("found", ["many", "0", "5000", "-1"])
def test_a_declaration_that_is_no_size_is_refused(curated: Store, tmp_path: Path, found: str) -> None:
    path = saved(tmp_path / "net.pt", OfOneSize(), {"image_size": found})
    with pytest.raises(EmbedderError, match=f"declares image_size '{found}', expected a whole number of pixels"):
        versions.make_embedder(curated, load_recipe(recipe_file(tmp_path, path)), print)


def test_an_undeclared_size_is_found_on_the_photographs_that_train(
    curated: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def watched(embed: image_size.EmbedAt, training: TrainingSet, sides: tuple[int, ...]) -> dict[int, float]:
        seen.extend(training.ids)
        return searched_precisions(embed, training, sides)

    monkeypatch.setattr(image_size, "searched_precisions", watched)
    summary = summary_of(curated, recipe_file(tmp_path, saved(tmp_path / "net.pt", OfOneSize())))
    assert (summary["image_size"], summary["image_size_source"]) == (224, "searched")
    record = kept_record(curated, versions.embedder_folder(curated))
    assert record is not None
    assert set(record.image_sizes_tried) == set(SIDES)
    assert max(record.image_sizes_tried, key=lambda side: record.image_sizes_tried[side]) == 224
    # What is held out, and judges, has chosen nothing.
    assert seen
    assert not set(seen) & set(versions.held_out_ids(curated))


def test_of_sides_that_do_alike_the_smallest_is_taken(curated: Store, tmp_path: Path) -> None:
    summary = summary_of(curated, recipe_file(tmp_path, write_pooling_embedder(tmp_path / "grid.pt")))
    assert summary["image_size"] == SIDES[0]


def test_mean_average_precision_of_a_worked_example() -> None:
    # On a line: a a b a. Of the first a: a, b, a; of the second: a, b, a (tie by place); and so on, by the definition.
    vectors = np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [-1.0, -0.2], [0.1, 0.9]], np.float32)
    landmarks = np.array([1, 1, 2, 1, 2])
    centered = vectors - vectors.mean(axis=0)
    centered /= np.linalg.norm(centered, axis=1, keepdims=True)
    expected = []
    for row in range(5):
        others = sorted((i for i in range(5) if i != row), key=lambda i: -float(centered[row] @ centered[i]))
        right, total = 0, 0.0
        for rank, other in enumerate(others, 1):
            if landmarks[other] == landmarks[row]:
                right += 1
                total += right / rank
        expected.append(total / (sum(landmarks == landmarks[row]) - 1))
    assert mean_average_precision(vectors, landmarks) == pytest.approx(np.mean(expected), abs=1e-4)


def test_photographs_are_drawn_in_any_order_alike_and_never_alone() -> None:
    ids = [f"{number:04x}" for number in range(900)]
    landmarks = [number % 40 for number in range(880)] + list(range(100, 120))
    drawn, of = drawn_photographs(TrainingSet(tuple(ids), tuple(landmarks), lambda name: b""))
    assert 200 < len(drawn) <= image_size.MOST_PHOTOGRAPHS
    assert np.unique(of, return_counts=True)[1].min() >= 2
    again, _ = drawn_photographs(TrainingSet(tuple(ids[::-1]), tuple(landmarks[::-1]), lambda name: b""))
    assert again == drawn
    alone = TrainingSet(("a", "b"), (1, 2), lambda name: b"")
    assert drawn_photographs(alone)[0] == []
