"""What models are made from beside the store: files by their digest, weights of the hub by their commit."""

from __future__ import annotations

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from glr_assets.dry_run import dry_run
from glr_assets.errors import EmbedderError
from glr_assets.training.backbones import BACKBONES, pretrained_backbone
from glr_assets.training.outside import hub_id, outside_files, pinned

ID = "somebody/landmarks"
OLD, NEW = "0" * 39 + "1", "0" * 39 + "2"


def backbone(seed: int) -> torch.nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BACKBONES["resnet-tiny"].built().eval()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A hub's repository of two commits as its own client caches it (models--<owner>--<name>), without a network."""
    from huggingface_hub import constants

    folder = tmp_path / "hub" / f"models--{ID.replace('/', '--')}"
    for seed, commit in ((1, OLD), (2, NEW)):
        backbone(seed).save_pretrained(folder / "snapshots" / commit)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(NEW)
    (folder / "refs" / "v1").write_text(OLD)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return folder


def test_the_commit_of_a_hub_id_is_its_version(hub: Path) -> None:
    assert outside_files("embedder", None, ID) == {f"hub:{ID}": NEW}
    assert outside_files("embedder", None, f"{ID}@v1") == {f"hub:{ID}": OLD}
    assert outside_files("embedder", None, f"{ID}@{OLD}") == {f"hub:{ID}": OLD}
    (hub / "refs" / "main").write_text(OLD)
    assert outside_files("embedder", None, ID) == {f"hub:{ID}": OLD}


@pytest.mark.parametrize(("weights", "seed"), [(ID, 2), (f"{ID}@v1", 1), (f"{ID}@{NEW}", 2)])
def test_what_trains_starts_from_that_commit_whatever_the_hub_says_later(hub: Path, weights: str, seed: int) -> None:
    of_commit = pinned(weights, outside_files("groups", None, weights))
    assert of_commit == f"{ID}@{OLD if seed == 1 else NEW}"
    (hub / "refs" / "main").write_text(OLD if seed == 2 else NEW)
    found, expected = pretrained_backbone(of_commit, "resnet-tiny", "groups").state_dict(), backbone(seed).state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("weights", [f"{ID}@v2", "somebody/else", "no//id", "/absent/folder"])
def test_what_the_hub_has_not_is_refused_by_name(hub: Path, weights: str) -> None:
    with pytest.raises(EmbedderError, match=r"cannot be had .*; give a folder") as caught:
        outside_files("filter", None, weights)
    assert str(caught.value).startswith(f"[filter] weights = {weights!r}: ")
    assert "\n" not in str(caught.value)


def test_files_are_known_by_their_content(tmp_path: Path) -> None:
    (tmp_path / "weights@home").mkdir()
    (tmp_path / "weights@home" / "model.safetensors").write_bytes(b"tensors")
    (tmp_path / "module.pt").write_bytes(b"module")
    digests = {name: hashlib.sha256(name).hexdigest() for name in (b"tensors", b"module")}
    weights = str(tmp_path / "weights@home")
    assert outside_files("embedder", None, weights) == {"file:model.safetensors": digests[b"tensors"]}
    assert pinned(weights, outside_files("embedder", None, weights)) == weights
    assert outside_files("embedder", str(tmp_path / "module.pt"), None) == {"file:module.pt": digests[b"module"]}
    assert outside_files("embedder", None, None) == {}
    assert pinned(None, {}) is None
    with pytest.raises(EmbedderError, match="no such file"):
        outside_files("embedder", str(tmp_path / "absent.pt"), None)


def test_a_hub_id_has_a_revision_after_its_at_sign() -> None:
    assert hub_id(ID) == (ID, None)
    assert hub_id(f"{ID}@refs/pr/1") == (ID, "refs/pr/1")


class _Hub(BaseHTTPRequestHandler):
    """A hub that knows the commit of `main`, and of which nothing can be fetched."""

    asked: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        known = self.path.startswith(f"/api/models/{ID}")
        data = json.dumps({"id": ID, "sha": NEW, "siblings": []} if known else {"error": "no file is served"}).encode()
        self.send_response(200 if known else 404)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_HEAD = do_GET  # noqa: N815 - as http.server names it

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_dry_run_asks_the_hub_for_the_commit_and_fetches_nothing(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    _Hub.asked.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        (hub / "refs" / "main").write_text(OLD)
        with dry_run():
            assert outside_files("embedder", None, ID) == {f"hub:{ID}": NEW}
        server.shutdown()
    assert _Hub.asked
    assert all(path.startswith("/api/models/") for path in _Hub.asked)
    # Out of reach, the commit that was fetched last holds, as in a run.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with dry_run():
        assert outside_files("embedder", None, ID) == {f"hub:{ID}": OLD}
