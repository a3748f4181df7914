"""Wherever images of a remote store are read in order, many are fetched at once: requests are counted, site by site."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from glr_assets.evaluation import controls
from glr_assets.filtering import scores
from glr_assets.images.reader import ImageReader
from glr_assets.openimages.schemas import NON_LANDMARK_SCORES
from glr_assets.ranges import RANGES_AHEAD
from glr_assets.receipts import Summary, Writer, make, receipt_path
from glr_assets.retrieval.embeddings import make_embeddings
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets.training.group_calibration import _read_in_order
from glr_assets.training.held_out import share_right
from glr_assets.training.photographs import Augmentation, EpochBatches, Pictures, TrainingSet
from glr_assets.training.samplers import Draw
from glr_assets.verification.local_features import Wanted, make_local_features
from glr_assets_tests.faulty_s3 import FaultyS3
from glr_assets_tests.retrieval.conftest import Embedded


@pytest.fixture(scope="module")
def uploaded(embedded_once: Embedded, s3_server: str) -> str:
    """The URL of a copy of the store on the server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (("ACCESS_KEY_ID", "test"), ("SECRET_ACCESS_KEY", "test"), ("DEFAULT_REGION", "us-east-1")):
            patch.setenv(f"AWS_{name}", value)
        store = Store(f"s3://reads-{uuid.uuid4().hex}/below", {"endpoint_url": s3_server})
        store.fs.mkdir(store.root.partition("/")[0])
        store.fs.put(f"{embedded_once.store.root}/", f"{store.root}/", recursive=True)
    return store.url


def embed(images: Iterable[bytes]) -> np.ndarray:
    rows = [np.frombuffer(data[:400].ljust(400), np.uint8)[:8] for data in images]
    return np.stack(rows).astype(np.float32)


def embeddings(store: Store, lineage: Embedded) -> int:
    shard = lineage.source.shards("train")[0]
    store.remove(receipt_path(f"train_embeddings/{shard}"))
    return int(make_embeddings(store, "train", shard, lambda: embed).receipt.summary["rows"] or 0)


def training_set(store: Store) -> TrainingSet:
    reader = ImageReader.of_split(store, "train")
    return TrainingSet(tuple(reader.ids), tuple(range(len(reader))), reader.read, reader.read_ahead)


def held_out(store: Store, lineage: Embedded) -> int:
    photographs = training_set(store)
    assert share_right(embed, photographs, photographs) > 0
    return len(photographs)


def training(store: Store, lineage: Embedded) -> int:
    photographs = training_set(store)
    batches = [[Draw(image_id, number) for image_id, number in zip(photographs.ids, range(99), strict=False)]]
    pictures = Pictures(photographs.read, 24, 0, photographs.read_ahead)
    given = {"size": 24, "seed": 0, "epoch": 0, "workers": 2, "augmentation": Augmentation()}
    ((pixels, _),) = EpochBatches(batches, pictures, **given)  # type: ignore[arg-type]
    return len(pixels)


def of_controls(store: Store, lineage: Embedded) -> int:
    return len(controls._embedded(store, "train", ImageReader.of_split(store, "train").ids, embed))


def votes(store: Store, lineage: Embedded) -> int:
    readers = {split: ImageReader.of_split(store, split).ids for split in ("train", "test")}  # type: ignore[arg-type]
    manifest = pa.table({"id": readers["train"], "landmark_id": list(range(len(readers["train"])))})
    controls.rootsift_votes(store, manifest, readers["test"], 2)
    return sum(map(len, readers.values()))


def calibration(store: Store, lineage: Embedded) -> int:
    readers = {split: ImageReader.of_split(store, split) for split in ("train", "test")}  # type: ignore[arg-type]
    rows = sorted((image_id, split) for split, reader in readers.items() for image_id in reader.ids)
    images = pa.table({"id": [image_id for image_id, _ in rows], "split": [split for _, split in rows]})
    found = list(_read_in_order(readers, images))
    assert found == [readers[split].read(image_id) for image_id, split in rows[:3]] + found[3:]
    return len(found)


def filter_scores(store: Store, lineage: Embedded) -> int:
    shard = lineage.source.shards("train")[0]

    def classifier(writer: Writer) -> Summary:
        writer.write("models/classifier", b"")
        return {}

    make(store, scores.CLASSIFIER, inputs={}, parameters={}, code_version="1", build=classifier)

    def probabilities(
        module: object, config: object, names: list[str], images: list[object], execution: object
    ) -> object:
        return np.full((len(names), 2), 0.5)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scores, "probabilities", probabilities)
        config = SimpleNamespace(image_size=16, classes=("Tree", "a landmark"))
        scores.make_non_landmark_scores(store, shard, lambda: (None, config), lineage.recipe.execution)  # type: ignore
    found = read_table(store, NON_LANDMARK_SCORES, shard=shard)
    assert not found["score"].null_count
    return found.num_rows


def features(store: Store, lineage: Embedded) -> int:
    shard = lineage.source.shards("train")[0]
    wanted = Wanted.of(store, lineage.recipe.verification, lineage.recipe.seed)
    made = make_local_features(store, shard, wanted, lineage.recipe.verification, lineage.recipe.execution)
    assert made.receipt.summary["failed"] == 0
    return int(made.receipt.summary["rows"] or 0)


#: What reads all images of a shard, and may read them as they lie there.
WHOLE_SHARDS = (embeddings, filter_scores)
SITES = (embeddings, held_out, training, of_controls, votes, calibration, filter_scores, features)


@pytest.mark.parametrize("site", SITES, ids=lambda site: site.__name__)
def test_images_in_order_are_fetched_many_at_once(
    site: Callable[[Store, Embedded], int], uploaded: str, embedded_once: Embedded, proxy: FaultyS3
) -> None:
    store = Store(uploaded, {"endpoint_url": proxy.url})
    proxy.delay_seconds = 0.05
    images = site(store, embedded_once)
    assert images > 5
    if site in WHOLE_SHARDS:
        assert len(proxy.ranges(".tar")) == 1
    else:
        assert proxy.most_at_once >= min(images, RANGES_AHEAD) / 2


def test_images_out_of_order_are_asked_for_before_the_first_is_there(uploaded: str, proxy: FaultyS3) -> None:
    store = Store(uploaded, {"endpoint_url": proxy.url})
    reader = ImageReader.of_split(store, "train")
    order = [reader.ids[number] for number in np.random.default_rng(0).permutation(len(reader))]
    expected = [reader.read(image_id) for image_id in order]
    proxy.calm()
    proxy.delay_seconds = 0.5
    found = reader.read_many(order)
    assert next(found) == expected[0]
    assert proxy.most_at_once == RANGES_AHEAD
    proxy.delay_seconds = 0.0
    assert list(found) == expected[1:]
