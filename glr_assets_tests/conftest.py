"""Fixtures of every test: generated photographs, the bucket packed of them, an empty store."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glr_assets.source.pack import pack
from glr_assets.store import Store


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for landmark in range(4):
        for number in range(8):
            rng = np.random.default_rng([landmark, number])
            coarse = rng.integers(0, 255, (6, 7, 3)).astype(np.uint8)
            path = folder / f"landmark_{landmark}" / f"photo_{number}.jpg"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(coarse).resize((460 + 4 * number, 400), Image.Resampling.BICUBIC).save(path)
    return folder


@pytest.fixture(scope="session")
def bucket(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("packed") / "bucket"
    pack(photos, Store(str(folder)), warn=print)
    return str(folder)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "store"))
