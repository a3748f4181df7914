from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from glr_assets.filtering.probe import PENALTIES, Probe, chosen_penalty, fit_layer


def clusters(seed: int, each: int = 30, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around three directions, and which each is of."""
    rng = np.random.default_rng(seed)
    shown = np.repeat(np.arange(3), each)
    vectors = np.eye(5)[shown] + rng.normal(0, spread, (3 * each, 5))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), shown


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_layer_is_the_least_of_the_penalised_loss(penalty: float) -> None:
    vectors, shown = clusters(1)
    weights, offsets = fit_layer(vectors, shown, 3, penalty)
    # The same loss by torch, whose derivatives are not ours, has no slope there.
    layer = torch.tensor(weights, requires_grad=True)
    free = torch.tensor(offsets, requires_grad=True)
    logits = torch.from_numpy(vectors) @ layer.T + free
    loss = nn.functional.cross_entropy(logits, torch.from_numpy(shown), reduction="sum")
    (loss + 0.5 * penalty * layer.square().sum() + 0.5e-3 * free.square().sum()).backward()
    assert layer.grad is not None
    assert free.grad is not None
    assert float(layer.grad.abs().max()) < 1e-3 * len(vectors)
    assert float(free.grad.abs().max()) < 1e-3 * len(vectors)
    assert (logits.argmax(dim=1).numpy() == shown).mean() > 0.9


def test_a_class_without_examples_is_never_likely() -> None:
    vectors, shown = clusters(2)
    weights, offsets = fit_layer(vectors, shown, 4, 0.1)
    assert ((vectors @ weights.T + offsets).argmax(axis=1) < 3).all()


def test_noise_asks_for_a_stronger_penalty() -> None:
    names = [f"picture {number}" for number in range(90)]
    clear, shown = clusters(3, spread=0.05)
    noise = np.random.default_rng(3).normal(size=(90, 5))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    assert chosen_penalty(clear, shown, names, 3) == min(PENALTIES)
    assert chosen_penalty(noise, shown, names, 3) == max(PENALTIES)


def test_the_module_is_the_layer_on_unit_vectors() -> None:
    vectors, shown = clusters(4)
    weights, offsets = fit_layer(vectors, shown, 3, 0.1)
    probe = Probe(nn.Flatten(), weights, offsets).eval()
    pixels = torch.from_numpy(7.0 * vectors[:6].astype(np.float32)).reshape(6, 5, 1, 1)
    with torch.inference_mode():
        np.testing.assert_allclose(probe(pixels).numpy(), vectors[:6] @ weights.T + offsets, atol=1e-4)
