"""Local features of what is searched and asked: kept in three sets, read back, compared query by query."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from glr_assets.errors import MissingInputError, StoreError
from glr_assets.images.reader import ImageReader
from glr_assets.recipes import Execution, Verification
from glr_assets.retrieval.index import open_index
from glr_assets.retrieval.local import (
    Comparer,
    StoredFeatures,
    extracted,
    make_search_features,
    make_test_features,
    wanted_of_search,
    wanted_of_tests,
)
from glr_assets.tables import read_table
from glr_assets.verification.evidence import Judge
from glr_assets.verification.extractors import open_extractor
from glr_assets.verification.features import KeptFeatures
from glr_assets.verification.local_features import Wanted
from glr_assets.verification.matching import Prepared
from glr_assets.verification.schemas import COMPARED_FEATURES
from glr_assets_tests.retrieval.conftest import Embedded


def shards_of(indexed: Embedded) -> dict[str, list[str]]:
    train = list(indexed.source.shards("train"))
    return {"local_features": train, "search_features": train, "test_features": list(indexed.source.shards("test"))}


def opened(indexed: Embedded) -> StoredFeatures:
    return StoredFeatures.of(indexed.store, shards_of(indexed))


def test_every_searched_and_every_test_image_has_features_once(indexed: Embedded) -> None:
    features = opened(indexed)
    ids = [*open_index(indexed.store).ids, *ImageReader.of_split(indexed.store, "test").ids]
    assert all(image_id in features for image_id in ids)
    assert all(found is not None and found.id == name for name, found in zip(ids, features.prepared(ids), strict=True))


def test_what_cleaning_does_not_compare_is_kept_beside_it(indexed: Embedded) -> None:
    # Of each landmark two images are too few to clean, and are searched nevertheless.
    recipe = indexed.recipe.overridden({"verification": {"min_class": 1000}})
    compared = Wanted.of(indexed.store, recipe.verification, recipe.seed)
    assert not compared.shards
    wanted = wanted_of_search(indexed.store, recipe)
    searched = [name for part in wanted.shards.values() for name in part["id"].to_pylist()]
    assert sorted(searched) == open_index(indexed.store).ids
    shard = next(iter(wanted.shards))
    made = make_search_features(indexed.store, shard, wanted, recipe)
    assert made.receipt.summary["rows"] == wanted.of_shard(shard).num_rows
    kept = read_table(indexed.store, COMPARED_FEATURES.table, shard=shard)
    assert kept.num_rows  # the other set is as it was


def test_where_nothing_is_reranked_no_feature_is_found(indexed: Embedded) -> None:
    recipe = indexed.recipe.overridden({"retrieval": {"rerank": 0}})
    assert not wanted_of_search(indexed.store, recipe).shards
    wanted = wanted_of_tests(indexed.store, recipe)
    assert not wanted.shards
    made = make_test_features(indexed.store, shards_of(indexed)["test_features"][0], wanted, recipe)
    assert made.receipt.summary["rows"] == 0


def test_kept_features_are_those_of_the_pixels(indexed: Embedded) -> None:
    reader = ImageReader.of_split(indexed.store, "test")
    extractor = open_extractor(indexed.recipe.verification, "cpu")
    name = reader.ids[0]
    (kept,) = opened(indexed).prepared([name])
    fresh = extracted(extractor, name, reader.read(name))
    assert kept is not None
    for field in ("places", "codes", "inverse"):
        np.testing.assert_array_equal(getattr(kept, field), getattr(fresh, field))


def test_unknown_images_have_none_and_damaged_ones_are_named(indexed: Embedded) -> None:
    features, shards = opened(indexed), shards_of(indexed)
    known = ImageReader.of_split(indexed.store, "test").ids
    found = list(features.prepared(["", known[0], "nobody", known[1]]))
    assert [one is None for one in found] == [True, False, True, False]
    assert "nobody" not in features
    for shard in shards["test_features"]:
        path = f"features/test/{shard}.bin"
        data = bytearray(indexed.store.read(path))
        if data:
            data[len(data) // 2] ^= 1
            indexed.store.write(path, bytes(data))
    with pytest.raises(StoreError, match=r"not those that were written; materialise the features"):
        list(features.prepared(known))


class Planted:
    """Features of made-up images: `view` of a scene shares so many of its features, turned and moved."""

    def __init__(self) -> None:
        self.images: dict[str, Prepared] = {}
        random = np.random.default_rng(0)
        for scene in range(3):
            codes = np.abs(random.normal(0, 40, (120, 128))).astype(np.float32).round()
            xy = random.uniform(20, 360, (120, 2))
            for view, shared in enumerate((120, 60, 30)):
                turn = 0.1 * view
                matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
                own = np.abs(random.normal(0, 40, codes.shape)).round()
                seen = np.where(np.arange(120)[:, None] < shared, codes, own)
                places = np.column_stack([xy @ matrix.T + 5 * view, np.full(120, 8.0), np.full(120, 1 + turn)])
                kept = KeptFeatures(places.astype(np.float32), seen.astype(np.float32), 400, 400)
                name = f"{scene}{view}"
                self.images[name] = Prepared.of(name, kept)

    def prepared(self, ids: Sequence[str]) -> Iterator[Prepared | None]:
        return (self.images.get(name) for name in ids)


def comparer_of(planted: Planted, workers: int) -> Comparer:
    judge = Judge.of(Verification(), 0.85, oriented=True)
    return Comparer(judge, planted, workers)  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 3])
def test_a_comparer_counts_what_the_judge_does_for_every_pair(workers: int) -> None:
    planted = Planted()
    comparer = comparer_of(planted, workers)
    names = sorted(planted.images)
    asked = ["02", "12", "21"]
    queries = [planted.images[name] for name in asked]
    candidates = [names, ["nobody", "11", "00"], []]
    found = comparer(queries, candidates)
    assert [len(counts) for counts in found] == [9, 3, 0]
    for query, ids, counts in zip(queries, candidates, found, strict=True):
        for name, count in zip(ids, counts.tolist(), strict=True):
            other = planted.images.get(name)
            evidence = other and comparer.judge(replace(query, id=""), other)
            assert count == (0 if evidence is None or evidence.refusal else evidence.inliers)
    # Views of a scene agree by about what they share, those of others not at all.
    assert found[0][:2].tolist() == pytest.approx([30, 30], abs=3)
    assert found[0][3:].max() == 0
    # Alone a query gets what it gets among others; without features nothing.
    np.testing.assert_array_equal(comparer([queries[1]], [candidates[1]])[0], found[1])
    assert comparer([None], [names])[0].tolist() == [0] * 9


def test_requests_that_overlap_leave_blas_its_threads_and_their_answers_alone() -> None:
    planted, inside = Planted(), [threading.Event(), threading.Event()]
    names = sorted(planted.images)
    (alone,) = comparer_of(planted, 1)([planted.images["02"]], [names])

    class Meeting(Planted):
        """The first request comes in before the second and goes before it."""

        def prepared(self, ids: Sequence[str]) -> Iterator[Prepared | None]:
            me = int(threading.current_thread().name)
            inside[me].set()
            assert inside[1].wait(30)
            if me == 1:
                first.join(30)
            return super().prepared(ids)

    comparer = comparer_of(Meeting(), 2)
    found: list[list[int]] = [[], []]

    def ask(number: int) -> None:
        found[number] = comparer([planted.images["02"]], [names])[0].tolist()

    first, second = (threading.Thread(target=ask, args=(number,), name=str(number)) for number in range(2))
    with threadpool_limits(3, user_api="blas"):
        first.start()
        assert inside[0].wait(30)
        second.start()
        second.join(60)
        assert {found["num_threads"] for found in threadpool_info() if found["user_api"] == "blas"} == {3}
    assert found == [alone.tolist()] * 2


def test_a_querys_id_decides_nothing() -> None:
    planted = Planted()
    comparer = comparer_of(planted, 1)
    names = sorted(planted.images)
    query = planted.images["01"]
    found = [comparer([replace(query, id=name)], [names])[0].tolist() for name in ("0", "zzz", "photograph 0")]
    assert found[0] == found[1] == found[2]


def test_features_of_another_extractor_are_refused(indexed: Embedded) -> None:
    with pytest.raises(MissingInputError, match=r"the recipe wants rootsift 1, .* with 300"):
        Comparer.open(indexed.store, shards_of(indexed), Verification(max_features=300), Execution())
