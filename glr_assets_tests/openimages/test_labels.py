"""Display names: found, refused with the nearest, shared by several labels; class descriptions of either form."""

from __future__ import annotations

import json

import pytest

from glr_assets.errors import RecipeError, SourceError, TableError
from glr_assets.openimages.annotations import make_openimages_annotations
from glr_assets.openimages.labels import read_descriptions, read_hierarchy, wanted_labels
from glr_assets.openimages.layout import CLASS_DESCRIPTIONS, HIERARCHY
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.openimages.schemas import OPENIMAGES_ANNOTATIONS
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets_tests.openimages.handmade import LABELS, RECIPE, Root, box


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
    ("text", "told"), [("/m/a,Cat,more\n", "line 1: 3 values"), ("/m/a,Cat\n/m/a,Dog\n", "'Cat' and 'Dog'")]
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


PEOPLE = {"/m/p": "Person", "/m/m": "Man", "/m/w": "Woman", "/m/d": "Dancer", "/m/a": "Animal", "/m/c": "Cat"}
TREE = {
    "LabelName": "/m/all",
    "Subcategory": [
        {
            "LabelName": "/m/p",
            "Subcategory": [{"LabelName": "/m/m", "Subcategory": [{"LabelName": "/m/d"}]}, {"LabelName": "/m/w"}],
            "Part": [{"LabelName": "/m/arm"}],
        },
        {"LabelName": "/m/w", "Subcategory": [{"LabelName": "/m/d"}]},
        {"LabelName": "/m/a", "Subcategory": [{"LabelName": "/m/c"}]},
    ],
}


def people(root: Root, tree: object = TREE) -> OpenImagesRoot:
    root.labels = PEOPLE
    opened = root.write()
    (root.folder / HIERARCHY[0]).write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return opened


def test_a_category_takes_all_below_it_but_the_parts_of_things(root: Root) -> None:
    opened = people(root)
    assert wanted_labels(opened, ["Person"]).categories == {"/m/p": "Person"}
    found = wanted_labels(opened, ["Person"], subcategories=True)
    assert found.categories == dict.fromkeys(("/m/p", "/m/m", "/m/w", "/m/d"), "Person")
    assert found.below == ("/m/m", "/m/w", "/m/d")
    assert read_hierarchy(opened)["/m/p"] == ("/m/m", "/m/w")


def test_of_several_wanted_categories_above_a_label_the_nearest_has_it(root: Root) -> None:
    opened = people(root)
    found = wanted_labels(opened, ["Person", "Man"], subcategories=True).categories
    assert found == {"/m/p": "Person", "/m/m": "Man", "/m/w": "Person", "/m/d": "Man"}
    # A dancer is as near to both: the first that the recipe names has it.
    for first, other in (("Man", "Woman"), ("Woman", "Man")):
        assert wanted_labels(opened, [first, other], subcategories=True).categories["/m/d"] == first


@pytest.mark.parametrize("tree", ["", "[]", {"Subcategory": []}, {"LabelName": "/m/p", "Subcategory": [{"x": 1}]}])
def test_another_form_of_the_hierarchy_is_told(root: Root, tree: object) -> None:
    with pytest.raises(TableError, match=r"bbox_labels_600_hierarchy\.json: .*as published"):
        wanted_labels(people(root, tree), ["Cat"], subcategories=True)


def test_a_hierarchy_that_is_not_there_is_named(root: Root) -> None:
    with pytest.raises(SourceError, match=r"none of bbox_labels_600_hierarchy\.json is there"):
        wanted_labels(root.write(), ["Cat"], subcategories=True)


def test_boxes_below_a_category_are_its_own_and_one_box_under_two_labels_is_one(root: Root, store: Store) -> None:
    same, other = (0.1, 0.5, 0.2, 0.6), (0.3, 0.9, 0.2, 0.6)
    boxes = [
        box("a1", label, edges) for label, edges in (("/m/w", same), ("/m/p", same), ("/m/d", other), ("/m/c", same))
    ]
    root.add("a1", b"one", *boxes)
    recipe = RECIPE.model_copy(update={"categories": ("Person", "Animal"), "subcategories": True})
    made = make_openimages_annotations(people(root), store, recipe, 0)
    rows = {row["label"]: row for row in read_table(store, OPENIMAGES_ANNOTATIONS).to_pylist()}
    assert {label: row["category"] for label, row in rows.items()} == {
        "/m/p": "Person",
        "/m/w": "Person",
        "/m/d": "Person",
        "/m/c": "Animal",
    }
    assert {label: row["status"] for label, row in rows.items() if row["status"] == "refused"} == {"/m/w": "refused"}
    assert rows["/m/w"]["reason"].startswith("repeated box")
    assert (made.receipt.summary["boxes: Person"], made.receipt.summary["labels_below_categories"]) == (2, 4)
    # Another tree is another selection.
    people(root, TREE | {"Subcategory": []})
    again = make_openimages_annotations(OpenImagesRoot(str(root.folder)), store, recipe, 0)
    assert not again.reused
    assert again.receipt.summary["rows"] == 1
