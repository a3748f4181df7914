"""The image's install steps on a bare Debian, where no container engine is needed: debootstrap and chroot."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glr_assets_tests.infra.cluster import ROOT, found

pytestmark = pytest.mark.slow
RELEASE = "bookworm"
CHECK = """
import os, shutil
from glr_assets import clusters
from glr_assets.codecs import turbojpeg
assert turbojpeg._library()
for location in (clusters.celery, clusters.kubernetes):
    assert len(location().resolve_asset_graph().get_all_asset_keys()) > 40
assert os.getuid() == 10001
for program in ("dagster-webserver", "dagster-daemon", "celery", "glr", "pg_dump"):
    assert shutil.which(program), program
print("ready", open("/opt/dagster/dagster.yaml").readline().strip())
"""


def pip_settings() -> dict[str, str]:
    """What pip is told on this machine, as the environment tells it."""
    told = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True, check=True
    ).stdout
    found = re.findall(r"(?m)^(?:global|user|site|install|:env:)\.([\w-]+)='(.*)'$", told)
    return {f"PIP_{name.upper().replace('-', '_')}": value.replace("\\n", " ").strip() for name, value in found}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if os.geteuid() != 0:
        pytest.skip("only root can make a root of its own")
    folder = tmp_path_factory.mktemp("bare") / "root"
    done = subprocess.run(
        [found("debootstrap", "debootstrap"), "--variant=minbase", RELEASE, str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip(f"debootstrap cannot fetch {RELEASE}: {done.stdout[-300:]}")
    for name in ("pyproject.toml", "README.md"):
        (folder / "src").mkdir(exist_ok=True)
        shutil.copy(ROOT / name, folder / "src")
    for name in ("glr_assets", "infra"):
        shutil.copytree(ROOT / name, folder / "src" / name, ignore=shutil.ignore_patterns("__pycache__"))
    return folder


def in_root(
    root: Path, command: str, user: str = "root", *, packages: bool = False
) -> subprocess.CompletedProcess[str]:
    """Run a command there, if asked with this machine's sources of packages, in a mount namespace that ends with it."""
    settings = pip_settings() if packages else {}
    paths = re.findall(r"(?:^|\s|file://)(/[^\s]+)", " ".join(settings.values()))
    mounts = ["mount -t proc proc {root}/proc", "mount --rbind /dev {root}/dev"]
    for path in sorted({*paths, "/etc/resolv.conf"}):
        real = Path(path).parent if path.endswith("/simple") else Path(path)
        if not real.exists():
            continue
        place = root / str(real).lstrip("/")
        if real.is_dir():
            place.mkdir(parents=True, exist_ok=True)
        else:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.touch()
        mounts.append(f"mount --bind {shlex.quote(str(real))} {shlex.quote(str(place))}")
    environment = {
        "PATH": "/opt/glr/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "HOME": "/root",
        "NUMBA_CACHE_DIR": "/tmp/numba",
    }
    environment |= {name: value for name, value in os.environ.items() if name.lower().endswith("_proxy")}
    given = shlex.join(f"{name}={value}" for name, value in (environment | settings).items())
    chroot = f"exec chroot --userspec={user} {shlex.quote(str(root))} env -i {given} sh -c {shlex.quote(command)}"
    script = " && ".join([*(line.format(root=shlex.quote(str(root))) for line in mounts), chroot])
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_install_steps_end_in_a_code_location_that_loads(root: Path) -> None:
    # Apart, since certificates that are lent for pip's sake are none that Debian's packages could set up.
    for part in ("system", "python", "user"):
        done = in_root(root, f"/src/infra/docker/install.sh {part}", packages=part == "python")
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    ready = in_root(
        root, f"cd /opt/dagster && DAGSTER_HOME=/opt/dagster python -W ignore -c {shlex.quote(CHECK)}", "glr"
    )
    assert ready.returncode == 0, ready.stderr[-3000:]
    assert ready.stdout.startswith("ready # The instance of a team")
    # What is installed is what is pinned.
    frozen = in_root(root, "python -m pip freeze --exclude glr-assets").stdout
    pinned = set((ROOT / "infra" / "constraints.txt").read_text().splitlines())
    names = {line.split("==")[0].lower() for line in pinned}
    for line in frozen.splitlines():
        name, _, version = line.partition("==")
        line = f"{name.lower().replace('_', '-').replace('.', '-')}=={version.split('+')[0]}"
        assert line in pinned or line.split("==")[0] not in names, line


def test_an_unknown_part_is_refused(root: Path) -> None:
    refused = in_root(root, "/src/infra/docker/install.sh everything")
    assert refused.returncode == 2
    assert "everything: expected system, python or user" in refused.stderr
