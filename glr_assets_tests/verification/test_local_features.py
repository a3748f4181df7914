"""A shard's features in the store: what is written, taken over and refused, and reading them by bucket and by id."""

from __future__ import annotations

import random
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glr_assets.curation.schemas import TRAIN_MANIFEST
from glr_assets.errors import ExtractorError, MissingInputError, StoreError, TableError
from glr_assets.images.schemas import IMAGE_INDEX, STORED_TAR
from glr_assets.images.stored_tar import StoredTar
from glr_assets.receipts import Made, find_receipt, make
from glr_assets.recipes import Execution, Verification
from glr_assets.store import Store
from glr_assets.tables import problems, read_table, write_table
from glr_assets.verification import feature_reader, local_features
from glr_assets.verification.extractors.base import Pixels
from glr_assets.verification.extractors.rootsift import RootSift
from glr_assets.verification.feature_reader import FeatureReader
from glr_assets.verification.features import Features, decoded, encoded
from glr_assets.verification.local_features import Wanted, make_local_features
from glr_assets.verification.plan import bucket_keys, buckets_of, landmark_order
from glr_assets.verification.schemas import FEATURES_FILE, LOCAL_FEATURES
from glr_assets_tests.images.handmade import identifier, write_made

RECIPE = Verification(max_features=50)
PLANNED = pa.schema([("id", pa.string()), ("landmark_id", pa.int64()), ("shard", pa.string())])
ONE, TWO = Execution(workers=1), Execution(workers=2)


def textured(seed: int, size: tuple[int, int] = (72, 96)) -> bytes:
    """A JPEG with corners."""
    coarse = np.random.default_rng(seed).integers(0, 256, (size[0] // 6, size[1] // 6, 3)).astype(np.uint8)
    return jpeg(cv2.resize(coarse, size[::-1], interpolation=cv2.INTER_CUBIC))


def jpeg(pixels: Pixels) -> bytes:
    return cv2.imencode(".jpg", pixels)[1].tobytes()


@dataclass
class Shard:
    """Stored images of a shard: JPEG bytes by id, and the landmark of each."""

    images: dict[str, bytes]
    landmarks: dict[str, int]
    changed: dict[str, int] = field(default_factory=dict)
    """bytes of these images that are other than their index says"""

    def write(self, store: Store, key: str) -> None:
        """Leave what ingest leaves."""

        def build(writer: object) -> dict[str, int | float | str | bool | None]:
            rows = []
            with writer.writing(STORED_TAR.format(split="train", shard=key)) as file, StoredTar(file) as tar:  # type: ignore[attr-defined]
                for number, (image_id, data) in enumerate(self.images.items()):
                    row = dict.fromkeys(IMAGE_INDEX.schema.names)
                    row |= {"id": image_id, "status": "stored", "reason": ""}
                    row |= {"member": image_id, "kind": "file", "source_path": "x", "source_offset": number}
                    row |= {"source_size": 1, "stored_size": len(data)}
                    row["stored_xxh3"] = xxhash.xxh3_64_intdigest(data) ^ self.changed.get(image_id, 0)
                    rows.append(row | {"stored_offset": tar.add(f"{image_id}.jpg", data)})
            writer.table(IMAGE_INDEX, IMAGE_INDEX.rows(rows), split="train", shard=key)  # type: ignore[attr-defined]
            return {}

        make(store, f"train_images/{key}", inputs={}, parameters={}, code_version="1", build=build, again=True)  # type: ignore[arg-type]

    def rows(self, key: str) -> list[dict[str, object]]:
        return [{"id": i, "landmark_id": n, "shard": key} for i, n in self.landmarks.items()]


UNDECODABLE, CHANGED, FLAT, ABSENT = (identifier(n) for n in (3, 4, 5, 100))


def some_shards() -> dict[str, Shard]:
    """Two shards of 12 images and 5 landmarks, with one of each kind that has no features."""
    shards = {}
    for at, key in enumerate(("000", "001")):
        ids = [identifier(12 * at + n) for n in range(12)]
        landmarks = {image_id: 7 * (n % 5) + 1 for n, image_id in enumerate(ids)}
        shards[key] = Shard({image_id: textured(12 * at + n) for n, image_id in enumerate(ids)}, landmarks)
    first = shards["000"]
    first.images[UNDECODABLE] = b"\xff\xd8 no image"
    first.images[FLAT] = jpeg(np.full((40, 50, 3), 90, np.uint8))
    first.changed[CHANGED] = 1
    first.landmarks[ABSENT] = 8
    return shards


def wanted_of(shards: Mapping[str, Shard]) -> Wanted:
    rows = [row for key, shard in shards.items() for row in shard.rows(key)]
    random.Random(3).shuffle(rows)
    return Wanted.among(pa.Table.from_pylist(rows, PLANNED))


def written(shards: Mapping[str, Shard], store: Store) -> Wanted:
    for key, shard in shards.items():
        shard.write(store, key)
    return wanted_of(shards)


def outputs(store: Store, key: str) -> dict[str, bytes]:
    names = (FEATURES_FILE.format(shard=key), LOCAL_FEATURES.at(shard=key), f"receipts/local_features/{key}.json")
    return {name: store.read(name) for name in names}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Wanted]:
    """Both shards' features, which no test changes."""
    store = Store(str(tmp_path_factory.mktemp("made")))
    wanted = written(some_shards(), store)
    for key in wanted.shards:
        make_local_features(store, key, wanted, RECIPE, ONE)
    return store, wanted


@pytest.fixture
def copied(made: tuple[Store, Wanted], store: Store) -> tuple[Store, Wanted]:
    store.fs.put(f"{made[0].root}/", f"{store.root}/", recursive=True)
    return store, made[1]


def test_every_image_has_a_row_with_its_features_or_the_reason(made: tuple[Store, Wanted]) -> None:
    store, _ = made
    shard = some_shards()["000"]
    rows = read_table(store, LOCAL_FEATURES, shard="000").to_pylist()
    assert problems(LOCAL_FEATURES, pq.read_table(store.path("features/000.parquet"))) == []
    order = landmark_order(np.array([row["landmark_id"] for row in rows]))
    keys = [(int(o), row["landmark_id"], row["id"]) for o, row in zip(order, rows, strict=True)]
    assert keys == sorted(keys)
    assert {row["id"]: row["landmark_id"] for row in rows} == shard.landmarks
    data = store.read("features/000.bin")
    extractor, offset = RootSift(50), 0
    for row in rows:
        assert row["offset"] == offset
        piece = data[offset : offset + row["size"]]
        offset += row["size"]
        assert row["xxh3"] == xxhash.xxh3_64_intdigest(piece)
        if row["status"] == "failed":
            assert (row["width"], row["height"], row["features"], row["size"]) == (0, 0, 0, 0)
            continue
        assert row["stored_xxh3"] == xxhash.xxh3_64_intdigest(shard.images[row["id"]])
        pixels = cv2.imdecode(np.frombuffer(shard.images[row["id"]], np.uint8), cv2.IMREAD_COLOR_RGB)
        (features,) = extractor.extract([pixels])
        assert (row["height"], row["width"]) == pixels.shape[:2]
        assert row["features"] == len(features.places)
        assert piece == encoded(features, signed=False)
    assert offset == len(data)
    by_id = {row["id"]: row for row in rows}
    assert by_id[UNDECODABLE]["reason"] == "undecodable: its 11 bytes cannot be decoded"
    assert by_id[CHANGED]["reason"].startswith("unreadable: image ")
    assert "XXH3" in by_id[CHANGED]["reason"]
    assert by_id[ABSENT]["reason"].startswith("not stored: ")
    assert by_id[ABSENT]["stored_xxh3"] is None
    assert (by_id[FLAT]["status"], by_id[FLAT]["features"], by_id[FLAT]["reason"]) == ("extracted", 0, "")
    receipt = find_receipt(store, "local_features/000")
    assert receipt is not None
    assert receipt.summary == {
        "rows": 13,
        "extracted": 10,
        "failed": 3,
        "without_features": 1,
        "features": sum(row["features"] for row in rows),
        "bytes": len(data),
        "failed: not stored": 1,
        "failed: undecodable": 1,
        "failed: unreadable": 1,
    }
    assert min(row["features"] for row in rows if row["size"]) > 5


def test_workers_and_the_order_of_the_plan_change_no_byte(tmp_path: Path) -> None:
    found = []
    for execution, turn in ((ONE, 1), (TWO, -1), (Execution(workers=5), 1)):
        shards, store = clean_shards(), Store(str(tmp_path / str(execution.workers)))
        for key, shard in shards.items():
            shard.write(store, key)
        rows = [row for key, shard in shards.items() for row in shard.rows(key)]
        wanted = Wanted.among(pa.Table.from_pylist(rows[::turn], PLANNED))
        for key in list(shards)[::turn]:
            make_local_features(store, key, wanted, RECIPE, execution)
        found.append([outputs(store, key) for key in shards])
    assert found[0] == found[1] == found[2]


def test_finished_work_is_known_and_other_shards_do_not_matter(copied: tuple[Store, Wanted]) -> None:
    store, wanted = copied
    before = outputs(store, "000")
    shards = some_shards()
    del shards["001"].landmarks[identifier(12)]
    for again in (wanted, wanted_of(shards), wanted_of({"000": shards["000"]})):
        assert make_local_features(store, "000", again, RECIPE, TWO).reused
    assert outputs(store, "000") == before
    assert not make_local_features(store, "001", wanted_of(shards), RECIPE, ONE).reused


class Counting:
    """RootSIFT that keeps how many images it was given."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given = 0
        usual = RootSift.extract

        def extract(extractor: RootSift, images: list[Pixels]) -> list[Features]:
            self.given += len(images)
            return usual(extractor, images)

        monkeypatch.setattr(RootSift, "extract", extract)


def fresh(shards: Mapping[str, Shard], key: str, folder: Path) -> dict[str, bytes]:
    """What a run without an earlier one leaves."""
    store = Store(str(folder))
    shards[key].write(store, key)
    make_local_features(store, key, wanted_of(shards), RECIPE, ONE)
    return outputs(store, key)


def clean_shards() -> dict[str, Shard]:
    """As `some_shards`, without the image whose reason names the store."""
    shards = some_shards()
    shards["000"].changed = {}
    return shards


@pytest.mark.parametrize("change", ["another set", "another landmark", "other pixels", "ingested again", "none left"])
def test_what_an_earlier_run_found_is_taken_over(
    change: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = clean_shards()
    first = shards["000"]
    left_out = list(first.landmarks)[-3:]
    for image_id in left_out:
        del first.landmarks[image_id]
    wanted = written(shards, store)
    assert make_local_features(store, "000", wanted, RECIPE, ONE).run["carried"] == 0
    carried, found = 10, 0
    if change == "another set":  # three more, and two fewer
        first.landmarks |= dict.fromkeys(left_out, 22)
        for image_id in list(first.landmarks)[:2]:
            del first.landmarks[image_id]
        carried, found = 7, 2
    elif change == "another landmark":
        for image_id in list(first.landmarks)[:4]:
            first.landmarks[image_id] += 1000
        carried = 9
    elif change == "other pixels":
        first.images[identifier(0)], first.images[identifier(1)] = textured(50), textured(51)
        carried, found = 7, 2
    elif change == "ingested again":
        first.images = dict(reversed(first.images.items()))
        carried = 9
    else:
        first.landmarks.clear()
        carried = 0
    counting = Counting(monkeypatch)
    first.write(store, "000")
    again = make_local_features(store, "000", wanted_of(shards), RECIPE, TWO)
    assert not again.reused
    assert (again.run["carried"], counting.given) == (carried, found)
    assert outputs(store, "000") == fresh(shards, "000", tmp_path / "fresh")


IDS = [identifier(n) for n in range(12)]
CHOICES = st.fixed_dictionaries({}, optional=dict.fromkeys(IDS, st.tuples(st.integers(1, 3), st.integers(0, 3))))


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(choices=st.tuples(CHOICES, CHOICES))
def test_any_two_runs_leave_what_the_second_alone_leaves(
    choices: tuple[dict[str, tuple[int, int]], ...], tmp_path: Path
) -> None:
    both, second = (Store(str(tmp_path / uuid.uuid4().hex)) for _ in range(2))
    for store, some in ((both, choices), (second, choices[1:])):
        for choice in some:
            images = {image_id: textured(picture, (36, 48)) for image_id, (_, picture) in choice.items()}
            shards = {"000": Shard(images, {image_id: landmark for image_id, (landmark, _) in choice.items()})}
            make_local_features(store, "000", written(shards, store), RECIPE, ONE)
    assert outputs(both, "000") == outputs(second, "000")


def test_of_another_extractor_nothing_is_taken_over(copied: tuple[Store, Wanted]) -> None:
    store, wanted = copied
    again = make_local_features(store, "001", wanted, RECIPE.model_copy(update={"max_features": 60}), ONE)
    assert (again.reused, again.run["carried"]) == (False, 0)
    assert max(read_table(store, LOCAL_FEATURES, shard="001")["features"].to_pylist()) > 50


@pytest.mark.parametrize("damage", ["bytes", "cut", "table"])
def test_damaged_features_are_not_taken_over(damage: str, store: Store, tmp_path: Path) -> None:
    shards = clean_shards()
    wanted = written(shards, store)
    make_local_features(store, "000", wanted, RECIPE, ONE)
    path = Path(store.path("features/000.bin"))
    if damage == "bytes":
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        table = Path(store.path("features/000.parquet"))
        table.write_bytes(b"x" * table.stat().st_size)
    del shards["000"].landmarks[identifier(0)]
    again = make_local_features(store, "000", wanted_of(shards), RECIPE, ONE)
    assert again.run["carried"] == 0
    assert outputs(store, "000") == fresh(shards, "000", tmp_path / "fresh")


def test_a_failed_run_leaves_the_earlier_files(copied: tuple[Store, Wanted], monkeypatch: pytest.MonkeyPatch) -> None:
    store, wanted = copied
    before = outputs(store, "001")
    shards = some_shards()
    shards["001"].images[identifier(23)] = textured(99)
    shards["001"].write(store, "001")

    def broken(extractor: RootSift, images: list[Pixels]) -> list[Features]:
        raise ExtractorError("it cannot be used")

    with monkeypatch.context() as patched:
        patched.setattr(RootSift, "extract", broken)
        with pytest.raises(ExtractorError, match="it cannot be used"):
            make_local_features(store, "001", wanted, RECIPE, ONE)
    assert outputs(store, "001") == before
    again = make_local_features(store, "001", wanted, RECIPE, ONE)
    assert again.run["carried"] == 11


def test_failed_images_are_tried_again_when_asked(
    copied: tuple[Store, Wanted], monkeypatch: pytest.MonkeyPatch
) -> None:
    store, wanted = copied
    mended = some_shards()["000"]
    index = read_table(store, IMAGE_INDEX, split="train", shard="000").to_pylist()
    for row in index:
        if row["id"] == CHANGED:
            row["stored_xxh3"] ^= 1
    with store.writing(IMAGE_INDEX.at(split="train", shard="000")) as file:
        write_table(IMAGE_INDEX, IMAGE_INDEX.rows(index), file)
    counting = Counting(monkeypatch)
    size = store.size(IMAGE_INDEX.at(split="train", shard="000"))
    receipt = find_receipt(store, "train_images/000")
    assert receipt is not None
    assert receipt.outputs["images/train/000.parquet"].size == size  # so that ingest's receipt still holds
    assert make_local_features(store, "000", wanted, RECIPE, ONE).reused
    again = make_local_features(store, "000", wanted, RECIPE, Execution(workers=1, retry_failed=True))
    assert (again.reused, again.run["carried"], counting.given) == (False, 10, 1)
    rows = {row["id"]: row for row in read_table(store, LOCAL_FEATURES, shard="000").to_pylist()}
    assert rows[CHANGED]["status"] == "extracted"
    assert rows[UNDECODABLE]["status"] == "failed"
    assert rows[CHANGED]["stored_xxh3"] == xxhash.xxh3_64_intdigest(mended.images[CHANGED])
    assert make_local_features(store, "001", wanted, RECIPE, Execution(workers=1, retry_failed=True)).reused


def test_a_shard_that_was_not_ingested_is_named(store: Store) -> None:
    with pytest.raises(MissingInputError, match="train_images/000 has not been made"):
        make_local_features(store, "000", wanted_of(some_shards()), RECIPE, ONE)


@dataclass(frozen=True)
class Networklike:
    """An extractor that is given several images at once, and refuses those of an odd width."""

    calls: list[int]
    batch: int = 5
    version: str = "networklike 1"
    dimensions: int = 3
    signed: bool = True
    oriented: bool = False
    min_cosine: float = 0.5

    def extract(self, images: list[Pixels]) -> list[Features]:
        self.calls.append(len(images))
        if any(image.shape[1] % 2 for image in images):
            raise ValueError("its width is odd")
        found = []
        for image in images:
            colour = image.reshape(-1, 3).mean(axis=0) - 128
            places = np.array([[1, 2, 1, 0]], np.float32)
            found.append(
                Features(
                    places, (colour / np.linalg.norm(colour)).astype(np.float32)[None], image.shape[1], image.shape[0]
                )
            )
        return found


def test_a_batch_is_given_at_once_and_one_that_is_refused_fails_alone(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shards = clean_shards()
    odd = identifier(7)
    shards["000"].images[odd] = textured(7, (40, 61))
    extractor = Networklike([])
    monkeypatch.setattr(local_features, "open_extractor", lambda recipe, device: extractor)
    wanted = written(shards, store)
    for key in shards:
        make_local_features(store, key, wanted, RECIPE, TWO)
    assert extractor.calls[-3:] == [5, 5, 2]
    rows = {row["id"]: row for row in read_table(store, LOCAL_FEATURES, shard="000").to_pylist()}
    assert rows[odd]["reason"] == "refused: its width is odd"
    assert {i for i, row in rows.items() if row["status"] == "failed"} == {odd, UNDECODABLE, ABSENT}
    reader = FeatureReader.of_bucket(store, list(shards), 0, 1)
    for image_id in reader.ids:
        image = cv2.imdecode(
            np.frombuffer((shards["000"].images | shards["001"].images)[image_id], np.uint8), cv2.IMREAD_COLOR_RGB
        )
        (features,) = extractor.extract([image])
        expected = decoded(encoded(features, True), 1, 3, True, features.width, features.height)
        assert (reader[image_id].codes == expected.codes).all()


def test_opencv_has_its_threads_back(made: tuple[Store, Wanted], store: Store) -> None:
    shards = some_shards()
    usual = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        make_local_features(store, "001", written(shards, store), RECIPE, TWO)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(usual)


# Which images are wanted


def test_the_images_wanted_are_those_of_the_manifest_that_are_compared(store: Store) -> None:
    rows = []
    for landmark, count in ((1, 5), (2, 6), (3, 9)):
        for n in range(count):
            rows.append((identifier(100 * landmark + n), landmark, f"{n % 2:03d}"))
    rows.append((identifier(900), 2, "000"))
    columns = {name: [row[at] for row in rows] for at, name in enumerate(("id", "landmark_id", "shard"))}
    columns |= {"decision": ["kept"] * (len(rows) - 1) + ["dropped"], "reason": [""] * len(rows)}
    columns |= {"origin": ["competition"] * len(rows)}
    write_made(store, "train_manifest", TRAIN_MANIFEST, pa.table(columns, schema=TRAIN_MANIFEST.schema).to_pylist())
    wanted = Wanted.of(store, Verification(min_class=6, cap=8, keep=8), seed=0)
    assert sorted(wanted.shards) == ["000", "001"]
    found = [row for key in wanted.shards for row in wanted.of_shard(key).to_pylist()]
    counts = {landmark: sum(row["landmark_id"] == landmark for row in found) for landmark in (1, 2, 3)}
    assert counts == {1: 0, 2: 6, 3: 8}
    shard_of = {row[0]: row[2] for row in rows}
    for key in wanted.shards:
        of_shard = wanted.of_shard(key)
        assert of_shard.num_rows == len(set(of_shard["id"].to_pylist()))
        assert all(shard_of[image_id] == key for image_id in of_shard["id"].to_pylist())
    assert wanted.of_shard("999").num_rows == 0


# Reading


def classes(store: Store, shards: list[str], buckets: int) -> Iterator[tuple[int, str, int, bytes]]:
    for bucket in range(len(bucket_keys(buckets))):
        for landmark_id, ids, features in FeatureReader.of_bucket(store, shards, bucket, buckets):
            assert buckets_of(np.array([landmark_id]), buckets) == [bucket]
            for image_id, kept in zip(ids, features, strict=True):
                yield landmark_id, image_id, kept.width, kept.places.tobytes() + kept.codes.tobytes()


@pytest.mark.parametrize("buckets", [1, 2, 3, 7, 100])
def test_any_number_of_buckets_gives_the_same_classes(buckets: int, made: tuple[Store, Wanted]) -> None:
    store, _ = made
    shards = some_shards()
    found = list(classes(store, ["000", "001"], buckets))
    assert found == list(classes(store, ["001", "000"], 1))
    landmarks = shards["000"].landmarks | shards["001"].landmarks
    expected = {i: n for i, n in landmarks.items() if i not in (UNDECODABLE, CHANGED, ABSENT)}
    assert {image_id: landmark for landmark, image_id, *_ in found} == expected
    order = landmark_order(np.array([landmark for landmark, *_ in found]))
    assert [(int(o), *row[:2]) for o, row in zip(order, found, strict=True)] == sorted(
        (int(o), *row[:2]) for o, row in zip(order, found, strict=True)
    )


def test_features_come_back_as_they_were_found(made: tuple[Store, Wanted]) -> None:
    store, _ = made
    shards = some_shards()
    reader = FeatureReader.of_bucket(store, ["000", "001"], 0, 1)
    assert (reader.extractor, reader.dimensions, reader.signed) == (RootSift(50).version, 128, False)
    assert sorted(reader.failed) == sorted([UNDECODABLE, CHANGED, ABSENT])
    assert reader.failed[UNDECODABLE] == "undecodable: its 11 bytes cannot be decoded"
    assert len(reader) == len(reader.ids) == len(reader.landmark_ids) == 22
    image_id = identifier(13)
    image = cv2.imdecode(np.frombuffer(shards["001"].images[image_id], np.uint8), cv2.IMREAD_COLOR_RGB)
    (features,) = RootSift(50).extract([image])
    kept = reader[image_id]
    assert (kept.codes == np.clip(np.rint(features.descriptors * 512), 0, 255)).all()
    assert np.abs(kept.places[:, :2] - features.places[:, :2]).max() <= 1 / 32
    assert len(reader[FLAT].places) == 0
    assert reader[FLAT].codes.shape == (0, 128)
    assert UNDECODABLE not in reader
    with pytest.raises(KeyError):
        reader[UNDECODABLE]


def test_images_are_read_by_their_ids(made: tuple[Store, Wanted]) -> None:
    store, _ = made
    whole = FeatureReader.of_bucket(store, ["000", "001"], 0, 1)
    ids = [identifier(20), identifier(1), FLAT, CHANGED, identifier(13), identifier(1)]
    some = FeatureReader.of_images(store, ["000", "001"], ids)
    assert sorted(some.ids) == sorted(set(ids) - {CHANGED})
    assert list(some.failed) == [CHANGED]
    for image_id in some.ids:
        assert (some[image_id].codes == whole[image_id].codes).all()
        assert (some[image_id].places == whole[image_id].places).all()
    with pytest.raises(MissingInputError, match=f"1 images have no row, the first {identifier(77)}"):
        FeatureReader.of_images(store, ["000", "001"], [identifier(1), identifier(77)])
    assert list(FeatureReader.of_images(store, ["000"], [])) == []
    assert list(FeatureReader.of_bucket(store, [], 0, 1)) == []


def test_a_bucket_is_one_range_of_a_shard(made: tuple[Store, Wanted], monkeypatch: pytest.MonkeyPatch) -> None:
    store, _ = made
    asked = []
    usual = feature_reader.read_ranges

    def read_ranges(store: Store, places: object) -> object:
        listed = list(places)  # type: ignore[call-overload]
        asked.extend(listed)
        return usual(store, listed)

    monkeypatch.setattr(feature_reader, "read_ranges", read_ranges)
    for bucket in range(3):
        FeatureReader.of_bucket(store, ["000", "001"], bucket, 3)
    for key in ("000", "001"):
        ranges = sorted((p.offset, p.size) for p in asked if p.name == f"features/{key}.bin")
        assert 1 < len(ranges) <= 3
        assert [offset + size for offset, size in ranges] == [
            *(o for o, _ in ranges[1:]),
            store.size(f"features/{key}.bin"),
        ]


def test_features_that_are_missing_damaged_or_of_another_extractor_are_named(copied: tuple[Store, Wanted]) -> None:
    store, wanted = copied

    def read() -> list[object]:
        return list(FeatureReader.of_bucket(store, ["000", "001"], 0, 1))

    with pytest.raises(MissingInputError, match="local_features/002 has not been made"):
        FeatureReader.of_bucket(store, ["000", "002"], 0, 1)
    path = Path(store.path("features/001.bin"))
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with pytest.raises(MissingInputError, match=r"local_features/001 in .* is damaged: features/001.bin has"):
        read()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(StoreError, match=r"image \w+: the \d+ bytes of its features in .*001.bin are not those"):
        read()
    path.write_bytes(data)
    assert read()
    make_local_features(store, "001", wanted, RECIPE.model_copy(update={"max_features": 60}), ONE)
    with pytest.raises(
        MissingInputError,
        match=r"local_features/001 in .* is of rootsift 1, contrast 0.02 with 60 features, local_features/000 of .* 50",
    ):
        read()


def test_a_table_that_is_not_of_its_file_is_named(copied: tuple[Store, Wanted]) -> None:
    store, _ = copied
    path = LOCAL_FEATURES.at(shard="001")
    rows = read_table(store, LOCAL_FEATURES, shard="001").to_pylist()
    rows[3]["offset"] += 1
    with store.writing(path) as file:
        write_table(LOCAL_FEATURES, LOCAL_FEATURES.rows(rows), file)
    receipt = find_receipt(store, "local_features/001")
    assert receipt is not None
    size = store.size(path)
    outputs = receipt.outputs | {path: receipt.outputs[path].model_copy(update={"size": size})}
    changed = receipt.model_copy(update={"outputs": outputs})
    store.write("receipts/local_features/001.json", changed.to_bytes())
    with pytest.raises(TableError, match=r"001.parquet: its places are not those of the \d+ bytes in features/001.bin"):
        FeatureReader.of_bucket(store, ["000", "001"], 0, 1)


def test_on_s3_it_is_the_same(made: tuple[Store, Wanted], s3_endpoint: str, tmp_path: Path) -> None:
    shards = clean_shards()
    name = f"features-{uuid.uuid4().hex}"
    store = Store(f"s3://{name}/below", {"endpoint_url": s3_endpoint})
    store.fs.mkdir(name)
    wanted = written(shards, store)
    for key in shards:
        make_local_features(store, key, wanted, RECIPE, TWO)
        assert outputs(store, key) == fresh(shards, key, tmp_path / key)
    moved = identifier(0)
    shards["000"].landmarks[moved] += 1000
    again: Made = make_local_features(store, "000", wanted_of(shards), RECIPE, TWO)
    assert again.run["carried"] == 11
    found = list(classes(store, list(shards), 3))
    assert len(found) == 23
