"""Folders, files and URLs as users give them: one meaning, whichever setting, option or recipe key they stand in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glr_assets.cli import app
from glr_assets.errors import SettingsError
from glr_assets.locations import is_local, local_path, location
from glr_assets.recipes import Recipe, load_recipe
from glr_assets.settings import Settings
from glr_assets.source import open_source
from glr_assets.store import Store


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, with the current folder another."""
    found = tmp_path / "home folder é"
    (tmp_path / "here").mkdir()
    found.mkdir()
    monkeypatch.setenv("HOME", str(found))
    monkeypatch.chdir(tmp_path / "here")
    return found


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("~", "{home}"),
        ("~/x", "{home}/x"),
        ("~/x/", "{home}/x"),
        ("~/a b/é/日本/100%/x#y", "{home}/a b/é/日本/100%/x#y"),
        ("./~", "{here}/~"),
        ("./~/x", "{here}/~/x"),
        ("x~", "{here}/x~"),
        ("x", "{here}/x"),
        ("./x/", "{here}/x"),
        ("../x", "{here}/../x"),
        ("/x/$y", "/x/$y"),
        ("x$y", "{here}/x$y"),
        ("file://~/x", "file://{home}/x"),
        ("file://~", "file://{home}"),
        ("file:///x/~/y", "file:///x/~/y"),
        ("file://x/y", "file://{here}/x/y"),
        ("file://localhost/x/y", "file:///x/y"),
        ("file://localhost", "file://{here}/localhost"),
        ("C:/x", "{here}/C:/x"),
        ("x/s3:/y", "{here}/x/s3:/y"),
        ("kaggle://~/x", "kaggle://{home}/x"),
        ("kaggle://x", "kaggle://{here}/x"),
        ("kaggle:///x", "kaggle:///x"),
        ("s3://bucket/~/x", "s3://bucket/~/x"),
        ("s3://bucket/x/", "s3://bucket/x/"),
        ("memory://~/x", "memory://~/x"),
    ],
)
def test_where_a_place_is(home: Path, given: str, expected: str) -> None:
    found = location(given)
    assert found == expected.format(home=home, here=Path.cwd())
    assert location(found) == found
    assert is_local(given) == (not given.startswith(("s3", "memory")))


@pytest.mark.parametrize(
    "given", ["$HOME", "$HOME/x", "${HOME}/x", "%USERPROFILE%/x", "file://$HOME/x", "~nobody-here/x"]
)
def test_a_place_that_is_not_what_it_says_is_refused(home: Path, given: str) -> None:
    with pytest.raises(SettingsError, match="write the path itself"):
        location(given)
    with pytest.raises(SettingsError, match=r"GLR_STORE: .*write the path itself"):
        Settings.from_environment(store=given)


def _stores(place: str) -> str:
    return Settings.from_environment(store=place).open_store().root


def _stores_from_environment(place: str) -> str:
    os.environ["GLR_STORE"] = place  # the fixture that clears the settings takes it away again
    return Settings.from_environment().open_store().root


def _sources(place: str) -> str:
    source = Settings.from_environment(source=place).source
    assert source is not None
    return source


def _openimages(place: str) -> str:
    found = Settings.from_environment(openimages=place).openimages
    assert found is not None
    return found


def _written(place: str) -> str:
    Store(place).write("a", b"x")
    (found,) = (path for path in Path.cwd().parent.rglob("a"))
    return str(found.parent)


@pytest.mark.parametrize("use", [_stores, _stores_from_environment, _sources, _openimages, _written])
def test_every_setting_takes_a_home_folder(
    home: Path, use: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLR_STORE", "")
    assert use("~/x").removeprefix("file://") == str(home / "x")
    assert list(Path.cwd().iterdir()) == []


def test_a_kaggle_folder_of_the_home_folder(home: Path) -> None:
    (home / "competition" / "train").mkdir(parents=True)
    (home / "competition" / "train.csv").write_text("id,landmark_id\n")
    for url in ("kaggle://~/competition", Settings.from_environment(source="kaggle://~/competition").source):
        assert open_source(str(url)).url == f"kaggle://{home}/competition"


def test_paths_of_recipes(home: Path) -> None:
    (home / "base.toml").write_text('base = "small"\nseed = 3\n')
    (home / "mine.toml").write_text('base = "~/base.toml"\n[embedder]\ntorchscript = "~/net.pt"\n')
    for name in ("~/mine.toml", str(home / "mine.toml"), "../home folder é/mine.toml"):
        recipe = load_recipe(name)
        assert (recipe.seed, recipe.embedder.torchscript) == (3, str(home / "net.pt"))
    found = Recipe(name="x").overridden(
        {
            "embedder": {"weights": "~/weights"},
            "groups": {"weights": "facebook/dinov2-small"},
            "filter": {"torchscript": "net.pt"},
            "verification": {"module": "~/delf"},
        }
    )
    assert found.embedder.weights == str(home / "weights")
    assert found.groups.weights == "facebook/dinov2-small"
    assert found.filter.torchscript == "net.pt"
    assert found.verification.module == str(home / "delf")
    assert Settings.from_environment(source="s3://b", recipe="~/mine.toml", openimages="s3://b").resolved.recipe == str(
        home / "mine.toml"
    )


def test_arguments_of_commands(home: Path, photos: Path, bucket: str) -> None:
    (home / "photos").symlink_to(photos)
    run = CliRunner()
    done = run.invoke(app, ["pack", "~/photos", "~/bucket", "--shards", "1"])
    assert done.exit_code == 0, done.output
    assert (home / "bucket/metadata/train.csv").exists()
    (home / "answers.csv").write_text("id,landmarks\na,1 0.5\n")
    (home / "solution.csv").write_text("id,landmarks,Usage\na,1,Public\n")
    files = ["--submission", "~/answers.csv", "--solution", "~/solution.csv", "--json", "~/made/scores.json"]
    done = run.invoke(app, ["score", "recognition", *files])
    assert done.exit_code == 0, done.output
    assert (home / "made/scores.json").exists()
    assert list(Path.cwd().iterdir()) == []
    with pytest.raises(SettingsError):
        local_path("$HOME/x")


@pytest.mark.parametrize(
    ("given", "meant"),
    [("s3:/bucket/x", "s3://bucket/x"), ("file:/x/y", "file:///x/y"), ("kaggle:/x", "kaggle:///x")],
)
def test_a_url_with_one_slash_is_no_folder(given: str, meant: str) -> None:
    with pytest.raises(SettingsError, match=f"write {meant}$"):
        location(given)
