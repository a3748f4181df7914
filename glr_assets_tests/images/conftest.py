"""Real photographs, where the checkout has the project's shared folder beside it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_photos() -> Path:
    folder = Path(__file__).resolve().parents[2].parent / "shared" / "photos"
    if not folder.is_dir():
        pytest.skip(f"no photographs: {folder} is not there")
    return folder
