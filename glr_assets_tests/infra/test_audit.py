"""What the audit says of pip-audit's reports, and of none."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import pytest

from glr_assets_tests.infra.cluster import ROOT


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit", ROOT / "infra" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["audit"] = module  # pydantic looks its annotations up there
    spec.loader.exec_module(module)
    return module


GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {
    "name": "b",
    "version": "2",
    "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"], "aliases": [], "description": ""}],
}
SKIPPED = {"name": "c", "skip_reason": "not found on PyPI"}


@pytest.mark.parametrize(
    ("found", "required", "status", "line"),
    [
        ([GOOD], True, 0, "1 of 1 pins audited, 0 vulnerabilities"),
        ([GOOD, BAD], False, 1, "b 2: PYSEC-1, mended in 3"),
        ([GOOD, SKIPPED], False, 0, "NOT AUDITED: 1, the first: not found on PyPI"),
        ([GOOD, SKIPPED], True, 1, "1 of 2 pins audited, 0 vulnerabilities"),
    ],
)
def test_reports(audit: ModuleType, found: list[dict], required: bool, status: int, line: str) -> None:
    given, lines = audit.told(audit.Report.model_validate({"dependencies": found}), required)
    assert given == status
    assert line in lines


def test_what_cannot_be_asked_is_not_called_good(audit: ModuleType) -> None:
    assert audit.told("no connection", required=False) == (0, ["NOT AUDITED: pip-audit cannot ask: no connection"])
    assert audit.told("no connection", required=True)[0] == 1
