from __future__ import annotations

import io
from pathlib import Path

import imagehash
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from PIL import Image

from glr_assets.evaluation.controls import (
    PIXEL_SIDE,
    Asked,
    dhash_neighbours,
    neighbours_by,
    pixel_vectors,
    rootsift_votes,
)
from glr_assets.images.reader import ImageReader
from glr_assets.manifests import kept_images
from glr_assets.metadata.schemas import INDEX_METADATA, RECOGNITION_SOLUTION, TEST_METADATA
from glr_assets.packing.pack import pack
from glr_assets.recipes import Retrieval, load_recipe
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets_tests.lineage import curate
from glr_assets_tests.serving.conftest import mosaic


@pytest.fixture(scope="module")
def curated(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("curated") / "store"))
    curate(open_source(bucket), store, load_recipe("small"))
    return store


def test_dhash_neighbours_against_imagehash_itself(curated: Store, photos: Path) -> None:
    manifest = kept_images(curated, "train_manifest")
    queries = read_table(curated, TEST_METADATA)["id"].to_pylist()
    answered = dhash_neighbours(curated, manifest, Asked(queries, queries[:4], 3))
    found = {prediction.id: prediction for prediction in answered.predictions}
    assert sorted(found) == sorted(queries)
    hashes = {
        split: {image_id: _hash(reader.read(image_id)) for image_id in reader.ids}
        for split, reader in ((split, ImageReader.of_split(curated, split)) for split in ("train", "test"))
    }
    landmark_of = dict(zip(manifest["id"].to_pylist(), manifest["landmark_id"].to_pylist(), strict=True))
    for query in queries:
        distances = {image: hashes["test"][query] - hashes["train"][image] for image in landmark_of}
        # The stored JPEG's hash may differ from that of the pixels before encoding by a few bits.
        assert found[query].confidence == pytest.approx(64 - min(distances.values()), abs=3)
        near = {landmark_of[image] for image, bits in distances.items() if bits <= min(distances.values()) + 4}
        assert found[query].landmark_id in near


def test_index_images_come_in_the_order_of_differing_bits(curated: Store) -> None:
    manifest = kept_images(curated, "train_manifest")
    queries = read_table(curated, TEST_METADATA)["id"].to_pylist()
    found = dhash_neighbours(curated, manifest, Asked([], queries[:4], 3))
    assert found.predictions == []
    assert sorted(found.retrieved) == sorted(queries[:4])
    test, index = (ImageReader.of_split(curated, split) for split in ("test", "index"))
    hashes = {image_id: _hash(index.read(image_id)) for image_id in index.ids}
    for query, ids in found.retrieved.items():
        bits = {image_id: _hash(test.read(query)) - hashed for image_id, hashed in hashes.items()}
        assert len(set(ids)) == 3
        least = sorted(bits.values())[:3]
        # The stored JPEG's hash may differ from that of the pixels before encoding by a few bits.
        assert [bits[image_id] for image_id in ids] == pytest.approx(least, abs=6)


def test_pixels_of_a_picture_and_of_the_same_in_another_light() -> None:
    random = np.random.default_rng(0)
    picture, other = random.integers(60, 180, (2, PIXEL_SIDE, PIXEL_SIDE, 3)).astype(np.uint8)
    found = pixel_vectors([_png(image) for image in (picture, picture + 40, other, np.full_like(other, 9))], 0)
    assert found.shape == (4, 3 * PIXEL_SIDE**2)
    wide = picture.astype(np.float64).ravel() - picture.mean()
    np.testing.assert_allclose(found[0], wide / np.linalg.norm(wide), atol=1e-6)
    # Lighter all over is the same picture; a blank one is like none.
    assert found[0] @ found[1] == pytest.approx(1, abs=1e-5)
    assert abs(found[0] @ found[2]) < 0.2
    assert not found[3].any()
    assert pixel_vectors([], 0).shape == (0, 3 * PIXEL_SIDE**2)


def test_neighbours_by_pixels_are_those_of_all_pairs(curated: Store) -> None:
    manifest = kept_images(curated, "train_manifest")
    ids = read_table(curated, TEST_METADATA)["id"].to_pylist()
    recipe = Retrieval(neighbours=1, per_landmark=0)

    def vectors(split: str, names: list[str]) -> np.ndarray:
        reader = ImageReader.of_split(curated, split)  # type: ignore[arg-type]
        return pixel_vectors(map(reader.read, names), 0).astype(np.float64)

    found = neighbours_by(curated, manifest, Asked(ids, ids[:5], 4), [], lambda some: pixel_vectors(some, 2), recipe, 0)
    landmark_of = dict(zip(manifest["id"].to_pylist(), manifest["landmark_id"].to_pylist(), strict=True))
    train = sorted(landmark_of)
    cosines = vectors("test", ids) @ vectors("train", train).T
    answers = {prediction.id: prediction for prediction in found.predictions}
    for query, row in zip(ids, cosines, strict=True):
        assert answers[query].landmark_id == landmark_of[train[int(row.argmax())]]
        assert answers[query].confidence == pytest.approx(float(row.max()), abs=1e-5)
    listed = sorted(read_table(curated, INDEX_METADATA)["id"].to_pylist())
    cosines = vectors("test", ids[:5]) @ vectors("index", listed).T
    for query, row in zip(ids[:5], cosines, strict=True):
        assert found.retrieved[query] == [listed[place] for place in np.argsort(-row.round(6), kind="stable")[:4]]
    alone = neighbours_by(curated, manifest, Asked(ids, [], 4), [], lambda some: pixel_vectors(some, 0), recipe, 0)
    assert (alone.predictions, alone.retrieved) == (found.predictions, {})


def test_without_train_images_there_is_no_answer(curated: Store) -> None:
    nobody = pa.table({"id": pa.array([], pa.string()), "landmark_id": pa.array([], pa.int64())})
    asked = Asked(read_table(curated, TEST_METADATA)["id"].to_pylist(), [], 100)
    assert dhash_neighbours(curated, nobody, asked).predictions == []


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _hash(data: bytes) -> imagehash.ImageHash:
    with Image.open(io.BytesIO(data)) as image:
        return imagehash.dhash(image)


@pytest.fixture(scope="module")
def sharp(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Photographs of three landmarks with details that those of one have in common, moved about."""
    folder = tmp_path_factory.mktemp("sharp")
    for number, name in enumerate(("Alder Tower", "Bell Gate", "Corn Exchange")):
        details = mosaic((54, 42), number, "details")
        (folder / name).mkdir()
        for photo in range(4):
            own = np.random.default_rng([photo, number])
            left, top = own.integers(0, 24, 2)
            light = 0.6 * details + 0.4 * mosaic((9, 8), 100 * number + photo, "photo")
            pixels = np.clip(light, 0, 255).astype(np.uint8)[top : top + 400, left : left + 500]
            Image.fromarray(pixels).save(folder / name / f"{photo:02d}.jpg", quality=92)
    target = str(tmp_path_factory.mktemp("packed") / "bucket")
    pack(folder, Store(target), shards=1, clean_fraction=0.8, seed=8, warn=pytest.fail)
    store = Store(str(tmp_path_factory.mktemp("curated") / "store"))
    curate(open_source(target), store, load_recipe("small"))
    return store


def test_a_vote_of_local_features_finds_what_shows_the_same(sharp: Store) -> None:
    manifest = kept_images(sharp, "train_manifest")
    solution = {row["id"]: row["landmark_ids"] for row in read_table(sharp, RECOGNITION_SOLUTION).to_pylist()}
    queries = [query for query, landmarks in solution.items() if landmarks]
    found = rootsift_votes(sharp, manifest, queries, workers=2)
    assert sorted(prediction.id for prediction in found) == sorted(queries)
    assert all([prediction.landmark_id] == solution[prediction.id] for prediction in found)
    assert min(prediction.confidence for prediction in found) > 20
    # Without the images of its landmark nothing agrees with a query but by chance.
    one = queries[0]
    others = manifest.filter(pc.not_equal(manifest["landmark_id"], solution[one][0]))
    (wrong,) = rootsift_votes(sharp, others, [one], workers=1)
    assert wrong.confidence < min(prediction.confidence for prediction in found)
    assert rootsift_votes(sharp, manifest.slice(0, 0), queries, workers=1) == []
