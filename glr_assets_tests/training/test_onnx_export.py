"""ONNX gives what the kept module gives, in the same bytes, or says why there is none."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from glr_assets.errors import EmbedderError
from glr_assets.recipes import Embedder
from glr_assets.training.embedder import whitened
from glr_assets.training.embedding import embed
from glr_assets.training.model import untrained
from glr_assets.training.onnx_export import onnx_of
from glr_assets.training.torchscript import bring_in, export, load_script
from glr_assets_tests.training.test_embedder import SHARED, TINY, photographs
from glr_assets_tests.training.test_photographs import prepared


def outputs(data: bytes, pixels: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(["output"], {"pixels": pixels})[0])


def test_it_gives_the_networks_embeddings_for_any_number_of_photographs() -> None:
    network, images = untrained(TINY, 1), photographs(9)
    exported = onnx_of(export(network, 32), 32, images[:3])
    assert exported.reason == ""
    expected = embed(network, images, 32, device="cpu")
    for count in (1, 2, 9):
        pixels = np.stack([prepared(image, 32) for image in images[:count]]).astype(np.float32)
        np.testing.assert_allclose(outputs(exported.data, pixels), expected[:count], atol=1e-5)


def test_a_projection_behind_the_network_is_part_of_it() -> None:
    network, images = untrained(TINY, 4), photographs(8)
    module = whitened(network, [(embed(network, images, 32, device="cpu"), [n // 3 for n in range(8)])])
    pixels = np.stack([prepared(image, 32) for image in images]).astype(np.float32)
    found = outputs(onnx_of(export(module, 32), 32, images).data, pixels)
    np.testing.assert_allclose(found, embed(module, images, 32, device="cpu"), atol=1e-4)


def test_the_same_module_leaves_the_same_bytes_and_nothing_of_the_machine(capfd: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        one, other = (onnx_of(export(untrained(TINY, 1), 32), 32, photographs(2)).data for _ in range(2))
    assert one == other
    assert onnx_of(export(untrained(TINY, 2), 32), 32, photographs(2)).data != one
    assert b"site-packages" not in one
    assert str(Path(__file__).parents[2]).encode() not in one
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "convnext-mini", "image_size": 32},
        {"backbone": "dinov2-mini", "image_size": 28, "pooling": "class_token"},
        {"backbone": "dinov2-mini", "image_size": 28},
    ],
)
def test_every_kind_of_network_is_exported_in_the_same_bytes_however_often(changes: dict[str, object]) -> None:
    recipe = Embedder(**({"dimensions": 8} | changes))
    script, images = export(untrained(recipe, 1), recipe.image_size), photographs(3)
    first = onnx_of(script, recipe.image_size, images)
    assert first.reason == ""
    assert onnx_of(script, recipe.image_size, images).data == first.data
    pixels = np.stack([prepared(image, recipe.image_size) for image in images]).astype(np.float32)
    with torch.no_grad():
        np.testing.assert_allclose(outputs(first.data, pixels), script(torch.from_numpy(pixels)).numpy(), atol=1e-5)


def test_noise_is_shown_where_there_is_no_photograph() -> None:
    assert onnx_of(export(untrained(TINY, 1), 32), 32, []).data


class Pooled(nn.Module):
    """Pools to sides that do not divide the picture's, which ONNX has no operator for."""

    def forward(self, pixels: Tensor) -> Tensor:
        return nn.functional.adaptive_avg_pool2d(pixels, 7).flatten(1)


def test_a_module_that_cannot_be_exported_says_why_in_a_line(capfd: pytest.CaptureFixture[str]) -> None:
    exported = onnx_of(torch.jit.script(Pooled()), 32, photographs(1))
    assert exported.data == b""
    assert exported.reason.startswith("torch cannot export it to ONNX: ")
    assert "adaptive" in exported.reason
    assert "\n" not in exported.reason
    assert capfd.readouterr() == ("", "")


def test_an_export_that_gives_other_numbers_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    script, other = export(untrained(TINY, 1), 32), export(untrained(TINY, 2), 32)
    of_other = onnx_of(other, 32, []).data
    monkeypatch.setattr(torch.onnx, "export", lambda module, args, file, **_: file.write(of_other))
    with pytest.raises(EmbedderError, match=r"outputs \[6, 16\] differ .* at most 0\.0001; set onnx = false"):
        onnx_of(script, 32, photographs(8))


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_a_package_that_is_missing_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(EmbedderError, match=rf"the package {name} is missing; install .* or set onnx = false"):
        onnx_of(export(untrained(TINY, 1), 32), 32, [])


def test_a_real_embedder_that_was_brought_in_is_exported() -> None:
    path, photos = SHARED / "weights" / "squeezenet1_1_gem.pt", SHARED / "photos" / "landmarks" / "stonehenge"
    if not path.is_file() or not photos.is_dir():
        pytest.skip(f"{path} and {photos} are for tests only and not part of the project")
    images = [file.read_bytes() for file in sorted(photos.iterdir())[:4]]
    script = bring_in(str(path), 96)
    data = onnx_of(script, 96, images).data
    pixels = np.stack([prepared(image, 96) for image in images]).astype(np.float32)
    found = outputs(data, pixels)
    with torch.no_grad():
        expected = load_script(str(path))(torch.from_numpy(pixels)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, float(np.abs(expected).max())))
