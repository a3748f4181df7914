from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glr_assets.curation.schemas import TRAIN_MANIFEST
from glr_assets.errors import MissingInputError
from glr_assets.exports.images import Landmark, export_images, manifest_inputs, named
from glr_assets.images.reader import ImageReader
from glr_assets.store import Store
from glr_assets_tests.exports.conftest import ANONYMOUS, IDS, LANDMARKS, write_manifest
from glr_assets_tests.images.handmade import identifier


def test_each_image_comes_with_its_landmark_and_its_rights(packed: Store) -> None:
    images, reader = export_images(packed, "train_manifest"), ImageReader.of_split(packed, "train")
    assert len(images) == len(IDS)
    found = {image.id: image for part in images.in_parts(5) for image in part}
    assert list(found) == sorted(IDS)
    for number, (image_id, landmark) in enumerate(zip(IDS, LANDMARKS, strict=True)):
        image = found[image_id]
        assert image.landmark_id == landmark
        assert image.label == [3, 7, 11, 2**40].index(landmark)
        assert image.name == {3: "Eiffel Tower", 7: "", 11: 'Kölner Dom, "Köln"', 2**40: "A/B"}[landmark]
        assert (image.width, image.height) == Image.open(io.BytesIO(reader.read(image_id))).size
        if image_id == ANONYMOUS:
            assert (image.url, image.author, image.license, image.title) == ("", "", "", "")
        else:
            author = 'Ann, "the" Ñandú\nof two lines' if number == 0 else f"Ann {image_id[:3]}"
            assert (image.author, image.license) == (author, "CC BY 4.0")
            assert (image.url, image.title) == (f"https://x.org/{image_id}", f"File:{image_id}.jpg")
    assert images.without_rights == 1
    assert images.landmarks[2] == Landmark(2, 11, 'Kölner Dom, "Köln"', 1)
    assert [landmark.images for landmark in images.landmarks] == [6, 5, 1, 4]


def test_images_are_given_in_the_order_asked_for(packed: Store) -> None:
    images = export_images(packed, "train_manifest")
    asked = np.array([3, 0, 3, 15])
    assert [image.id for image in images.at(asked)] == [sorted(IDS)[number] for number in asked]


def test_only_what_a_manifest_keeps_is_exported_and_labels_count_what_is_there(packed: Store) -> None:
    images = export_images(packed, "deduped_manifest")
    assert {image.id for part in images.in_parts() for image in part} == {
        image_id for number, image_id in enumerate(IDS) if number % 3
    }
    write_manifest(packed, TRAIN_MANIFEST, [(IDS[7], 7, "kept"), (IDS[13], 2**40, "kept"), (IDS[0], 3, "failed")])
    (part,) = export_images(packed, "train_manifest").in_parts()
    assert {image.landmark_id: image.label for image in part} == {7: 0, 2**40: 1}


def test_what_is_no_set_of_train_images_or_is_not_made_is_told(packed: Store, tmp_path: Path) -> None:
    for name in ("nothing", "image_ledger", "../metadata/train_metadata"):
        with pytest.raises(
            MissingInputError, match=f"no manifest {name}: name one of cleaned_manifest, deduped_manifest"
        ):
            manifest_inputs(packed, name)
    with pytest.raises(MissingInputError, match="train_manifest has not been made"):
        manifest_inputs(Store(str(tmp_path / "empty")), "train_manifest")


def test_inputs_are_the_manifest_and_all_that_stands_beside_an_image(packed: Store) -> None:
    assert [*manifest_inputs(packed, "train_manifest")] == [
        "train_manifest",
        "image_catalog",
        "train_attribution",
        "landmark_labels",
    ]
    packed.remove("receipts/train_attribution.json")
    with pytest.raises(MissingInputError, match="train_attribution has not been made"):
        manifest_inputs(packed, "train_manifest")


def test_images_that_are_kept_but_not_stored_are_named(packed: Store) -> None:
    strangers = [identifier(1000 + number) for number in range(23)]
    write_manifest(packed, TRAIN_MANIFEST, [(IDS[0], 3, "kept"), *((i, 3, "kept") for i in strangers[:2])])
    first, second = sorted(strangers[:2])
    with pytest.raises(MissingInputError, match=f"2 of the 3 images .* not stored in .*: {first}, {second}; `glr why"):
        export_images(packed, "train_manifest")
    write_manifest(packed, TRAIN_MANIFEST, [(i, 3, "kept") for i in strangers])
    with pytest.raises(MissingInputError, match="and 3 more"):
        export_images(packed, "train_manifest")


def test_an_empty_set_is_refused(packed: Store) -> None:
    write_manifest(packed, TRAIN_MANIFEST, [(IDS[0], 3, "dropped")])
    with pytest.raises(MissingInputError, match=r"train_manifest in .*: it keeps no image"):
        export_images(packed, "train_manifest")


def test_few_ids_are_named_and_of_many_the_first() -> None:
    ids = [str(number) for number in range(25)]
    assert named(ids[:20]) == ", ".join(ids[:20])
    assert named(ids) == ", ".join(ids[:20]) + " and 5 more"
