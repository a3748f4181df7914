"""A handmade root, and the rendered sample, written once."""

from __future__ import annotations

from pathlib import Path

import pytest

from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.openimages.sample import write_openimages_sample
from glr_assets.store import Store
from glr_assets_tests.openimages.handmade import Root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    """A root that holds nothing yet."""
    return Root(tmp_path / "openimages")


@pytest.fixture(scope="session")
def sample(tmp_path_factory: pytest.TempPathFactory) -> OpenImagesRoot:
    """The rendered sample; a test that changes anything works on a copy."""
    folder = tmp_path_factory.mktemp("openimages") / "sample"
    write_openimages_sample(Store(str(folder)))
    return OpenImagesRoot(str(folder))
