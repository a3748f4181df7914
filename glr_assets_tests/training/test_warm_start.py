"""The warm start: its loss, its measure of collapse, and what it leaves in the backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.errors import EmbedderError
from glr_assets.store import Store
from glr_assets.training import fitting
from glr_assets.training import warm_start as module
from glr_assets.training.backbones import BACKBONES
from glr_assets.training.fitting import EpochReport
from glr_assets.training.kept import CURVES_NAME, PROGRESS_NAME, LiveTraining
from glr_assets.training.model import initial
from glr_assets.training.photographs import TrainingSet
from glr_assets.training.warm_start import SimSiam, agreement_loss, spread_of, warm_start
from glr_assets_tests.training.test_fitting import RECIPE, TRAINING, photograph, trained

WARM = RECIPE.model_copy(update={"warm_start_epochs": 3, "warm_start_learning_rate": 1e-3})


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    earlier = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(earlier)


def warmed(part: TrainingSet = TRAINING, recipe=WARM, **changes) -> tuple[torch.nn.Module, list[EpochReport]]:
    network = initial(recipe, seed=3)
    values = {"seed": 3, "device": "cpu", "fingerprint": "any", "cache_bytes": 2**30} | changes
    run = warm_start(network.backbone, part, recipe, **values)
    return network.backbone, list(run.history)


def test_the_loss_is_half_of_each_ones_cosine_to_the_other() -> None:
    random = np.random.default_rng(0)
    guesses, projections = random.normal(size=(2, 8, 5))

    def cosine(one: np.ndarray, other: np.ndarray) -> float:
        return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))

    # Algorithm 1 of the paper: D(p1, z2) / 2 + D(p2, z1) / 2, the mean over the batch.
    expected = np.mean(
        [-cosine(guesses[n], projections[4 + n]) / 2 - cosine(guesses[4 + n], projections[n]) / 2 for n in range(4)]
    )
    p, z = torch.tensor(guesses, requires_grad=True), torch.tensor(projections, requires_grad=True)
    loss = agreement_loss(p, z)
    assert float(loss.detach()) == pytest.approx(expected)
    loss.backward()
    assert p.grad is not None
    assert z.grad is None


@given(st.integers(2, 64), st.integers(0, 20))
def test_the_spread_is_one_in_all_directions_and_nought_in_one(width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    everywhere = torch.randn(4000, width, generator=generator)
    assert float(spread_of(everywhere)) == pytest.approx(1, abs=0.05)
    one = torch.randn(1, width, generator=generator).expand(100, width)
    assert float(spread_of(one)) == pytest.approx(0, abs=1e-3)
    assert float(spread_of(one + 1e-3 * torch.randn(100, width, generator=generator))) < 0.1


def test_published_widths_are_those_of_a_resnet_50() -> None:
    network = SimSiam(BACKBONES["resnet-50"].built())
    assert [m.out_features for m in network.project if isinstance(m, torch.nn.Linear)] == [2048] * 3
    assert [m.out_features for m in network.predict if isinstance(m, torch.nn.Linear)] == [512, 2048]


def test_it_learns_without_labels_and_tells_of_each_epoch() -> None:
    recipe = WARM.model_copy(update={"warm_start_epochs": 16, "warm_start_learning_rate": 5e-3, "batch_size": 20})
    seen: list[EpochReport] = []
    backbone, history = warmed(recipe=recipe, progress=seen.append)
    assert seen == history
    assert [(report.part, report.epoch, report.epochs) for report in history] == [
        ("warm start", n, 16) for n in range(1, 17)
    ]
    # Guesses of what is not known have a cosine of nought.
    assert history[0].loss == pytest.approx(0, abs=0.05)
    assert history[-1].loss < -0.1
    assert all(report.validation_top1 is None for report in history)
    assert all(report.spread is not None and 0.1 < report.spread < 1.1 for report in history)
    assert not backbone.training


def test_labels_count_for_nothing() -> None:
    recipe = WARM.model_copy(update={"warm_start_epochs": 1})
    backbone, _ = warmed(recipe=recipe)
    other, _ = warmed(TrainingSet(TRAINING.ids, tuple(range(len(TRAINING))), photograph), recipe)
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name])


def test_the_training_starts_from_the_backbone_that_it_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone, _ = warmed()
    started: list[dict[str, torch.Tensor]] = []
    usual = fitting.run_lesson

    def noted(lesson, **options):
        assert lesson.network.training
        started.append({name: tensor.clone() for name, tensor in lesson.network.backbone.state_dict().items()})
        return usual(lesson, **options)

    monkeypatch.setattr(fitting, "run_lesson", noted)
    trained(recipe=WARM.model_copy(update={"epochs": 1}))
    (state,) = started
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, state[name]), name


def test_outputs_that_have_become_one_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    # Without a stop of the gradient and without normalisation nothing keeps outputs apart: the paper's section 4.1.
    monkeypatch.setattr(
        module,
        "agreement_loss",
        lambda guesses, projections: (
            -torch.nn.functional.cosine_similarity(projections, projections.roll(len(projections) // 2, dims=0)).mean()
        ),
    )
    usual = SimSiam.__init__

    def without_norms(self: SimSiam, backbone: torch.nn.Module) -> None:
        usual(self, backbone)
        self.project = torch.nn.Linear(256, 256)

    monkeypatch.setattr(SimSiam, "__init__", without_norms)
    recipe = WARM.model_copy(update={"warm_start_epochs": 40, "warm_start_learning_rate": 1e-2})
    with pytest.raises(
        EmbedderError, match=r"look alike to the network \(spread 0\.0\d+, .* warm_start_epochs = 0"
    ) as caught:
        warmed(recipe=recipe)
    assert "no state of it is kept" in str(caught.value)


def test_a_loss_that_is_no_number_ends_it() -> None:
    with pytest.raises(
        EmbedderError, match=r"the loss of epoch 1 is nan, .* lower .embedder. warm_start_learning_rate"
    ):
        warmed(recipe=WARM.model_copy(update={"warm_start_learning_rate": 1e30, "warm_start_epochs": 1}))


def test_it_is_seen_as_it_goes_and_leaves_the_files_to_the_training(tmp_path: Path) -> None:
    told: list[str] = []
    store = Store(str(tmp_path))
    live = LiveTraining(store, "models/embedder/v1", "embedder", told.append)
    live(EpochReport(1, 2, -0.5, None, 0.1, 1.5, "warm start", 0.97))
    assert told == ["warm start, epoch 1 of 2: loss -0.5000, spread 0.97, 1.5 s"]
    assert store.names("models/embedder/v1") == [CURVES_NAME, PROGRESS_NAME]
    live(EpochReport(1, 3, 9.0, None, 0.1, 1.5))
    kept = store.read_json(f"models/embedder/v1/{PROGRESS_NAME}")["epochs"]
    assert [(epoch["part"], epoch["loss"]) for epoch in kept] == [("training", 9.0)]
