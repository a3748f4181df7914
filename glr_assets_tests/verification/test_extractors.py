"""Each extractor beside an independent computation, on images of any size, and what is said where it cannot be had."""

from __future__ import annotations

import importlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from glr_assets.errors import ExtractorError
from glr_assets.recipes import Verification
from glr_assets.verification.extractors import delf, open_extractor, superpoint
from glr_assets.verification.extractors.base import Extractor, Pixels
from glr_assets.verification.features import MAX_DIMENSIONS, Features

SIZES = ((96, 128), (128, 96), (96, 128), (90, 121))


def texture(seed: int, size: tuple[int, int] = (192, 256)) -> Pixels:
    """RGB with corners and blobs of many sizes."""
    random = np.random.default_rng(seed)
    total = np.zeros((*size, 3))
    for cells in (6, 12, 24, 48):
        coarse = random.uniform(0, 255, (cells, cells, 3)).astype(np.float32)
        total += cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC)
    return np.clip(total / 4, 0, 255).astype(np.uint8)


def opened(name: str, module: Path | str | None = None, features: int = 60, device: str = "cpu") -> Extractor:
    recipe = Verification.model_validate(
        {"extractor": name, "module": module and str(module), "max_features": features}
    )
    return open_extractor(recipe, device)


def same(one: Features, other: Features) -> bool:
    return one.places.tobytes() == other.places.tobytes() and one.descriptors.tobytes() == other.descriptors.tobytes()


def is_well_formed(features: Features, image: Pixels, extractor: Extractor) -> bool:
    count = len(features.places)
    assert features.places.dtype == features.descriptors.dtype == np.float32
    assert features.places.shape == (count, 4)
    assert features.descriptors.shape == (count, extractor.dimensions)
    assert (features.height, features.width) == image.shape[:2]
    assert np.abs(np.linalg.norm(features.descriptors, axis=1) - 1).max(initial=0) < 1e-5
    assert ((features.places[:, 3] >= 0) & (features.places[:, 3] < 2 * np.pi)).all()
    return True


# RootSIFT


@pytest.mark.parametrize("most", [50, 333, 2048])
@pytest.mark.parametrize("tiles", [1, 3])
def test_rootsift_is_the_strongest_of_all_that_opencv_finds(most: int, tiles: int) -> None:
    image = np.tile(texture(1, (192 // tiles, 256 // tiles)), (tiles, tiles, 1))  # tiles are as strong as one another
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    found, raw = cv2.SIFT.create(contrastThreshold=0.02).detectAndCompute(grey, None)
    every = sorted(
        (
            (-point.response, *point.pt[::-1], point.size, point.angle, row.tolist())
            for point, row in zip(found, raw, strict=True)
        ),
    )
    expected = every[:most]
    extractor = opened("rootsift", features=most)
    (features,) = extractor.extract([image])
    assert len(every) > 333
    assert is_well_formed(features, image, extractor)
    assert features.places[:, :3].tolist() == [[x, y, size] for _, y, x, size, *_ in expected]
    assert np.allclose(features.places[:, 3], [np.radians(row[4]) for row in expected], atol=1e-5)
    for row, descriptor in zip(expected, features.descriptors, strict=True):
        total = sum(row[5])
        assert np.allclose(descriptor, [(value / total) ** 0.5 for value in row[5]], atol=1e-6)


def test_angles_turn_with_the_image() -> None:
    image = texture(2, (256, 256))
    turned = np.ascontiguousarray(np.rot90(image, -1))  # a quarter clockwise, as seen: (x, y) goes to (255 - y, x)
    before, after = opened("rootsift", features=300).extract([image, turned])
    expected = np.stack([255 - before.places[:, 1], before.places[:, 0]], axis=1)
    far = np.linalg.norm(expected[:, None] - after.places[None, :, :2], axis=2)
    nearest = far.argmin(axis=1)
    # OpenCV enlarges an image from its upper left corner, which shifts places by half a pixel of the enlarged one.
    there = far[np.arange(len(nearest)), nearest] < 1.5
    assert there.mean() > 0.8
    turns = (after.places[nearest, 3] - before.places[:, 3])[there] % (2 * np.pi)
    assert np.median(turns) == pytest.approx(np.pi / 2, abs=0.02)
    cosines = np.einsum("nd,nd->n", before.descriptors, after.descriptors[nearest])[there]
    assert np.median(cosines) > 0.95


def test_a_place_may_have_several_orientations() -> None:
    (features,) = opened("rootsift", features=2048).extract([texture(1)])
    places = [tuple(place) for place in features.places[:, :2].tolist()]
    assert len(set(places)) < len(places)
    assert len({tuple(place) for place in features.places.tolist()}) == len(places)


def test_rootsift_of_an_image_depends_on_nothing_else() -> None:
    images = [texture(seed) for seed in range(3)]
    extractor = opened("rootsift")
    together = extractor.extract(images)
    threads = cv2.getNumThreads()
    try:
        for count in (1, 4):
            cv2.setNumThreads(count)
            assert all(same(extractor.extract([i])[0], f) for i, f in zip(images, together, strict=True))
    finally:
        cv2.setNumThreads(threads)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (7, 7), (8, 200)])
@pytest.mark.parametrize("name", ["rootsift", "superpoint"])
def test_tiny_and_flat_images_have_no_or_few_features(
    name: str, size: tuple[int, int], request: pytest.FixtureRequest
) -> None:
    extractor = opened(name, request.getfixturevalue("superpoint_folder") if name == "superpoint" else None)
    images = [np.full((*size, 3), 200, np.uint8), texture(3, size)]
    for image, features in zip(images, extractor.extract(images), strict=True):
        assert is_well_formed(features, image, extractor)
    assert name == "superpoint" or not len(extractor.extract(images[:1])[0].places)


def test_what_rootsift_says_of_itself() -> None:
    extractor = opened("rootsift")
    assert (extractor.dimensions, extractor.signed, extractor.oriented, extractor.min_cosine) == (
        128,
        False,
        True,
        0.85,
    )
    assert extractor.extract([]) == []


# SuperPoint


@pytest.fixture(scope="module")
def superpoint_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small SuperPoint whose weights are large enough that it sees something."""
    import torch
    from transformers import SuperPointConfig, SuperPointForKeypointDetection

    config = SuperPointConfig(
        encoder_hidden_sizes=[8, 8, 16, 16], decoder_hidden_size=16, descriptor_decoder_dim=32, keypoint_threshold=0.02
    )
    network = SuperPointForKeypointDetection(config)
    random = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        spread = 1.6 / parameter[0].numel() ** 0.5 if parameter.ndim > 1 else 0.1
        parameter.data = spread * torch.randn(parameter.shape, generator=random)
    folder = tmp_path_factory.mktemp("superpoint")
    network.save_pretrained(folder)
    return folder


def test_superpoint_is_the_networks_own_forward_within_all_four_borders(superpoint_folder: Path) -> None:
    import torch
    from transformers import SuperPointForKeypointDetection

    network = SuperPointForKeypointDetection.from_pretrained(superpoint_folder).eval()
    extractor = opened("superpoint", superpoint_folder, features=2048)
    images = [texture(seed, size) for seed, size in enumerate(SIZES)]
    few = opened("superpoint", superpoint_folder, features=60).extract(images)
    assert [len(features.places) for features in few] == [60] * len(images)
    for image, features in zip(images, extractor.extract(images), strict=True):
        height, width = image.shape[:2]
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        with torch.inference_mode():
            found = network(torch.from_numpy(np.stack([grey] * 3)[None]))
        places = np.rint(found.keypoints[0].numpy() * [width, height])
        inside = (places[:, 0] < width // 8 * 8 - 4) & (places[:, 1] < height // 8 * 8 - 4)
        order = np.argsort(-found.scores[0].numpy()[inside], kind="stable")
        assert 60 < inside.sum() < len(inside)
        assert is_well_formed(features, image, extractor)
        assert (features.places[:, :2] == places[inside][order]).all()
        assert (features.places[:, 2:] == [1, 0]).all()
        assert np.allclose(features.descriptors, found.descriptors[0].numpy()[inside][order], atol=1e-5)


def test_superpoint_of_an_image_depends_on_nothing_else(superpoint_folder: Path) -> None:
    images = [texture(seed, size) for seed, size in enumerate(SIZES)]
    extractor = opened("superpoint", superpoint_folder)
    together = extractor.extract(images)
    assert all(same(extractor.extract([i])[0], f) for i, f in zip(images, together, strict=True))
    assert all(same(f, g) for f, g in zip(extractor.extract(images[::-1]), together[::-1], strict=True))


def test_images_of_one_size_pass_together(superpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = [texture(seed, size) for seed, size in enumerate(SIZES)]
    extractor = opened("superpoint", superpoint_folder)
    alone = extractor.extract(images)
    monkeypatch.setitem(superpoint.FORWARD, "cpu", 16)
    for one, other in zip(alone, extractor.extract(images), strict=True):
        assert (one.width, one.height) == (other.width, other.height)
        assert np.allclose(one.places, other.places)
        assert np.allclose(one.descriptors, other.descriptors, atol=1e-4)


def test_superpoints_version_is_of_its_weights(superpoint_folder: Path, tmp_path: Path) -> None:
    first = opened("superpoint", superpoint_folder)
    assert (first.dimensions, first.signed, first.oriented, first.min_cosine) == (32, True, False, 0.755)
    copied = tmp_path / "copied"
    shutil.copytree(superpoint_folder, copied)
    (copied / "README.md").write_text("nothing to do with its features")
    assert opened("superpoint", copied).version == first.version
    weights = copied / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert opened("superpoint", copied).version != first.version


def _without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def _of_another_network(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "resnet"}))


def _of_too_many_dimensions(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"descriptor_decoder_dim": MAX_DIMENSIONS + 1}))


def _without_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def _without_some_tensors(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    tensors.pop("encoder.conv_blocks.0.conv_a.weight")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_without_config, "config.json cannot be read"),
        (_of_another_network, "found a resnet"),
        (_of_too_many_dimensions, "of 257"),
        (_without_weights, "cannot be loaded"),
        (_cut, "cannot be loaded"),
        (_without_some_tensors, r"lacks 1 tensors, the first encoder\.conv_blocks\.0\.conv_a\.weight"),
    ],
)
def test_weights_that_are_not_superpoints_are_named(
    spoil: Callable[[Path], None], said: str, superpoint_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(superpoint_folder, folder)
    spoil(folder)
    with pytest.raises(ExtractorError, match=said) as error:
        opened("superpoint", folder).extract([texture(0, SIZES[0])])
    assert str(folder) in str(error.value)


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for module in ("nobody/no-such-network", "../not a folder"):
        with pytest.raises(ExtractorError, match="no such folder, and the hub does not give it") as error:
            opened("superpoint", module)
        assert "\n" not in str(error.value)


# DeLF


@pytest.fixture(scope="module")
def delf_folder(save_delf: Callable[..., Path]) -> Path:
    return save_delf()


def test_delf_gives_what_its_module_finds(delf_folder: Path) -> None:
    extractor = opened("delf", delf_folder, features=50)
    images = [texture(seed, size) for seed, size in enumerate(((128, 160), (96, 400)))]
    weights = np.random.default_rng(0).normal(size=(3, 40)).astype(np.float32)
    for image, features in zip(images, extractor.extract(images), strict=True):
        height, width = image.shape[0] // 16, image.shape[1] // 16
        cells = image[: 16 * height, : 16 * width].reshape(height, 16, width, 16, 3).mean(axis=(1, 3)) / 255
        brightness = cells.sum(axis=2)
        order = np.argsort(-brightness.ravel(), kind="stable")[:50]
        y, x = np.divmod(order, width)
        assert is_well_formed(features, image, extractor)
        assert len(features.places) == 50
        # Cells that are as bright as one another up to float noise may change places.
        gained = brightness[
            ((features.places[:, 1] - 7.5) / 16).astype(int), ((features.places[:, 0] - 7.5) / 16).astype(int)
        ]
        assert np.allclose(gained, brightness.ravel()[order], atol=1e-5)
        assert (features.places[:, :2] == np.stack([16 * x + 7.5, 16 * y + 7.5], axis=1)).all(axis=1).mean() > 0.9
        assert (features.places[:, 2:] == [1, 0]).all()
        rows, columns = ((features.places[:, [1, 0]].T - 7.5) / 16).astype(int)
        expected = cells[rows, columns] @ weights + 0.5
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        assert np.allclose(features.descriptors, expected, atol=1e-4)
    assert same(extractor.extract(images[:1])[0], extractor.extract(images)[0])


def test_the_format_that_delf_was_published_in_is_taken(tmp_path: Path) -> None:
    pytest.importorskip("tensorflow_hub")
    import tensorflow as tf

    v1, folder = tf.compat.v1, str(tmp_path / "module")
    with tf.Graph().as_default(), v1.Session() as session:
        inputs = {
            "image": v1.placeholder(tf.float32, [None, None, 3]),
            "score_threshold": v1.placeholder(tf.float32, []),
            "image_scales": v1.placeholder(tf.float32, [None]),
            "max_feature_num": v1.placeholder(tf.int32, []),
        }
        cells = tf.reshape(tf.nn.avg_pool2d(inputs["image"][None], 16, 16, "VALID"), [-1, 3])
        cells = cells[: inputs["max_feature_num"]] + inputs["score_threshold"] * tf.reduce_sum(inputs["image_scales"])
        weights = v1.get_variable("weights", initializer=np.ones((3, 40), np.float32))
        session.run(v1.global_variables_initializer())
        outputs = {"locations": cells[:, :2], "descriptors": cells @ weights, "attention": cells[:, 2]}
        info = v1.saved_model.build_tensor_info
        definition = v1.saved_model.build_signature_def(
            {name: info(tensor) for name, tensor in inputs.items()},
            {name: info(tensor) for name, tensor in outputs.items()},
        )
        builder = v1.saved_model.Builder(folder)
        builder.add_meta_graph_and_variables(session, [], {"default": definition})
        builder.save()
    Path(folder, "tfhub_module.pb").write_bytes(b"\x08\x03")  # TF1-Hub's mark: format 3
    image = texture(0, (128, 160))
    (features,) = opened("delf", folder, features=50).extract([image])
    red, green, _ = image[:16, :16].reshape(-1, 3).mean(axis=0) / 255
    scales = 100 * np.sum([0.25, 0.3536, 0.5, 0.7071, 1, 1.4142, 2])
    assert np.allclose(features.places[0, :2], [green + scales, red + scales], atol=1e-3)
    assert np.allclose(features.descriptors, 40**-0.5)
    assert len(features.places) == 50


def test_delf_asks_with_the_published_values(delf_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    extractor = opened("delf", delf_folder, features=50)
    dark = np.full((64, 64, 3), 4, np.uint8)  # scores 1000 · 3 · 4/255 · 2 = 94, below 100
    assert [len(f.places) for f in extractor.extract([dark, dark + 1])] == [0, 16]
    assert delf.IMAGE_SCALES == (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)


def test_an_image_that_delf_refuses_is_a_value_error(delf_folder: Path) -> None:
    with pytest.raises(ValueError, match="DeLF's module refuses it"):
        opened("delf", delf_folder).extract([texture(0, (8, 64))])


def test_delfs_version_is_of_its_files(delf_folder: Path, tmp_path: Path) -> None:
    first = opened("delf", delf_folder)
    assert (first.dimensions, first.signed, first.oriented, first.min_cosine) == (40, True, False, 0.68)
    copied = tmp_path / "copied"
    shutil.copytree(delf_folder, copied)
    assert opened("delf", copied).version == first.version
    next((copied / "variables").glob("*.index")).write_bytes(b"other")
    assert opened("delf", copied).version != first.version
    assert opened("delf").version == "delf 1, https://tfhub.dev/google/delf/1"
    assert opened("delf", "https://example.org/delf/2").version == "delf 1, https://example.org/delf/2"


def test_a_module_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExtractorError, match="no such folder"):
        opened("delf", tmp_path / "absent")


@pytest.mark.parametrize("spoil", ["empty", "not a model", "no variables"])
def test_a_module_that_cannot_be_loaded_is_one_line(spoil: str, delf_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "module"
    if spoil == "no variables":
        shutil.copytree(delf_folder, folder)
        shutil.rmtree(folder / "variables")
    else:
        folder.mkdir()
    if spoil == "not a model":
        (folder / "saved_model.pb").write_bytes(b"hello")
    with pytest.raises(ExtractorError, match="cannot be loaded") as error:
        opened("delf", folder).extract([texture(0)])
    assert str(folder) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"signature": "serving_default"}, r"has the signatures \['serving_default'\], expected one called 'default'"),
        ({"outputs": ("boxes", "features")}, r"gives \['boxes', 'features'\], expected"),
        ({"obeys": False}, r"at most 60 locations .* found \[192, 2\] and \[192, 40\]"),
        ({"dimensions": 41}, r"descriptors \[N, 40\], found \[60, 2\] and \[60, 41\]"),
    ],
)
def test_a_module_of_another_signature_is_named(
    changed: dict[str, Any], said: str, save_delf: Callable[..., Path]
) -> None:
    folder = save_delf(**changed)
    with pytest.raises(ExtractorError, match=said) as error:
        opened("delf", folder).extract([texture(0)])
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("absent", ["tensorflow", "tensorflow_hub"])
def test_without_tensorflow_the_extra_is_named(
    absent: str, delf_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = importlib.import_module

    def without(name: str) -> Any:
        if name == absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return usual(name)

    monkeypatch.setattr(delf.importlib, "import_module", without)
    fresh = tmp_path / "module"  # which no earlier test has loaded
    shutil.copytree(delf_folder, fresh)
    extractor = opened("delf", fresh)
    with pytest.raises(ExtractorError, match=rf"No module named '{absent}'.*pip install 'glr-assets\[delf\]'"):
        extractor.extract([texture(0)])


@pytest.mark.parametrize("name", ["delf", "superpoint"])
def test_a_gpu_that_is_not_there_is_named(name: str, request: pytest.FixtureRequest) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    folder = request.getfixturevalue(f"{name}_folder")
    with pytest.raises(ExtractorError, match='device "cuda": no GPU'):
        opened(name, folder, device="cuda").extract([texture(0)])
    assert len(opened(name, folder, device="auto").extract([texture(0)])) == 1
