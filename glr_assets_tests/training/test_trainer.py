"""What every training has: averages, steps of several batches, growing pictures, and ends that are told."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from glr_assets.errors import EmbedderError
from glr_assets.recipes import Embedder
from glr_assets.training import fitting
from glr_assets.training.fitting import Fitted, fit
from glr_assets.training.photographs import EpochBatches, TrainingSet
from glr_assets_tests.training.test_fitting import (
    RECIPE,
    TRAINING,
    VALIDATION,
    CutError,
    FolderKeeper,
    assert_same_bits,
    cut_after,
    photograph,
    trained,
)

#: Everything at once that a state must hold for a training to go on from it.
MUCH: dict[str, Any] = {
    "epochs": 2,
    "sampling": "balanced",
    "per_landmark": 2,
    "image_size": 64,
    "start_size": 32,
    "accumulate": 2,
    "averaging": 0.8,
    "clip": 0.5,
    "warm_start_epochs": 2,
}


def recipe_with(**changes: Any) -> Embedder:
    return Embedder.model_validate(RECIPE.model_dump() | changes)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    earlier = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(earlier)


@pytest.fixture(scope="module")
def plain() -> Fitted:
    return trained()


@pytest.fixture(scope="module")
def undisturbed() -> Fitted:
    return trained(recipe=recipe_with(**MUCH))


@pytest.mark.parametrize(("part", "epoch"), [("warm start", 1), ("warm start", 2), ("training", 1)])
def test_with_everything_a_run_cut_short_resumes_to_the_same_bits(
    part: str, epoch: int, undisturbed: Fitted, tmp_path: Path
) -> None:
    keeper, recipe = FolderKeeper(tmp_path), recipe_with(**MUCH)

    def cut(report: fitting.EpochReport) -> None:
        if (report.part, report.epoch) == (part, epoch):
            raise CutError

    with pytest.raises(CutError):
        trained(keeper, recipe, progress=cut)
    seen: list[tuple[str, int]] = []
    resumed = trained(keeper, recipe, progress=lambda report: seen.append((report.part, report.epoch)))
    everything = [("warm start", 1), ("warm start", 2), ("training", 1), ("training", 2)]
    assert seen == everything[everything.index((part, epoch)) + 1 :]
    assert_same_bits(undisturbed, resumed)


@pytest.mark.parametrize("change", [{"clip": 0.0}, {"sampling": "shuffled"}, {"per_landmark": 3}])
def test_what_has_no_proof_of_its_own_counts_at_least(change: dict[str, Any], undisturbed: Fitted) -> None:
    other = trained(recipe=recipe_with(**(MUCH | change)))
    assert not torch.equal(other.network.bottleneck.weight, undisturbed.network.bottleneck.weight)


def test_what_is_kept_is_the_moving_average_of_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    weights: list[np.ndarray] = []
    usual = AveragedModel.update_parameters

    def noted(self: AveragedModel, model: torch.nn.Module) -> None:
        weights.append(model.bottleneck.weight.detach().double().numpy().copy())
        usual(self, model)

    monkeypatch.setattr(AveragedModel, "update_parameters", noted)
    fitted = trained(recipe=recipe_with(averaging=0.7))
    assert len(weights) == 4 * 3
    average = weights[0]
    for taken, value in enumerate(weights[1:], start=1):
        decay = min(0.7, (1 + taken) / (10 + taken))
        average = decay * average + (1 - decay) * value
    np.testing.assert_allclose(fitted.network.bottleneck.weight.detach().numpy(), average, atol=1e-6)
    assert np.abs(average - weights[-1]).max() > 1e-4
    # What is watched is what is kept.
    asked, known = (
        fitting.embed(fitted.network, map(photograph, part.ids), 32, device="cpu") for part in (VALIDATION, TRAINING)
    )
    nearest = np.array(TRAINING.landmark_ids)[(asked @ known.T).argmax(axis=1)]
    assert fitted.history[-1].validation_top1 == pytest.approx((nearest == VALIDATION.landmark_ids).mean())


@pytest.mark.parametrize(("accumulate", "steps"), [(1, 4), (2, 2), (3, 2), (50, 1)])
def test_a_step_is_of_so_many_batches_and_the_schedule_knows(
    accumulate: int, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates: list[float] = []
    usual = torch.optim.AdamW.step

    def noted(self: torch.optim.AdamW, closure: Any = None) -> Any:
        done = usual(self, closure)
        rates.append(self.param_groups[0]["lr"])
        return done

    monkeypatch.setattr(torch.optim.AdamW, "step", noted)
    # 21 photographs are four batches of five.
    fitted = trained(recipe=recipe_with(batch_size=5, accumulate=accumulate, epochs=3))
    assert len(rates) == 3 * steps
    assert rates[-1] < RECIPE.learning_rate / 1000
    assert rates[-1] == pytest.approx(fitted.history[-1].learning_rate)


def test_the_loss_that_is_told_is_a_batchs_mean_not_a_steps_share_of_it() -> None:
    still = {"batch_size": 5, "epochs": 1, "learning_rate": 1e-12}
    told = [trained(recipe=recipe_with(accumulate=n, **still)).history[0].loss for n in (1, 4)]
    assert told[1] == pytest.approx(told[0], rel=1e-5)


def test_pictures_grow_as_the_training_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, ...]] = []
    usual = EpochBatches.__iter__

    def noted(self: EpochBatches) -> Any:
        for pixels, targets in usual(self):
            sizes.append(tuple(pixels.shape))
            yield pixels, targets

    monkeypatch.setattr(EpochBatches, "__iter__", noted)
    trained(recipe=recipe_with(start_size=32, image_size=64, epochs=2))
    assert sizes == [(6, 32, 32, 3)] * 3 + [(6, 64, 64, 3)] * 3


def failing_after(epochs: int, fails: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    usual = fitting._Lesson.batch_loss

    def batch_loss(self: Any, pixels: torch.Tensor, numbers: torch.Tensor, batch_idx: int) -> torch.Tensor:
        loss = usual(self, pixels, numbers, batch_idx)
        return fails(loss) if self.current_epoch == epochs else loss

    monkeypatch.setattr(fitting._Lesson, "batch_loss", batch_loss)


def no_number(loss: torch.Tensor) -> torch.Tensor:
    return loss * math.nan


def too_much(loss: torch.Tensor) -> torch.Tensor:
    return loss + torch.empty(2**46).sum()


def too_much_for_numpy(loss: torch.Tensor) -> torch.Tensor:
    return loss + float(np.ones(2**46).sum())


@pytest.mark.parametrize(
    ("fails", "told"),
    [
        (no_number, r"the loss of epoch 3 is nan, expected a number; lower \[embedder\] learning_rate"),
        (too_much, r"memory did not suffice in epoch 3 \(.*\); lower \[embedder\] batch_size and raise accumulate"),
        (too_much_for_numpy, r"memory did not suffice in epoch 3 \(.*\); lower \[embedder\] batch_size"),
    ],
)
def test_an_end_that_nobody_wanted_is_told_and_leaves_the_last_good_state(
    fails: Any, told: str, plain: Fitted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper = FolderKeeper(tmp_path)
    with monkeypatch.context() as patched:
        failing_after(2, fails, patched)
        with pytest.raises(EmbedderError, match=told) as caught:
            trained(keeper)
        assert "\n" not in str(caught.value)
        assert f"state after epoch 2 is kept as {keeper.where}" in str(caught.value)
    resumed = trained(keeper)
    assert resumed.resumed_after == 2
    assert_same_bits(plain, resumed)


def test_where_nothing_was_kept_nothing_is_promised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing_after(1, no_number, monkeypatch)
    with pytest.raises(EmbedderError, match=r"no state of it is kept$"):
        trained()
    failing_after(0, no_number, monkeypatch)
    with pytest.raises(EmbedderError, match=r"no state of it is kept$"):
        trained(FolderKeeper(tmp_path))


def test_a_loss_that_is_no_number_is_noticed_within_a_long_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("glr_assets.training.trainer.LOOKS_EVERY", 2)
    taken: list[int] = []

    def counted(loss: torch.Tensor) -> torch.Tensor:
        taken.append(1)
        return loss * math.nan

    failing_after(0, counted, monkeypatch)
    with pytest.raises(EmbedderError, match="the loss of epoch 1 is nan"):
        trained(recipe=recipe_with(batch_size=2))
    assert len(taken) == 2


def test_errors_of_another_kind_are_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def other(loss: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("shapes do not fit")

    failing_after(0, other, monkeypatch)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        trained()


def test_states_that_cannot_be_read_are_named_whatever_is_wrong_with_them(tmp_path: Path) -> None:
    keeper = FolderKeeper(tmp_path)
    with pytest.raises(CutError):
        trained(keeper, progress=cut_after(1))
    whole = keeper.file.read_bytes()
    for kept in (whole[: len(whole) // 2], b"", b"\x80\x02garbled"):
        keeper.file.write_bytes(kept)
        with pytest.raises(EmbedderError, match="the kept state of the training cannot be read") as caught:
            trained(keeper)
        assert f"delete {keeper.where} and run again" in str(caught.value)


def test_one_photograph_more_than_memory_keeps_is_read_again(tmp_path: Path) -> None:
    reads: list[str] = []

    def read(image_id: str) -> bytes:
        reads.append(image_id)
        return photograph(image_id)

    part = TrainingSet(TRAINING.ids, TRAINING.landmark_ids, read)
    fit(part, None, recipe_with(epochs=2), seed=1, device="cpu")
    assert len(reads) == len(set(reads)) <= len(TRAINING)
