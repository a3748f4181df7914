from __future__ import annotations

import uuid

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from glr_assets.errors import MissingInputError
from glr_assets.images.reader import ImageReader
from glr_assets.metadata.schemas import RECOGNITION_SOLUTION
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER
from glr_assets.receipts import Summary, Writer, find_receipt, make, receipt_path
from glr_assets.recipes import Retrieval
from glr_assets.retrieval.embeddings import (
    Vectors,
    embedded_shards,
    first_of_bytes,
    make_embeddings,
    make_non_landmark_embeddings,
    read_embeddings,
    read_non_landmarks,
    write_embeddings,
)
from glr_assets.retrieval.schemas import NON_LANDMARK_EMBEDDINGS
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets_tests.retrieval.conftest import Embedded

IDS = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=5)


@settings(max_examples=40)
@given(
    shards=st.lists(st.lists(IDS, max_size=9, unique=True), min_size=1, max_size=4),
    wanted=st.lists(IDS, max_size=12),
    dimensions=st.integers(1, 7),
    remote=st.booleans(),
)
def test_vectors_are_found_by_id_wherever_they_lie(
    shards: list[list[str]], wanted: list[str], dimensions: int, remote: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(f"memory://{uuid.uuid4().hex}" if remote else str(tmp_path_factory.mktemp("vectors")))
    first: dict[str, tuple[np.ndarray, int]] = {}
    wanted = [*wanted, *(name for ids in shards for name in ids[::2])]
    for number, ids in enumerate(shards):
        vectors = np.random.default_rng(number).normal(size=(len(ids), dimensions)).astype(np.float32)
        digests = np.arange(len(ids), dtype=np.uint64) + 10 * number  # of the first it is not known
        write_embeddings(Writer(store), "train", f"{number:03d}", Vectors(ids, vectors, digests))
        for name, vector, digest in zip(ids, vectors, digests.tolist(), strict=True):
            first.setdefault(name, (vector, digest))
    names = [f"train_embeddings/{number:03d}" for number in range(len(shards))]
    found = read_embeddings(store, reversed(names), wanted)
    assert found.ids == sorted(first.keys() & set(wanted), key=str.encode)
    assert found.digests is not None
    assert found.vectors.shape[0] == len(found.ids)
    for row, name in enumerate(found.ids):
        np.testing.assert_array_equal(found.vectors[row], first[name][0])
        assert found.digests[row] == first[name][1]


def test_of_takes_what_is_there_sorted() -> None:
    vectors = Vectors(["a", "b", "c"], np.eye(3, dtype=np.float32))
    some = vectors.of(["c", "a", "nobody", "a"])
    assert some.ids == ["a", "c"]
    np.testing.assert_array_equal(some.vectors, np.eye(3, dtype=np.float32)[[0, 2]])


def test_of_images_of_the_same_bytes_the_first_counts() -> None:
    ids = ["a", "b", "c", "d", "e"]
    digests = np.array([7, 0, 7, 8, 0], np.uint64)  # of two it is not known
    assert first_of_bytes(ids, digests) == [0, 1, 3, 4]
    assert first_of_bytes(ids, np.zeros(5, np.uint64)) == list(range(5))
    assert first_of_bytes(["a", "b", "a"], np.zeros(3, np.uint64)) == [0, 1]


def test_every_stored_image_has_a_unit_vector(embedded: Embedded) -> None:
    for split in ("train", "index", "test"):
        names = embedded_shards(embedded.source, embedded.store, split)
        reader = ImageReader.of_split(embedded.store, split)
        vectors = read_embeddings(embedded.store, names, reader.ids)
        some = read_embeddings(embedded.store, names, [reader.ids[2], "not there", reader.ids[0]])
        assert some.ids == [reader.ids[0], reader.ids[2]]
        assert (some.vectors == vectors.vectors[[0, 2]]).all()
        assert vectors.ids == reader.ids
        assert vectors.digests is not None
        assert vectors.digests.tolist() == [reader.places.xxh3(row) for row in range(len(reader))]
        np.testing.assert_allclose(np.linalg.norm(vectors.vectors, axis=1), 1, atol=1e-5)


def test_a_finished_shard_never_opens_the_embedder(embedded: Embedded) -> None:
    def trap() -> object:
        raise AssertionError("the embedder was opened")

    made = make_embeddings(embedded.store, "train", embedded.source.shards("train")[0], trap)  # type: ignore[arg-type]
    assert made.reused


def test_embeddings_of_another_embedder_are_refused(embedded: Embedded) -> None:
    receipt = find_receipt(embedded.store, "embedder")
    assert receipt is not None
    path = next(iter(receipt.outputs))
    other = receipt.model_copy(
        update={"outputs": receipt.outputs | {path: receipt.outputs[path].model_copy(update={"sha256": "0" * 64})}}
    )
    embedded.store.write(receipt_path("embedder"), other.model_dump_json().encode())
    with pytest.raises(MissingInputError, match="another embedder"):
        embedded_shards(embedded.source, embedded.store, "test")


def test_a_shard_that_was_ingested_but_not_embedded_is_named(embedded: Embedded) -> None:
    shard = embedded.source.shards("test")[1]
    embedded.store.remove(receipt_path(f"test_embeddings/{shard}"))
    with pytest.raises(MissingInputError, match=f"test_embeddings/{shard}"):
        embedded_shards(embedded.source, embedded.store, "test")


def test_non_landmarks_are_the_unscored_test_images_without_landmark(embedded: Embedded) -> None:
    rows = read_table(embedded.store, RECOGNITION_SOLUTION).to_pylist()
    for usage in (("Ignored",), ("Public", "Ignored"), ()):
        make_non_landmark_embeddings(embedded.source, embedded.store, Retrieval(non_landmark_usage=usage))
        found = read_table(embedded.store, NON_LANDMARK_EMBEDDINGS, ["id"])["id"].to_pylist()
        assert found == sorted(row["id"] for row in rows if not row["landmark_ids"] and row["usage"] in usage)


def test_the_surest_filtered_images_join_the_gallery(embedded: Embedded) -> None:
    source, store = embedded.source, embedded.store
    known = embedded.recipe.retrieval
    with pytest.raises(MissingInputError, match="non_landmark_filter"):
        make_non_landmark_embeddings(source, store, known.model_copy(update={"filtered_gallery": 2}))
    train = ImageReader.of_split(store, "train").ids
    told = [("dropped", 0.9), ("kept", 1.0), ("dropped", 0.99), ("dropped", 0.95), ("dropped", 0.99)]
    rows = [
        {"id": name, "landmark_id": 1, "shard": "000", "decision": decision, "reason": "", "score": score}
        | {"category": "Tree", "verified": False}
        for name, (decision, score) in zip(train, told, strict=False)
    ]

    def build(writer: Writer) -> Summary:
        writer.table(NON_LANDMARK_FILTER, NON_LANDMARK_FILTER.rows(rows))
        return {}

    make(store, "non_landmark_filter", inputs={}, parameters={}, code_version="1", build=build)
    of_test = set(read_table(store, NON_LANDMARK_EMBEDDINGS)["id"].to_pylist())
    for most, expected in (
        (2, {train[2], train[4]}),
        (3, {train[2], train[4], train[3]}),
        (9, {*train[2:5], train[0]}),
    ):
        recipe = known.model_copy(update={"filtered_gallery": most})
        make_non_landmark_embeddings(source, store, recipe)
        found = read_table(store, NON_LANDMARK_EMBEDDINGS)
        of_split = {row["id"]: row["split"] for row in found.to_pylist()}
        assert {name for name, split in of_split.items() if split == "train"} == expected
        assert {name for name, split in of_split.items() if split == "test"} == of_test
        assert found["id"].to_pylist() == sorted(of_split)
    vectors = read_embeddings(store, embedded_shards(source, store, "train"), expected)
    gallery = read_non_landmarks(store, 8).images
    np.testing.assert_array_equal(gallery.of(expected).vectors, vectors.vectors)
