"""Write infra/constraints.txt: the versions, as installed here, of all that the project and its extra `cluster` need.

`make constraints` runs it after the tests have passed with these versions. Builds of torch differ by machine and have
one version, so versions are pinned and not hashes.
"""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HEADER = "# Written by infra/constraints.py; what images and machines install.\n"


def pins() -> dict[str, str]:
    """Name and version of every distribution that is needed; a build's local part, as in 2.13.0+cpu, is left out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cluster"]]
    todo = [Requirement(line) for line in wanted]
    seen: set[tuple[str, str]] = set()
    found: dict[str, str] = {}
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        try:
            installed = distribution(name)
        except PackageNotFoundError as error:
            raise SystemExit(f"error: {requirement} is not installed: run infra/install.sh first") from error
        found[name] = installed.version.split("+")[0]
        extras = [extra for extra in ("", *sorted(requirement.extras)) if (name, extra) not in seen]
        seen |= {(name, extra) for extra in extras}
        for line in installed.requires or ():
            below = Requirement(line)
            needed = (below.marker is None and "" in extras) or any(
                below.marker is not None and below.marker.evaluate({"extra": extra}) for extra in extras
            )
            todo += [below] if needed else []
    return found


def main() -> None:
    """Write the file."""
    lines = [f"{name}=={version}\n" for name, version in sorted(pins().items())]
    (ROOT / "infra" / "constraints.txt").write_text(HEADER + "".join(lines))


if __name__ == "__main__":
    main()
