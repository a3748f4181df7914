"""Every command with settings, options and files that are nonsense: one line, no traceback, no secret, nothing left."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from glr_assets import cli
from glr_assets_tests.integration.conftest import Glr

SECRET = "wJalrXUtnFEMI-SECRET"
CLOSED = json.dumps({"endpoint_url": "http://127.0.0.1:1", "key": f"{SECRET}-key", "secret": SECRET})

COMMANDS: Mapping[str, list[str]] = {
    "demo": ["demo"],
    "sync": ["shards", "sync"],
    "retry": ["shards", "retry"],
    "why": ["why", "abc"],
    "models": ["models"],
    "export": ["export", "zip"],
    "serve": ["serve", "--port", "0"],
    "dev": ["dev"],
}
#: Settings that no command can use, and what must be said of them.
FOR_ALL: Mapping[str, tuple[dict[str, str], str]] = {
    "a list of options": ({"GLR_STORE_OPTIONS": f'["key", "{SECRET}"]'}, "GLR_STORE_OPTIONS"),
    "options that are text": ({"GLR_SOURCE_OPTIONS": f'"{SECRET}"'}, "GLR_SOURCE_OPTIONS"),
    "options that are no JSON": ({"GLR_OPENIMAGES_OPTIONS": f"key={SECRET}"}, "GLR_OPENIMAGES_OPTIONS"),
    "a store with a password": ({"GLR_STORE": f"ftp://ann:{SECRET}@127.0.0.1:1/x"}, "GLR_STORE_OPTIONS"),
    "a source with a token": ({"GLR_SOURCE": f"https://{SECRET}@127.0.0.1:1/x"}, "GLR_SOURCE_OPTIONS"),
    "a store of no protocol": ({"GLR_STORE": "nosuch://x"}, "Protocol not known: nosuch"),
    "a store on a closed port": ({"GLR_STORE": "ftp://127.0.0.1:1/x"}, "connection refused"),
    "a store below a file": ({"GLR_STORE": "/dev/null/x"}, "Not a directory"),
    "a store of nobody": ({"GLR_STORE": "~nobody-here/x"}, "no home folder"),
    "a store of a variable": ({"GLR_STORE": "$HOME/x"}, "not expanded"),
}
FOR_WHAT_READS_THE_SOURCE: Mapping[str, tuple[dict[str, str], str]] = {
    "a source on a closed port": ({"GLR_SOURCE": "s3://b/x", "GLR_SOURCE_OPTIONS": CLOSED}, "no server listens"),
    "a source by HTTP on a closed port": ({"GLR_SOURCE": "http://127.0.0.1:1/x"}, "no server listens"),
    "a source of an unknown option": (
        {"GLR_SOURCE": "s3://b/x", "GLR_SOURCE_OPTIONS": f'{{"nonsense": "{SECRET}"}}'},
        "'nonsense'",
    ),
    "a source that is a file": ({"GLR_SOURCE": __file__}, "GLR_SOURCE"),
    "a Kaggle folder that is none": ({"GLR_SOURCE": "kaggle://nowhere"}, "GLR_SOURCE"),
    "a recipe that is a folder": ({"GLR_RECIPE": "/"}, "GLR_RECIPE"),
    "a recipe that is none": ({"GLR_RECIPE": "nonsense"}, "GLR_RECIPE"),
}
OPTIONS: Mapping[str, tuple[list[str], str]] = {
    "a store that is a file": (["models", "--store", __file__], "Not a directory"),
    "JSON into a folder": (["demo", "--json", "/"], "--json"),
    "JSON below a file": (["demo", "--json", "/dev/null/x.json"], "--json"),
    "no images a file": (["export", "zip", "--images-per-shard", "-3"], "images_per_shard = -3"),
    "a sample below a file": (["sample", "/dev/null/x"], "Not a directory"),
    "a sample by FTP": (["sample", "ftp://127.0.0.1:1/x"], "connection refused"),
    "photographs that are nowhere": (["pack", "nowhere", "bucket"], "nowhere"),
    "photographs into no protocol": (["pack", ".", "nosuch://x"], "Protocol not known: nosuch"),
    "one image of a landmark": (["why", "a.jpg", "--landmark", "gate"], "--landmark and --reason"),
    "one image with a reason": (["why", "a.jpg", "--reason", "gate"], "--landmark and --reason"),
    "scores below a file": (
        ["score", "recognition", "--submission", "nowhere.csv", "--solution", "nowhere.csv", "--json", "/dev/null/x"],
        "--json",
    ),
    "a submission that is nowhere": (
        ["score", "recognition", "--submission", "nowhere.csv", "--solution", "nowhere.csv"],
        "nowhere.csv",
    ),
    "a submission that is a folder": (
        ["score", "retrieval", "--submission", ".", "--solution", "."],
        "error: ",
    ),
}

Told = Callable[..., str]


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs a command in this process, in an empty folder, and gives the one line that it leaves."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"{SECRET}-of-environment")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", f"{SECRET}-of-environment")
    monkeypatch.setenv("GLR_ALERT_WEBHOOK", f"https://hooks.example.org/{SECRET}")
    monkeypatch.setattr(os, "execve", lambda *_: pytest.fail("nothing was refused"))

    def run(arguments: list[str], settings: Mapping[str, str]) -> str:
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(sys, "argv", ["glr", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        shown = capsys.readouterr()
        assert ended.value.code == 1, shown
        lines = shown.err.strip().splitlines()
        assert len(lines) == 1, shown.err
        assert lines[0].startswith("error: ")
        assert "unforeseen" not in lines[0]
        assert SECRET not in shown.out + shown.err
        assert list(here.rglob("*")) == []
        return lines[0]

    return run


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("nonsense", FOR_ALL)
def test_settings_that_no_command_can_use(command: str, nonsense: str, told: Told) -> None:
    settings, words = FOR_ALL[nonsense]
    assert words in told(COMMANDS[command], settings)


@pytest.mark.parametrize("command", ["demo", "sync", "retry"])
@pytest.mark.parametrize("nonsense", FOR_WHAT_READS_THE_SOURCE)
def test_settings_that_nothing_reads_a_source_by(command: str, nonsense: str, told: Told) -> None:
    settings, words = FOR_WHAT_READS_THE_SOURCE[nonsense]
    assert words in told(COMMANDS[command], settings)


@pytest.mark.parametrize("nonsense", OPTIONS)
def test_options_that_cannot_be_used(nonsense: str, told: Told) -> None:
    arguments, words = OPTIONS[nonsense]
    assert words in told(arguments, {})


@pytest.mark.parametrize("home", ["/dev/null/x", "relative"])
def test_a_home_of_dagster_that_is_none(home: str, told: Told, bucket: str) -> None:
    assert home in told(["shards", "sync"], {"DAGSTER_HOME": home, "GLR_SOURCE": bucket, "GLR_RECIPE": "small"})


def test_what_nobody_foresaw_is_shown_without_secrets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise ZeroDivisionError(f"at https://ann:{SECRET}@host")

    monkeypatch.setattr(cli, "app", failing)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capsys.readouterr().err
    assert ended.value.code == 1
    assert "in failing\n" in told
    assert told.splitlines()[-1].startswith("error: unforeseen: ZeroDivisionError: at https://***@host")
    assert SECRET not in told


def test_an_interrupted_demo_says_so_and_leaves_nothing_half_written(
    glr: Glr, bucket: str, quick: str, tmp_path: Path
) -> None:
    arguments = ("demo", "--source", bucket, "--store", "store", "--recipe", quick)
    ended, told = glr.signalled(signal.SIGTERM, "landmark_labels", *arguments)
    assert ended == 143
    assert told.splitlines()[-1] == "interrupted by SIGTERM; run the same command again to resume"
    assert "Traceback" not in told
    left = [path.name for path in (tmp_path / "store").rglob("*") if path.name.endswith((".part", ".lock"))]
    assert left == []
