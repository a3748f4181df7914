"""What a training shows while it runs: lines, whole files at any time, and no more pictures than are of use."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import pytest
from PIL import Image

from glr_assets.store import Store
from glr_assets.training import kept
from glr_assets.training.kept import CURVES_NAME, MOST_SHOWN, PROGRESS_NAME, LiveTraining, Sight, end_training
from glr_assets.training.lesson import EpochReport

REPORT = EpochReport(epoch=1, epochs=9, loss=2.0, validation_top1=0.5, learning_rate=1e-3, seconds=1.26)


class Watch:
    """A live training under a clock of its own."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store, self.now = store, 0.0
        self.lines: list[str] = []
        self.sights: list[Sight] = []
        self.drawn: list[list[tuple[int, float]]] = []
        whole = kept._curves

        def curves(epochs):
            self.drawn.append([(epoch["epoch"], epoch["loss"]) for epoch in epochs])
            return whole(epochs)

        monkeypatch.setattr(kept, "_curves", curves)

    def start(self) -> LiveTraining:
        return LiveTraining(self.store, "m", "embedder", self.lines.append, self.sights.append, lambda: self.now)

    def kept(self) -> list[int]:
        return [epoch["epoch"] for epoch in json.loads(self.store.read(f"m/{PROGRESS_NAME}"))["epochs"]]


@pytest.fixture
def watch(store: Store, monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(store, monkeypatch)


def test_an_epoch_is_told_in_a_line(watch: Watch) -> None:
    live = watch.start()
    live(REPORT)
    live(replace(REPORT, epoch=2, validation_top1=None))
    live(replace(REPORT, part="warm start", validation_top1=None, spread=0.9))
    assert watch.lines == [
        "epoch 1 of 9: loss 2.0000, validation top-1 0.500, 1.3 s",
        "epoch 2 of 9: loss 2.0000, 1.3 s",
        "warm start, epoch 1 of 9: loss 2.0000, spread 0.90, 1.3 s",
    ]


def test_every_epoch_is_kept_and_the_curve_drawn_now_and_then(watch: Watch) -> None:
    live = watch.start()
    for epoch in range(1, 7):
        live(replace(REPORT, epoch=epoch, loss=1 / epoch))
        watch.now += 4.0
    assert watch.kept() == [1, 2, 3, 4, 5, 6]
    # The first, and each that is ten seconds after the last that was drawn.
    assert [sight.report.epoch for sight in watch.sights] == [1, 4]
    assert watch.drawn[-1] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]
    assert watch.store.read(f"m/{CURVES_NAME}") == watch.sights[-1].picture
    with Image.open(io.BytesIO(watch.sights[-1].picture)) as image:
        assert image.format == "PNG"


def test_a_long_training_is_drawn_a_bounded_number_of_times(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_curves", lambda epochs: b"png")
    live = watch.start()
    for epoch in range(1, 201):
        live(replace(REPORT, epoch=epoch, epochs=200))
        watch.now += 3600.0
    assert MOST_SHOWN <= len(watch.sights) <= MOST_SHOWN + 1


def test_a_training_gone_on_with_goes_on_in_its_curve(watch: Watch) -> None:
    first = watch.start()
    for epoch in (1, 2, 3):
        first(replace(REPORT, epoch=epoch, loss=float(epoch)))
    # It was killed in epoch 4, and goes on from the state of epoch 2.
    again = watch.start()
    again(replace(REPORT, epoch=3, loss=33.0))
    assert watch.drawn[-1] == [(1, 1.0), (2, 2.0), (3, 33.0)]
    # A kill between state and curve leaves a gap of one epoch, which is passed over.
    watch.start()(replace(REPORT, epoch=5, loss=5.0))
    assert watch.drawn[-1] == [(1, 1.0), (2, 2.0), (3, 33.0), (5, 5.0)]
    assert watch.kept() == [1, 2, 3, 5]


def test_a_training_after_a_warm_start_begins_its_own_curve(watch: Watch) -> None:
    live = watch.start()
    for epoch in (1, 2):
        live(replace(REPORT, epoch=epoch, part="warm start", spread=0.5))
    watch.now += 60
    live(REPORT)
    assert watch.kept() == [1]
    assert len(watch.drawn[-1]) == 1


def test_what_is_live_goes_with_the_end_of_the_training(watch: Watch) -> None:
    watch.start()(REPORT)
    watch.store.write("m/checkpoint.ckpt", b"state")
    end_training(watch.store, "m")
    assert watch.store.names("m") == [CURVES_NAME]
    end_training(watch.store, "m")
