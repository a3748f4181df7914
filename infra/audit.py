"""Ask the advisory database of PyPI about every version in infra/constraints.txt: `make audit`.

Exit status 1 where something has a known vulnerability. Where the database cannot be asked, as behind a mirror that
has packages alone, pip-audit counts that as nothing found: here it is said, and with GLR_AUDIT=required it fails.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from pydantic import BaseModel

CONSTRAINTS = Path(__file__).with_name("constraints.txt")


class Vulnerability(BaseModel):
    """An advisory, and the versions that mend it."""

    id: str
    fix_versions: list[str]


class Dependency(BaseModel):
    """What pip-audit found of one pin; of one that it could not ask about, why."""

    name: str
    version: str | None = None
    vulns: list[Vulnerability] = []
    skip_reason: str | None = None


class Report(BaseModel):
    """The JSON that pip-audit writes."""

    dependencies: list[Dependency]


def audit(constraints: Path) -> Report | str:
    """What pip-audit reports, or in words why it reports nothing."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        options = [
            "--no-deps",
            "--disable-pip",
            "--progress-spinner",
            "off",
            "--format",
            "json",
            "--output",
            str(report),
        ]
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(constraints), *options]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not report.exists():
            return (done.stderr.strip().splitlines() or ["it says nothing"])[-1]
        return Report.model_validate(json.loads(report.read_text()))


def told(report: Report | str, required: bool) -> tuple[int, list[str]]:
    """The exit status and what to print."""
    if isinstance(report, str):
        return int(required), [f"NOT AUDITED: pip-audit cannot ask: {report}"]
    skipped = [one for one in report.dependencies if one.skip_reason]
    bad = [
        f"{one.name} {one.version}: {found.id}, mended in {', '.join(found.fix_versions) or 'no version'}"
        for one in report.dependencies
        for found in one.vulns
    ]
    asked = len(report.dependencies) - len(skipped)
    lines = [*bad, f"{asked} of {len(report.dependencies)} pins audited, {len(bad)} vulnerabilities"]
    if skipped:
        lines.append(f"NOT AUDITED: {len(skipped)}, the first: {skipped[0].skip_reason}")
    return int(bool(bad) or (required and bool(skipped))), lines


if __name__ == "__main__":
    status, lines = told(audit(CONSTRAINTS), os.environ.get("GLR_AUDIT") == "required")
    print("\n".join(lines))
    sys.exit(status)
