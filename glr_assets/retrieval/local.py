"""Local features of what is searched and of what is asked, and comparing them: flat memory, whatever their number.

Cleaning keeps features of the train images that it compares. The others that are searched, and all test images, have
sets of their own, made alike.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import xxhash

from glr_assets.concurrency import Lane, single_threaded
from glr_assets.curation.chosen import GALLERY_MANIFEST, chosen_inputs
from glr_assets.curation.fates import fates
from glr_assets.errors import DamagedFileError, MissingInputError, StoreError, about
from glr_assets.images.dataset import decoded as decoded_image
from glr_assets.manifests import kept_images
from glr_assets.ranges import RANGES_AHEAD, Place, in_batches, ordered, read_ranges
from glr_assets.receipts import Made
from glr_assets.recipes import Execution, Recipe, Verification
from glr_assets.retrieval.index import searched_images
from glr_assets.retrieval.schemas import SEARCHED_FEATURES, TEST_FEATURES
from glr_assets.store import Store
from glr_assets.tables import fixed_width
from glr_assets.verification.evidence import Judge
from glr_assets.verification.extractors import open_extractor
from glr_assets.verification.extractors.base import Extractor
from glr_assets.verification.feature_reader import need_one_extractor, opened
from glr_assets.verification.features import decoded, encoded
from glr_assets.verification.local_features import Wanted, make_local_features
from glr_assets.verification.matching import Prepared
from glr_assets.verification.schemas import COMPARED_FEATURES, FeatureSet

#: What stands for the landmark of an image whose landmark is asked for.
UNKNOWN: Final = -1
#: Queries whose features are in memory at once, 0.3 MB each.
QUERIES_AT_ONCE: Final = 128
#: Sorts before every id, so that the query is always the first of a pair.
_QUERY: Final = ""

Counts = npt.NDArray[np.int32]
#: Features of images by id, in the order asked for; None where one has none.
Features = Callable[[Sequence[str]], Iterator[Prepared | None]]


def wanted_of_search(store: Store, recipe: Recipe) -> Wanted:
    """The train images that are searched and that cleaning does not compare; none where nothing is re-ranked."""
    if not recipe.retrieval.rerank:
        return Wanted({})
    chosen_inputs(store, GALLERY_MANIFEST, recipe.retrieval.manifest)
    kept = kept_images(store, recipe.retrieval.manifest)
    searched = searched_images(kept, recipe.retrieval.per_landmark, recipe.seed)
    compared = Wanted.of(store, recipe.verification, recipe.seed)
    known = pa.chunked_array([part["id"].combine_chunks() for part in compared.shards.values()], pa.string())
    return Wanted.among(searched.filter(pc.invert(pc.is_in(searched["id"], known))))


def wanted_of_tests(store: Store, recipe: Recipe) -> Wanted:
    """All stored test images; none where nothing is re-ranked."""
    if not recipe.retrieval.rerank:
        return Wanted({})
    found = fates(store, "test")
    stored = found.filter(pc.equal(found["status"], "stored")).select(["id", "shard"])
    unknown = pa.array(np.full(stored.num_rows, UNKNOWN))
    return Wanted.among(stored.append_column("landmark_id", unknown).select(["id", "landmark_id", "shard"]))


def make_search_features(store: Store, shard: str, wanted: Wanted, recipe: Recipe) -> Made:
    """`search_features/<shard>`; arguments and errors are those of `make_local_features`."""
    return make_local_features(store, shard, wanted, recipe.verification, recipe.execution, SEARCHED_FEATURES)


def make_test_features(store: Store, shard: str, wanted: Wanted, recipe: Recipe) -> Made:
    """`test_features/<shard>`; arguments and errors are those of `make_local_features`."""
    return make_local_features(store, shard, wanted, recipe.verification, recipe.execution, TEST_FEATURES)


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """Where the features of images are kept: some 60 bytes an image in memory, the rest is read as it is asked for.

    Attributes:
        extractor: the version of the extractor they are of; empty where there is no image.
        max_features: that were asked for of an image.
    """

    extractor: str
    max_features: int
    _store: Store
    _dimensions: int
    _signed: bool
    _ids: npt.NDArray[np.bytes_]
    _rows: npt.NDArray[np.void]
    _files: list[str]
    #: Finds the features of an image whose bytes are not as they were; without it that is an error.
    found_anew: Callable[[str], Prepared] | None = None

    @classmethod
    def of(cls, store: Store, shards: Mapping[str, Sequence[str]]) -> StoredFeatures:
        """Those of these shards, `{asset: shards}`; of an image in several sets the first.

        Raises:
            MissingInputError: a shard's features have not been made, are damaged, or are of another extractor.
            TableError: a shard's table is not of its file.
        """
        sets = {found.asset: found for found in (COMPARED_FEATURES, SEARCHED_FEATURES, TEST_FEATURES)}
        asked = [(sets[asset], shard) for asset, keys in shards.items() for shard in keys]

        def read(one: tuple[FeatureSet, str]) -> tuple[object, npt.NDArray[np.bytes_], npt.NDArray[np.void]]:
            receipt, rows = opened(
                store, one[1], lambda table: pc.equal(table["status"], "extracted").to_numpy(), one[0]
            )
            places = np.zeros(rows.num_rows, _PLACE)
            for name in _PLACE.names[1:]:  # type: ignore[index]
                places[name] = rows[name].to_numpy()
            return receipt, fixed_width(rows["id"]), places

        receipts, ids, parts = [], [np.zeros(0, "S1")], [np.zeros(0, _PLACE)]
        found = ordered(read, asked, workers=1 if store.is_local else RANGES_AHEAD)
        for number, (receipt, names, places) in enumerate(found):
            places["file"] = number
            receipts.append(receipt)
            ids.append(names)
            parts.append(places)
        need_one_extractor(store, receipts)  # type: ignore[arg-type]
        every, first = np.unique(np.concatenate(ids), return_index=True)
        values = receipts[0].parameters if receipts else {}  # type: ignore[attr-defined]
        return cls(
            values.get("extractor", ""),
            values.get("max_features", 0),
            store,
            values.get("dimensions", 0),
            values.get("signed", False),
            every,
            np.concatenate(parts)[first],
            [kept.file.format(shard=shard) for kept, shard in asked],
        )

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, image_id: str) -> bool:
        key = np.bytes_(image_id.encode())
        at = int(np.searchsorted(self._ids, key))
        return at < len(self._ids) and bool(self._ids[at] == key)

    def prepared(self, ids: Sequence[str]) -> Iterator[Prepared | None]:
        """The features of these images, in their order; None for one that has none.

        Raises:
            StoreError: the bytes of one cannot be read, or are not those that were written.
        """
        keys = fixed_width(pa.array(list(ids), pa.string()))
        at = np.minimum(np.searchsorted(self._ids, keys), max(len(self._ids) - 1, 0))
        known = self._ids[at] == keys if len(self._ids) else np.zeros(len(keys), bool)
        rows = [self._rows[row] for row in at[known]]
        places = (Place(self._files[row["file"]], int(row["offset"]), int(row["size"])) for row in rows)
        found = zip(rows, read_ranges(self._store, places), strict=True)
        for image_id, is_known in zip(ids, known.tolist(), strict=True):
            yield self._decoded(image_id, *next(found)) if is_known else None

    def _decoded(self, image_id: str, row: np.void, data: bytes | StoreError) -> Prepared:
        where = f"{self._store.full_url(self._files[row['file']])}, image {image_id}"
        good = not isinstance(data, StoreError) and xxhash.xxh3_64_intdigest(data) == int(row["xxh3"])
        if not good and self.found_anew is not None:
            return self.found_anew(image_id)
        if isinstance(data, StoreError):
            raise about(where, data) from data
        if xxhash.xxh3_64_intdigest(data) != int(row["xxh3"]):
            raise DamagedFileError(
                f"{where}: the {len(data)} bytes of its features are not those that were written; "
                "materialise the features of its shard again",
                self._files[row["file"]],
            )
        size = (int(row["width"]), int(row["height"]))
        return Prepared.of(image_id, decoded(data, int(row["features"]), self._dimensions, self._signed, *size))


_PLACE = np.dtype(
    [
        ("file", np.int32),
        ("offset", np.int64),
        ("size", np.int64),
        ("xxh3", np.uint64),
        ("features", np.int32),
        ("width", np.int32),
        ("height", np.int32),
    ]
)


def extracted(extractor: Extractor, image_id: str, jpeg: bytes) -> Prepared:
    """The features of one photograph as they would come back from the store.

    Raises:
        ValueError: it cannot be decoded, or the extractor cannot take it.
    """
    (found,) = extractor.extract([decoded_image(jpeg)])
    data, count = encoded(found, extractor.signed), len(found.descriptors)
    kept = decoded(data, count, extractor.dimensions, extractor.signed, found.width, found.height)
    return Prepared.of(image_id, kept)


@dataclass(frozen=True)
class Comparer:
    """Compares queries with candidates, pair by pair; threads change nothing.

    Attributes:
        judge: compares two images.
        features: of the candidates.
        workers: threads.
    """

    judge: Judge
    features: StoredFeatures
    workers: int

    @functools.cached_property
    def _lane(self) -> Lane:
        """Queries that overlap share the threads, as the requests of a service do."""
        return Lane(self.workers)

    @classmethod
    def open(
        cls, store: Store, shards: Mapping[str, Sequence[str]], recipe: Verification, execution: Execution
    ) -> Comparer:
        """The comparer of a recipe, over the features of these shards of train images.

        Raises:
            MissingInputError: features of a shard have not been made, or by another extractor than the recipe's.
        """
        features = StoredFeatures.of(store, shards)
        extractor = open_extractor(recipe, execution.device)
        need_features_of(features, extractor, recipe)
        return cls(Judge.of(recipe, extractor.min_cosine, extractor.oriented), features, execution.threads)

    def __call__(self, queries: Sequence[Prepared | None], candidates: Sequence[Sequence[str]]) -> list[Counts]:
        """Of each query the inliers with each of its candidates; 0 for a trap, and where one has no features.

        A candidate is read once for all queries. Memory holds the queries' features and those of a few candidates.

        Raises:
            StoreError: features of a candidate cannot be read.
        """
        # Which of a pair comes first is decided by the ids: a query's own shall not decide what agrees with it.
        asked = [None if photo is None else replace(photo, id=_QUERY) for photo in queries]
        inliers = [np.zeros(len(ids), np.int32) for ids in candidates]
        askers: dict[str, list[tuple[int, int]]] = {}
        for query, ids in enumerate(candidates):
            if asked[query] is not None:
                for place, image_id in enumerate(ids):
                    askers.setdefault(image_id, []).append((query, place))
        wanted = sorted(askers)

        def compare(batch: list[tuple[str, Prepared | None]]) -> list[list[tuple[int, int, int]]]:
            return [self._of_candidate(other, [(*at, asked[at[0]]) for at in askers[name]]) for name, other in batch]

        with single_threaded("blas"):
            stream: Iterable[tuple[str, Prepared | None]] = zip(wanted, self.features.prepared(wanted), strict=True)
            for found in in_batches(compare, stream, workers=self.workers, size=_size, lane=self._lane):
                for query, place, count in found:
                    inliers[query][place] = count
        return inliers

    def _of_candidate(
        self, other: Prepared | None, askers: Sequence[tuple[int, int, Prepared | None]]
    ) -> list[tuple[int, int, int]]:
        found = []
        for query, place, photo in askers:
            if other is not None and photo is not None:
                evidence = self.judge(photo, other)
                found.append((query, place, 0 if evidence.refusal else evidence.inliers))
        return found


def _size(candidate: tuple[str, Prepared | None]) -> int:
    return 0 if candidate[1] is None else candidate[1].nbytes


def need_features_of(features: StoredFeatures, extractor: Extractor, recipe: Verification) -> None:
    """Refuse features of another extractor than the recipe's, or of another number.

    Raises:
        MissingInputError: they are.
    """
    wanted = (extractor.version, recipe.max_features)
    if len(features) and (features.extractor, features.max_features) != wanted:
        raise MissingInputError(
            f"features are of {features.extractor} with {features.max_features} features, the recipe wants "
            f"{wanted[0]} with {wanted[1]}: materialise local_features, search_features and test_features again"
        )
