"""The network: pooling, unit length and seeded starts."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glr_assets.recipes import Embedder
from glr_assets.training.model import GeM, untrained

TINY = Embedder(backbone="resnet-tiny", image_size=32, dimensions=16)


@pytest.mark.parametrize("power", [1.0, 3.0, 6.5])
def test_gem_is_the_generalised_mean(power: float) -> None:
    features = torch.rand(2, 4, 5, 3) + 0.1
    expected = np.mean(features.double().numpy() ** power, axis=(2, 3)) ** (1 / power)
    np.testing.assert_allclose(GeM(power)(features).detach().numpy(), expected, rtol=1e-5)


def test_gem_learns_its_exponent_and_bears_silent_channels() -> None:
    features = torch.zeros(1, 2, 3, 3, requires_grad=True)
    pool = GeM(3.0)
    pool(features).sum().backward()
    assert torch.isfinite(pool.power.grad).all()
    assert torch.isfinite(features.grad).all()


@pytest.mark.parametrize("stages", [1, 3])
def test_embeddings_are_of_unit_length(stages: int) -> None:
    network = untrained(TINY.model_copy(update={"stages": stages}), seed=1)
    assert network.bottleneck.in_features == sum([64, 128, 256][-stages:])
    with torch.inference_mode():
        got = network(torch.randn(3, 3, 40, 32))
    assert got.shape == (3, 16)
    np.testing.assert_allclose(got.norm(dim=1).numpy(), 1, atol=1e-5)


def test_one_stage_is_the_backbones_last_state_pooled_and_projected() -> None:
    network = untrained(TINY, seed=3)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        last = network.backbone(pixels).last_hidden_state.double().clamp(min=1e-6)
        pooled = last.pow(3).mean(dim=(2, 3)).pow(1 / 3)
        projected = pooled @ network.bottleneck.weight.double().T / np.sqrt(1 + network.norm.eps)
        expected = projected / projected.norm(dim=1, keepdim=True)
        np.testing.assert_allclose(network(pixels).numpy(), expected.numpy(), atol=1e-5)


def test_a_seed_decides_the_network_and_disturbs_no_other_choice() -> None:
    torch.manual_seed(9)
    expected = torch.rand(1)
    torch.manual_seed(9)
    first, same, other = untrained(TINY, 1), untrained(TINY, 1), untrained(TINY, 2)
    assert torch.equal(torch.rand(1), expected)
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, same.state_dict()[name])
    assert not torch.equal(first.bottleneck.weight, other.bottleneck.weight)
    assert not first.training
