"""A small store with all that is served, made once, and the service over it, in this process or on a socket."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from glr_assets.images.reader import ImageReader
from glr_assets.packing.pack import pack
from glr_assets.recipes import load_recipe
from glr_assets.retrieval.submission import make_submission
from glr_assets.serving.app import Service, build_service
from glr_assets.serving.decoder_pool import DecoderPool
from glr_assets.serving.limits import Limits
from glr_assets.serving.live import Live
from glr_assets.serving.security import Access
from glr_assets.serving.server import config
from glr_assets.serving.sockets import listen
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets_tests.lineage import Lineage, curate, embed, index, write_pooling_embedder, write_recipe

Build = Callable[..., TestClient]
MakeService = Callable[..., Service]


class Served(Lineage):
    """It has all that is served."""

    def photos(self) -> dict[str, bytes]:
        """The stored test photographs by id."""
        reader = ImageReader.of_split(self.store, "test")
        return {image_id: reader.read(image_id) for image_id in reader.ids}

    def index_again(self, **retrieval: object) -> None:
        """Make the index by another recipe."""
        changed = self.recipe.overridden({"retrieval": retrieval})
        index(self.source, self.store, changed)


@pytest.fixture(scope="session")
def sharp_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder `<landmark>/<number>.jpg` of 4 x 6 photographs with details that those of a landmark have in common."""
    root = tmp_path_factory.mktemp("sharp")
    for number, name in enumerate(("Alder Tower", "Bell Gate", "Corn Exchange", "Dial House")):
        large, details = mosaic((5, 4), number, "large"), mosaic((54, 42), number, "details")
        (root / name).mkdir()
        for photo in range(6):
            own = np.random.default_rng([photo, number])
            # Not so alike that one is left of them as near-duplicates.
            apart = mosaic((9, 8), 100 * number + photo, "photo")
            light = 0.45 * large + 0.25 * apart + 0.3 * details + own.normal(0, 6, large.shape)
            left, top = own.integers(0, 24, 2)
            pixels = np.clip(light, 0, 255).astype(np.uint8)[top : top + 400, left : left + 500]
            Image.fromarray(pixels).save(root / name / f"{photo:02d}.jpg", quality=92)
    return root


def mosaic(cells: tuple[int, int], number: int, what: str) -> np.ndarray:
    random = np.random.default_rng([len(what), number])
    grid = Image.fromarray(random.integers(0, 256, (cells[1], cells[0], 3), dtype=np.uint8))
    return np.asarray(grid.resize((524, 424), Image.Resampling.BICUBIC), dtype=np.float64)


@pytest.fixture(scope="session")
def sharp_bucket(sharp_photos: Path, non_landmarks: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    target = str(tmp_path_factory.mktemp("packed") / "bucket")
    pack(
        sharp_photos,
        Store(target),
        non_landmarks=non_landmarks,
        shards=2,
        clean_fraction=0.8,
        seed=1728,
        warn=pytest.fail,
    )
    return target


@pytest.fixture(scope="session")
def served_once(sharp_bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Served:
    folder = tmp_path_factory.mktemp("served")
    recipe = load_recipe(str(write_recipe(folder / "quick.toml", write_pooling_embedder(folder / "grid.pt"))))
    source, store = open_source(sharp_bucket), Store(str(folder / "store"))
    served = Served(source, store, recipe)
    curate(source, store, recipe)
    embed(source, store, recipe)
    index(source, store, recipe)
    make_submission(source, store, recipe)
    return served


@pytest.fixture
def served(served_once: Served, tmp_path: Path) -> Served:
    """A copy that a test may change."""
    return served_once.copied(tmp_path / "copy")


@pytest.fixture(scope="session")
def live(served_once: Served) -> Live:
    found = Live(served_once.store)
    assert found.refresh()
    return found


@pytest.fixture(scope="session")
def decoders() -> Iterator[DecoderPool]:
    pool = DecoderPool()
    pool.start()
    yield pool
    pool.close()


@pytest.fixture(scope="session")
def make_service(decoders: DecoderPool) -> MakeService:
    """`build_service` with decoders that run already."""
    return partial(build_service, decoders=decoders)


@pytest.fixture
def build(live: Live, make_service: MakeService) -> Iterator[Build]:
    """Makes a client in this process of a service of these limits and that access."""
    made: list[Service] = []

    def client(limits: Limits | None = None, access: Access | None = None, of: Live | None = None) -> TestClient:
        made.append(make_service(of or live, limits, access))
        return TestClient(made[-1], base_url="http://127.0.0.1:8000", raise_server_exceptions=False)

    yield client
    for service in made:
        service.close()


@pytest.fixture
def client(build: Build) -> TestClient:
    return build()


@pytest.fixture(scope="session")
def photo(sharp_photos: Path) -> bytes:
    """A photograph of a landmark, larger than what is stored of it."""
    return min(sharp_photos.glob("*/*.jpg")).read_bytes()


@pytest.fixture
def listening() -> Callable[..., object]:
    """A context in which a service listens on loopback; gives its port."""

    @contextmanager
    def running(service: Service) -> Iterator[int]:
        server = uvicorn.Server(config(service, log_level="error"))
        (listener,) = listen("127.0.0.1", 0)
        thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        try:
            yield listener.getsockname()[1]
        finally:
            server.should_exit = True
            thread.join()

    return running


def encoded(kind: str = "JPEG", size: tuple[int, int] = (320, 240), seed: int = 0) -> bytes:
    """A made-up photograph in a format."""
    coarse = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, kind)
    return file.getvalue()
