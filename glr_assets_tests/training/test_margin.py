"""The margin head against an arc cosine in float64."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from glr_assets.training.margin import SubCentreArcFace, class_margins, widened


@given(st.floats(0.002, math.pi - 0.002), st.floats(0, 0.5))
def test_the_margin_is_added_to_the_angle(angle: float, margin: float) -> None:
    got = widened(torch.tensor(math.cos(angle), dtype=torch.float64), torch.tensor(margin, dtype=torch.float64))
    if math.cos(angle) > math.cos(math.pi - margin):
        expected = math.cos(math.acos(math.cos(angle)) + margin)
    else:
        expected = math.cos(angle) - margin * math.sin(margin)
    assert float(got) == pytest.approx(expected, abs=1e-9)


def test_a_wider_angle_never_scores_more() -> None:
    angles = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    for margin in (0.05, 0.3, 0.5):
        values = widened(angles.cos(), torch.tensor(margin, dtype=torch.float64))
        within = angles <= math.pi - margin
        assert (values[within].diff() <= 1e-12).all()
        assert (values[~within].diff() <= 1e-12).all()


@pytest.mark.parametrize("cosine", [1.0, -1.0, 1 - 1e-7, -1 + 1e-7, 0.0])
def test_slopes_stay_finite_and_upward_at_the_ends(cosine: float) -> None:
    value = torch.tensor([cosine], requires_grad=True)
    widened(value, torch.tensor([0.5])).sum().backward()
    assert value.grad is not None
    assert torch.isfinite(value.grad).all()
    assert float(value.grad) > 0


@given(st.floats(-0.9, 0.9), st.floats(0.05, 0.5))
def test_slopes_are_the_formulas(cosine: float, margin: float) -> None:
    value = torch.tensor(cosine, dtype=torch.float64, requires_grad=True)
    widened(value, torch.tensor(margin, dtype=torch.float64)).backward()
    expected = math.cos(margin) + cosine / math.sqrt(1 - cosine**2) * math.sin(margin)
    if cosine <= math.cos(math.pi - margin):
        expected = 1.0
    assert float(value.grad) == pytest.approx(expected, rel=1e-9)


def test_margins_shrink_with_the_fourth_root_of_the_class() -> None:
    got = class_margins([1, 16, 81], margin_size=0.45, margin_base=0.05)
    np.testing.assert_allclose(got.numpy(), [0.5, 0.275, 0.2], rtol=1e-6)


def test_logits_are_those_of_the_nearest_centre() -> None:
    torch.manual_seed(0)
    head = SubCentreArcFace(6, torch.tensor([0.5, 0.3, 0.1]), sub_centers=2, scale=24.0)
    embeddings = torch.nn.functional.normalize(torch.randn(5, 6))
    targets = torch.tensor([0, 1, 2, 1, 0])
    got = head(embeddings, targets, share=0.5).detach().numpy()
    centres = head.weight.detach().double().numpy().reshape(3, 2, 6)
    centres /= np.linalg.norm(centres, axis=2, keepdims=True)
    for row, (vector, target) in enumerate(zip(embeddings.double().numpy(), targets.tolist(), strict=True)):
        for label in range(3):
            angle = min(math.acos(float(vector @ centre)) for centre in centres[label])
            widened_angle = angle + 0.5 * [0.5, 0.3, 0.1][label] * (label == target)
            assert got[row, label] == pytest.approx(24 * math.cos(widened_angle), abs=1e-4)
