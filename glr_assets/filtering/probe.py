"""A brought-in embedder with linear classifiers behind it: nothing is trained but these layers.

A layer is a multinomial logistic regression on vectors of unit length, drawn to 0 by a penalty that is chosen by
cross-validation. It is solved exactly, so that the same vectors give the same layer. There are `FOLDS` of them, each
without one fold of the examples: a picture is told by the layer that has not learned from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

# This module is imported only by functions that run a network.
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from glr_assets.seeded import derived_seed

Floats = npt.NDArray[np.float64]
#: Penalties that are tried, of half the squared weights, beside the summed loss: of vectors of unit length.
PENALTIES: Final = (0.01, 0.1, 1.0, 10.0)
FOLDS: Final = 5


class Probe(nn.Module):
    """[B, 3, H, W] normalised RGB to logits float32 [B, layers · classes], layer after layer."""

    def __init__(self, inner: nn.Module, weights: Floats, offsets: Floats) -> None:
        super().__init__()
        self.inner = inner
        self.head = nn.Linear(weights.shape[1], len(weights))
        with torch.no_grad():
            self.head.weight.copy_(torch.from_numpy(weights))
            self.head.bias.copy_(torch.from_numpy(offsets))

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits float32 [B, layers · classes]."""
        return self.head(F.normalize(self.inner(pixels).float()))


def fit_layer(
    vectors: Floats, shown: npt.NDArray[np.int64], counts: Floats, classes: int, penalty: float
) -> tuple[Floats, Floats]:
    """Weights [classes, D] and offsets [classes] of the penalised logistic regression.

    Args:
        vectors: [n, D].
        shown: class numbers [n].
        counts: how often each example counts [n].
        classes: how many there are; one of which there is no example gets the lowest odds.
        penalty: of half the squared weights; offsets are free but for a trace that keeps them finite.
    """
    from scipy.optimize import minimize

    count, width = vectors.shape
    truth = np.zeros((count, classes))
    truth[np.arange(count), shown] = 1.0

    def loss(flat: Floats) -> tuple[float, Floats]:
        weights, offsets = flat[: classes * width].reshape(classes, width), flat[classes * width :]
        logits = vectors @ weights.T + offsets
        top = logits.max(axis=1, keepdims=True)
        shares = np.exp(logits - top)
        total = shares.sum(axis=1, keepdims=True)
        likely = float((counts * (logits[truth > 0] - (top + np.log(total))[:, 0])).sum())
        away = counts[:, np.newaxis] * (shares / total - truth)
        of_weights = away.T @ vectors + penalty * weights
        of_offsets = away.sum(axis=0) + 1e-3 * offsets
        value = 0.5 * penalty * float((weights**2).sum()) + 0.5e-3 * float((offsets**2).sum()) - likely
        return value, np.concatenate([of_weights.ravel(), of_offsets])

    found = minimize(loss, np.zeros(classes * (width + 1)), jac=True, method="L-BFGS-B", options={"maxiter": 1000}).x
    return found[: classes * width].reshape(classes, width), found[classes * width :]


def fit_layers(
    vectors: Floats, shown: npt.NDArray[np.int64], counts: Floats, names: Sequence[str], classes: int
) -> tuple[Floats, Floats, float]:
    """The layers one after the other, and their penalty: of `PENALTIES` the one of the least cross-validated loss.

    Args:
        vectors: [n, D].
        shown: class numbers [n].
        counts: how often each example counts [n].
        names: of the examples [n], by which they fall into folds.
        classes: how many there are.

    Returns:
        Weights [FOLDS · classes, D], offsets [FOLDS · classes], the penalty.
    """
    fold = np.array([fold_of(name) for name in names])
    best: tuple[float, list[tuple[Floats, Floats]], float] | None = None
    for penalty in PENALTIES:
        layers = [
            fit_layer(vectors[fold != number], shown[fold != number], counts[fold != number], classes, penalty)
            for number in range(FOLDS)
        ]
        loss = 0.0
        for number, (weights, offsets) in enumerate(layers):
            mine = fold == number
            logits = vectors[mine] @ weights.T + offsets
            top = logits.max(axis=1, initial=-np.inf)
            all_of_them = top + np.log(np.exp(logits - top[:, np.newaxis]).sum(axis=1))
            loss += float((counts[mine] * (all_of_them - logits[np.arange(len(logits)), shown[mine]])).sum())
        if best is None or loss < best[0]:
            best = (loss, layers, penalty)
    assert best is not None
    return np.concatenate([w for w, _ in best[1]]), np.concatenate([b for _, b in best[1]]), best[2]


def fold_of(name: str) -> int:
    """The fold of an example: the layer of that number has not learned from it."""
    return derived_seed("fold of the filter", name) % FOLDS
