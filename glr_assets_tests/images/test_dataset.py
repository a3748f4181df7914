"""The dataset in PyTorch's own DataLoader: workers of both kinds, a folder and S3, beside Pillow's pixels."""

from __future__ import annotations

import io
import uuid
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from glr_assets.errors import MissingInputError, StoreError, TableError
from glr_assets.images.catalog import make_image_catalog
from glr_assets.images.dataset import Example, StoredImages, decoded
from glr_assets.images.reader import ImageReader
from glr_assets.images.schemas import STORED_TAR
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets_tests.images.handmade import TINY, Bucket, identifier, ingest, make_tables, photo, picture, tar_of

RECIPE = TINY.overridden({"images": {"min_side": 384}})  # small JPEGs are kept byte for byte
PICTURES = {identifier(n): picture(n, (60 + 2 * n, 40)) for n in range(10)}
IDS = sorted(PICTURES, key=lambda i: i[3:])
LANDMARKS = [10 * n for n in range(len(IDS))]


@pytest.fixture
def ingested(tmp_path: Path, store: Store) -> Store:
    names = list(PICTURES)
    shards = {key: tar_of([photo(i, PICTURES[i]) for i in names[at::2]]) for at, key in enumerate(("000", "001"))}
    bucket = Bucket(dict(zip(IDS, LANDMARKS, strict=True)), IDS, {"train": shards})
    source = BucketSource(bucket.write(tmp_path / "bucket"))
    make_tables(source, store, RECIPE)
    for shard in shards:
        ingest(source, store, RECIPE, "train", shard)
    make_image_catalog(source, store)
    return store


def as_list(examples: list[Example[bytes]]) -> list[Example[bytes]]:
    """What a DataLoader is to make of a batch: nothing."""
    return examples


def raw(jpeg: bytes) -> bytes:
    """A transform that leaves an image as it is."""
    return jpeg


def shape_and_mean(jpeg: bytes) -> np.ndarray:
    """A transform of one's own."""
    pixels = decoded(jpeg)
    return np.array([*pixels.shape, pixels.mean()])


@pytest.mark.parametrize(("where", "start"), [("folder", "fork"), ("s3", "fork"), ("s3", "spawn")])
def test_workers_of_a_dataloader_give_every_image_in_order(
    ingested: Store, where: str, start: str, request: pytest.FixtureRequest
) -> None:
    from torch.utils.data import DataLoader

    store = ingested
    if where == "s3":
        name = f"dataset-{uuid.uuid4().hex}"
        store = Store(f"s3://{name}/below", {"endpoint_url": request.getfixturevalue("s3_endpoint")})
        store.fs.mkdir(name)
        store.fs.put(f"{ingested.root}/", f"{name}/below/", recursive=True)
    dataset = StoredImages(ImageReader.of_split(store, "train"), IDS, LANDMARKS, raw)
    assert dataset[3] == Example(IDS[3], 30, PICTURES[IDS[3]])
    loader = DataLoader(
        dataset, batch_size=4, num_workers=2, multiprocessing_context=start, collate_fn=as_list, timeout=60
    )
    batches = list(loader)
    assert [len(batch) for batch in batches] == [4, 4, 2]
    expected = [Example(i, n, PICTURES[i]) for i, n in zip(IDS, LANDMARKS, strict=True)]
    assert [example for batch in batches for example in batch] == expected


def test_batches_are_collated_by_torch_itself(ingested: Store) -> None:
    from torch.utils.data import DataLoader

    manifest = pa.table({"id": pa.chunked_array([IDS], pa.string()), "landmark_id": LANDMARKS})
    dataset = StoredImages.of_manifest(ingested, "train", manifest, shape_and_mean)
    (batch,) = DataLoader(dataset, batch_size=len(IDS))
    assert list(batch.id) == IDS
    assert batch.landmark_id.tolist() == LANDMARKS
    pixels = [np.asarray(Image.open(io.BytesIO(PICTURES[i]))) for i in IDS]
    assert batch.image[:, :3].tolist() == [list(p.shape) for p in pixels]
    assert np.abs(batch.image[:, 3].numpy() - [p.mean() for p in pixels]).max() < 0.5


def test_pixels_are_rgb_as_pillow_decodes_them() -> None:
    for seed in range(5):
        jpeg = picture(seed, (64, 48))
        pixels = decoded(jpeg)
        assert pixels.dtype == np.uint8
        expected = np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"), np.int16)
        assert np.abs(pixels - expected).max() <= 3
    grey = io.BytesIO()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(grey, "JPEG", quality=100)
    pixels = decoded(grey.getvalue())
    assert pixels.shape == (16, 16, 3)
    assert (pixels[..., 0] == pixels[..., 2]).all()
    assert pixels[0, 0].max() < pixels[15, 15].min()


def test_several_at_once_are_those_one_by_one(ingested: Store) -> None:
    dataset = StoredImages(ImageReader.of_split(ingested, "train"), IDS, LANDMARKS, bytes)
    assert len(dataset) == len(IDS)
    numbers = [7, 0, 7, 3]
    assert dataset.__getitems__(numbers) == [dataset[n] for n in numbers]
    assert dataset[-1] == dataset[len(IDS) - 1]
    with pytest.raises(IndexError):
        dataset[len(IDS)]
    assert [example.id for example in dataset] == IDS


def test_what_cannot_be_a_dataset_is_refused_when_it_is_made(ingested: Store) -> None:
    reader = ImageReader.of_split(ingested, "train")
    with pytest.raises(TableError, match="10 ids but 9 landmark ids"):
        StoredImages(reader, IDS, LANDMARKS[:-1], bytes)
    with pytest.raises(MissingInputError, match="image nobody is not stored"):
        StoredImages(reader, [IDS[0], "nobody"], [1, 2], bytes)
    assert len(StoredImages(reader, [], [], bytes)) == 0


def test_an_image_that_cannot_be_decoded_is_named(ingested: Store) -> None:
    reader = ImageReader.of_split(ingested, "train")
    broken = reader.places.row(IDS[2])
    assert broken is not None
    place = reader.places.place(broken)
    path = Path(ingested.root) / place.name
    data = path.read_bytes()
    path.write_bytes(data[: place.offset] + bytes(place.size) + data[place.offset + place.size :])
    assert place.name in {STORED_TAR.format(split="train", shard=key) for key in ("000", "001")}
    dataset = StoredImages(reader, IDS, LANDMARKS, decoded)
    with pytest.raises(StoreError, match=f"image {IDS[2]}: .*XXH3"):
        dataset.__getitems__([1, 2])
    reader.places.places["digested"][broken] = False
    with pytest.raises(StoreError, match=rf"image {IDS[2]} of .*: its {place.size} bytes cannot be decoded"):
        dataset[2]
