"""The annotations: wanted rows alone, each once, each unusable one with its reason, and its image's rights."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from glr_assets.csv_structure import UNTERMINATED
from glr_assets.errors import RecipeError, SourceError, TableError
from glr_assets.openimages import csv_stream, layout
from glr_assets.openimages.annotations import make_openimages_annotations
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.openimages.schemas import OPENIMAGES_ANNOTATIONS
from glr_assets.recipes import OpenImages
from glr_assets.store import Store
from glr_assets.tables import problems, read_table
from glr_assets_tests.lineage import digests
from glr_assets_tests.openimages.handmade import RECIPE, Root, box, csv_of, image_row


def rows_of(root: OpenImagesRoot, store: Store, recipe: OpenImages = RECIPE, seed: int = 0) -> list[dict]:
    make_openimages_annotations(root, store, recipe, seed)
    return read_table(store, OPENIMAGES_ANNOTATIONS).to_pylist()


def test_rows_of_the_wanted_categories_with_their_images_rights(root: Root, store: Store) -> None:
    root.add("b1", b"one", box("b1", "/m/fox"), box("b1", "/m/dog"), Rotation="90.0")
    root.add("a1", b"two", box("a1", "/m/cat", IsOccluded=1, IsInside=1))
    first, second = rows_of(root.write(), store)
    assert (first["image_id"], first["box"], first["category"], first["status"], first["reason"]) == (
        "a1",
        0,
        "Cat",
        "usable",
        "",
    )
    assert [first[name] for name in ("xmin", "xmax", "ymin", "ymax")] == [0.1, 0.5, 0.2, 0.6]
    assert (first["is_occluded"], first["is_truncated"], first["is_inside"]) == (1, 0, 1)
    assert first["author"] == "author of a1"
    assert first["license"] == "https://creativecommons.org/licenses/by/2.0/"
    assert first["title"] == "a title,\nof two lines"
    assert (first["original_size"], first["rotation"]) == (3, 0)
    assert (second["image_id"], second["label"], second["rotation"]) == ("b1", "/m/dog", 90)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"edges": (0.2, 0.2, 0.1, 0.5)}, "zero area"),
        ({"edges": (0.2, 0.4, 0.5, 0.5)}, "zero area"),
        ({"edges": (0.4, 0.2, 0.1, 0.5)}, "reversed: an edge beyond its opposite"),
        ({"edges": (-0.01, 0.2, 0.1, 0.5)}, "outside the image: an edge beyond 0…1"),
        ({"edges": (0.1, 0.2, 0.1, 1.000001)}, "outside the image: an edge beyond 0…1"),
        ({"edges": ("x", 0.2, 0.1, 0.5)}, "malformed: XMin is 'x'"),
        ({"edges": (0.1, "", 0.1, 0.5)}, "malformed: XMax is ''"),
        ({"edges": (0.1, "nan", 0.1, 0.5)}, "malformed: XMax is 'nan'"),
        ({"IsGroupOf": -1}, "flags not told: IsGroupOf is -1"),
        ({"IsGroupOf": 2}, "malformed: IsGroupOf is '2'"),
        ({"Confidence": "?"}, "malformed: Confidence is '?'"),
        ({"Source": "activemil"}, "source: activemil"),
        ({"Confidence": 0.4}, "confidence: 0.4"),
    ],
)
def test_what_cannot_be_used_is_a_row_with_its_reason(
    root: Root, store: Store, changes: dict[str, object], reason: str
) -> None:
    root.add("a1", b"one", box("a1"), box("a1", "/m/dog", **changes))  # type: ignore[arg-type]
    recipe = RECIPE.model_copy(update={"sources": ("xclick",), "min_confidence": 0.5})
    good, bad = rows_of(root.write(), store, recipe)
    assert (good["status"], bad["status"]) == ("usable", "refused")
    assert bad["reason"] == reason


def test_an_id_that_is_no_file_name_is_refused(root: Root, store: Store) -> None:
    root.add("../up", None, box("../up"))
    (row,) = rows_of(root.write(), store)
    assert row["reason"] == "malformed: ImageID is '../up'"


def test_repeated_rows_are_one_that_counts_them_and_contradictions_are_told(root: Root, store: Store) -> None:
    same, flagged = box("a1"), box("a1", IsDepiction=1)
    root.add("a1", b"one", same, box("a1", edges=(0, 1, 0, 1)), same, flagged, same)
    made = make_openimages_annotations(root.write(), store, RECIPE, 0)
    rows = read_table(store, OPENIMAGES_ANNOTATIONS).to_pylist()
    assert [row["box"] for row in rows] == [0, 1, 2]
    assert [row["copies"] for row in rows] == [1, 3, 1]
    assert [row["status"] for row in rows] == ["usable", "usable", "refused"]
    assert rows[2]["reason"].startswith("repeated box")
    summary = made.receipt.summary
    assert (summary["rows"], summary["published_rows"], summary["repeated_rows"]) == (3, 5, 2)
    assert summary["reason: repeated box"] == 1


def test_the_order_of_published_rows_changes_nothing(root: Root, tmp_path: Path) -> None:
    for number in range(12):
        edges = (number / 20, 0.9, 0, 1)
        root.add(f"i{number % 4}{number}", b"x", box(f"i{number % 4}{number}", edges=edges), box("i00", edges=edges))
    found = []
    for order in range(3):
        random.Random(order).shuffle(root.boxes)
        random.Random(order).shuffle(root.images)
        store = Store(str(tmp_path / f"store{order}"))
        make_openimages_annotations(root.write(), store, RECIPE, 0)
        found.append(digests(Path(store.root), "metadata"))
    assert found[0] == found[1] == found[2]


def test_blocks_and_columns_that_are_not_read_change_nothing(
    root: Root, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(300):
        root.add(f"i{number:04d}", b"x", box(f"i{number:04d}", "/m/cat" if number % 3 else "/m/fox"))
    opened = root.write()
    one, other = Store(str(tmp_path / "one")), Store(str(tmp_path / "other"))
    make_openimages_annotations(opened, one, RECIPE, 0)
    monkeypatch.setattr(csv_stream, "_BLOCK", 2000)
    rows = [row | dict.fromkeys(layout.CLICK_COLUMNS, 0.5) for row in root.boxes]
    name = root.folder / layout.BOXES["train"][0]
    name.write_bytes(csv_of([*layout.BOX_COLUMNS[::-1], *layout.CLICK_COLUMNS], rows))
    made = make_openimages_annotations(opened, other, RECIPE, 0)
    assert digests(Path(one.root), "metadata") == digests(Path(other.root), "metadata")
    assert made.receipt.summary["published_rows"] == 300
    assert made.receipt.summary["rows"] == 200


def test_the_cap_draws_images_and_tells_what_is_beyond(root: Root, store: Store) -> None:
    for number in range(20):
        root.add(f"i{number:02d}", b"x", box(f"i{number:02d}", "/m/cat"), box(f"i{number:02d}", "/m/dog"))
    opened = root.write()
    capped = RECIPE.model_copy(update={"most_boxes": 5})

    def drawn(seed: int) -> set[str]:
        rows = rows_of(opened, store, capped, seed)
        usable = [row for row in rows if row["status"] == "usable"]
        assert len(rows) == 40
        assert {row["reason"] for row in rows if row["status"] == "skipped"} == {"beyond most_boxes of its category"}
        cats, dogs = ({row["image_id"] for row in usable if row["category"] == name} for name in ("Cat", "Dog"))
        assert len(cats) == 5
        assert cats == dogs
        return cats

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_images_that_no_table_tells_of_are_rows_and_counted(root: Root, store: Store) -> None:
    root.boxes = [box("a1")]
    made = make_openimages_annotations(root.write(), store, RECIPE, 0)
    (row,) = read_table(store, OPENIMAGES_ANNOTATIONS).to_pylist()
    assert (row["status"], row["url"], row["license"]) == ("usable", None, None)
    assert made.receipt.summary["boxes_without_url"] == 1


@pytest.mark.parametrize(("text", "told"), [("nan", None), ("", None), ("45.0", None), ("270", 270), ("180.0", 180)])
def test_rotations_are_quarters_or_unknown(root: Root, store: Store, text: str, told: int | None) -> None:
    root.add("a1", b"x", box("a1"), Rotation=text)
    assert rows_of(root.write(), store)[0]["rotation"] == told


def test_tables_of_the_older_form_without_rotation_are_read(root: Root, store: Store) -> None:
    root.add("a1", b"x", box("a1"))
    opened = root.write()
    name = root.folder / layout.IMAGES["train"][0]
    columns = [column for column in layout.IMAGE_COLUMNS if column != "Rotation"]
    rows = [{key: row[key] for key in columns} for row in [image_row("a1", b"x")]]
    (root.folder / layout.IMAGES["train"][1]).write_bytes(csv_of(columns, rows))
    name.unlink()
    (row,) = rows_of(opened, store)
    assert (row["rotation"], row["author"]) == (None, "author of a1")


def test_categories_without_boxes_are_told(root: Root, store: Store) -> None:
    root.add("a1", b"x", box("a1", "/m/cat"), box("a1", "/m/dog", edges=(0, 0, 0, 1)))
    recipe = RECIPE.model_copy(update={"categories": ("Cat", "Dog", "Fox")})
    summary = make_openimages_annotations(root.write(), store, recipe, 0).receipt.summary
    assert summary["categories_without_boxes"] == "Dog, Fox"
    assert (summary["boxes: Cat"], summary["boxes: Fox"]) == (1, 0)


def test_no_rows_at_all_are_an_empty_table(root: Root, store: Store) -> None:
    make_openimages_annotations(root.write(), store, RECIPE, 0)
    data = read_table(store, OPENIMAGES_ANNOTATIONS)
    assert data.num_rows == 0
    assert problems(OPENIMAGES_ANNOTATIONS, data) == []


def test_a_file_that_was_cut_is_refused_by_name(root: Root, store: Store) -> None:
    root.add("a1", b"x", *(box("a1", edges=(0, 1, 0, (n + 1) / 100)) for n in range(50)))
    opened = root.write()
    path = root.folder / layout.BOXES["train"][0]
    path.write_bytes(path.read_bytes()[:-14])
    with pytest.raises(TableError, match=r"oidv6-train-annotations-bbox\.csv: line 51: 8 values, expected 13"):
        make_openimages_annotations(opened, store, RECIPE, 0)


def test_a_title_that_swallows_rows_is_refused_and_a_file_without_its_last_line_end_is_named(
    root: Root, store: Store
) -> None:
    for image in ("00000000000000a1", "00000000000000a2", "00000000000000a3"):
        root.add(image, b"x", box(image))
    opened = root.write()
    path = root.folder / layout.IMAGES["train"][0]
    text = path.read_text()
    title = '"a title,\nof two lines"'
    assert text.count(title) == 3
    first, second, third = text.split(title, 2)
    # One quote is lost at the end of a title, the next one at the beginning of another: quotes are even again.
    path.write_text(first + title[:-1] + second + title[1:] + third)
    with pytest.raises(TableError, match=r"images-boxable-with-rotation\.csv: line \d+: "):
        make_openimages_annotations(opened, store, RECIPE, 0)
    path.write_text(text.rstrip("\n"))
    made = make_openimages_annotations(opened, store, RECIPE, 0)
    assert made.receipt.summary[UNTERMINATED] == path.name


def test_a_file_that_lacks_a_column_or_is_missing_is_told(root: Root, store: Store) -> None:
    opened = root.write()
    path = root.folder / layout.BOXES["train"][0]
    path.write_text(path.read_text().replace("XMax", "XMaximum"))
    with pytest.raises(TableError, match="lacks XMax"):
        make_openimages_annotations(opened, store, RECIPE, 0)
    path.unlink()
    with pytest.raises(SourceError, match=r"none of oidv6-train-annotations-bbox\.csv, train-annotations-bbox\.csv"):
        make_openimages_annotations(opened, store, RECIPE, 0)


def test_what_was_made_before_is_known_by_content(root: Root, store: Store) -> None:
    root.add("a1", b"x", box("a1"))
    opened = root.write()
    assert not make_openimages_annotations(opened, store, RECIPE, 0).reused
    # Without a cap nothing is drawn, so the seed is no part of it; nor is how crops are cut out.
    assert make_openimages_annotations(opened, store, RECIPE.model_copy(update={"size": 64}), 5).reused
    root.boxes.append(box("a1", "/m/dog"))
    assert not make_openimages_annotations(root.write(), store, RECIPE, 0).reused


def test_unknown_categories_stop_it(root: Root, store: Store) -> None:
    with pytest.raises(RecipeError, match="nearest: Cat"):
        make_openimages_annotations(root.write(), store, RECIPE.model_copy(update={"categories": ("Kat",)}), 0)
