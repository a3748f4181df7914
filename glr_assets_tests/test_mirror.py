"""Copies of a store: whole work alone, verified, and nothing copied twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from glr_assets import mirror as mirror_module
from glr_assets.mirror import main, mirror
from glr_assets.receipts import Writer, find_receipt, make, need_receipt
from glr_assets.store import Store
from glr_assets_tests.lineage import digests


def made(store: Store, name: str, text: str, path: str | None = None) -> None:
    """An asset of one file."""

    def build(writer: Writer) -> dict[str, str | int | float | None]:
        writer.write(path or f"manifests/{name}", text.encode())
        return {}

    make(store, name, inputs={}, parameters={"text": text}, code_version="1", build=build)


@pytest.fixture
def copy(tmp_path: Path) -> Store:
    return Store(str(tmp_path / "copy"))


def test_a_copy_is_the_store_less_what_no_receipt_names(store: Store, copy: Store, tmp_path: Path) -> None:
    made(store, "train_manifest", "a")
    made(store, "train_images/000", "b", "images/train/000.tar")
    store.write("runs/train_images/000.json", b"{}")
    store.write("models/embedder/half/state.ckpt", b"an epoch")
    done = mirror(store, copy)
    assert (done.copied, done.found, done.left_out) == (2, 0, {})
    expected = digests(tmp_path / "store")
    assert expected.pop("models/embedder/half/state.ckpt")
    assert digests(tmp_path / "copy") == expected
    assert copy.read("runs/train_images/000.json") == b"{}"
    assert need_receipt(copy, "train_images/000") == need_receipt(store, "train_images/000")


def test_what_is_there_is_not_copied_again(store: Store, copy: Store) -> None:
    for name in ("a", "b", "c"):
        made(store, name, name)
    mirror(store, copy)
    made(store, "b", "of the same size".replace("of the same size", "x"))
    copy.remove("manifests/c")
    done = mirror(store, copy)
    assert (done.copied, done.found, done.left_out) == (2, 1, {})
    assert (copy.read("manifests/b"), copy.read("manifests/c")) == (b"x", b"c")


def test_a_file_that_is_not_what_its_receipt_says_is_left_out_by_name(store: Store, copy: Store) -> None:
    made(store, "good", "good")
    made(store, "flipped", "flipped")
    made(store, "gone", "gone")
    mirror(store, copy)
    made(store, "flipped", "FLIPPED")
    made(store, "gone", "GONE")
    store.write("manifests/flipped", b"FLIPPEd")
    store.remove("manifests/gone")
    left_out = mirror(store, copy).left_out
    assert left_out.keys() == {"receipts/flipped.json", "receipts/gone.json"}
    assert "expected SHA-256" in left_out["receipts/flipped.json"]
    assert "is gone" in left_out["receipts/gone.json"]
    # What the copy had of them is whole still.
    for name in ("flipped", "gone"):
        assert need_receipt(copy, name).digest
        assert copy.read(f"manifests/{name}") == name.encode()


def test_a_receipt_that_changes_while_it_is_copied_is_read_again(
    store: Store, copy: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, "manifest", "one")
    times = []
    really = mirror_module._copy_file

    def changing(*arguments: object) -> None:
        really(*arguments)  # type: ignore[arg-type]
        if not times:
            made(store, "manifest", "two")
        times.append(1)

    monkeypatch.setattr(mirror_module, "_copy_file", changing)
    assert mirror(store, copy).left_out == {}
    assert len(times) == 2
    assert copy.read("manifests/manifest") == b"two"
    assert need_receipt(copy, "manifest") == need_receipt(store, "manifest")


def test_one_that_never_stands_still_is_left_out(store: Store, copy: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    made(store, "manifest", "0")
    really, times = mirror_module._copy_file, []

    def changing(*arguments: object) -> None:
        really(*arguments)  # type: ignore[arg-type]
        times.append(1)
        made(store, "manifest", str(len(times)))

    monkeypatch.setattr(mirror_module, "_copy_file", changing)
    assert "made anew while it was copied" in mirror(store, copy).left_out["receipts/manifest.json"]
    assert len(times) == mirror_module.ATTEMPTS
    assert find_receipt(copy, "manifest") is None


def test_a_copy_to_s3_and_back(store: Store, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(store, "train_images/000", "x" * 1000, "images/train/000.tar")
    options = {"endpoint_url": s3_endpoint}
    remote = Store("s3://mirrored/backup", options)
    remote.fs.mkdir("mirrored")
    monkeypatch.setenv("GLR_TO_OPTIONS", json.dumps(options))
    assert main(store.url, remote.url) == 0
    monkeypatch.setenv("GLR_FROM_OPTIONS", json.dumps(options))
    monkeypatch.delenv("GLR_TO_OPTIONS")
    assert main(remote.url, str(tmp_path / "back")) == 0
    assert digests(tmp_path / "back") == digests(tmp_path / "store")


def test_the_command_says_what_it_left_out(
    store: Store, copy: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made(store, "gone", "gone")
    store.remove("manifests/gone")
    assert main(store.url, copy.url) == 1
    told = capsys.readouterr()
    assert "1 receipts left out" in told.out
    assert "receipts/gone.json" in told.err
    monkeypatch.setenv("GLR_TO_OPTIONS", "{")
    assert main(store.url, copy.url) == 1
    assert "GLR_TO_OPTIONS" in capsys.readouterr().err
