"""Backbones: transformers' own outputs, weights in its format, exports, and what is refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from glr_assets.errors import EmbedderError
from glr_assets.recipes import BackboneName, Embedder
from glr_assets.training.backbones import BACKBONES, DINOV2_PATCH, class_token, maps, pooled, widths
from glr_assets.training.model import initial, untrained
from glr_assets.training.torchscript import export

SMALLEST: dict[BackboneName, dict[str, object]] = {
    "resnet-tiny": {"image_size": 32, "stages": 2},
    "convnext-mini": {"image_size": 64, "stages": 2},
    "dinov2-mini": {"image_size": 4 * DINOV2_PATCH, "pooling": "class_token"},
}


def recipe_of(name: BackboneName, **changes: object) -> Embedder:
    return Embedder.model_validate({"backbone": name, "dimensions": 16, **SMALLEST[name], **changes})


def built(name: BackboneName, seed: int = 5) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BACKBONES[name].built().eval()


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of weights in transformers' own format for each family."""
    folder = tmp_path_factory.mktemp("weights")
    for name in SMALLEST:
        built(name).save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("name", SMALLEST)
def test_maps_and_vectors_are_what_the_library_says_they_are(name: BackboneName) -> None:
    backbone, pixels = built(name), torch.randn(2, 3, 84, 70)
    with torch.inference_mode():
        expected = backbone(pixels)
        (found,) = maps(backbone, pixels)
        np.testing.assert_allclose(
            pooled(backbone, pixels).numpy(), expected.pooler_output.flatten(1).numpy(), atol=1e-5
        )
        if name == "dinov2-mini":
            # Row by row: 84 × 70 pixels are 6 × 5 patches.
            patches = expected.last_hidden_state[:, 1:].reshape(2, 6, 5, 96).permute(0, 3, 1, 2)
            np.testing.assert_allclose(found.numpy(), patches.numpy(), atol=1e-5)
            np.testing.assert_allclose(
                class_token(backbone, pixels).numpy(), expected.last_hidden_state[:, 0].numpy(), atol=1e-5
            )
        else:
            np.testing.assert_allclose(found.numpy(), expected.last_hidden_state.numpy(), atol=1e-5)
    assert [found.shape[1]] == widths(backbone)


@pytest.mark.parametrize("name", ["resnet-tiny", "convnext-mini"])
def test_maps_of_several_stages_are_the_librarys_hidden_states(name: BackboneName) -> None:
    backbone, pixels = built(name), torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = backbone(pixels, output_hidden_states=True).hidden_states[-3:]
        for found, state in zip(maps(backbone, pixels, 3), expected, strict=True):
            np.testing.assert_allclose(found.numpy(), state.numpy(), atol=1e-5)
    assert widths(backbone, 3) == [state.shape[1] for state in expected]


@pytest.mark.parametrize("name", SMALLEST)
@pytest.mark.parametrize("pooling", ["gem", "class_token"])
def test_the_export_is_the_network_at_sizes_it_was_not_made_for(name: BackboneName, pooling: str) -> None:
    if pooling == "class_token" and name != "dinov2-mini":
        with pytest.raises(ValueError, match="has no class token"):
            recipe_of(name, pooling=pooling)
        return
    recipe = recipe_of(name, pooling=pooling)
    network = untrained(recipe, 3)
    script = export(network, recipe.image_size)
    pixels = torch.randn(3, 3, 98, 70)
    with torch.inference_mode():
        found, expected = script(pixels), network(pixels)
    assert found.shape == (3, 16)
    np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(found.norm(dim=1).numpy(), 1, atol=1e-5)


@pytest.mark.parametrize("name", SMALLEST)
def test_a_training_starts_from_saved_weights_and_repeats(
    name: BackboneName, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_of(name, weights=str(saved / name))
    network = initial(recipe, seed=1)
    assert capfd.readouterr() == ("", "")
    own = built(name).state_dict()
    assert network.backbone.state_dict().keys() == own.keys()
    for key, tensor in network.backbone.state_dict().items():
        assert torch.equal(tensor, own[key]), key
    assert torch.equal(network.bottleneck.weight, initial(recipe, seed=1).bottleneck.weight)
    # Not the weights of a start from nothing.
    nothing = initial(recipe.model_copy(update={"weights": None}), seed=1).backbone.state_dict()
    assert any(not torch.equal(tensor, nothing[key]) for key, tensor in own.items())


@pytest.mark.parametrize("name", SMALLEST)
def test_everything_that_may_learn_has_a_gradient(name: BackboneName) -> None:
    network = untrained(recipe_of(name), 1).train()
    network(torch.randn(3, 3, 64, 64)).square().sum(dim=1).mean().backward()
    without = [key for key, value in network.named_parameters() if value.requires_grad and value.grad is None]
    assert without == []


def test_whole_layers_are_never_dropped_by_chance(saved: Path, tmp_path: Path) -> None:
    folder = tmp_path / "dropping"
    folder.mkdir()
    for file in (saved / "convnext-mini").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"drop_path_rate": 0.9}))
    network = initial(recipe_of("convnext-mini", weights=str(folder)), seed=1)
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(maps(network.backbone, pixels)[0], maps(network.backbone, pixels)[0])


@pytest.mark.parametrize("name", SMALLEST)
def test_weights_of_another_network_are_refused(name: BackboneName, saved: Path) -> None:
    for other in SMALLEST:
        if other == name:
            continue
        with pytest.raises(EmbedderError, match=rf"expected a {name} .* set \[embedder\] backbone") as caught:
            initial(recipe_of(name, weights=str(saved / other)), seed=1)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kept", [0, 7, 40, 5000])
def test_a_file_of_weights_that_was_cut_is_refused(kept: int, saved: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((saved / "resnet-tiny" / "config.json").read_bytes())
    whole = (saved / "resnet-tiny" / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:kept])
    with pytest.raises(EmbedderError, match=r"cannot be had .* start from random weights") as caught:
        initial(recipe_of("resnet-tiny", weights=str(tmp_path)), seed=1)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "pytorch_model.bin"])
def test_garbled_files_of_weights_are_refused(file: str, saved: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((saved / "resnet-tiny" / name).read_bytes())
    if file == "pytorch_model.bin":
        (tmp_path / "model.safetensors").unlink()
    (tmp_path / file).write_bytes(bytes(range(256)) * 40)
    with pytest.raises(EmbedderError, match="cannot be had") as caught:
        initial(recipe_of("resnet-tiny", weights=str(tmp_path)), seed=1)
    assert "\n" not in str(caught.value)


def test_weights_that_lack_a_layer_or_have_it_in_another_shape_are_refused(saved: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(saved / "resnet-tiny" / "model.safetensors")
    first = sorted(tensors)[0]
    others = {
        "absent": {name: tensor for name, tensor in tensors.items() if name != first},
        "reshaped": tensors | {first: torch.zeros(3, 3)},
    }
    for name, changed in others.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_bytes((saved / "resnet-tiny" / "config.json").read_bytes())
        save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(EmbedderError) as caught:
            initial(recipe_of("resnet-tiny", weights=str(folder)), seed=1)
        assert str(folder) in str(caught.value)
        assert "\n" not in str(caught.value)
        if name == "absent":
            assert f"lacks 1 tensors, the first {first}" in str(caught.value)


def test_weights_that_are_not_there_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in SMALLEST:
        for folder in (tmp_path / "absent", tmp_path):
            with pytest.raises(EmbedderError, match="cannot be had") as caught:
                initial(recipe_of(name, weights=str(folder)), seed=1)
            assert str(folder) in str(caught.value)
            assert "\n" not in str(caught.value)


def test_patches_are_not_cut_off_and_have_no_stages() -> None:
    with pytest.raises(ValueError, match="image_size = 100, expected a multiple of 14"):
        recipe_of("dinov2-mini", image_size=100)
    with pytest.raises(ValueError, match="no stages to join"):
        recipe_of("dinov2-mini", stages=2)
