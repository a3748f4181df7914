"""A model's card: it holds what the record holds, and the code it shows runs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from glr_assets.errors import DamagedFileError, StoreError
from glr_assets.receipts import Writer
from glr_assets.recipes import Embedder, Training
from glr_assets.store import Store
from glr_assets.training.card import card
from glr_assets.training.embedding import embed
from glr_assets.training.held_out import SizeFigure
from glr_assets.training.kept import finish_version
from glr_assets.training.model import untrained
from glr_assets.training.record import ModelRecord, Rights, kept_record
from glr_assets.training.torchscript import export, script_bytes

TINY = Embedder(backbone="resnet-tiny", image_size=32, dimensions=16)
SECTIONS = [
    "What it is",
    "Intended use",
    "Factors",
    "Metrics",
    "Training data",
    "Evaluation data",
    "Figures",
    "Rights and people",
    "Limits",
    "How to load it",
]
RECORD = ModelRecord(
    model="embedder",
    version="0123456789ab",
    origin="trained",
    code_version="2",
    seed=7,
    recipe={"embedder": TINY.model_dump(mode="json"), "training": Training().model_dump(mode="json")},
    data_versions={"train_manifest": "f" * 64},
    libraries={"torch": "2.13.0"},
    parameters=1_234_567,
    image_size=32,
    outputs=16,
    landmarks=3,
    training_images=2000,
    outsiders=0,
    held_out=41,
    epochs=5,
    loss=1.25,
    validation_top1=0.75,
    by_class_size=(SizeFigure(1, 2, 4, 29, 0.5), SizeFigure(101, None, 2, 30, 0.875)),
    files={},
    script="embedder.pt",
    onnx="embedder.onnx",
    rights=Rights(licences={"CC BY 4.0": 5, "a | b": 1990}, authors=1, unknown=5),
)


def sections(text: str) -> dict[str, str]:
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_a_card_tells_what_the_record_holds() -> None:
    text = card(RECORD)
    told = sections(text)
    assert text.startswith("# Landmark embedder, version 0123456789ab\n")
    assert list(told) == SECTIONS
    assert "| network | resnet-tiny, trained here from random weights |" in told["What it is"]
    assert "| parameters | 1,234,567 |" in told["What it is"]
    assert "2,000 photographs of 3 landmarks." in told["Training data"]
    assert "| train_manifest | `ffffffffffff` |" in told["Training data"]
    assert "41 photographs" in told["Evaluation data"]
    assert "| held-out top-1 | 0.750 |" in told["Figures"]
    assert "| 1–2 | 4 | 29 | 0.500 |\n| 101+ | 2 | 30 | 0.875 |" in told["Figures"]
    assert r"| a \| b | 1,990 |" in told["Rights and people"].splitlines()[4]
    assert "| not known | 5 |" in told["Rights and people"]
    assert "1 known author." in told["Rights and people"]
    # Of 30 photographs and more nothing is said.
    assert "these class sizes: 1–2 (29)." in told["Limits"]
    assert "101+" not in told["Limits"]


def test_a_card_says_what_is_not_known() -> None:
    recipe = RECORD.recipe | {"embedder": RECORD.recipe["embedder"] | {"torchscript": "/somewhere/own.pt"}}
    changes: dict[str, Any] = {
        "origin": "brought in",
        "recipe": recipe,
        "loss": None,
        "epochs": 0,
        "validation_top1": None,
        "by_class_size": (),
        "held_out": 0,
        "onnx": "",
        "without_onnx": "torch cannot",
    }
    told = sections(card(RECORD.model_copy(update=changes)))
    assert "brought in as TorchScript (`own.pt`)" in told["What it is"]
    assert "/somewhere" not in "".join(told.values())
    assert "trained on elsewhere is not known here" in told["Training data"]
    assert "loss" not in told["Figures"]
    assert "| held-out top-1 | not measured |" in told["Figures"]
    assert "nothing is known of landmarks by their size" in told["Figures"]
    assert "There is no ONNX file: torch cannot." in told["Limits"]
    assert "onnxruntime" not in told["How to load it"]


def test_a_groups_card_speaks_of_classes() -> None:
    changes: dict[str, Any] = {
        "model": "group_classifiers/03",
        "recipe": {"groups": {"backbone": "resnet-50", "weights": "local"}},
        "outsiders": 12,
        "script": "classifier.pt",
    }
    text = card(RECORD.model_copy(update=changes))
    told = sections(text)
    assert text.startswith("# Landmark classifier of group 03,")
    assert "trained here from local" in told["What it is"]
    assert "and 12 of others as a class of their own" in told["Training data"]
    assert 'torch.jit.load("classifier.pt")' in told["How to load it"]


def test_the_code_of_a_card_gives_what_the_embedder_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = untrained(TINY, 1)
    random = np.random.default_rng(3)
    photograph = random.integers(0, 256, (7, 9, 3), dtype=np.uint8)
    file = tmp_path / "m" / "photograph.jpg"
    file.parent.mkdir()
    Image.fromarray(photograph).resize((90, 70), Image.Resampling.BICUBIC).save(file, quality=95)
    store = Store(str(tmp_path))
    script = export(network, 32)
    store.write("m/embedder.pt", script_bytes(script))
    writer = Writer(store)
    kept = finish_version(writer, "m", RECORD, script, "embedder.onnx", [file.read_bytes()], RECORD.rights)
    assert kept_record(store, "m") == kept
    blocks = re.findall(r"```python\n(.*?)```", store.read("m/card.md").decode(), flags=re.DOTALL)
    assert len(blocks) == 2
    monkeypatch.chdir(tmp_path / "m")
    found: dict[str, Any] = {}
    for block in blocks:
        exec(block, found)
    expected = embed(network, [file.read_bytes()], 32, device="cpu")
    np.testing.assert_allclose(found["vectors"].detach().numpy(), expected, atol=1e-5)
    np.testing.assert_allclose(found["output"], expected, atol=1e-5)


def test_a_record_is_of_whole_files_alone(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    assert kept_record(store, "m") is None
    writer = Writer(store)
    writer.write("m/embedder.pt", b"weights")
    record = RECORD.model_copy(update={"files": {"embedder.pt": writer.outputs["m/embedder.pt"]}, "onnx": ""})
    kept = finish_version(writer, "m", record, None, "embedder.onnx", [], RECORD.rights)
    assert kept.without_onnx == "the recipe asks for none"
    assert kept_record(store, "m") == kept
    store.write("m/embedder.pt", b"weight")
    assert kept_record(store, "m") is None
    store.write("m/embedder.pt", b"weights")
    store.remove("m/metrics.json")
    assert kept_record(store, "m") is None


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"format": 2, "something": "new"}, "expected the record of a model of form 1, found form 2; use the release"),
        ({"format": None}, "expected the record of a model of form 1, found none; use the release"),
        ({"format": "1"}, "expected the record of a model of form 1, found form 1; use the release"),
        ({"epochs": "many"}, "expected the record of a model, found epochs: Input should be a valid integer"),
        ({"something": "new"}, "expected the record of a model, found something: Extra inputs are not permitted"),
    ],
)
def test_a_record_that_cannot_be_read_is_refused_and_no_reason_to_train_again(
    change: dict[str, Any], found: str, tmp_path: Path
) -> None:
    store = Store(str(tmp_path))
    document = RECORD.model_dump(mode="json") | change
    store.write("m/metrics.json", json.dumps(document).encode())
    with pytest.raises(StoreError, match=re.escape(f"{tmp_path}/m/metrics.json: {found}")) as caught:
        kept_record(store, "m")
    assert "remove the file to train this version again" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"\0" * 700, b"[]", b"null", b'{"format": 1, "model": "embed'])
def test_a_record_that_is_none_is_refused(data: bytes, tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("m/metrics.json", data)
    with pytest.raises(DamagedFileError, match=r"expected the record of a model, found .*; restore it from a backup"):
        kept_record(store, "m")
