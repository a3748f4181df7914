"""The record of a model's version: what it is, what it was made from and how good it is, as `metrics.json` and a card.

The record is written last into the version's folder and names the files that training left there, so a folder with a
record holds a finished version. What is only derived of these (the card, ONNX) is no reason to train again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel, ConfigDict, ValidationError

from glr_assets.errors import DamagedFileError, StoreError
from glr_assets.metadata.schemas import TRAIN_ATTRIBUTION
from glr_assets.receipts import Writer, Written, is_forced, sha256_of
from glr_assets.store import Store
from glr_assets.tables import read_parts
from glr_assets.training.held_out import SizeFigure

log = logging.getLogger(__name__)

RECORD_NAME = "metrics.json"
CARD_NAME = "card.md"
FORMAT = 1


class Rights(BaseModel):
    """Whose the photographs are that a model learned from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    licences: dict[str, int]
    """photographs by licence, as published"""
    authors: int
    unknown: int
    """photographs whose licence is not known"""


class ModelRecord(BaseModel):
    """What a version of a model is, what it was made from and how good it is; it holds no time and no place."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    model: str
    """`embedder`, or `group_classifiers/<group>`"""
    version: str
    origin: Literal["trained", "brought in"]
    code_version: str
    seed: int
    recipe: dict[str, dict[str, Any]]
    """the sections that decide on it"""
    data_versions: dict[str, str]
    """digest of each thing it was made from"""
    libraries: dict[str, str]
    parameters: int
    """numbers that its network learned"""
    image_size: int
    image_size_source: str = "recipe"
    """recipe, or of an external network: declared (by its file) or searched (on training photographs)"""
    image_size_warning: str = ""
    """how the recipe contradicts the size that an external network declares; empty where it does not"""
    image_sizes_tried: dict[int, float] = {}
    """mean average precision of training photographs by side in pixels, where the size was searched"""
    outputs: int
    """length of what it gives for an image: dimensions, or classes"""
    landmarks: int
    training_images: int
    outsiders: int
    """photographs of none of its landmarks that trained"""
    held_out: int
    epochs: int
    """0 where it was brought in"""
    loss: float | None
    """mean of the last epoch"""
    validation_top1: float | None
    """share of held-out photographs told right: of the last epoch, or of a whitened or brought-in module as it is"""
    by_class_size: tuple[SizeFigure, ...]
    files: dict[str, Written]
    """what training left in the folder, by name"""
    script: str
    """name of the TorchScript file"""
    onnx: str = ""
    """name of the ONNX file; empty where there is none"""
    without_onnx: str = ""
    """why there is none; empty where there is"""
    rights: Rights = Rights(licences={}, authors=0, unknown=0)


def libraries() -> dict[str, str]:
    """Releases of what computes a model; which build of them runs is the machine's."""
    return {name: installed_version(name).split("+")[0] for name in ("lightning", "torch", "transformers")}


def rights_of(store: Store, ids: Sequence[str]) -> Rights:
    """Authors and licences of train images, from `train_attribution`.

    Raises:
        MissingInputError: it has not been made.
    """
    wanted = pa.array(ids, pa.string())
    licences: Counter[str] = Counter()
    authors: set[str] = set()
    for part in read_parts(store, TRAIN_ATTRIBUTION, ["id", "author", "license"]):
        rows = part.filter(pc.is_in(part["id"], wanted))
        licences.update(rows["license"].to_pylist())
        authors.update(rows["author"].to_pylist())
    licences.pop("", None)
    authors.discard("")
    return Rights(licences=dict(licences), authors=len(authors), unknown=len(ids) - licences.total())


def read_record(store: Store, folder: str) -> ModelRecord | None:
    """The record in the folder of a version; None where there is none, as of a training that is not finished.

    Raises:
        DamagedFileError: it cannot be read. The version is not trained again unasked, which may cost days.
        StoreError: it is of another form than this release knows.
    """
    path = f"{folder}/{RECORD_NAME}"
    try:
        document = store.read_json(path)
    except FileNotFoundError:
        return None
    except DamagedFileError as error:
        raise _damaged(store, path, "no JSON") from error
    form = document.get("format") if isinstance(document, dict) else None
    if isinstance(document, dict) and form != FORMAT:
        raise StoreError(
            f"{store.full_url(path)}: expected the record of a model of form {FORMAT}, found "
            f"{'none' if form is None else f'form {form}'}; use the release that wrote it, or remove the file to train "
            "this version again"
        )
    try:
        return ModelRecord.model_validate(document)
    except ValidationError as error:
        first = error.errors()[0]
        raise _damaged(store, path, f"{'.'.join(map(str, first['loc'])) or 'document'}: {first['msg']}") from error


def _damaged(store: Store, path: str, found: str) -> DamagedFileError:
    return DamagedFileError(
        f"{store.full_url(path)}: expected the record of a model, found {found}; restore it from a backup, or remove "
        "the file to train this version again",
        path,
    )


def kept_record(store: Store, folder: str) -> ModelRecord | None:
    """The record of the finished version in `folder`; None where a file is gone or cut, or it is not finished.

    Raises:
        StoreError: there is a record that cannot be read, or is of another form; as `read_record`'s.
    """
    record = read_record(store, folder)
    if record is None:
        return None
    whole = all(store.size(f"{folder}/{name}") == written.size for name, written in record.files.items())
    return record if whole else None


def taken_over(store: Store, name: str, folder: str) -> ModelRecord | None:
    """The record of a finished version that need not be trained again; None where it is to be trained.

    That is where it is not finished, a file is not as it was written, or a run forces the asset.

    Args:
        store: where it lies.
        name: of the asset or partition.
        folder: of the version.

    Raises:
        StoreError: there is a record that cannot be read, or is of another form; as `read_record`'s.
    """
    if is_forced(name):
        return None
    record = kept_record(store, folder)
    if record is None:
        return None
    for file, written in record.files.items():
        if sha256_of(store, f"{folder}/{file}") != written.sha256:
            log.warning(
                "%s: damaged: its SHA-256 is not that of the version's record; the version is trained again",
                store.full_url(f"{folder}/{file}"),
            )
            return None
    return record


def files_of(writer: Writer, folder: str) -> dict[str, Written]:
    """What `writer` has left in `folder`, by name."""
    start = f"{folder}/"
    return {path.removeprefix(start): written for path, written in writer.outputs.items() if path.startswith(start)}
