"""The network: pooling, unit length, seeded starts and weights from a folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ResNetConfig, ResNetModel

from glr_assets.errors import EmbedderError
from glr_assets.recipes import Embedder
from glr_assets.training.model import BACKBONES, GeM, initial, untrained

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


def test_weights_come_from_a_folder(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    backbone = ResNetModel(ResNetConfig(**BACKBONES["resnet-tiny"]))
    backbone.save_pretrained(tmp_path / "weights")
    capfd.readouterr()
    network = initial(TINY.model_copy(update={"weights": str(tmp_path / "weights")}), seed=1)
    assert capfd.readouterr() == ("", "")
    for name, tensor in backbone.state_dict().items():
        assert torch.equal(tensor, network.backbone.state_dict()[name])
    assert torch.equal(network.bottleneck.weight, initial(network_recipe(tmp_path), seed=1).bottleneck.weight)


def network_recipe(folder: Path) -> Embedder:
    return TINY.model_copy(update={"weights": str(folder / "weights")})


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    ResNetModel(ResNetConfig(**BACKBONES["resnet-tiny"])).save_pretrained(tmp_path / "weights")
    recipe = network_recipe(tmp_path).model_copy(update={"backbone": "resnet-18"})
    with pytest.raises(EmbedderError, match=r"expected a resnet-18 .* set \[embedder\] backbone") as caught:
        initial(recipe, seed=1)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_had_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for folder in (tmp_path / "absent", tmp_path):
        recipe = TINY.model_copy(update={"weights": str(folder)})
        with pytest.raises(EmbedderError, match="cannot be had") as caught:
            initial(recipe, seed=1)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_weights_that_lack_a_layer_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    ResNetModel(ResNetConfig(**BACKBONES["resnet-tiny"])).save_pretrained(tmp_path / "weights")
    file = tmp_path / "weights" / "model.safetensors"
    tensors = load_file(file)
    gone = sorted(tensors)[0]
    save_file({name: tensor for name, tensor in tensors.items() if name != gone}, file, metadata={"format": "pt"})
    with pytest.raises(EmbedderError, match=f"lacks 1 tensors, the first {gone}"):
        initial(network_recipe(tmp_path), seed=1)
