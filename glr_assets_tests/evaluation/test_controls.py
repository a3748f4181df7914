from __future__ import annotations

from pathlib import Path

import imagehash
import pyarrow as pa
import pytest
from PIL import Image

from glr_assets.evaluation.controls import dhash_neighbours
from glr_assets.images.reader import ImageReader
from glr_assets.metadata.schemas import TEST_METADATA
from glr_assets.recipes import load_recipe
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.verification.manifests import kept_images
from glr_assets_tests.lineage import curate


@pytest.fixture(scope="module")
def curated(bucket: str, tmp_path_factory: pytest.TempPathFactory) -> Store:
    store = Store(str(tmp_path_factory.mktemp("curated") / "store"))
    curate(open_source(bucket), store, load_recipe("small"))
    return store


def test_dhash_neighbours_against_imagehash_itself(curated: Store, photos: Path) -> None:
    manifest = kept_images(curated, "train_manifest")
    queries = read_table(curated, TEST_METADATA)["id"].to_pylist()
    found = {prediction.id: prediction for prediction in dhash_neighbours(curated, manifest, queries)}
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


def test_without_train_images_there_is_no_answer(curated: Store) -> None:
    nobody = pa.table({"id": pa.array([], pa.string()), "landmark_id": pa.array([], pa.int64())})
    assert dhash_neighbours(curated, nobody, read_table(curated, TEST_METADATA)["id"].to_pylist()) == []


def _hash(data: bytes) -> imagehash.ImageHash:
    import io

    with Image.open(io.BytesIO(data)) as image:
        return imagehash.dhash(image)
