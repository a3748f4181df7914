from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from glr_assets.errors import EmbedderError, MissingInputError, StoreError
from glr_assets.images.reader import ImageReader
from glr_assets.manifests import kept_images
from glr_assets.metadata.schemas import TRAIN_ATTRIBUTION
from glr_assets.receipts import Receipt, Summary, Writer, forcing, make
from glr_assets.recipes import Recipe, load_recipe
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.training import versions
from glr_assets.training.embedder import load_config, load_network
from glr_assets.training.kept import CHECKPOINT_NAME, PROGRESS_NAME, Sight
from glr_assets.training.record import ModelRecord, kept_record
from glr_assets.training.schemas import HELD_OUT_ANSWERS
from glr_assets_tests.lineage import curate, digests, write_pooling_embedder, write_recipe

TRAINED = {
    "centres.safetensors",
    "config.json",
    "curves.png",
    "embedder.pt",
    "held_out.parquet",
    "history.json",
    "network.safetensors",
}
DERIVED = {"card.md", "embedder.onnx", "metrics.json", "views.json"}


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


@dataclass(frozen=True)
class Finished:
    """A store with a trained version, what made it, and what was told and seen of the training."""

    store: Store
    receipt: Receipt
    told: list[str]
    seen: list[Sight]


@pytest.fixture(scope="module")
def finished_once(curated_once: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    store = Store(str(shutil.copytree(curated_once, tmp_path_factory.mktemp("finished") / "store")))
    told: list[str] = []
    seen: list[Sight] = []
    return Finished(store, versions.make_embedder(store, recipe, told.append, seen.append).receipt, told, seen)


@pytest.fixture
def finished(finished_once: Finished, tmp_path: Path) -> Finished:
    store = Store(str(shutil.copytree(finished_once.store.root, tmp_path / "finished")))
    return replace(finished_once, store=store)


def test_a_trained_version_holds_what_it_is_and_leaves_no_checkpoint(finished: Finished, recipe: Recipe) -> None:
    curated, made, told = finished.store, finished, finished.told
    folder = versions.embedder_folder(curated)
    names = {Path(name).name for name in made.receipt.outputs}
    assert names == TRAINED | DERIVED
    assert set(curated.names(folder)) == names
    config = load_config(curated, folder)
    assert config.origin == "trained"
    assert config.data_versions == {
        name: digest for name, digest in made.receipt.inputs.items() if name != "train_attribution"
    }
    assert [line.split(":")[0] for line in told] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert [(sight.model, sight.report.epoch) for sight in finished.seen] == [("embedder", 1)]
    assert finished.seen[0].picture.startswith(b"\x89PNG")
    assert made.receipt.summary["epochs"] == recipe.embedder.epochs
    held_out = versions.held_out_ids(curated)
    assert made.receipt.summary["held_out"] == len(held_out)
    embed = versions.open_embedder(curated, recipe.execution)
    reader = ImageReader.of_split(curated, "train")
    vectors = embed(reader.read(image_id) for image_id in reader.ids[:3])
    assert vectors.shape == (3, recipe.embedder.dimensions)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert versions.make_embedder(curated, recipe, print).reused


def record_of(store: Store) -> ModelRecord:
    record = kept_record(store, versions.embedder_folder(store))
    assert record is not None
    return record


def test_the_record_tells_what_the_files_hold(finished: Finished, recipe: Recipe) -> None:
    curated, made = finished.store, finished
    record, folder = record_of(curated), versions.embedder_folder(curated)
    config = load_config(curated, folder)
    assert folder.endswith(f"/{record.version}")
    assert record.files.keys() == TRAINED
    assert record.data_versions == config.data_versions
    assert record.landmarks == len(config.landmark_ids)
    weights = load_network(curated, folder)
    assert record.parameters == sum(tensor.numel() for tensor in weights.parameters())
    history = curated.read_json(f"{folder}/history.json")
    assert (record.epochs, record.loss) == (2, history["epochs"][-1]["loss"])
    # The last epoch was watched on the same photographs as the record's figure is of.
    assert record.validation_top1 == history["epochs"][-1]["validation_top1"]
    assert record.held_out == len(history["held_out"])
    # The packed photographs of this lineage carry no rights.
    assert (record.rights.licences, record.rights.unknown) == ({}, record.training_images)
    assert made.receipt.summary["parameters"] == record.parameters
    answers = read_table(curated, HELD_OUT_ANSWERS, version=record.version)
    assert answers["id"].to_pylist() == history["held_out"]
    embed = versions.open_embedder(curated, recipe.execution)
    train = ImageReader.of_split(curated, "train")
    for row in answers.to_pylist():
        asked, nearest = embed(train.read(row[name]) for name in ("id", "nearest"))
        assert float(asked @ nearest) == pytest.approx(row["cosine"], abs=1e-3)


def test_onnx_is_no_reason_to_train_again(finished: Finished, recipe: Recipe) -> None:
    curated, first = finished.store, finished.receipt
    folder = Path(curated.root, versions.embedder_folder(curated))
    untouched = {name: (folder / name).stat().st_mtime_ns for name in TRAINED}
    told: list[str] = []
    without = versions.make_embedder(curated, recipe.overridden({"embedder": {"onnx": False}}), told.append).receipt
    assert [line.split(": ")[1] for line in told] == ["finished before; its card and its ONNX file are made anew"]
    assert set(curated.names(str(without.summary["folder"]))) == (TRAINED | DERIVED) - {"embedder.onnx"}
    assert without.summary["onnx"] == record_of(curated).without_onnx == "the recipe asks for none"
    assert {name: (folder / name).stat().st_mtime_ns for name in TRAINED} == untouched
    again = versions.make_embedder(curated, recipe, told.append).receipt
    assert again == first
    assert {name: (folder / name).stat().st_mtime_ns for name in TRAINED} == untouched


def test_views_are_no_reason_to_train_again_but_to_embed_again(finished: Finished, recipe: Recipe) -> None:
    curated, first = finished.store, finished.receipt
    folder = Path(curated.root, versions.embedder_folder(curated))
    untouched = {name: (folder / name).stat().st_mtime_ns for name in TRAINED}
    changed = recipe.overridden({"embedder": {"flip": True, "scales": [1.0, 1.5]}})
    several = versions.make_embedder(curated, changed, print).receipt
    assert several.summary["folder"] == first.summary["folder"]
    assert several.summary["views"] == 4
    assert several.digest != first.digest
    assert {name: (folder / name).stat().st_mtime_ns for name in TRAINED} == untouched
    photo = ImageReader.of_split(curated, "train")
    images = [photo.read(image_id) for image_id in photo.ids[:3]]
    seen = versions.open_embedder(curated, recipe.execution)(images)
    assert versions.make_embedder(curated, recipe, print).receipt == first
    plain = versions.open_embedder(curated, recipe.execution)(images)
    cosines = np.vecdot(seen, plain)
    assert ((cosines > 0.8) & (cosines < 0.99999)).all()


def test_another_seed_is_a_version_beside_the_first_which_stands_unless_damaged(
    finished: Finished, recipe: Recipe
) -> None:
    curated, first = finished.store, finished.receipt
    other = recipe.overridden({}, seed=1)
    second = versions.make_embedder(curated, other, print).receipt
    assert first.summary["folder"] != second.summary["folder"]
    assert versions.embedder_folder(curated) == second.summary["folder"]
    assert all(curated.exists(name) for name in first.outputs)
    told: list[str] = []
    assert versions.make_embedder(curated, recipe, told.append).receipt == first
    assert len(told) == 1
    assert versions.make_embedder(curated, other, told.append).receipt == second
    assert len(told) == 2
    weights = Path(curated.root, str(first.summary["folder"]), "embedder.pt")
    data = weights.read_bytes()
    weights.write_bytes(data[:-1])
    told.clear()
    assert versions.make_embedder(curated, recipe, told.append).receipt == first
    assert [line.split(":")[0] for line in told] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert weights.read_bytes() == data


def test_damage_of_the_same_size_and_force_train_again_with_the_same_bytes(finished: Finished, recipe: Recipe) -> None:
    store, first, told = finished.store, finished.receipt, list[str]()
    epochs = ["epoch 1 of 2", "epoch 2 of 2"]
    before = {path: store.read(path) for path in first.outputs}
    with forcing("embedder"):
        assert versions.make_embedder(store, recipe, told.append).receipt == first
    assert [line.split(":")[0] for line in told] == epochs
    told.clear()
    weights = Path(store.path(f"{first.summary['folder']}/network.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-4096:] = bytes(4096)
    weights.write_bytes(data)
    store.remove("receipts/embedder.json")  # larger files are not hashed to find that an asset is done
    assert versions.make_embedder(store, recipe, told.append).receipt == first
    assert [line.split(":")[0] for line in told] == epochs
    assert {path: store.read(path) for path in first.outputs} == before


def test_a_record_of_a_later_release_is_refused_by_name(finished: Finished, recipe: Recipe) -> None:
    store, folder, told = finished.store, finished.receipt.summary["folder"], list[str]()
    document = json.loads(store.read(f"{folder}/metrics.json"))
    store.write(f"{folder}/metrics.json", json.dumps(document | {"format": 2, "quality": {"gap": 0.5}}).encode())
    store.remove("receipts/embedder.json")
    with pytest.raises(StoreError, match=r"/metrics.json: expected .* form 1, found form 2; use the release"):
        versions.make_embedder(store, recipe, told.append)
    assert told == []
    store.remove(f"{folder}/metrics.json")
    assert versions.make_embedder(store, recipe, told.append).receipt == finished.receipt
    assert len(told) == 2


def test_other_rights_are_another_card_of_the_same_version(finished: Finished, recipe: Recipe) -> None:
    curated, first = finished.store, finished.receipt
    rows = read_table(curated, TRAIN_ATTRIBUTION).to_pylist()
    rows = [row | {"license": "CC BY 4.0", "author": f"A{number % 2}"} for number, row in enumerate(rows[:-3])]

    def build(writer: Writer) -> Summary:
        writer.table(TRAIN_ATTRIBUTION, TRAIN_ATTRIBUTION.rows(rows))
        return {}

    make(curated, "train_attribution", inputs={}, parameters={}, code_version="other", build=build)
    second = versions.make_embedder(curated, recipe, print).receipt
    assert second.summary["folder"] == first.summary["folder"]
    record = record_of(curated)
    trained = set(read_table(curated, TRAIN_ATTRIBUTION)["id"].to_pylist()) - set(versions.held_out_ids(curated))
    known = [row for row in rows if row["id"] in trained & trains_in(curated, recipe)]
    assert record.rights.licences == {"CC BY 4.0": len(known)}
    assert record.rights.authors == 2
    assert record.rights.unknown == record.training_images - len(known)
    card = curated.read(f"{second.summary['folder']}/card.md").decode()
    assert f"| CC BY 4.0 | {len(known)} |" in card


def trains_in(store: Store, recipe: Recipe) -> set[str]:
    return set(kept_images(store, recipe.training.manifest)["id"].to_pylist())


def test_a_training_cut_after_an_epoch_goes_on_in_the_store_and_ends_with_the_same_bytes(
    curated: Store, recipe: Recipe, finished_once: Finished
) -> None:

    def cut(line: str) -> None:
        raise RuntimeError(line)

    with pytest.raises(RuntimeError, match="epoch 1 of 2"):
        versions.make_embedder(curated, recipe, cut)
    (folder,) = Path(curated.root, "models", "embedder").iterdir()
    assert {path.name for path in folder.iterdir()} == {CHECKPOINT_NAME, PROGRESS_NAME}
    told: list[str] = []
    versions.make_embedder(curated, recipe, told.append)
    assert len(told) == 1
    assert told[0].startswith("epoch 2 of 2")
    assert digests(Path(curated.root), "models", "receipts") == digests(
        Path(finished_once.store.root), "models", "receipts"
    )


def test_an_embedder_brought_in_is_of_another_version_when_its_file_changes(curated: Store, tmp_path: Path) -> None:
    path = write_pooling_embedder(tmp_path / "grid.pt")
    recipe = load_recipe(str(write_recipe(tmp_path / "quick.toml", path)))
    first = versions.make_embedder(curated, recipe, print)
    config = load_config(curated, versions.embedder_folder(curated))
    assert (config.origin, config.whitened, config.dimensions) == ("brought in", True, 192)
    record = record_of(curated)
    assert (record.origin, record.parameters, record.epochs, record.loss) == ("brought in", 0, 0, None)
    assert record.onnx == "embedder.onnx"
    # 60 pixels are no multiple of its 8 cells, a pooling that ONNX has not: it is brought in all the same.
    uneven = versions.make_embedder(curated, recipe.overridden({"embedder": {"image_size": 60}}), print).receipt
    assert str(uneven.summary["onnx"]).startswith("torch cannot export it to ONNX: ")
    assert "There is no ONNX file" in curated.read(f"{uneven.summary['folder']}/card.md").decode()
    versions.make_embedder(curated, recipe, print)
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


def test_the_control_is_the_same_network_with_other_weights(finished_once: Finished, recipe: Recipe) -> None:
    curated = finished_once.store
    reader = ImageReader.of_split(curated, "train")
    images = [reader.read(image_id) for image_id in reader.ids[:4]]
    control = versions.open_untrained(curated, recipe)
    np.testing.assert_array_equal(control(images), versions.open_untrained(curated, recipe)(images))
    trained = versions.open_embedder(curated, recipe.execution)(images)
    assert control(images).shape == trained.shape
    assert not np.allclose(control(images), trained, atol=1e-2)
