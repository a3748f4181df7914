from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from glr_assets.filtering.probe import FOLDS, PENALTIES, Probe, fit_layer, fit_layers, fold_of


def clusters(seed: int, each: int = 30, spread: float = 0.3) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around three directions, and which each is of."""
    rng = np.random.default_rng(seed)
    shown = np.repeat(np.arange(3), each)
    vectors = np.eye(5)[shown] + rng.normal(0, spread, (3 * each, 5))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True), shown


@pytest.mark.parametrize("penalty", PENALTIES)
def test_the_layer_is_the_least_of_the_penalised_loss(penalty: float) -> None:
    vectors, shown = clusters(1)
    counts = np.where(shown == 2, 1.0, 3.0)
    weights, offsets = fit_layer(vectors, shown, counts, 3, penalty)
    # The same loss by torch, whose derivatives are not ours, has no slope there.
    layer = torch.tensor(weights, requires_grad=True)
    free = torch.tensor(offsets, requires_grad=True)
    logits = torch.from_numpy(vectors) @ layer.T + free
    losses = nn.functional.cross_entropy(logits, torch.from_numpy(shown), reduction="none")
    penalties = 0.5 * penalty * layer.square().sum() + 0.5e-3 * free.square().sum()
    ((torch.from_numpy(counts) * losses).sum() + penalties).backward()
    assert layer.grad is not None
    assert free.grad is not None
    assert float(layer.grad.abs().max()) < 1e-3 * len(vectors)
    assert float(free.grad.abs().max()) < 1e-3 * len(vectors)
    assert (logits.argmax(dim=1).numpy() == shown).mean() > 0.9


def test_a_class_without_examples_is_never_likely() -> None:
    vectors, shown = clusters(2)
    weights, offsets = fit_layer(vectors, shown, np.ones(90), 4, 0.1)
    assert ((vectors @ weights.T + offsets).argmax(axis=1) < 3).all()


def test_an_example_counts_as_often_as_it_says() -> None:
    vectors, shown = clusters(5)
    twice = np.concatenate([vectors, vectors[shown == 1]])
    counts = np.where(shown == 1, 2.0, 1.0)
    one = fit_layer(vectors, shown, counts, 3, 1.0)
    other = fit_layer(twice, np.concatenate([shown, shown[shown == 1]]), np.ones(len(twice)), 3, 1.0)
    np.testing.assert_allclose(one[0], other[0], atol=1e-3)


NAMES = [f"picture {number}" for number in range(90)]


def test_noise_asks_for_a_stronger_penalty() -> None:
    clear, shown = clusters(3, spread=0.05)
    noise = np.random.default_rng(3).normal(size=(90, 5))
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    assert fit_layers(clear, shown, np.ones(90), NAMES, 3)[2] == min(PENALTIES)
    assert fit_layers(noise, shown, np.ones(90), NAMES, 3)[2] == max(PENALTIES)


def test_no_layer_has_learned_from_its_own_fold() -> None:
    vectors, shown = clusters(6)
    fold = np.array([fold_of(name) for name in NAMES])
    assert set(fold) == set(range(FOLDS))
    weights, offsets, penalty = fit_layers(vectors, shown, np.ones(90), NAMES, 3)
    for number in range(FOLDS):
        others = fold != number
        own = fit_layer(vectors[others], shown[others], np.ones(int(others.sum())), 3, penalty)
        layer = slice(3 * number, 3 * number + 3)
        np.testing.assert_array_equal(weights[layer], own[0])
        np.testing.assert_array_equal(offsets[layer], own[1])


def test_the_module_is_the_layers_on_unit_vectors() -> None:
    vectors, shown = clusters(4)
    weights, offsets, _ = fit_layers(vectors, shown, np.ones(90), NAMES, 3)
    probe = Probe(nn.Flatten(), weights, offsets).eval()
    pixels = torch.from_numpy(7.0 * vectors[:6].astype(np.float32)).reshape(6, 5, 1, 1)
    with torch.inference_mode():
        np.testing.assert_allclose(probe(pixels).numpy(), vectors[:6] @ weights.T + offsets, atol=1e-3)
