"""The launchpad as a real webserver serves it: what it opens with, and what it refuses before there is a run."""

from __future__ import annotations

import json
import socket
import urllib.error
from collections.abc import Iterator
from typing import Any

import pytest

from glr_assets_tests.automation.daemon import Home, ask, wait_until

OPENS_WITH = (
    "query($s: PipelineSelector!) { runConfigSchemaOrError(selector: $s) "
    "{ ... on RunConfigSchema { rootDefaultYaml } } }"
)
VALID = (
    "query($s: PipelineSelector!, $c: RunConfigData!) { isPipelineConfigValid(pipeline: $s, runConfigData: $c, "
    'mode: "default") { __typename ... on PipelineConfigValidationInvalid { errors { message } } } }'
)
LAUNCH = (
    "mutation($p: ExecutionParams!) { launchPipelineExecution(executionParams: $p) { __typename "
    "... on PythonError { message } ... on RunConfigValidationInvalid { errors { message } } } }"
)
RUNS = "{ runsOrError { ... on Runs { count } } }"
#: The recipe is `small` with these values.
RECIPE = 'base = "small"\n[dedupe]\nkeep = 30\n[execution]\nworkers = 2\n'


class Launchpad:
    """The launchpad of `deduped_manifest`."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.selector = {
            "repositoryLocationName": "glr_assets.definitions",
            "repositoryName": "__repository__",
            "pipelineName": "__ASSET_JOB",
            "assetSelection": [{"path": ["deduped_manifest"]}],
        }

    def opens_with(self) -> str:
        data, _ = ask(self.port, OPENS_WITH, s=self.selector)
        return str(data["runConfigSchemaOrError"]["rootDefaultYaml"])

    def edited(self, **dedupe: Any) -> str:
        """What the editor says of these values."""
        data, _ = ask(self.port, VALID, s=self.selector, c=self._config(dedupe))
        return str(data["isPipelineConfigValid"])

    def launched(self, **dedupe: Any) -> str:
        """What launching with these values says."""
        params = {"selector": self.selector, "runConfigData": self._config(dedupe), "mode": "default"}
        try:
            data, _ = ask(self.port, LAUNCH, p=params)
        except urllib.error.HTTPError as error:  # what the code location refuses has the status 500, and an answer
            data = json.load(error)["data"]
        return str(data["launchPipelineExecution"])

    def runs(self) -> int:
        data, _ = ask(self.port, RUNS)
        return int(data["runsOrError"]["count"])

    def _config(self, dedupe: dict[str, Any]) -> dict[str, Any]:
        execution = {"force": True, "retry_failed": True}
        return {"ops": {"deduped_manifest": {"config": {"dedupe": dedupe, "execution": execution}}}}


@pytest.fixture(scope="module")
def launchpad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launchpad]:
    folder = tmp_path_factory.mktemp("launchpad")
    recipe = folder / "own.toml"
    recipe.write_text(RECIPE)
    home = Home(folder / "home", folder / "bucket", folder / "store", recipe)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with home.running("dagster-webserver", "-p", str(port)):
        wait_until(lambda: _answers(port), 120)
        yield Launchpad(port)


def _answers(port: int) -> bool:
    try:
        return bool(ask(port, "{ version }"))
    except OSError:
        return False


def test_it_opens_with_the_values_of_the_recipe(launchpad: Launchpad) -> None:
    assert launchpad.opens_with() == (
        "ops:\n"
        "  deduped_manifest:\n"
        "    config:\n"
        "      dedupe:\n"
        "        collapse: true\n"
        "        keep: 30\n"
        "        method: max_min\n"
        "        near_duplicate_bits: 3\n"
        "        remove_leaks: false\n"
        "        sample: 1000\n"
        "      execution:\n"
        "        device: auto\n"
        "        force: false\n"
        "        processes: 1\n"
        "        retry_failed: false\n"
        "        workers: 2\n"
        "      seed: 0\n"
        "resources: {}\n"
    )


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"method": "best"}, "not in enum type one of max_min, farthest_pairs, random got best"),
        ({"keep": "many"}, 'Value "many" of type'),
        ({"kep": 20}, 'unexpected config entry "kep"'),
    ],
)
def test_choices_types_and_unknown_keys_are_refused_while_they_are_edited(
    launchpad: Launchpad, values: dict[str, Any], reason: str
) -> None:
    assert reason in launchpad.edited(**values)
    assert reason in launchpad.launched(**values)
    assert launchpad.runs() == 0


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"keep": -3}, "[dedupe] keep = -3: Input should be greater than or equal to 1"),
        ({"keep": 40, "sample": 35}, "[dedupe] sample = 35 is less than keep = 40"),
        ({"keep": 19}, "[fill] threshold = 20 is more than [dedupe] keep = 19"),
    ],
)
def test_ranges_and_contradictions_are_refused_at_launch_and_start_no_run(
    launchpad: Launchpad, values: dict[str, Any], reason: str
) -> None:
    """Dagster's config types have no ranges, so the editor takes these. If it refuses them, that limit is lifted."""
    assert "PipelineConfigValidationValid" in launchpad.edited(**values)
    assert reason in launchpad.launched(**values)
    assert launchpad.runs() == 0
