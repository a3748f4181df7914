"""The report of `glr demo` as a terminal shows it."""

from __future__ import annotations

from glr_assets.demo import DemoReport, ImageCounts, shown

WHICH = "         corrupt: status `failed` in metadata/image_catalog.parquet; `glr why ID`"


def lines(corrupt: int) -> list[str]:
    images = ImageCounts(
        seen=10, stored=10 - corrupt, corrupt=corrupt, deduped=6, extra=0, cleaned=6, train=6, index=1, test=1
    )
    report = DemoReport(
        unscored="no solution is published",
        gap=None,
        gap_landmarks_only=None,
        map100=None,
        top1=None,
        controls={},
        with_picture=None,
        images=images,
        account={"train": {"trains": 6}, "test": {"stored": 1}},
        packed=None,
        held_out=0,
        seconds={"embedder": 1.0},
        took=4.4,
        source="bucket",
        store="store",
        recipe="small",
    )
    return shown(report).splitlines()


def test_it_says_how_to_see_which_images_are_corrupt() -> None:
    assert "images   10 seen, 8 stored, 2 corrupt" in lines(2)
    assert WHICH in lines(2)
    assert WHICH not in lines(0)


def test_it_took_as_long_as_the_whole_and_not_as_its_assets() -> None:
    assert "took     4 s" in lines(0)
