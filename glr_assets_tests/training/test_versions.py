from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from glr_assets.errors import EmbedderError, MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.recipes import Recipe, load_recipe
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets.training import versions
from glr_assets.training.embedder import load_config
from glr_assets_tests.lineage import curate, digests, write_pooling_embedder, write_recipe


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return load_recipe(str(write_recipe(tmp_path_factory.mktemp("recipe") / "training.toml")))


@pytest.fixture(scope="module")
def curated_once(bucket: str, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("curated") / "store"
    curate(open_source(bucket), Store(str(folder)), recipe)
    return folder


@pytest.fixture
def curated(curated_once: Path, tmp_path: Path) -> Store:
    shutil.copytree(curated_once, tmp_path / "curated")
    return Store(str(tmp_path / "curated"))


def test_a_trained_version_holds_what_it_is_and_leaves_no_checkpoint(curated: Store, recipe: Recipe) -> None:
    told: list[str] = []
    made = versions.make_embedder(curated, recipe, told.append)
    folder = versions.embedder_folder(curated)
    names = {Path(name).name for name in made.receipt.outputs}
    assert names == {"config.json", "curves.png", "embedder.pt", "history.json", "network.safetensors"}
    assert set(curated.names(folder)) == names
    config = load_config(curated, folder)
    assert config.origin == "trained"
    assert config.data_versions == made.receipt.inputs
    assert len(told) == recipe.embedder.epochs
    assert made.receipt.summary["epochs"] == recipe.embedder.epochs
    held_out = versions.held_out_ids(curated)
    assert made.receipt.summary["held_out"] == len(held_out)
    embed = versions.open_embedder(curated, recipe.execution)
    reader = ImageReader.of_split(curated, "train")
    vectors = embed(reader.read(image_id) for image_id in reader.ids[:3])
    assert vectors.shape == (3, recipe.embedder.dimensions)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert versions.make_embedder(curated, recipe, told.append).reused


def test_a_training_cut_after_an_epoch_goes_on_in_the_store_and_ends_with_the_same_bytes(
    curated: Store, recipe: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(curated.root, tmp_path / "undisturbed")
    undisturbed = Store(str(tmp_path / "undisturbed"))
    versions.make_embedder(undisturbed, recipe, print)

    def cut(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="epoch 1 of 2"):
        versions.make_embedder(curated, recipe, cut)
    (folder,) = Path(curated.root, "models", "embedder").iterdir()
    assert [path.name for path in folder.iterdir()] == [versions.CHECKPOINT_NAME]
    told: list[str] = []
    versions.make_embedder(curated, recipe, told.append)
    assert len(told) == 1
    assert told[0].startswith("epoch 2 of 2")
    assert digests(Path(curated.root), "models", "receipts") == digests(Path(undisturbed.root), "models", "receipts")


def test_another_seed_is_another_version_beside_the_first(curated: Store, recipe: Recipe) -> None:
    first = versions.make_embedder(curated, recipe, print).receipt
    second = versions.make_embedder(curated, recipe.overridden({}, seed=1), print).receipt
    assert first.summary["folder"] != second.summary["folder"]
    assert versions.embedder_folder(curated) == second.summary["folder"]
    assert all(curated.exists(name) for name in first.outputs)


def test_an_embedder_brought_in_is_of_another_version_when_its_file_changes(curated: Store, tmp_path: Path) -> None:
    path = write_pooling_embedder(tmp_path / "grid.pt")
    recipe = load_recipe(str(write_recipe(tmp_path / "quick.toml", path)))
    first = versions.make_embedder(curated, recipe, print)
    config = load_config(curated, versions.embedder_folder(curated))
    assert (config.origin, config.whitened, config.dimensions) == ("brought in", True, 192)
    assert versions.make_embedder(curated, recipe, print).reused
    plain = recipe.overridden({"embedder": {"whitening": False}})
    assert not versions.make_embedder(curated, plain, print).reused
    assert not load_config(curated, versions.embedder_folder(curated)).whitened
    path.write_bytes(path.read_bytes() + b"\0")
    assert versions.make_embedder(curated, recipe, print).receipt.inputs != first.receipt.inputs


def test_an_embedder_that_is_not_there_is_one_line(curated: Store, recipe: Recipe) -> None:
    missing = recipe.overridden({"embedder": {"torchscript": "nowhere.pt"}})
    with pytest.raises(EmbedderError, match=r"nowhere\.pt"):
        versions.make_embedder(curated, missing, print)
    with pytest.raises(MissingInputError, match="embedder"):
        versions.embedder_folder(Store(curated.root + "/elsewhere"))


def test_the_control_is_the_same_network_with_other_weights(curated: Store, recipe: Recipe) -> None:
    versions.make_embedder(curated, recipe, print)
    reader = ImageReader.of_split(curated, "train")
    images = [reader.read(image_id) for image_id in reader.ids[:4]]
    control = versions.open_untrained(recipe)
    np.testing.assert_array_equal(control(images), versions.open_untrained(recipe)(images))
    trained = versions.open_embedder(curated, recipe.execution)(images)
    assert control(images).shape == trained.shape
    assert not np.allclose(control(images), trained, atol=1e-2)
