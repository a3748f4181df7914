"""Settings: the names and defaults of the contract, read when asked, refused by name."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from glr_assets import settings as module
from glr_assets.dev import dagster_home, prepared_home
from glr_assets.errors import RecipeError, SettingsError, SourceError, StoreError
from glr_assets.settings import Settings
from glr_assets.source import BucketSource, KaggleSource


def test_the_names_and_defaults_of_the_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    plain = Settings.from_environment()
    assert plain.source is None
    assert plain.source_options == {}
    assert plain.store == str(tmp_path / "data")
    assert plain.store_options == {}
    assert plain.openimages is None
    assert plain.openimages_options == {}
    assert plain.recipe is None


def test_each_setting_has_its_name_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLR_SOURCE", "s3://photos/gldv2")
    monkeypatch.setenv("GLR_SOURCE_OPTIONS", '{"anon": true, "client_kwargs": {"region_name": "x"}}')
    monkeypatch.setenv("GLR_STORE", "s3://made/prefix")
    monkeypatch.setenv("GLR_STORE_OPTIONS", '{"endpoint_url": "http://127.0.0.1:1"}')
    monkeypatch.setenv("GLR_OPENIMAGES", "s3://labelled/openimages")
    monkeypatch.setenv("GLR_OPENIMAGES_OPTIONS", '{"anon": true}')
    monkeypatch.setenv("GLR_RECIPE", "full")
    found = Settings.from_environment()
    assert found.source == "s3://photos/gldv2"
    assert found.source_options == {"anon": True, "client_kwargs": {"region_name": "x"}}
    assert found.store == "s3://made/prefix"
    assert found.store_options == {"endpoint_url": "http://127.0.0.1:1"}
    assert (found.openimages, found.openimages_options) == ("s3://labelled/openimages", {"anon": True})
    assert found.recipe == "full"
    store = found.open_store()
    assert (store.url, store.options) == ("s3://made/prefix", found.store_options)


def test_overrides_win_where_they_are_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLR_STORE", "/from/environment")
    monkeypatch.setenv("GLR_RECIPE", "full")
    found = Settings.from_environment(store=str(tmp_path), recipe=None)
    assert found.store == str(tmp_path)
    assert found.recipe == "full"


@pytest.mark.parametrize("folder", [".", "elsewhere"])
def test_the_default_store_is_that_of_the_instance_whatever_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, folder: str
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / folder)
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "project" / ".dagster"))
    assert Settings.from_environment().store == str(tmp_path / "project" / "data")
    # An instance in a store, as `glr demo --store` makes it.
    (tmp_path / "my-store" / "runs").mkdir(parents=True)
    (tmp_path / "my-store" / "runs" / "settings.json").write_text("{}")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path / "my-store" / ".dagster"))
    assert Settings.from_environment().store == str(tmp_path / "my-store")


def test_without_dagster_home_the_instance_is_that_of_the_store_or_lies_beside_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def instance(store: str = "data") -> Path | None:
        return dagster_home(Settings.from_environment(store=str(tmp_path / store)))

    monkeypatch.chdir(tmp_path)
    assert instance() == tmp_path / "data" / ".dagster"
    # `make demo` and `make dev` set DAGSTER_HOME; a command that is typed beside them does not.
    prepared_home(tmp_path / ".dagster")
    assert dagster_home(Settings.from_environment()) == tmp_path / ".dagster"
    assert instance() == tmp_path / ".dagster"
    assert instance("my-store") == tmp_path / "my-store" / ".dagster"
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "settings.json").write_text("{}")
    assert instance() == tmp_path / "data" / ".dagster"
    (tmp_path / "runs" / "settings.json").unlink()
    prepared_home(tmp_path / "data" / ".dagster")
    assert instance() == tmp_path / "data" / ".dagster"


@pytest.mark.parametrize("blank", ["", "  "])
def test_blank_is_unset(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, blank: str) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("SOURCE", "STORE", "OPENIMAGES", "RECIPE"):
        monkeypatch.setenv(f"GLR_{name}", blank)
    monkeypatch.setenv("GLR_SOURCE_OPTIONS", "")
    monkeypatch.setenv("GLR_STORE_OPTIONS", "")
    found = Settings.from_environment()
    assert (found.source, found.recipe, found.store) == (None, None, str(tmp_path / "data"))
    assert found.openimages is None
    assert found.source_options == found.store_options == {}
    assert Settings.from_environment(source=blank, store=blank, openimages=blank, recipe=blank) == found


@pytest.mark.parametrize("name", ["GLR_SOURCE_OPTIONS", "GLR_STORE_OPTIONS", "GLR_OPENIMAGES_OPTIONS"])
@pytest.mark.parametrize("value", ["anon=true", '{"anon": tru', "[1]", '"text"', "3"])
def test_options_that_are_no_json_object(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as error:
        Settings.from_environment()
    assert str(error.value).startswith(name)
    assert "\n" not in str(error.value)


def test_a_folder_is_absolute_and_a_url_stays(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLR_SOURCE", "packed/bucket")
    monkeypatch.setenv("GLR_STORE", "./made")
    found = Settings.from_environment()
    monkeypatch.chdir("/")
    assert found.source == str(tmp_path / "packed/bucket")
    assert found.open_store().root == str(tmp_path / "made")
    for url in ("file:///x", "s3://b/p", "kaggle:///c", "memory://m"):
        assert Settings.from_environment(source=url, store=url).source == url


class Opened:
    """Stands where a source would be opened, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, url: str, options: Mapping[str, Any]) -> str:
        self.asked.append((url, dict(options)))
        return "source"


@pytest.mark.parametrize(
    ("url", "given", "used"),
    [
        ("s3://google-landmark", None, {"anon": True}),
        ("s3://google-landmark/", None, {"anon": True}),
        ("s3://google-landmark", '{"profile": "mine"}', {"profile": "mine"}),
        ("s3://google-landmark", '{"anon": false}', {"anon": False}),
        ("s3://another", None, {}),
        ("s3://google-landmark-copy", None, {}),
    ],
)
def test_the_public_bucket_is_read_anonymously(
    monkeypatch: pytest.MonkeyPatch, url: str, given: str | None, used: dict[str, Any]
) -> None:
    opened = Opened()
    monkeypatch.setattr(module, "open_source", opened)
    monkeypatch.setenv("GLR_SOURCE", url)
    if given is not None:
        monkeypatch.setenv("GLR_SOURCE_OPTIONS", given)
    Settings.from_environment().open_source()
    ((asked, options),) = opened.asked
    assert asked.rstrip("/") == url.rstrip("/")
    assert options == used


def test_each_kind_of_source_opens(bucket: str, tmp_path: Path) -> None:
    for url in (bucket, f"file://{bucket}"):
        assert isinstance(Settings.from_environment(source=url).open_source(), BucketSource)
    (tmp_path / "train").mkdir()
    (tmp_path / "train.csv").write_text("id,landmark_id\n")
    assert isinstance(Settings.from_environment(source=f"kaggle://{tmp_path}").open_source(), KaggleSource)


def test_errors_are_of_what_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"nowhere.*metadata/train\.csv.*GLR_SOURCE"):
        Settings.from_environment(source=str(tmp_path / "nowhere")).open_source()
    with pytest.raises(StoreError, match="nosuch://store"):
        Settings.from_environment(store="nosuch://store").open_store()
    with pytest.raises(RecipeError, match=r"nowhere\.toml.*GLR_RECIPE"):
        Settings.from_environment(recipe="nowhere.toml").load_recipe()


def test_the_recipe_is_small_for_the_sample_and_full_for_a_source(tmp_path: Path) -> None:
    assert Settings.from_environment().load_recipe().name == "small"
    assert Settings.from_environment(source="s3://b").load_recipe().name == "full"
    assert Settings.from_environment(source="s3://b", recipe="small").load_recipe().name == "small"
    (tmp_path / "mine.toml").write_text('base = "full"\nseed = 4\n')
    mine = Settings.from_environment(recipe=str(tmp_path / "mine.toml")).load_recipe()
    assert (mine.name, mine.seed) == ("mine", 4)


def test_the_environment_is_read_when_asked_not_when_imported() -> None:
    program = (
        "import os\n"
        "os.environ['GLR_STORE_OPTIONS'] = 'no json'\n"
        "os.environ['GLR_STORE'] = '/first'\n"
        "from glr_assets.settings import Settings\n"
        "os.environ['GLR_STORE_OPTIONS'] = '{}'\n"
        "for value in ('/second', '/third'):\n"
        "    os.environ['GLR_STORE'] = value\n"
        "    print(Settings.from_environment().store)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.split() == ["/second", "/third"]


def test_settings_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings.from_environment().store = "elsewhere"  # type: ignore[misc]


@pytest.mark.parametrize("store", ["{here}/bucket", "file://{here}/bucket/", "{here}/link", "{here}/x/../bucket"])
def test_a_source_is_not_its_own_store(tmp_path: Path, store: str) -> None:
    (tmp_path / "bucket").mkdir()
    (tmp_path / "x").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "bucket")
    given = Settings.from_environment(source=str(tmp_path / "bucket"), store=store.format(here=tmp_path))
    with pytest.raises(SettingsError, match="both source and store"):
        given.open_source()
