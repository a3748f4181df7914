"""What tests of every stage share: photographs, a bucket of them, an empty store and an S3 server on loopback."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

from glr_assets.packing.pack import pack
from glr_assets.store import Store
from glr_assets_tests.faulty_s3 import FaultyS3

# No test is timed; CI tries the same examples each time, and a developer's machine new ones.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")

LANDMARKS = ("Alder Tower", "Bell Gate", "Corn Exchange", "Dial House")
PHOTOS_EACH = 8
NON_LANDMARKS = 8


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test depends on the settings of the environment it is started in."""
    for name in (
        "SOURCE",
        "SOURCE_OPTIONS",
        "STORE",
        "STORE_OPTIONS",
        "OPENIMAGES",
        "OPENIMAGES_OPTIONS",
        "RECIPE",
        "SERVE_TOKEN",
        "ALERT_WEBHOOK",
        "DAGSTER_URL",
    ):
        monkeypatch.delenv(f"GLR_{name}", raising=False)
    monkeypatch.delenv("DAGSTER_HOME", raising=False)


@pytest.fixture(scope="session")
def shared_photos() -> Path:
    """Real photographs, where the checkout has the project's shared folder beside it."""
    folder = Path(__file__).resolve().parents[1].parent / "shared" / "photos"
    if not folder.is_dir():
        pytest.skip(f"no photographs: {folder} is not there")
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `<landmark>/<number>.jpg` of 4 x 8 photographs.

    Those of a landmark have their large shapes and colours in common and differ in the rest.
    """
    root = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(LANDMARKS):
        for photo in range(PHOTOS_EACH):
            _save(root / name / f"{photo:02d}.jpg", shapes=number, photo=100 * number + photo)
    return root


@pytest.fixture(scope="session")
def non_landmarks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 8 photographs that show no landmark."""
    root = tmp_path_factory.mktemp("non_landmarks")
    for number in range(NON_LANDMARKS):
        _save(root / f"{number:02d}.jpg", shapes=1000 + number, photo=1000 + number)
    return root


def _save(path: Path, shapes: int, photo: int) -> None:
    own = np.random.default_rng([1, photo])
    size = (int(own.integers(420, 500)), int(own.integers(390, 420)))
    common = _blurred(np.random.default_rng([0, shapes]), (5, 4), size)
    pixels = 0.7 * common + 0.3 * _blurred(own, (9, 8), size) + own.normal(0, 4, (size[1], size[0], 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(path, quality=90)


def _blurred(random: np.random.Generator, cells: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    grid = Image.fromarray(random.integers(0, 256, (cells[1], cells[0], 3), dtype=np.uint8))
    return np.asarray(grid.resize(size, Image.Resampling.BICUBIC), dtype=np.float64)


@pytest.fixture(scope="session")
def bucket(photos: Path, non_landmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The photographs as a GLDv2-shaped bucket in a folder; a test that changes anything works on a copy."""
    target = tmp_path_factory.mktemp("packed") / "bucket"
    warnings: list[str] = []
    # By this seed each landmark has two test queries; a fifth of what trains is there for filling.
    pack(photos, Store(str(target)), non_landmarks=non_landmarks, clean_fraction=0.8, seed=1341, warn=warnings.append)
    assert warnings == []
    return str(target)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a folder."""
    return Store(str(tmp_path / "store"))


class DiskCalls:
    """What the process asks of the file system, in its order: syncs of files and folders, names taken and given up."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def below(self, store: Store) -> list[tuple[str, str]]:
        """The calls with their paths as they lie below the root of a store."""
        return [(what, os.path.relpath(path, store.root)) for what, path in self.seen]


@pytest.fixture
def disk_calls(monkeypatch: pytest.MonkeyPatch) -> DiskCalls:
    """The calls of the test's process, recorded as they are made."""
    calls = DiskCalls()
    fsync, replace, mkdir, remove = os.fsync, os.replace, os.mkdir, os.remove

    def fsynced(descriptor: int) -> None:
        calls.seen.append(("sync", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        fsync(descriptor)

    def replaced(source: str, target: str) -> None:
        calls.seen.append(("rename", str(target)))
        replace(source, target)

    def made(path: str, *more: int) -> None:
        mkdir(path, *more)
        calls.seen.append(("mkdir", str(path)))

    def removed(path: str) -> None:
        calls.seen.append(("remove", str(path)))
        remove(path)

    for name, call in (("fsync", fsynced), ("replace", replaced), ("mkdir", made), ("remove", removed)):
        monkeypatch.setattr(os, name, call)
    return calls


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint of an S3 server on loopback."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # else a line a request in every failure
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_endpoint(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, with credentials in the environment that it accepts."""
    s3_credentials(monkeypatch)
    return s3_server


@pytest.fixture(scope="module")
def one_proxy(s3_server: str) -> Iterator[FaultyS3]:
    with FaultyS3(s3_server) as found:
        yield found


@pytest.fixture
def proxy(one_proxy: FaultyS3, s3_endpoint: str) -> FaultyS3:
    """A line that is good until it is told otherwise."""
    one_proxy.calm()
    return one_proxy


def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials in the environment, as a user of S3 has them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def free_tcp_port() -> int:
    """A port of this machine where nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def save_delf(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Saves a SavedModel with DeLF's signature, or with something in it otherwise.

    Its features are the brightest cells of 16 pixels at each scale, placed by their centres; a descriptor is 40 fixed
    projections of the cell's colours.
    """
    pytest.importorskip("tensorflow_hub")
    import tensorflow as tf

    def save(
        signature: str = "default",
        outputs: tuple[str, str] = ("locations", "descriptors"),
        dimensions: int = 40,
        obeys: bool = True,
    ) -> Path:
        class Tiny(tf.Module):
            def __init__(self) -> None:
                super().__init__()
                random = np.random.default_rng(0)
                self.weights = tf.Variable(random.normal(size=(3, dimensions)).astype(np.float32))

            @tf.function(
                input_signature=[
                    tf.TensorSpec([None, None, 3], tf.float32, "image"),
                    tf.TensorSpec([], tf.float32, "score_threshold"),
                    tf.TensorSpec([None], tf.float32, "image_scales"),
                    tf.TensorSpec([], tf.int32, "max_feature_num"),
                ]
            )
            def run(self, image: Any, score_threshold: Any, image_scales: Any, max_feature_num: Any) -> Any:
                tf.debugging.assert_greater(tf.reduce_min(tf.shape(image)[:2]), 15)
                cells = tf.nn.avg_pool2d(image[None], 16, 16, "VALID")[0]
                rows, columns = tf.shape(cells)[0], tf.shape(cells)[1]
                grid = tf.stack(tf.meshgrid(tf.range(rows), tf.range(columns), indexing="ij"), axis=2)
                centres = 16.0 * tf.cast(tf.reshape(grid, [-1, 2]), tf.float32) + 7.5
                colours = tf.reshape(cells, [-1, 3])
                scores = 1000 * tf.reduce_sum(colours, axis=1) * tf.reduce_max(image_scales)
                best = tf.argsort(scores, direction="DESCENDING", stable=True)
                best = tf.boolean_mask(best, tf.gather(scores, best) > score_threshold)[
                    : max_feature_num if obeys else 10_000
                ]
                projected = tf.gather(colours, best) @ self.weights + 0.5
                return {outputs[0]: tf.gather(centres, best), outputs[1]: projected}

        folder = tmp_path_factory.mktemp("delf") / "module"
        module = Tiny()
        tf.saved_model.save(module, str(folder), signatures={signature: module.run})
        return folder

    return save
