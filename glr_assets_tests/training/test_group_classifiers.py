"""Classifiers of groups: they learn, repeat, resume bit for bit, and are kept as what they are."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from glr_assets.errors import ClassifierError, EmbedderError, MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.receipts import Writer, find_receipt
from glr_assets.recipes import Execution, Groups, Recipe, load_recipe
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.training.classifier import FittedClassifier, fit_classifier, load_classifier, save_classifier
from glr_assets.training.group_classifiers import classifier_folder, make_group_classifier, open_classifier
from glr_assets.training.groups import images_of_group, make_training_groups, outsiders_of_group
from glr_assets.training.kept import CHECKPOINT_NAME, PROGRESS_NAME
from glr_assets.training.photographs import TrainingSet
from glr_assets.training.record import kept_record
from glr_assets.training.schemas import TRAINING_GROUPS
from glr_assets_tests.lineage import curate, digests, write_recipe
from glr_assets_tests.training.test_fitting import (
    TRAINING,
    VALIDATION,
    CutError,
    FolderKeeper,
    cut_after,
    photograph,
    photographs,
)
from glr_assets_tests.training.test_photographs import prepared

RECIPE = Groups(backbone="resnet-tiny", image_size=32, epochs=3, batch_size=6, learning_rate=2e-3, dropout=0.3)
PAIR = TrainingSet(
    tuple(i for i, c in zip(TRAINING.ids, TRAINING.landmark_ids, strict=True) if c != 70),
    tuple(c for c in TRAINING.landmark_ids if c != 70),
    photograph,
)
STRANGERS = photographs(0, {70: 5}).ids


def trained(keeper: FolderKeeper | None = None, recipe: Groups = RECIPE, **changes) -> FittedClassifier:
    values = {"seed": 3, "device": "cpu"} | changes
    return fit_classifier(TRAINING, VALIDATION, recipe, keeper=keeper, **values)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Bits repeat for one number of torch threads; one is also quickest for networks this small."""
    earlier = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(earlier)


@pytest.fixture(scope="module")
def undisturbed() -> FittedClassifier:
    return trained()


def assert_same_bits(one: FittedClassifier, other: FittedClassifier) -> None:
    state, other_state = one.network.state_dict(), other.network.state_dict()
    assert state.keys() == other_state.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, other_state[name]), name
    told = [[(r.epoch, r.loss, r.validation_top1) for r in fitted.history] for fitted in (one, other)]
    assert told[0] == told[1]


def test_it_learns_what_it_did_not_know_and_tells_its_share_right() -> None:
    fitted = trained(recipe=RECIPE.model_copy(update={"epochs": 15, "augmentation": 0.2}))
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([prepared(photograph(image_id), 32) for image_id in VALIDATION.ids]))
        best = fitted.network(pixels).argmax(dim=1).numpy()
    # Classes are the landmarks in the order of their ids.
    right = float(np.mean(np.array([5, 11, 70])[best] == VALIDATION.landmark_ids))
    assert right >= 0.8
    assert fitted.history[-1].validation_top1 == pytest.approx(right)
    # ln 3 is the cross-entropy of a guess among three.
    assert min(report.loss for report in fitted.history) < 0.5 * np.log(3) < fitted.history[0].loss


def test_images_of_none_of_the_landmarks_are_a_class_of_their_own() -> None:
    recipe = RECIPE.model_copy(update={"epochs": 15, "augmentation": 0.2})
    fitted = fit_classifier(PAIR, None, recipe, outsiders=STRANGERS, seed=3, device="cpu")
    fresh = photographs(8, {5: 11, 70: 11})
    with torch.inference_mode():
        pixels = torch.from_numpy(np.stack([prepared(photograph(image_id), 32) for image_id in fresh.ids]))
        logits = fitted.network(pixels)
    assert logits.shape == (6, 3)
    assert logits.argmax(dim=1).tolist() == [0, 0, 0, 2, 2, 2]
    assert fitted.history[-1].validation_top1 is None


def test_dropout_and_augmentation_are_of_the_training_alone(undisturbed: FittedClassifier) -> None:
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(undisturbed.network(pixels), undisturbed.network(pixels))
    for change in ({"dropout": 0.0}, {"augmentation": 0.0}):
        recipe = RECIPE.model_copy(update={"epochs": 1, **change})
        assert trained(recipe=recipe).history[0].loss != undisturbed.history[0].loss


def test_a_run_repeats_whatever_the_workers_and_order_and_leaves_chance_as_it_was(
    undisturbed: FittedClassifier,
) -> None:
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    backwards = TrainingSet(TRAINING.ids[::-1], TRAINING.landmark_ids[::-1], photograph)
    again = fit_classifier(backwards, VALIDATION, RECIPE, seed=3, device="cpu", workers=2, cache_bytes=0)
    assert torch.equal(torch.rand(1), expected)
    assert_same_bits(undisturbed, again)
    other = trained(seed=4, recipe=RECIPE.model_copy(update={"epochs": 1}))
    assert not torch.equal(other.network.head.weight, undisturbed.network.head.weight)


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_run_cut_short_resumes_to_the_same_bits(epoch: int, undisturbed: FittedClassifier, tmp_path: Path) -> None:
    keeper = FolderKeeper(tmp_path)
    with pytest.raises(CutError):
        trained(keeper, progress=cut_after(epoch))
    resumed = trained(keeper)
    assert resumed.resumed_after == epoch
    assert_same_bits(undisturbed, resumed)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from glr_assets_tests.training.test_fitting import FolderKeeper
from glr_assets_tests.training.test_group_classifiers import trained
def progress(report):
    if report.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
trained(FolderKeeper(Path(sys.argv[1])), progress=progress)
"""


def test_a_killed_process_is_taken_over_by_another(undisturbed: FittedClassifier, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        check=False,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    resumed = trained(FolderKeeper(tmp_path))
    assert resumed.resumed_after == 2
    assert_same_bits(undisturbed, resumed)


def test_the_state_of_another_training_is_not_resumed(tmp_path: Path) -> None:
    keeper = FolderKeeper(tmp_path)
    with pytest.raises(CutError):
        trained(keeper, progress=cut_after(1), seed=4)
    assert trained(keeper, recipe=RECIPE.model_copy(update={"epochs": 1})).resumed_after == 0


def test_what_cannot_be_trained_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ClassifierError, match="found 8 photographs of 1 classes and 0 others, expected two classes"):
        fit_classifier(photographs(0, {5: 8}), None, RECIPE, seed=0, device="cpu")
    with pytest.raises(ClassifierError, match=r"the loss of epoch . is (nan|inf), .* lower .groups. learning_rate"):
        trained(recipe=RECIPE.model_copy(update={"learning_rate": 1e30}))
    keeper = FolderKeeper(tmp_path)
    keeper.file.write_bytes(b"half a file")
    with pytest.raises(ClassifierError, match=r"latest\.ckpt: the kept state .* delete .*latest\.ckpt and run again"):
        trained(keeper)
    with pytest.raises(EmbedderError, match=r"\[groups\] weights = 'nowhere': cannot be had"):
        trained(recipe=RECIPE.model_copy(update={"weights": "nowhere"}))


def test_weights_of_a_backbone_are_where_the_training_starts(tmp_path: Path, undisturbed: FittedClassifier) -> None:
    undisturbed.network.backbone.save_pretrained(tmp_path)
    still = RECIPE.model_copy(update={"weights": str(tmp_path), "learning_rate": 1e-12, "epochs": 1})
    fitted = trained(recipe=still)
    name = "encoder.stages.3.layers.0.layer.0.convolution.weight"
    got, expected = (one.network.backbone.state_dict()[name] for one in (fitted, undisturbed))
    torch.testing.assert_close(got, expected, atol=1e-7, rtol=0)
    with pytest.raises(EmbedderError, match=r"expected a resnet-18 .* set \[groups\] backbone to match"):
        trained(recipe=still.model_copy(update={"backbone": "resnet-18"}))


def test_the_kept_torchscript_is_the_network_in_the_same_bytes(undisturbed: FittedClassifier, store: Store) -> None:
    for folder in ("one", "two"):
        script = save_classifier(Writer(store), folder, undisturbed.network, 32)
    pixels = torch.randn(3, 3, 40, 32, generator=torch.Generator().manual_seed(5))
    with torch.inference_mode():
        torch.testing.assert_close(script(pixels), undisturbed.network(pixels), atol=1e-5, rtol=1e-5)
    one, two = (digests(Path(store.root) / folder) for folder in ("one", "two"))
    assert one == two
    assert set(one) == {"classifier.pt", "network.safetensors"}


# In the store


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    """Four landmarks of five or six images: the first group is empty, the next two have two each."""
    values = {"count": 4, "smallest": 2, "first": 2, "image_size": 32, "epochs": 2, "batch_size": 4}
    path = tmp_path_factory.mktemp("recipe") / "groups.toml"
    return load_recipe(str(write_recipe(path, execution={"device": "cpu"}, groups=values)))


@pytest.fixture(scope="module")
def grouped_once(bucket: str, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("grouped") / "store"
    curate(open_source(bucket), Store(str(folder)), recipe)
    make_training_groups(Store(str(folder)), recipe)
    return folder


@pytest.fixture
def grouped(grouped_once: Path, tmp_path: Path) -> Store:
    shutil.copytree(grouped_once, tmp_path / "grouped")
    return Store(str(tmp_path / "grouped"))


def test_groups_of_a_store(grouped: Store) -> None:
    rows = read_table(grouped, TRAINING_GROUPS).to_pylist()
    assert {row["group"] for row in rows} == {"01", "02"}
    assert Path(grouped.root, "reports", "training_groups.png").stat().st_size > 1000
    receipt = find_receipt(grouped, "training_groups")
    assert receipt is not None
    assert (receipt.summary["group_00"], receipt.summary["empty_groups"]) == ("empty", 2)
    own = images_of_group(grouped, "01")
    assert len(own.landmarks) == 2
    others = outsiders_of_group(grouped, "01", 3, 0)
    trains_elsewhere = {row["id"] for row in rows if row["group"] == "02" and row["fold"] == "train"}
    assert len(others) == 3
    assert set(others) <= trains_elsewhere
    assert set(outsiders_of_group(grouped, "01", 1000, 0)) == trains_elsewhere
    assert outsiders_of_group(grouped, "01", 3, 1) != others


def test_a_group_is_kept_with_its_classes_metrics_curve_and_torchscript(grouped: Store, recipe: Recipe) -> None:
    told: list[str] = []
    made = make_group_classifier(grouped, "01", recipe, told.append)
    folder = classifier_folder(grouped, "01")
    trained = {"classifier.pt", "config.json", "curves.png", "history.json", "network.safetensors"}
    names = trained | {"card.md", "classifier.onnx", "metrics.json"}
    assert set(grouped.names(folder)) == names == {Path(name).name for name in made.receipt.outputs}
    assert [line.split(":")[0] for line in told] == ["group 01"] * 2
    loaded = open_classifier(grouped, "01")
    own = images_of_group(grouped, "01")
    assert loaded.config.landmark_ids == own.landmarks
    assert (loaded.config.trained, loaded.config.outside, loaded.config.classes) == (True, True, 3)
    record = kept_record(grouped, folder)
    assert record is not None
    assert loaded.config.data_versions == record.data_versions
    assert made.receipt.inputs.keys() == {*record.data_versions, "train_attribution"}
    assert record.files.keys() == trained
    assert (record.model, record.outputs, record.held_out) == ("group_classifiers/01", 3, len(own.of("validation")[0]))
    # The share right that is told, once more by the kept module.
    ids, landmarks = own.of("validation")
    reader = ImageReader.of_split(grouped, "train")
    logits = loaded.logits(map(reader.read, ids), Execution(device="cpu", workers=1))
    right = np.array(own.landmarks)[logits[:, :2].argmax(axis=1)] == landmarks
    metrics = json.loads(grouped.read(f"{folder}/metrics.json"))
    assert metrics["validation_top1"] == made.receipt.summary["validation_top1"] == pytest.approx(right.mean())
    assert len(grouped.read_json(f"{folder}/history.json")["epochs"]) == 2
    assert make_group_classifier(grouped, "01", recipe, told.append).reused
    assert len(told) == 2


def test_what_decides_nothing_of_a_group_makes_nothing_anew(grouped: Store, recipe: Recipe) -> None:
    made = make_group_classifier(grouped, "01", recipe, print)
    same = recipe.overridden({"groups": {"min_probability": 0.1, "calibrating": 7}})
    assert make_group_classifier(grouped, "01", same, print).reused
    told: list[str] = []
    without = make_group_classifier(grouped, "01", recipe.overridden({"groups": {"onnx": False}}), told.append)
    assert without.receipt.summary["folder"] == made.receipt.summary["folder"]
    assert len(told) == 1
    assert told[0].endswith("finished before; its card and its ONNX file are made anew")
    assert make_group_classifier(grouped, "01", recipe, print).receipt == made.receipt
    other = make_group_classifier(grouped, "01", recipe.overridden({"groups": {"dropout": 0.1}}), print)
    assert other.receipt.summary["folder"] != made.receipt.summary["folder"]
    assert all(grouped.exists(name) for name in made.receipt.outputs)


def test_groups_without_a_landmark_or_with_one_are_finished_and_say_so(grouped: Store, recipe: Recipe) -> None:
    told: list[str] = []
    empty = make_group_classifier(grouped, "00", recipe, told.append)
    assert (empty.receipt.summary["trained"], empty.receipt.summary["reason"]) == (False, "the group is empty")
    assert told == ["group 00: the group is empty; no classifier is trained"]
    loaded = open_classifier(grouped, "00")
    assert loaded.module is None
    assert loaded.logits([b"", b""], Execution()).shape == (2, 0)
    assert make_group_classifier(grouped, "00", recipe, told.append).reused

    alone = recipe.overridden({"groups": {"count": 2, "bounds": [2, 3], "largest": 3, "first": 2, "outsiders": 0.0}})
    manifest = read_table(grouped, TRAINING_GROUPS)
    one = manifest["landmark_id"][0]
    from glr_assets.training import groups

    kept = groups.kept_images(grouped, "train_manifest")
    only = kept.filter(np.array(kept["landmark_id"].to_numpy() == one.as_py()))
    patch = pytest.MonkeyPatch()
    with patch.context() as patched:
        patched.setattr(groups, "kept_images", lambda store, name: only)
        make_training_groups(grouped, alone)
    made = make_group_classifier(grouped, "01", alone, told.append)
    assert made.receipt.summary["reason"] == "the group has one landmark, and nothing to tell it from"
    assert open_classifier(grouped, "01").config.landmark_ids == (one.as_py(),)


def test_a_group_that_the_recipe_has_not_is_refused(grouped: Store, recipe: Recipe) -> None:
    with pytest.raises(ClassifierError, match="group 04: the recipe has 4 groups, 00 to 03"):
        make_group_classifier(grouped, "04", recipe, print)
    with pytest.raises(MissingInputError, match="group_classifiers/01"):
        open_classifier(grouped, "01")
    for content, error in ((b"{}", ClassifierError), (None, MissingInputError)):
        made = make_group_classifier(grouped, "01", recipe, print)
        path = f"{made.receipt.summary['folder']}/config.json"
        grouped.remove(path)
        if content is not None:
            grouped.write(path, content)
        with pytest.raises(error, match="materialise group_classifiers"):
            load_classifier(grouped, str(made.receipt.summary["folder"]))


def cut(after: int) -> Callable[[str], None]:
    lines: list[str] = []

    def told(line: str) -> None:
        lines.append(line)
        if len(lines) == after:
            raise CutError(line)

    return told


def test_a_training_cut_after_an_epoch_goes_on_in_the_store_and_ends_with_the_same_bytes(
    grouped: Store, recipe: Recipe, tmp_path: Path
) -> None:
    shutil.copytree(grouped.root, tmp_path / "undisturbed")
    undisturbed = Store(str(tmp_path / "undisturbed"))
    make_group_classifier(undisturbed, "02", recipe, print)
    with pytest.raises(CutError, match="epoch 1 of 2"):
        make_group_classifier(grouped, "02", recipe, cut(1))
    (folder,) = Path(grouped.root, "models", "group_classifiers", "02").iterdir()
    assert {path.name for path in folder.iterdir()} == {CHECKPOINT_NAME, PROGRESS_NAME}
    told: list[str] = []
    make_group_classifier(grouped, "02", recipe, told.append)
    assert len(told) == 1
    assert told[0].startswith("group 02: epoch 2 of 2")
    assert digests(Path(grouped.root), "models", "receipts") == digests(Path(undisturbed.root), "models", "receipts")
