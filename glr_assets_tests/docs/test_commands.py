"""Commands of the documentation, run as written where they are safe."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest
import yaml
from typer.testing import CliRunner

from glr_assets.cli import app
from glr_assets.defs.build import build_definitions
from glr_assets.defs.explain import explain_images
from glr_assets.recipes import load_recipe
from glr_assets.store import Store
from glr_assets_tests.lineage import digests
from glr_assets_tests.test_mirror import made

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]

Line = Callable[[str], subprocess.CompletedProcess[str]]


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def shell_lines(path: Path) -> list[str]:
    """Every line of a page's blocks for a shell, without comments and prompts."""
    found = re.findall(r"```(?:sh|bash|console)\n(.*?)```", path.read_text(), re.DOTALL)
    lines = [re.sub(r"(^|\s+)#\s.*", "", line).removeprefix("$ ") for block in found for line in block.splitlines()]
    return [line for line in lines if line]


def command_of(line: str) -> str:
    """The command that a line is of, without `glr`; fails as `glr` would on an option that it lacks."""
    words = shlex.split(line, comments=True)[1:]
    done = CliRunner().invoke(app, [*words, "--help"], prog_name="glr", env={"COLUMNS": "200", "NO_COLOR": "1"})
    if done.exit_code:
        pytest.fail(f"{line}: {done.output}")
    found = re.search(r"Usage: glr ([a-z ]+)", done.output)
    assert found, done.output
    return found[1].strip()


def test_the_launchpad_of_the_tour_is_a_valid_override() -> None:
    override, forced, explained = blocks("tour.md", "yaml")
    ops = yaml.safe_load(override)["ops"]
    for op in ops.values():
        for name in ("small", "full"):
            assert load_recipe(name).overridden(op["config"])
    assert dg.validate_run_config(build_definitions().resolve_implicit_global_asset_job_def(), yaml.safe_load(forced))
    assert dg.validate_run_config(explain_images, yaml.safe_load(explained))


def test_the_selections_of_the_page_on_the_ui_select_something() -> None:
    graph = build_definitions().resolve_asset_graph()
    selections = re.findall(r"^\| `([^`]*(?:key|group):[^`]+)` \|", (DOCS / "ui.md").read_text(), re.MULTILINE)
    assert len(selections) >= 4
    for text in selections:
        selected = dg.AssetSelection.from_string(text).resolve(graph)
        assert 0 < len(selected) < len(graph.get_all_asset_keys()), text


def test_every_command_of_the_pages_has_its_options() -> None:
    program = re.compile(r"(\.venv/bin/)?glr [a-z]")
    seen = set()
    for page in PAGES:
        inline = re.findall(r"`([^`\n]+)`", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL))
        for line in filter(program.match, [*shell_lines(page), *inline]):
            seen.add(command_of(line))
    assert {"pack", "demo", "dev", "why", "shards retry", "export", "models", "serve", "score"} <= seen
    with pytest.raises(pytest.fail.Exception, match="No such option"):
        command_of("glr pack photos bucket --shard 3")


def test_files_and_targets_that_the_pages_name_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        for line in shell_lines(page):
            for name in re.findall(r"\binfra/[\w./-]+", line):
                assert (ROOT / name).exists() or name == "infra/.env", (page, line)
            if line.startswith("make "):
                assert set(re.split(r" && ", line)[0].split()[1:]) <= targets, (page, line)
            for module in re.findall(r"-m (glr_assets[\w.]+)", line):
                assert (ROOT / f"{module.replace('.', '/')}.py").exists(), (page, line)
        for name in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / name).exists(), (page, name)


@pytest.fixture
def run(tmp_path: Path, photos: Path, non_landmarks: Path):  # type: ignore[no-untyped-def]
    """Runs a line in a folder with `photos` and `others`, as a shell with the environment's programs on its path."""
    shutil.copytree(photos, tmp_path / "photos")
    shutil.copytree(non_landmarks, tmp_path / "others")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLR_", "DAGSTER_"))}
    kept |= {"PATH": f"{Path(sys.executable).parent}:{kept['PATH']}", "OMP_NUM_THREADS": "1"}

    def line(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "-euc", text], cwd=tmp_path, env=kept, capture_output=True, text=True, check=False, timeout=600
        )

    return line


def commands(page: str) -> list[str]:
    return [line for block in blocks(page, "sh") for line in block.splitlines() if line and not line.startswith("#")]


def test_packing_as_the_page_says(run) -> None:  # type: ignore[no-untyped-def]
    lines = [line for line in commands("own_photographs.md") if line.startswith("glr pack ")]
    assert len(lines) == 3
    for line in lines:
        done = run(line)
        assert done.returncode == 0, (line, done.stderr)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder like a checkout after `make setup`, with an instance of its own."""
    folder = tmp_path / "checkout"
    folder.mkdir()
    for name in ("glr_assets", "infra", "workspace.yaml", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    (folder / ".venv").symlink_to(sys.prefix)
    (folder / ".dagster").mkdir()
    shutil.copy(ROOT / "infra" / "laptop" / "dagster.yaml", folder / ".dagster")
    return folder


def in_checkout(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    """Run a block of a page in a checkout, as a fresh shell would."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("GLR_", "DAGSTER_", "PYTHON"))}
    kept["PATH"] = "/usr/local/bin:/usr/bin:/bin"
    return subprocess.run(
        ["bash", "-euc", text], cwd=folder, env=kept, capture_output=True, text=True, check=False, timeout=1800
    )


def test_backup_and_restore_as_the_page_says(checkout: Path, tmp_path: Path) -> None:
    (block,) = (block for block in blocks("deploy.md", "bash") if "export DAGSTER_HOME" in block)
    made(Store(str(checkout / "data")), "train_manifest", "a")
    before = digests(checkout / "data")
    done = in_checkout(checkout, block.replace("/backups/", f"{tmp_path}/backups/"))
    assert done.returncode == 0, done.stderr
    assert digests(tmp_path / "backups" / "today" / "store") == before
    shutil.rmtree(checkout / "data")
    (setting, _, _, restore) = block.strip().splitlines()
    done = in_checkout(checkout, "\n".join((setting, restore)).replace("/backups/", f"{tmp_path}/backups/"))
    assert done.returncode == 0, done.stderr
    assert digests(checkout / "data") == before


@pytest.mark.slow
def test_the_switch_is_turned_on_as_the_page_says(checkout: Path) -> None:
    (block,) = (block for block in blocks("operate.md", "sh") if block.startswith("make setup "))
    lines = block.splitlines()
    assert lines[0].startswith("make setup ")
    done = in_checkout(checkout, "\n".join(lines[1:]))
    assert done.returncode == 0, done.stderr
    with dg.DagsterInstance.from_config(str(checkout / ".dagster")) as instance:
        states = {state.instigator_name for state in instance.all_instigator_state() if state.is_running}
    assert states == {"automation"}


@pytest.mark.slow
def test_the_year_as_the_page_says(run, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    lines = [line for line in commands("own_photographs.md") if not line.startswith(("glr dev", "glr serve"))]
    for number, line in enumerate(lines):
        if number == 4:  # before the second pack: a wrong label corrected, photographs added, one removed
            landmark, other = sorted((tmp_path / "photos").iterdir())[:2]
            (landmark / "01.jpg").rename(other / "from_elsewhere.jpg")
            shutil.copy(landmark / "02.jpg", landmark / "added.jpg")
            (landmark / "03.jpg").unlink()
        done = run(line)
        assert done.returncode == 0, (line, done.stderr)
    gone = run("glr why photos/never.jpg --store my-store")
    assert gone.returncode == 1
    assert run("glr why from_elsewhere.jpg --store my-store").returncode == 0
    assert run(f"glr why '{landmark.name}/03.jpg' --store my-store").returncode == 1
