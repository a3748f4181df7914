"""What every training tells and leaves in the store: lines, a curve and its state as it goes, its record in the end."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from glr_assets.plots import curves
from glr_assets.receipts import Writer
from glr_assets.store import Store
from glr_assets.training.card import card
from glr_assets.training.record import CARD_NAME, RECORD_NAME, ModelRecord, Rights

if TYPE_CHECKING:
    import torch

    from glr_assets.training.lesson import EpochReport

CHECKPOINT_NAME = "checkpoint.ckpt"
CURVES_NAME = "curves.png"
HISTORY_NAME = "history.json"
#: The epochs of a training that is not finished.
PROGRESS_NAME = "progress.json"
#: A curve takes about 0.1 s to draw and lies in the event log of whoever watches, so it is drawn for at most so many
#: epochs, and so many seconds apart.
MOST_SHOWN: Final = 50
SECONDS_APART: Final = 10.0


class StoredCheckpoint:
    """A training's state in the store, so that another machine can go on with it."""

    def __init__(self, store: Store, name: str, scratch: Path) -> None:
        self.store, self.name, self.scratch = store, name, scratch

    @property
    def where(self) -> str:
        """What a user finds it by."""
        return self.store.full_url(self.name)

    def save(self, path: Path) -> None:
        """Keep the file at `path` as the latest state, and delete it."""
        self.store.write(self.name, path.read_bytes())
        path.unlink()

    def load(self) -> Path | None:
        """A local copy of the latest state, or None."""
        try:
            data = self.store.read(self.name)
        except FileNotFoundError:
            return None
        local = self.scratch / CHECKPOINT_NAME
        local.write_bytes(data)
        return local


@dataclass(frozen=True)
class Sight:
    """How a training that is still running stands.

    Attributes:
        model: what is trained.
        report: its latest epoch.
        picture: PNG of its curve so far.
    """

    model: str
    report: EpochReport
    picture: bytes


class LiveTraining:
    """Told of each epoch, it tells a line, keeps the epochs so far in the version's folder, and now and then a curve.

    A training that is gone on with goes on in the same files, and one that follows a warm start begins them anew. They
    are `PROGRESS_NAME` and `CURVES_NAME`, each whole at any time; the first is gone and the second complete once the
    training is finished.
    """

    def __init__(
        self,
        store: Store,
        folder: str,
        model: str,
        told: Callable[[str], None],
        seen: Callable[[Sight], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.store, self.folder, self.model = store, folder, model
        self.told, self.seen, self.clock = told, seen, clock
        self._drawn: float | None = None

    def __call__(self, report: EpochReport) -> None:
        """Keep and tell one epoch."""
        before = (epoch for epoch in self._earlier() if epoch["part"] == report.part and epoch["epoch"] < report.epoch)
        epochs = [*before, asdict(report)]
        self.store.write(
            f"{self.folder}/{PROGRESS_NAME}",
            json.dumps({"epochs": epochs}, indent=2, sort_keys=True).encode() + b"\n",
            sync=False,
        )
        self.told(_line(report))
        if self._is_shown(report):
            picture = _curves(epochs)
            self.store.write(f"{self.folder}/{CURVES_NAME}", picture, sync=False)
            if self.seen is not None:
                self.seen(Sight(self.model, report, picture))
            self._drawn = self.clock()

    def _earlier(self) -> list[dict[str, Any]]:
        try:
            earlier: list[dict[str, Any]] = self.store.read_json(f"{self.folder}/{PROGRESS_NAME}")["epochs"]
        except FileNotFoundError:
            return []
        return earlier

    def _is_shown(self, report: EpochReport) -> bool:
        if self._drawn is None:
            return True
        every = max(1, report.epochs // MOST_SHOWN)
        return report.epoch % every == 0 and self.clock() - self._drawn >= SECONDS_APART


def finish_version(
    writer: Writer,
    folder: str,
    record: ModelRecord,
    script: torch.jit.ScriptModule | None,
    onnx_name: str,
    images: Iterable[bytes],
    rights: Rights,
) -> ModelRecord:
    """Write what is derived of a trained version: its ONNX file, its card and, last of all, its record.

    Args:
        writer: of the model's asset.
        folder: the version's.
        record: what training left and found.
        script: the module that is kept; None where no ONNX is asked for.
        onnx_name: what its ONNX file is called.
        images: encoded photographs, of which the first are shown to both.
        rights: of the photographs that trained.

    Returns:
        The record as it is kept.

    Raises:
        EmbedderError: the ONNX file gives other numbers than the module.
    """
    name, reason = "", "the recipe asks for none"
    if script is not None:
        from glr_assets.training.onnx_export import onnx_of

        exported = onnx_of(script, record.image_size, images)
        reason = exported.reason
        if exported.data:
            name = onnx_name
            writer.write(f"{folder}/{name}", exported.data)
    if not name:
        writer.store.remove(f"{folder}/{onnx_name}")
    record = record.model_copy(update={"onnx": name, "without_onnx": reason, "rights": rights})
    writer.write(f"{folder}/{CARD_NAME}", card(record).encode())
    writer.json(f"{folder}/{RECORD_NAME}", record.model_dump(mode="json"))
    return record


def _line(report: EpochReport) -> str:
    watched = "" if report.validation_top1 is None else f", validation top-1 {report.validation_top1:.3f}"
    spread = "" if report.spread is None else f", spread {report.spread:.2f}"
    part = "" if report.part == "training" else f"{report.part}, "
    told = f"loss {report.loss:.4f}{watched}{spread}, {report.seconds:.1f} s"
    return f"{part}epoch {report.epoch} of {report.epochs}: {told}"


def end_training(store: Store, folder: str) -> None:
    """Remove what a finished training needs no longer: its state and its live epochs."""
    for name in (CHECKPOINT_NAME, PROGRESS_NAME):
        store.remove(f"{folder}/{name}")


def epochs_of(history: Sequence[EpochReport]) -> list[dict[str, float | None]]:
    """What is kept of each epoch: the figures that are the same in every run."""
    return [
        {"loss": report.loss, "validation_top1": report.validation_top1, "learning_rate": report.learning_rate}
        for report in history
    ]


def learning_curves(history: Sequence[EpochReport]) -> bytes:
    """PNG: the training's loss by epoch, and the share of held-out photographs told right where it was watched."""
    return _curves([asdict(report) for report in history])


def _curves(epochs: Sequence[dict[str, Any]]) -> bytes:
    # Of a training that was killed between keeping its state and telling of it, the live epochs lack one.
    by_number = {epoch["epoch"]: epoch for epoch in epochs}
    numbers = range(1, max(by_number, default=0) + 1)

    def values(name: str) -> list[float]:
        found = (by_number.get(number, {}).get(name) for number in numbers)
        return [float("nan") if value is None else value for value in found]

    part = epochs[-1]["part"] if epochs else "training"
    shares = {"validation top-1": values("validation_top1"), "spread of outputs": values("spread")}
    return curves({f"{part} loss": values("loss")}, "epoch", "loss", shares, "share")
