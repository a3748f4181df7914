"""An embedder in use: embedding, export, what is kept, and embedders brought in."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from glr_assets.errors import EmbedderError, MissingInputError
from glr_assets.receipts import Writer
from glr_assets.recipes import Embedder
from glr_assets.store import Store
from glr_assets.training.embedder import config_of, load_embedder, load_network, save_embedder, whitened
from glr_assets.training.embedding import embed, embed_views, torch_device
from glr_assets.training.model import untrained
from glr_assets.training.photographs import upright
from glr_assets.training.torchscript import bring_in, export, script_bytes
from glr_assets.training.views import Views
from glr_assets.training.whitening import within_class_whitening
from glr_assets_tests.training.test_photographs import encoded, prepared

TINY = Embedder(backbone="resnet-tiny", image_size=32, dimensions=16, stages=3)
SHARED = Path(__file__).resolve().parents[2].parent / "shared"


def photographs(count: int) -> list[bytes]:
    found = []
    for seed in range(count):
        small = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        file = io.BytesIO()
        Image.fromarray(small).resize((70, 50), Image.Resampling.BICUBIC).save(file, "JPEG")
        found.append(file.getvalue())
    return found


def test_rows_do_not_depend_on_batches_or_threads() -> None:
    network, images = untrained(TINY, 1), photographs(7)
    whole = embed(network, images, 32, device="cpu")
    assert whole.dtype == np.float32
    assert whole.shape == (7, 16)
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-5)
    for batch_size, workers in ((1, 0), (3, 2)):
        got = embed(network, iter(images), 32, batch_size=batch_size, device="cpu", workers=workers)
        np.testing.assert_allclose(got, whole, atol=1e-5)
    np.testing.assert_allclose(embed(network, images[4:5], 32, device="cpu")[0], whole[4], atol=1e-5)


def test_rows_are_the_network_on_prepared_images() -> None:
    network, images = untrained(TINY, 2), photographs(3)
    with torch.inference_mode():
        expected = network(torch.from_numpy(np.stack([prepared(image, 32) for image in images])))
    np.testing.assert_allclose(embed(network, images, 32, device="cpu"), expected.numpy(), atol=1e-5)


def test_no_images_are_no_rows() -> None:
    assert embed(untrained(TINY, 1), [], 32, device="cpu").shape == (0, 16)


def test_views_are_averaged_and_brought_to_unit_length() -> None:
    network, images = untrained(TINY, 3), photographs(5)
    views = Views(sides=(32, 64), mirrored=True)
    found = embed_views(network, iter(images), views, batch_size=2, device="cpu", workers=2)
    with torch.inference_mode():
        total = np.zeros((5, 16))
        for side in (32, 64):
            for turned in (False, True):
                seen = [np.asarray(Image.open(io.BytesIO(image)).convert("RGB")) for image in images]
                seen = [np.ascontiguousarray(picture[:, ::-1]) if turned else picture for picture in seen]
                pixels = [prepared(encoded(picture), side) for picture in seen]
                rows = network(torch.from_numpy(np.stack(pixels))).numpy().astype(np.float64)
                total += rows / np.linalg.norm(rows, axis=1, keepdims=True)
    expected = total / np.linalg.norm(total, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    one = embed_views(network, images, Views(sides=(64,)), device="cpu")
    np.testing.assert_allclose(one, embed(network, images, 64, device="cpu"), atol=1e-6)
    assert embed_views(network, [], views, device="cpu").shape == (0, 16)


def test_seen_in_the_mirror_too_a_picture_is_as_its_mirror_image() -> None:
    network, views = untrained(TINY, 3), Views(sides=(32,), mirrored=True)
    pixels = [upright(image) for image in photographs(3)]
    mirrored = [np.ascontiguousarray(picture[:, ::-1]) for picture in pixels]
    np.testing.assert_allclose(
        embed_views(network, pixels, views, device="cpu"),
        embed_views(network, mirrored, views, device="cpu"),
        atol=1e-5,
    )
    with pytest.raises(EmbedderError, match="image number 2: its 3 bytes"):
        embed_views(network, [*pixels[:2], b"bad"], views, batch_size=2, device="cpu")


class Constant(nn.Module):
    """Gives the same value for whatever comes in, in a shape to choose."""

    def __init__(self, value: float, flat: bool = True) -> None:
        super().__init__()
        self.value, self.flat = value, flat

    def forward(self, pixels: Tensor) -> Tensor:
        means = pixels.mean(dim=(2, 3)) * 0 + self.value
        return means if self.flat else means[:, :, None]


def test_an_embedding_that_is_no_number_is_refused() -> None:
    with pytest.raises(EmbedderError, match="image number 0: its embedding is not finite"):
        embed(Constant(float("nan")), photographs(2), 32, device="cpu")


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert torch_device("auto").type == "cpu"
    with pytest.raises(EmbedderError, match="no GPU"):
        torch_device("cuda")


def test_the_export_is_the_network_for_any_batch_and_shape(capfd: pytest.CaptureFixture[str]) -> None:
    network = untrained(TINY, 3)
    script = export(network, 32)
    assert capfd.readouterr() == ("", "")
    for shape in ((1, 3, 32, 32), (5, 3, 48, 64)):
        pixels = torch.randn(shape)
        with torch.inference_mode():
            assert float((script(pixels) - network(pixels)).abs().max()) <= 1e-5


class Branching(nn.Module):
    """Does another thing for one image than for several: tracing keeps only one of them."""

    def forward(self, pixels: Tensor) -> Tensor:
        means = pixels.mean(dim=(2, 3))
        return means if len(pixels) == 2 else means + 1


def test_an_export_that_differs_from_its_network_is_refused() -> None:
    with pytest.raises(EmbedderError, match="differ from the network's by 1"):
        export(Branching(), 32)


def test_whitening_follows_the_embedder_and_is_exported_with_it() -> None:
    network, images = untrained(TINY, 4), photographs(8)
    rows, landmarks = embed(network, images, 32, device="cpu"), [n // 3 for n in range(8)]
    mean, matrix = within_class_whitening(rows, landmarks)
    expected = (rows.astype(np.float64) - mean) @ matrix
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    for module in (network, export(network, 32)):
        script = export(whitened(module, [(rows[:4], landmarks[:4]), (rows[4:], landmarks[4:])]), 32)
        np.testing.assert_allclose(embed(script, images, 32, device="cpu"), expected, atol=1e-4)


def kept(folder: Path, seed: int = 5) -> Store:
    store = Store(str(folder))
    network = untrained(TINY, seed)
    config = config_of(
        network, TINY, origin="untrained", seed=seed, landmark_ids=[30, 10, 30], data_versions={"b": "2", "a": "1"}
    )
    save_embedder(Writer(store), "models/embedder/v1", network, config)
    return store


def test_what_is_kept_is_loaded_as_it_was(tmp_path: Path) -> None:
    store = kept(tmp_path)
    loaded = load_embedder(store, "models/embedder/v1")
    assert loaded.config.landmark_ids == (10, 30)
    assert loaded.config.data_versions == {"a": "1", "b": "2"}
    assert (loaded.config.dimensions, loaded.config.image_size, loaded.config.recipe) == (16, 32, TINY)
    images = photographs(3)
    expected = embed(untrained(TINY, 5), images, 32, device="cpu")
    np.testing.assert_allclose(embed(loaded.module, images, 32, device="cpu"), expected, atol=1e-5)
    network = load_network(store, "models/embedder/v1")
    np.testing.assert_array_equal(embed(network, images, 32, device="cpu"), expected)


def test_a_script_tells_nothing_of_the_machine_it_was_traced_on() -> None:
    data = script_bytes(export(untrained(TINY, 1), 32))
    assert b"site-packages" not in data
    assert str(Path(__file__).parents[2]).encode() not in data


def test_the_same_embedder_leaves_the_same_bytes(tmp_path: Path) -> None:
    folders = [tmp_path / name / "models/embedder/v1" for name in ("a", "b")]
    for name in ("a", "b"):
        kept(tmp_path / name)
    names = sorted(path.name for path in folders[0].iterdir())
    assert names == ["config.json", "embedder.pt", "network.safetensors"]
    for name in names:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()


@pytest.mark.parametrize("name", ["config.json", "embedder.pt", "network.safetensors"])
def test_a_damaged_or_absent_file_is_named(tmp_path: Path, name: str) -> None:
    store = kept(tmp_path)
    load = load_network if name == "network.safetensors" else load_embedder
    store.write(f"models/embedder/v1/{name}", b"{}")
    with pytest.raises(EmbedderError, match=f"{name}: .* materialise embedder again") as caught:
        load(store, "models/embedder/v1")
    assert "\n" not in str(caught.value)
    store.remove(f"models/embedder/v1/{name}")
    with pytest.raises(MissingInputError, match=f"{name} is missing"):
        load(store, "models/embedder/v1")


def script_of(module: nn.Module, folder: Path) -> str:
    path = folder / "brought.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(module.eval(), torch.randn(2, 3, 32, 32)), str(path))
    return str(path)


def test_an_embedder_is_brought_in_and_kept(tmp_path: Path) -> None:
    path = script_of(untrained(TINY, 6), tmp_path)
    script = bring_in(path, 32)
    images = photographs(6)
    rows = embed(script, images, 32, device="cpu")
    module = whitened(script, [(rows, [0, 0, 1, 1, 2, 2])])
    recipe = TINY.model_copy(update={"torchscript": path})
    config = config_of(module, recipe, origin="brought in", seed=0, landmark_ids=[0, 1, 2], data_versions={})
    store = Store(str(tmp_path / "store"))
    save_embedder(Writer(store), "models/embedder/v2", module, config)
    loaded = load_embedder(store, "models/embedder/v2")
    assert loaded.config.whitened
    np.testing.assert_allclose(
        embed(loaded.module, images, 32, device="cpu"), embed(module, images, 32, device="cpu"), atol=1e-5
    )
    with pytest.raises(MissingInputError, match=r"network\.safetensors is missing"):
        load_network(store, "models/embedder/v2")


@pytest.mark.parametrize(
    ("module", "found"),
    [
        (Constant(float("nan")), "values that are not finite"),
        (Constant(1.0, flat=False), r"torch.float32 \[2, 3, 1\]"),
        (nn.Flatten(0), r"torch.float32 \[6144\]"),
    ],
)
def test_what_gives_no_vectors_is_not_brought_in(module: nn.Module, found: str, tmp_path: Path) -> None:
    path = script_of(module, tmp_path)
    with pytest.raises(EmbedderError, match=rf"{path}'.* \[2, D\] for two images, found {found}$"):
        bring_in(path, 32)


def test_what_is_no_torchscript_is_not_brought_in(tmp_path: Path) -> None:
    with pytest.raises(EmbedderError, match="no such file"):
        bring_in(str(tmp_path / "absent.pt"), 32)
    (tmp_path / "text.pt").write_text("text")
    torch.save({"a": torch.zeros(1)}, tmp_path / "state.pt")
    for name in ("text.pt", "state.pt"):
        with pytest.raises(EmbedderError, match="not TorchScript") as caught:
            bring_in(str(tmp_path / name), 32)
        assert "\n" not in str(caught.value)


def test_an_embedder_for_another_size_is_not_brought_in(tmp_path: Path) -> None:
    path = script_of(nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 8)), tmp_path)
    assert bring_in(path, 32)(torch.zeros(1, 3, 32, 32)).shape == (1, 8)
    with pytest.raises(EmbedderError, match=r"does not run on two images of 48×48 .*image_size") as caught:
        bring_in(path, 48)
    assert "\n" not in str(caught.value)


def test_a_real_pretrained_embedder_tells_landmarks_apart() -> None:
    path, photos = SHARED / "weights" / "squeezenet1_1_gem.pt", SHARED / "photos" / "landmarks"
    if not path.is_file() or not photos.is_dir():
        pytest.skip(f"{path} and {photos} are for tests only and not part of the project")
    script = bring_in(str(path), 160)
    names = ["taj_mahal", "stonehenge", "eiffel_tower", "sapa_rice_terraces"]
    files = [(n, file) for n, name in enumerate(names) for file in sorted((photos / name).iterdir())[:8]]
    rows = embed(script, [file.read_bytes() for _, file in files], 160, device="cpu")
    assert rows.shape == (32, 512)
    labels = np.array([n for n, _ in files])
    trains = np.arange(len(files)) % 2 == 0
    module = whitened(script, [(rows[trains], labels[trains].tolist())])
    unit = (rows - module.mean.numpy()) @ module.matrix.numpy()
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    nearest = (unit[~trains] @ unit[trains].T).argmax(axis=1)
    assert (labels[trains][nearest] == labels[~trains]).mean() >= 0.75
