"""Display names: found, refused with the nearest, shared by several labels; class descriptions of either form."""

from __future__ import annotations

import pytest

from glr_assets.errors import RecipeError, SourceError, TableError
from glr_assets.openimages.labels import read_descriptions, wanted_labels
from glr_assets.openimages.layout import CLASS_DESCRIPTIONS
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets_tests.openimages.handmade import LABELS, Root


def test_labels_of_names_in_their_order(root: Root) -> None:
    found = wanted_labels(root.write(), ["Dog", "Cat"])
    assert list(found.categories.items()) == [("/m/dog", "Dog"), ("/m/cat", "Cat")]
    assert found.shared == ()


@pytest.mark.parametrize("name", ["dog", "Dogg", "Dgo"])
def test_an_unknown_name_is_refused_with_the_nearest(root: Root, name: str) -> None:
    with pytest.raises(RecipeError, match=rf"\[openimages\] categories.*'{name}' \(nearest: Dog"):
        wanted_labels(root.write(), ["Cat", name])


def test_a_name_like_no_other_is_refused_and_all_are_named(root: Root) -> None:
    with pytest.raises(RecipeError, match=r"'Zzzzzz' \(nearest: none\); 'Foxx' \(nearest: Fox"):
        wanted_labels(root.write(), ["Zzzzzz", "Foxx"])


def test_all_labels_of_a_shared_name_are_taken_and_told(root: Root) -> None:
    opened = root.write()
    (root.folder / CLASS_DESCRIPTIONS[0]).write_text("/m/2,Bat\n/m/1,Bat\n/m/3,Cat\n")
    found = wanted_labels(opened, ["Bat", "Cat"])
    assert list(found.categories) == ["/m/1", "/m/2", "/m/3"]
    assert found.shared == ("Bat",)


@pytest.mark.parametrize("name", CLASS_DESCRIPTIONS)
@pytest.mark.parametrize("header", ["", "LabelName,DisplayName\n", "\ufeffLabelName,DisplayName\n"])
def test_each_published_form_is_read(root: Root, name: str, header: str) -> None:
    root.write()
    (root.folder / CLASS_DESCRIPTIONS[0]).unlink()
    (root.folder / name).write_text(header + '/m/a,"Cat, wild"\n/m/b,Dog\n', encoding="utf-8")
    assert read_descriptions(OpenImagesRoot(str(root.folder))) == {"/m/a": "Cat, wild", "/m/b": "Dog"}


@pytest.mark.parametrize(
    ("text", "told"), [("/m/a,Cat,more\n", "line 1 has 3 columns"), ("/m/a,Cat\n/m/a,Dog\n", "'Cat' and 'Dog'")]
)
def test_another_form_is_told(root: Root, text: str, told: str) -> None:
    opened = root.write()
    (root.folder / CLASS_DESCRIPTIONS[0]).write_text(text)
    with pytest.raises(TableError, match=told):
        read_descriptions(opened)


def test_a_place_without_open_images_names_what_was_looked_for(root: Root) -> None:
    with pytest.raises(SourceError, match=r"none of class-descriptions-boxable\.csv, .*GLR_OPENIMAGES"):
        OpenImagesRoot(str(root.folder))
    assert wanted_labels(root.write(), ["Fox"]).categories == {"/m/fox": LABELS["/m/fox"]}
