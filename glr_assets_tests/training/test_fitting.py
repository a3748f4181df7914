"""Training: it learns, repeats, resumes bit for bit, and leaves nothing lying about."""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glr_assets.errors import EmbedderError
from glr_assets.recipes import Embedder
from glr_assets.training.embedding import embed
from glr_assets.training.fitting import EpochReport, Fitted, fit
from glr_assets.training.model import untrained
from glr_assets.training.photographs import TrainingSet

RECIPE = Embedder(
    backbone="resnet-tiny",
    image_size=32,
    dimensions=16,
    stages=2,
    sub_centers=2,
    scale=12.0,
    epochs=4,
    batch_size=6,
    learning_rate=2e-3,
)
# One landmark is smaller than the others, so that margins differ.
SIZES = {11: 8, 5: 8, 70: 5}
HELD_OUT = 3


def photograph(image_id: str) -> bytes:
    """Upright, level or no stripes as the landmark has it, in colours and widths of the photograph's own."""
    landmark, number = map(int, image_id.split("-"))
    random = np.random.default_rng(landmark * 100 + number)
    y, x = np.mgrid[0:40, 0:48]
    across = {5: x, 11: y, 70: 0 * x}[landmark]
    wave = np.sin(across * random.uniform(0.4, 0.6) + random.uniform(0, 6))[..., None]
    colours = random.uniform(40, 215, 3) + wave * random.uniform(30, 40, 3)
    file = io.BytesIO()
    Image.fromarray(np.clip(colours, 0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def photographs(first: int, last: dict[int, int]) -> TrainingSet:
    pairs = [(f"{landmark}-{n}", landmark) for landmark, end in last.items() for n in range(first, end)]
    return TrainingSet(tuple(i for i, _ in pairs), tuple(c for _, c in pairs), photograph)


TRAINING = photographs(0, SIZES)
VALIDATION = photographs(8, dict.fromkeys(SIZES, 8 + HELD_OUT))


class FolderKeeper:
    """Keeps the latest state in a folder."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "latest.ckpt"
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def where(self) -> str:
        return str(self.file)

    def save(self, path: Path) -> None:
        part = self.file.with_suffix(".part")
        shutil.copyfile(path, part)
        part.replace(self.file)

    def load(self) -> Path | None:
        return self.file if self.file.exists() else None


class CutError(Exception):
    """Stands for whatever ends a run."""


def cut_after(epoch: int):
    def progress(report: EpochReport) -> None:
        if report.epoch == epoch:
            raise CutError

    return progress


def trained(keeper: FolderKeeper | None = None, recipe: Embedder = RECIPE, **changes) -> Fitted:
    values = {"seed": 3, "device": "cpu"} | changes
    return fit(TRAINING, VALIDATION, recipe, keeper=keeper, **values)


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Bits repeat for one number of torch threads; one is also quickest for networks this small."""
    earlier = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(earlier)


@pytest.fixture(scope="module")
def undisturbed() -> Fitted:
    return trained()


def assert_same_bits(one: Fitted, other: Fitted) -> None:
    state, other_state = one.network.state_dict(), other.network.state_dict()
    assert state.keys() == other_state.keys()
    for name, tensor in state.items():
        assert torch.equal(tensor, other_state[name]), name
    told = [
        [(r.epoch, r.epochs, r.loss, r.validation_top1, r.learning_rate) for r in fitted.history]
        for fitted in (one, other)
    ]
    assert told[0] == told[1]


def test_a_training_leaves_no_litter_and_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    trained(recipe=RECIPE.model_copy(update={"epochs": 1}))
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert [str(w.message) for w in recwarn if "lightning" in w.filename] == []
    assert torch.equal(torch.rand(1), expected)


def test_history_tells_of_every_epoch(undisturbed: Fitted) -> None:
    assert [r.epoch for r in undisturbed.history] == [1, 2, 3, 4]
    assert all(r.validation_top1 is not None and 0 <= r.validation_top1 <= 1 for r in undisturbed.history)
    assert all(r.seconds > 0 for r in undisturbed.history)
    # One-cycle: the last step's rate is a thousandth of a per cent of the peak, within a factor.
    assert undisturbed.history[-1].learning_rate < RECIPE.learning_rate / 1000
    assert undisturbed.centres.landmark_ids.tolist() == [5, 11, 70]
    assert undisturbed.centres.vectors.shape == (3, RECIPE.sub_centers, RECIPE.dimensions)
    np.testing.assert_allclose(np.linalg.norm(undisturbed.centres.vectors, axis=2), 1, atol=1e-5)
    assert undisturbed.resumed_after == 0


def test_training_teaches_what_the_untrained_network_does_not_know() -> None:
    recipe = RECIPE.model_copy(update={"epochs": 60, "margin_size": 0.1})
    fitted = trained(recipe=recipe)
    # More than what was watched: of nine photographs one more or less is a matter of float noise.
    fresh = photographs(8, dict.fromkeys(SIZES, 40))

    def top1(network: torch.nn.Module) -> float:
        known, asked = (embed(network, map(photograph, part.ids), 32, device="cpu") for part in (TRAINING, fresh))
        nearest = np.array(TRAINING.landmark_ids)[(asked @ known.T).argmax(axis=1)]
        return float((nearest == fresh.landmark_ids).mean())

    vectors = embed(fitted.network, map(photograph, fresh.ids), 32, device="cpu")
    nearest_centre = fitted.centres.landmark_ids[fitted.centres.cosines(vectors, fitted.centres.landmark_ids).argmax(1)]
    assert np.mean(nearest_centre == fresh.landmark_ids) >= 0.7
    after, before = top1(fitted.network), top1(untrained(recipe, 3))
    assert before <= 0.6
    assert after >= max(0.7, before + 0.2)
    watched = [r.validation_top1 for r in fitted.history]
    assert watched[-1] is not None
    assert watched[-1] >= 0.6


def test_a_run_repeats_whatever_the_workers_memory_and_order(undisturbed: Fitted) -> None:
    assert_same_bits(undisturbed, trained(workers=2, cache_bytes=0))
    backwards = TrainingSet(TRAINING.ids[::-1], TRAINING.landmark_ids[::-1], photograph)
    other_order = fit(backwards, VALIDATION, RECIPE, seed=3, device="cpu")
    assert_same_bits(undisturbed, other_order)
    other_seed = trained(seed=4)
    assert not torch.equal(other_seed.network.bottleneck.weight, undisturbed.network.bottleneck.weight)


@pytest.mark.parametrize("epoch", [1, 3, 4])
def test_a_run_cut_short_resumes_to_the_same_bits(epoch: int, undisturbed: Fitted, tmp_path: Path) -> None:
    keeper = FolderKeeper(tmp_path)
    with pytest.raises(CutError):
        trained(keeper, progress=cut_after(epoch))
    seen: list[int] = []
    resumed = trained(keeper, progress=lambda report: seen.append(report.epoch))
    assert seen == list(range(epoch + 1, 5))
    assert resumed.resumed_after == epoch
    assert_same_bits(undisturbed, resumed)


def test_a_run_cut_inside_an_epoch_resumes_from_its_start(undisturbed: Fitted, tmp_path: Path) -> None:
    keeper, reads = FolderKeeper(tmp_path), []

    def failing(image_id: str) -> bytes:
        reads.append(image_id)
        if len(reads) > 2 * len(TRAINING) + 8:
            raise CutError
        return photograph(image_id)

    broken = TrainingSet(TRAINING.ids, TRAINING.landmark_ids, failing)
    with pytest.raises(CutError):
        fit(broken, VALIDATION, RECIPE, seed=3, device="cpu", keeper=keeper, cache_bytes=0)
    resumed = trained(keeper)
    assert 1 <= resumed.resumed_after <= 2
    assert_same_bits(undisturbed, resumed)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from glr_assets_tests.training.test_fitting import FolderKeeper, trained
def progress(report):
    if report.epoch == 2:
        os.kill(os.getpid(), signal.SIGKILL)
trained(FolderKeeper(Path(sys.argv[1])), progress=progress)
"""


def test_a_killed_process_is_taken_over_by_another(undisturbed: Fitted, tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root)},
        check=False,
        capture_output=True,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    resumed = trained(FolderKeeper(tmp_path))
    assert resumed.resumed_after == 2
    assert_same_bits(undisturbed, resumed)


def test_the_state_of_another_training_is_not_resumed(undisturbed: Fitted, tmp_path: Path) -> None:
    keeper = FolderKeeper(tmp_path)
    for changes in ({"seed": 4}, {"data_version": "other"}, {"recipe": RECIPE.model_copy(update={"scale": 13.0})}):
        with pytest.raises(CutError):
            trained(keeper, progress=cut_after(1), **changes)
        assert keeper.load() is not None
        with pytest.raises(CutError):
            trained(keeper, progress=cut_after(1))
        assert trained(keeper).resumed_after == 1
    assert_same_bits(undisturbed, trained(keeper))


def test_an_unreadable_state_is_named(tmp_path: Path) -> None:
    keeper = FolderKeeper(tmp_path)
    keeper.file.write_bytes(b"half a file")
    with pytest.raises(EmbedderError, match=r"latest\.ckpt: the kept state .* delete .*latest\.ckpt and run again"):
        trained(keeper)


def test_one_landmark_is_nothing_to_tell_apart() -> None:
    with pytest.raises(EmbedderError, match="found 8 photographs of 1 landmarks, expected two"):
        fit(photographs(0, {5: 8}), None, RECIPE, seed=0, device="cpu")


def test_a_loss_that_is_no_number_ends_the_training() -> None:
    with pytest.raises(EmbedderError, match=r"the loss of epoch . is (nan|inf), .* lower .embedder. learning_rate"):
        trained(recipe=RECIPE.model_copy(update={"learning_rate": 1e30}))


def test_a_photograph_that_cannot_be_decoded_is_named() -> None:
    broken = TrainingSet(TRAINING.ids, TRAINING.landmark_ids, lambda _: b"broken")
    with pytest.raises(EmbedderError, match=r"^image \d+-\d+: its 6 bytes cannot be decoded"):
        fit(broken, None, RECIPE, seed=0, device="cpu", workers=2)


def test_nothing_held_out_is_nothing_watched() -> None:
    recipe = RECIPE.model_copy(update={"epochs": 1})
    for nothing in (None, TrainingSet((), (), photograph)):
        assert fit(TRAINING, nothing, recipe, seed=0, device="cpu").history[0].validation_top1 is None
