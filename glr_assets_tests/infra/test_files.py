"""What the tools that will read the files of infra/ say of them; each sees a good file pass and a spoilt one fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

from glr_assets.settings import Settings
from glr_assets_tests.infra.cluster import BIN, PATIENT, ROOT

INFRA = ROOT / "infra"
COMPOSE = (INFRA / "compose.yaml", *sorted((INFRA / "celery").glob("*.yaml")))
SCRIPTS = [*sorted(INFRA.rglob("*.sh")), ROOT / ".ci" / "run"]


def says(tool: str, *arguments: str | Path) -> tuple[int, str]:
    """Exit status and output of a tool of the extra `dev`; the test is skipped where it is not installed."""
    path = BIN / tool
    if not path.exists():
        pytest.skip(f"no {tool} beside this Python: it comes with the extra dev")
    done = subprocess.run([path, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE[0].read_text())["services"])


def test_compose_files_keep_to_the_compose_specification(tmp_path: Path) -> None:
    schema = ("--builtin-schema", "vendor.compose-spec")
    status, told = says("check-jsonschema", *schema, *COMPOSE)
    assert status == 0, told
    spoilt = tmp_path / "compose.yaml"
    spoilt.write_text(COMPOSE[0].read_text().replace("interval: 60s", "intervall: 60s"))
    status, told = says("check-jsonschema", *schema, spoilt)
    assert status == 1
    assert "intervall" in told


def test_dockerfiles_keep_to_hadolints_rules(tmp_path: Path) -> None:
    dockerfile = INFRA / "docker" / "Dockerfile"
    assert says("hadolint", dockerfile) == (0, "")
    spoilt = tmp_path / "Dockerfile"
    spoilt.write_text(dockerfile.read_text().replace("FROM python:${PYTHON}\n", "FROM python\n"))
    status, told = says("hadolint", spoilt)
    assert status == 1
    assert "DL3006" in told  # an image without its version


def test_what_the_image_is_built_from_is_there_and_sent() -> None:
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", (INFRA / "docker" / "Dockerfile").read_text())
    sources = {source for line in copied for source in line.split()}
    sent = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert "infra/constraints.txt" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in sent, source


def test_scripts_keep_to_shellchecks_rules(tmp_path: Path) -> None:
    assert len(SCRIPTS) > 5
    assert says("shellcheck", *SCRIPTS) == (0, "")
    spoilt = tmp_path / "spoilt.sh"
    spoilt.write_text((INFRA / "bootstrap.sh").read_text() + "rm -rf $1/x\n")
    status, told = says("shellcheck", spoilt)
    assert status == 1
    assert "SC2086" in told


def test_every_image_is_pinned_and_none_is_built_from_latest(services: dict[str, Any]) -> None:
    images = [service["image"] for service in services.values() if "image" in service]
    pinned = [image for image in images if not image.startswith("${GLR_IMAGE:?")]
    assert pinned
    for image in pinned:
        assert re.fullmatch(r"[a-z0-9./-]+:\d[\w.-]*\.\d[\w.-]*", image), image


def test_only_loopback_and_the_proxy_reach_a_webserver(services: dict[str, Any]) -> None:
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}
    assert ports.keys() == {"webserver", "viewer", "proxy"}
    assert all(port.startswith("127.0.0.1:") for name in ("webserver", "viewer") for port in ports[name])
    assert ports["proxy"] == ["${GLR_PROXY_ADDRESS:-127.0.0.1}:443:8443"]
    assert "--read-only" in services["viewer"]["command"]
    assert "--read-only" not in services["webserver"]["command"]
    further = yaml.safe_load((INFRA / "celery" / "first.yaml").read_text())["services"]
    assert all(port.startswith("${GLR_PRIVATE_ADDRESS:?") for one in further.values() for port in one["ports"])


def test_every_service_that_stays_is_begun_again_and_looked_after(services: dict[str, Any]) -> None:
    once = {"volume-owners", "buckets", "bootstrap"}
    for name, service in services.items():
        assert service["restart"] == ("no" if name in once else "unless-stopped"), name
        if name not in {*once, "lost-steps", "proxy"}:
            assert service["healthcheck"]["test"], name


def test_no_container_has_more_rights_than_it_needs() -> None:
    dockerfile = (INFRA / "docker" / "Dockerfile").read_text()
    user_of_image = re.findall(r"(?m)^USER (\d+)$", dockerfile)[-1]
    servers = {"postgres", "redis", "s3", "buckets", "volume-owners"}
    for file in COMPOSE:
        for name, service in yaml.safe_load(file.read_text())["services"].items():
            if file.name == "first.yaml":
                assert service.keys() == {"ports"}  # what it adds to services of compose.yaml
                continue
            assert service["cap_drop"] == ["ALL"], name
            assert service["security_opt"] == ["no-new-privileges:true"], name
            assert not service.keys() & {"privileged", "pid", "ipc", "userns_mode", "devices", "device_cgroup_rules"}, (
                name
            )
            volumes = service.get("volumes", [])
            assert not [volume for volume in volumes if volume.startswith("/") or "docker.sock" in volume], name
            own = service["image"].startswith("${GLR_IMAGE:?")
            user = service.get("user", f"{user_of_image}:" if own else "")
            if name == "volume-owners":
                assert (user, service["cap_add"]) == ("0:0", ["CHOWN", "DAC_READ_SEARCH"])
                assert (service["restart"], service["network_mode"]) == ("no", "none")
            else:
                assert re.fullmatch(r"[1-9]\d*:\d*", user), name
                assert "cap_add" not in service, name
            if name in servers:
                assert service["read_only"] is True, name


def test_servers_own_what_they_write(services: dict[str, Any]) -> None:
    """Volumes that are not their images' users' are given to them first, and mounts in memory from the start."""
    command = services["volume-owners"]["command"][0]
    given = dict(re.findall(r"chown -R (\S+) /volumes/(\w+)", command))
    mounted = dict(volume.split(":") for volume in services["volume-owners"]["volumes"])
    assert given == {services[name]["user"]: name for name in ("redis", "s3")}
    assert mounted == {name: f"/volumes/{name}" for name in ("redis", "s3")}
    for name in ("redis", "s3"):
        assert services[name]["depends_on"] == {"volume-owners": {"condition": "service_completed_successfully"}}
    for name in ("postgres", "s3"):
        uid, gid = services[name]["user"].split(":")
        (run,) = [mount for mount in services[name]["tmpfs"] if mount != "/tmp"]
        assert re.search(f":uid={uid},gid={gid},mode=07", run), name


def test_settings_in_compose_are_settings(services: dict[str, Any]) -> None:
    """Compose's environment is read by the settings themselves, options as JSON."""
    environment = services["worker"]["environment"] | services["code"]["environment"]
    filled = {name: re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", value) for name, value in environment.items()}
    filled = {name: re.sub(r"\$\{\w+:\?[^}]*\}", "given", value) for name, value in filled.items()}
    fields = {name.removeprefix("GLR_").lower(): value for name, value in filled.items() if name.startswith("GLR_")}
    known = {name: value for name, value in fields.items() if name in Settings.model_fields}
    # What is empty is as if it were unset.
    known = {name: value for name, value in known.items() if value}
    assert known.keys() == {"source", "source_options", "store", "store_options", "recipe"}
    assert {name for name in fields if name not in Settings.model_fields} == {"code_host", "redis_url", "worker"} | {
        "queues",
        "concurrency",
    }
    for name in ("source_options", "store_options"):
        known[name] = json.loads(known[name])
        assert known[name] == {"endpoint_url": "http://s3:8333", "key": "given", "secret": "given"} | PATIENT
    assert Settings(**known).store == "s3://glr-store/v1"


def secrets_in(*files: str) -> list[str]:
    """Where detect-secrets finds something that looks like one."""
    pytest.importorskip("detect_secrets", reason="no detect-secrets: it comes with the extra dev")
    from detect_secrets import SecretsCollection
    from detect_secrets.settings import default_settings

    found = SecretsCollection()
    with default_settings():
        for file in files:
            found.scan_file(file)
    return [f"{file}:{secret.line_number}: {secret.type}" for file, secret in found]


def test_no_file_that_is_delivered_holds_a_secret(tmp_path: Path) -> None:
    command = [
        "git",
        "ls-files",
        "--cached",
        "--others",
        "--exclude-standard",
        "infra",
        ".ci",
        "Makefile",
        "*.toml",
        "*.yaml",
    ]
    listed = set(subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT).stdout.split())
    listed.remove("glr_assets/source/md5_overrides.toml")  # MD5s of shards look like keys
    files = [str(ROOT / name) for name in sorted(listed) if (ROOT / name).is_file()]
    assert len(files) > 20
    assert secrets_in(*files) == []
    spoilt = tmp_path / "compose.yaml"
    spoilt.write_text(
        "services: {postgres: {environment: {}}}\nPOSTGRES_PASSWORD: hunter2\nkey: AKIAIOSFODNN7EXAMPLE\n"
    )
    assert [told.partition(":")[2] for told in secrets_in(str(spoilt))] == ["2: Secret Keyword", "3: AWS Access Key"]


def test_what_compose_asks_for_is_in_the_example_and_has_no_value(services: dict[str, Any]) -> None:
    example = (INFRA / ".env.example").read_text()
    given = dict(line.split("=", 1) for line in example.splitlines() if line and not line.startswith("#"))
    assert set(given.values()) == {""}
    asked = set(re.findall(r"\$\{(\w+):\?", COMPOSE[0].read_text()))
    asked |= {secret["environment"] for secret in yaml.safe_load(COMPOSE[0].read_text())["secrets"].values()}
    assert set(given) == asked
    ignored = subprocess.run(["git", "check-ignore", "-q", "infra/.env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def test_every_requirement_has_a_pin_that_it_allows() -> None:
    pins = {}
    for line in (INFRA / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pins[name.lower().replace("_", "-")] = version
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [Requirement(line) for line in (*project["dependencies"], *project["optional-dependencies"]["cluster"])]
    assert len(needed) > 30
    for requirement in needed:
        version = pins.get(requirement.name.lower().replace("_", "-"))
        assert version is not None, f"{requirement.name} has no pin in infra/constraints.txt"
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement} forbids {version}"


@pytest.fixture
def run_part(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(script: Path, programs: dict[str, str], **environment: str) -> subprocess.CompletedProcess[str]:
        """Run a script with programs of its own on the PATH, and nothing else of this machine's environment."""
        folder = tmp_path / "bin"
        folder.mkdir()
        for name, text in programs.items():
            (folder / name).write_text(f"#!/bin/sh\n{text}\n")
            (folder / name).chmod(0o755)
        paths = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}
        return subprocess.run(
            ["sh", str(script)], env=paths | environment, capture_output=True, text=True, check=False, cwd=tmp_path
        )

    return run


def test_the_s3_server_has_a_key_for_each_and_none_more(
    run_part: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """The identities that its start script writes, but into a folder of the test."""
    script = tmp_path / "seaweedfs.sh"
    script.write_text((INFRA / "s3" / "seaweedfs.sh").read_text().replace("/run/glr", str(tmp_path)))
    names = ("ADMIN", "SOURCE", "STORE")
    keys = {f"S3_{name}_{part}": f"{name}-{part}" for name in names for part in ("KEY", "SECRET")}
    done = run_part(script, {"weed": 'echo "$@"'}, **keys)
    assert done.returncode == 0, done.stderr
    assert f"-s3.config={tmp_path}/identities.json" in done.stdout
    identities = json.loads((tmp_path / "identities.json").read_text())["identities"]
    actions = {one["name"]: set(one["actions"]) for one in identities}
    assert actions["source"] == {"Read:glr-source", "List:glr-source"}
    assert actions["store"] == {"Read:glr-store", "List:glr-store", "Write:glr-store"}
    assert [one["credentials"] for one in identities] == [
        [{"accessKey": f"{name}-KEY", "secretKey": f"{name}-SECRET"}] for name in names
    ]
    keys.pop("S3_STORE_SECRET")
    (tmp_path / "bin" / "weed").unlink()
    (tmp_path / "bin").rmdir()
    refused = run_part(script, {"weed": "echo started"}, **keys)
    assert refused.returncode != 0
    assert "S3_STORE_SECRET" in refused.stderr
    assert "started" not in refused.stdout
