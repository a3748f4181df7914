"""That the benchmark of `observe_roots` reports what it says, and nothing where nothing has changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from glr_assets_tests.benchmarks import roots


def test_each_change_is_reported_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(roots, "SETTLES", 0)
    found = roots.ticks(tmp_path, 3)
    events = {name: tick["events"] for name, tick in found.items() if isinstance(tick, dict) and "events" in tick}
    assert events.pop("tick 0") > 3
    changes = {"one shard changed": 1, "one shard new": 2, "one receipt changed": 1, "value changed": 1}
    assert {name: count for name, count in events.items() if count} == changes
    assert {name for name, tick in found.items() if isinstance(tick, dict) and tick.get("runs")} == {"job requested"}
    assert all(tick["cursor_bytes"] < 600 for tick in found.values() if isinstance(tick, dict) and "events" in tick)
