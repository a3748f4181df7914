"""What tests of ingest share."""

from __future__ import annotations

import pytest

from glr_assets.images import ingest


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard that is tried again is tried at once."""
    monkeypatch.setattr(ingest, "RETRY_SECONDS", 0.0)
