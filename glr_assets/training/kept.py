"""What every training tells and leaves in the store: a line an epoch, its latest state, and in the end its curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from glr_assets.plots import curves
from glr_assets.store import Store

if TYPE_CHECKING:
    from glr_assets.training.trainer import EpochReport

CHECKPOINT_NAME = "checkpoint.ckpt"
CURVES_NAME = "curves.png"


class StoredCheckpoint:
    """A training's state in the store, so that another machine can go on with it."""

    def __init__(self, store: Store, name: str, scratch: Path) -> None:
        self.store, self.name, self.scratch = store, name, scratch

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


def epoch_teller(told: Callable[[str], None]) -> Callable[[EpochReport], None]:
    """Tells an epoch's report in a line."""

    def tell(report: EpochReport) -> None:
        watched = "" if report.validation_top1 is None else f", validation top-1 {report.validation_top1:.3f}"
        told(f"epoch {report.epoch} of {report.epochs}: loss {report.loss:.4f}{watched}, {report.seconds:.1f} s")

    return tell


def learning_curves(history: Sequence[EpochReport]) -> bytes:
    """PNG: the training's loss by epoch, and the share of held-out photographs told right where it was watched."""
    series = {"training loss": [report.loss for report in history]}
    watched = [report.validation_top1 for report in history]
    if any(value is not None for value in watched):
        series["validation top-1"] = [float("nan") if value is None else value for value in watched]
    return curves(series, "epoch", "loss; share right")
