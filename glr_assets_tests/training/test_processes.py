"""Several processes: the network they find, and what becomes of them."""

from __future__ import annotations

import multiprocessing
import multiprocessing.resource_tracker
import multiprocessing.spawn
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from glr_assets.errors import EmbedderError
from glr_assets.recipes import load_recipe
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets.training import versions
from glr_assets.training.fitting import fit
from glr_assets.training.photographs import TrainingSet
from glr_assets.training.processes import Team, WholeBatchNorms, team_of
from glr_assets_tests.lineage import curate, write_recipe
from glr_assets_tests.training.test_fitting import (
    RECIPE,
    TRAINING,
    CutError,
    FolderKeeper,
    assert_same_bits,
    cut_after,
    photograph,
    trained,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    earlier = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(earlier)


def gradient_of(team: Team, photographs: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients and statistics of a small network in float64, for this process's share of some pictures."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Conv2d(3, 5, 3),
        torch.nn.BatchNorm2d(5),
        torch.nn.ReLU(),
        torch.nn.Flatten(),
        torch.nn.Linear(5 * 6 * 6, 4),
        torch.nn.BatchNorm1d(4, affine=False),
    ).double()
    if team.size > 1:
        WholeBatchNorms().apply(network)
    own = photographs[team.number :: team.size]
    loss = network(own).sub(0.3).pow(4).sum(dim=1).mean()
    (loss * team.size * len(own) / len(photographs)).backward()
    for parameter in network.parameters():
        assert parameter.grad is not None
        if team.size > 1:
            torch.distributed.all_reduce(parameter.grad)
            parameter.grad /= team.size
    gradients = {f"gradient of {name}": parameter.grad for name, parameter in network.named_parameters()}
    return gradients | WholeBatchNorms().revert(network).eval().state_dict()


def test_whole_batches_are_normalised_as_in_one_process() -> None:
    pictures = torch.randn(7, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 2
    expected = gradient_of(Team(), pictures)
    with team_of(2, torch.device("cpu"), gradient_of, pictures) as team:
        found = gradient_of(team, pictures)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_allclose(found[name].numpy(), tensor.numpy(), rtol=1e-9, atol=1e-11, err_msg=name)


class Gradients(FolderKeeper):
    """Keeps the gradients too: AdamW's first mean is a tenth of the first gradient."""

    def gradients(self) -> list[np.ndarray]:
        state = torch.load(self.file, weights_only=True)["optimizer_states"][0]["state"]
        return [10 * state[number]["exp_avg"].double().numpy() for number in sorted(state)]


@pytest.mark.parametrize("backbone", ["resnet-tiny", "convnext-mini"])
def test_two_processes_have_the_loss_and_the_gradient_of_one(
    backbone: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    # One batch of 21: eleven photographs for one process and ten for the other.
    recipe = RECIPE.model_copy(update={"backbone": backbone, "epochs": 1, "batch_size": 21, "image_size": 64})
    one, two = Gradients(tmp_path / "one"), Gradients(tmp_path / "two")
    alone = trained(one, recipe)
    together = trained(two, recipe, processes=2)
    assert capfd.readouterr() == ("", "")
    assert together.history[0].loss == pytest.approx(alone.history[0].loss, rel=1e-5)
    largest = max(np.abs(gradient).max() for gradient in one.gradients())
    for expected, found in zip(one.gradients(), two.gradients(), strict=True):
        # float32's own noise, by comparison with float64, is up to 0.7 % of it; half a batch's gradient is another.
        np.testing.assert_allclose(found, expected, atol=0.02 * largest)
    # Statistics of batch normalisation are of the whole batch.
    for name, tensor in alone.network.state_dict().items():
        if "running" in name:
            np.testing.assert_allclose(together.network.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)
    assert type(together.network.norm) is torch.nn.BatchNorm1d
    assert not torch.distributed.is_initialized()
    assert multiprocessing.active_children() == []


def test_a_whole_training_of_two_is_that_of_one_within_noise(tmp_path: Path) -> None:
    # Adam makes whole steps of gradients that are nothing but noise, so steps are small.
    recipe = RECIPE.model_copy(
        update={"learning_rate": 1e-5, "image_size": 64, "averaging": 0.9, "warm_start_epochs": 1, "epochs": 3}
    )
    recipe = recipe.model_copy(update={"warm_start_learning_rate": 1e-5, "accumulate": 2})
    alone, together = trained(recipe=recipe), trained(recipe=recipe, processes=2, workers=2)
    for one, two in zip(alone.history, together.history, strict=True):
        assert two.loss == pytest.approx(one.loss, rel=1e-3)
        assert two.learning_rate == one.learning_rate
    weights, others = (fitted.network.bottleneck.weight.detach() for fitted in (alone, together))
    np.testing.assert_allclose(weights, others, atol=1e-4)


def test_two_processes_resume_what_two_had_kept(tmp_path: Path) -> None:
    recipe = RECIPE.model_copy(update={"epochs": 2})
    undisturbed = trained(recipe=recipe, processes=2)
    keeper = FolderKeeper(tmp_path)
    with pytest.raises(CutError):
        trained(keeper, recipe, processes=2, progress=cut_after(1))
    assert multiprocessing.active_children() == []
    resumed = trained(keeper, recipe, processes=2)
    assert resumed.resumed_after == 1
    assert_same_bits(undisturbed, resumed)


def broken(image_id: str) -> bytes:
    return b"broken" if multiprocessing.parent_process() else photograph(image_id)


def killed(image_id: str) -> bytes:
    if multiprocessing.parent_process():
        os.kill(os.getpid(), signal.SIGKILL)
    return photograph(image_id)


@pytest.mark.parametrize(
    ("read", "told"),
    [
        (broken, r"^image \d+-\d+: its 6 bytes cannot be decoded"),
        (killed, r"process 1 of the training ended by itself \(exit code -9\); .* lower \[embedder\] batch_size"),
    ],
)
def test_what_ends_a_helper_is_told(read: Any, told: str) -> None:
    part = TrainingSet(TRAINING.ids, TRAINING.landmark_ids, read)
    with pytest.raises(EmbedderError, match=told):
        fit(part, None, RECIPE, seed=0, device="cpu", processes=2)
    assert multiprocessing.active_children() == []
    assert not torch.distributed.is_initialized()


def test_a_helper_that_does_not_come_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    multiprocessing.resource_tracker.ensure_running()
    monkeypatch.setattr(multiprocessing.spawn, "get_executable", lambda: b"/bin/false")
    with pytest.raises(EmbedderError, match=r"process 1 of the training ended by itself \(exit code 1\)"):
        trained(processes=2)
    assert multiprocessing.active_children() == []
    assert not torch.distributed.is_initialized()


def test_more_processes_than_photographs_of_a_batch_are_refused() -> None:
    with pytest.raises(EmbedderError, match=r"processes = 7: the smallest batch has 6 photographs"):
        trained(processes=7)


def test_processes_read_the_store_and_are_no_part_of_a_version(bucket: str, tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path / "quick.toml")))
    curate(open_source(bucket), Store(str(tmp_path / "one")), recipe)
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    folders, losses = [], []
    for name, processes in (("one", 1), ("two", 2)):
        store = Store(str(tmp_path / name))
        slowly = {"embedder": {"learning_rate": 1e-6}, "execution": {"processes": processes}}
        summary = versions.make_embedder(store, recipe.overridden(slowly), print).receipt.summary
        folders.append(summary["folder"])
        losses.append(summary["loss"])
    assert folders[0] == folders[1]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
