"""From evaluated to in service on real photographs: all of them train, and answers are as good or better."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

from glr_assets.serving.limits import Limits, photograph
from glr_assets.serving.recogniser import Recogniser, Timings
from glr_assets.serving.schemas import Answer
from glr_assets.store import Store
from glr_assets_tests.integration.conftest import Glr

LANDMARKS = ("burj_khalifa", "eiffel_tower", "statue_of_liberty", "stonehenge", "taj_mahal")
OTHERS = ("hoian_town", "sapa_rice_terraces", "halong_bay", "great_wall_of_china")
STRANGERS = ("roman_colosseum", "chichen_itza", "tokyo_skytree", "london_bridge", "machu_pichu")
#: Photographs of a landmark that are packed, and that are asked and never packed.
PACKED, UNSEEN = 13, 4


def copied(paths: Sequence[Path], folder: Path) -> None:
    folder.mkdir(parents=True)
    for path in paths:
        shutil.copy(path, folder)


def answers(recogniser: Recogniser, paths: Sequence[Path]) -> list[Answer]:
    """What `glr serve` answers to each photograph."""
    photos = [photograph(path.read_bytes(), recogniser.images, Limits()) for path in paths]
    return [recogniser.recognise([photo], 1, Timings({}))[0] for photo in photos]


def name_of(folder: str) -> str:
    return folder.replace("_", " ")


@pytest.mark.slow
def test_with_all_photographs_in_training_answers_are_as_good_as_evaluated(
    glr: Glr, shared_photos: Path, tmp_path: Path
) -> None:
    glr.patience = 3600
    landmarks = shared_photos / "landmarks"
    unseen: list[tuple[str, Path]] = []
    for name in LANDMARKS:
        photos = sorted((landmarks / name).iterdir())
        copied(photos[:PACKED], tmp_path / "photos" / name)
        unseen += [(name, path) for path in photos[PACKED : PACKED + UNSEEN]]
    copied([path for name in OTHERS for path in sorted((landmarks / name).iterdir())[:5]], tmp_path / "others")
    strangers = [path for name in STRANGERS for path in sorted((landmarks / name).iterdir())[:4]]
    # What nothing here depends on is learned in one epoch.
    (tmp_path / "own.toml").write_text('base = "own_photos"\n[groups]\nepochs = 1\n[filter]\nepochs = 1\n')

    for bucket, store, more in (("evaluated", "store", ()), ("all", "service", ("--test-fraction", "0"))):
        packed = glr("pack", "photos", bucket, "--non-landmarks", "others", *more)
        assert packed.returncode == 0, packed.stderr
        done = glr("demo", "--source", bucket, "--store", store, "--recipe", "own.toml", "--json", f"{store}.json")
        assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "service.json").read_text())
    assert report["images"]["train"] == len(LANDMARKS) * PACKED
    assert report["gap"] is None
    assert "no solution" in report["unscored"]

    before, after = (Recogniser.open(Store(str(tmp_path / name))) for name in ("store", "service"))

    def right(recogniser: Recogniser) -> list[float]:
        """Of photographs that were never packed, the probabilities of right answers that are given."""
        found = answers(recogniser, [path for _, path in unseen])
        asked = zip(unseen, found, strict=True)
        return [
            answer.landmarks[0].probability
            for (name, _), answer in asked
            if answer.is_landmark and answer.landmarks[0].name == name_of(name)
        ]

    sure = {name: sorted(right(recogniser)) for name, recogniser in (("before", before), ("after", after))}
    assert len(sure["after"]) >= len(sure["before"]), sure
    assert len(sure["after"]) >= len(unseen) // 2, sure
    # A clear photograph is answered with confidence, not just taken for a landmark.
    assert sure["after"][len(sure["after"]) // 2] > 0.9, sure
    wrong = {
        name: sum(answer.is_landmark for answer in answers(recogniser, strangers))
        for name, recogniser in (("before", before), ("after", after))
    }
    assert wrong["after"] <= max(wrong["before"] + 1, len(strangers) // 5), wrong
    # What asked in the evaluated store trains in the other, and is recognized by it.
    with (tmp_path / "evaluated" / "files.csv").open(newline="") as file:
        asked = [row for row in csv.DictReader(file) if row["split"] == "test" and row["landmark"]]
    assert asked
    for row, answer in zip(asked, answers(after, [tmp_path / "photos" / row["path"] for row in asked]), strict=True):
        assert answer.is_landmark, row["path"]
        assert answer.landmarks[0].name == row["landmark"], row["path"]
