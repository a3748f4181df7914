"""Whole packages: read back by those they are for, resumed, refused, the same bytes each time, in folders and on S3."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import tarfile
import uuid
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from glr_assets.curation.schemas import TRAIN_MANIFEST
from glr_assets.errors import GlrError, MissingInputError, StoreError
from glr_assets.exports import export
from glr_assets.exports.export import Progress, make_export
from glr_assets.exports.images import export_images
from glr_assets.exports.order import export_order
from glr_assets.exports.packages import PACKAGES, PackageKind
from glr_assets.images.reader import ImageReader
from glr_assets.integrity import verify
from glr_assets.receipts import find_receipt
from glr_assets.recipes import Exports
from glr_assets.source import KaggleSource
from glr_assets.store import Store
from glr_assets_tests.exports.conftest import ANONYMOUS, FIVE, IDS, LANDMARKS, write_manifest
from glr_assets_tests.lineage import digests

KINDS: tuple[PackageKind, ...] = ("tfrecord", "webdataset", "zip")
LANDMARK_OF = dict(zip(IDS, LANDMARKS, strict=True))
FILES = {
    "tfrecord": [f"train-{number:05d}-of-00004.tfrecord" for number in range(4)],
    "webdataset": [f"train-{number:06d}.tar" for number in range(4)],
    "zip": [f"train-{number:05d}-of-00004.zip" for number in range(4)],
}
FOLDER = {"tfrecord": "train_tfrecords", "webdataset": "train_webdataset", "zip": "train_zip"}


def stored(store: Store) -> dict[str, bytes]:
    """What tarfile reads of the stored shards."""
    found = {}
    for shard in ("000", "001"):
        with tarfile.open(fileobj=io.BytesIO(store.read(f"images/train/{shard}.tar"))) as archive:
            found |= {Path(m.name).stem: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]
    return found


def table(store: Store, path: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(store.read(path).decode(), newline="")))


def expected_order(store: Store, recipe: Exports, seed: int = 0) -> list[str]:
    ids = sorted(IDS)
    landmarks = export_images(store, "train_manifest").table["landmark_id"].to_numpy()
    return [ids[row] for row in export_order(pa.array(ids), landmarks, recipe.order, seed)]


def test_tensorflow_reads_every_image_with_label_and_rights(packed: Store) -> None:
    tf = pytest.importorskip("tensorflow", reason="TensorFlow is not installed: nothing to read with")
    made = make_export(packed, "tfrecord", FIVE, 0)
    paths = [str(Path(packed.root) / "exports/train_tfrecords" / name) for name in FILES["tfrecord"]]
    strings = ("encoded", "format", "id", "filename", "class/text", "source_url", "author", "license", "title")
    numbers = ("height", "width", "class/label", "class/landmark_id")
    features = {f"image/{name}": tf.io.FixedLenFeature([], tf.string) for name in strings}
    features |= {f"image/{name}": tf.io.FixedLenFeature([], tf.int64) for name in numbers}
    dataset = tf.data.TFRecordDataset(paths).map(lambda record: tf.io.parse_single_example(record, features))
    found = {one["image/id"].decode(): one for one in dataset.as_numpy_iterator()}
    assert [*found] == expected_order(packed, FIVE)
    images, landmarks = stored(packed), sorted(set(LANDMARKS))
    for image_id, one in found.items():
        assert one["image/encoded"] == images[image_id]
        assert tf.io.decode_jpeg(one["image/encoded"]).shape == (one["image/height"], one["image/width"], 3)
        assert one["image/class/landmark_id"] == LANDMARK_OF[image_id]
        assert one["image/class/label"] == landmarks.index(LANDMARK_OF[image_id])
        assert one["image/format"] == b"JPEG"
        assert one["image/license"].decode() == ("" if image_id == ANONYMOUS else "CC BY 4.0")
        assert one["image/filename"].decode() == f"{image_id}.jpg"
    assert found[IDS[0]]["image/author"].decode() == 'Ann, "the" Ñandú\nof two lines'
    assert made.receipt.summary["rows"] == len(found)


def test_webdataset_reads_every_image_through_brace_notation(packed: Store) -> None:
    wds = pytest.importorskip("webdataset", reason="webdataset is not installed: nothing to read with")
    make_export(packed, "webdataset", FIVE, 0)
    url = str(Path(packed.root) / "exports/train_webdataset/train-{000000..000003}.tar")
    found = list(wds.WebDataset(url, shardshuffle=False).to_tuple("__key__", "jpg", "cls", "json"))
    assert [key for key, *_ in found] == expected_order(packed, FIVE)
    images, landmarks = stored(packed), sorted(set(LANDMARKS))
    for key, jpeg, label, told in found:
        assert jpeg == images[key]
        assert landmarks[int(label)] == LANDMARK_OF[key] == json.loads(told)["landmark_id"]


def test_unpacked_zips_are_a_kaggle_folder_and_a_dataset_of_fiftyone(packed: Store, tmp_path: Path) -> None:
    make_export(packed, "zip", FIVE, 0)
    folder = Path(packed.root) / "exports/train_zip"
    unpacked = tmp_path / "competition"
    members = []
    for name in FILES["zip"]:
        with zipfile.ZipFile(folder / name) as archive:
            assert archive.testzip() is None
            members += [member for member in archive.namelist() if member.endswith(".jpg")]
            archive.extractall(unpacked / "train")
    images = stored(packed)
    order = expected_order(packed, FIVE)
    assert members == [f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg" for i in order]
    assert {Path(member).stem: (unpacked / "train" / member).read_bytes() for member in members} == images
    # Kaggle's layout, as a source of one's own sees it.
    (unpacked / "train.csv").write_bytes((folder / "train.csv").read_bytes())
    source = KaggleSource(str(unpacked))
    known = {
        Path(member.name).stem: member.data
        for shard in source.shards("train")
        for member in source.members("train", shard, require_md5=False, max_member_bytes=10**6)
        if member.name.endswith(".jpg")
    }
    assert known == images
    # FiftyOne's: a key is a path below its data folder without the ending; a label a place in `classes`.
    labels = json.loads((folder / "labels.json").read_bytes())
    paths = {key: unpacked / "train" / f"{key}.jpg" for key in labels["labels"]}
    assert {path.stem: path.read_bytes() for path in paths.values()} == images
    for key, label in labels["labels"].items():
        image_id = key.rpartition("/")[2]
        assert f"({LANDMARK_OF[image_id]})" in labels["classes"][label["label"]]
        assert label["attributes"]["license"] == ("" if image_id == ANONYMOUS else "CC BY 4.0")


def test_one_zip_has_no_number(packed: Store) -> None:
    make_export(packed, "zip", Exports(images_per_shard=100), 0)
    assert packed.names("exports/train_zip") == [
        "attribution.csv",
        "export.json",
        "labels.json",
        "landmarks.csv",
        "train.csv",
        "train.zip",
    ]
    with zipfile.ZipFile(io.BytesIO(packed.read("exports/train_zip/train.zip"))) as archive:
        inside = {name: archive.read(name) for name in ("train.csv", "attribution.csv")}
    for name, data in inside.items():
        assert sorted(data.splitlines()) == sorted(packed.read(f"exports/train_zip/{name}").splitlines())


@pytest.mark.parametrize("kind", KINDS)
def test_the_lists_and_the_index_tell_of_all(packed: Store, kind: PackageKind) -> None:
    made = make_export(packed, kind, FIVE, 3)
    folder = f"exports/{FOLDER[kind]}"
    assert {row["id"]: int(row["landmark_id"]) for row in table(packed, f"{folder}/train.csv")} == LANDMARK_OF
    rights = table(packed, f"{folder}/attribution.csv")
    assert [row["id"] for row in rights] == sorted(IDS)
    assert {row["license"] for row in rights if row["id"] != ANONYMOUS} == {"CC BY 4.0"}
    assert [row["images"] for row in table(packed, f"{folder}/landmarks.csv")] == ["6", "5", "1", "4"]
    index = packed.read_json(f"{folder}/export.json")
    assert [file["path"] for file in index["files"]] == FILES[kind]
    assert [file["images"] for file in index["files"]] == [4, 4, 4, 4]
    for file in index["files"]:
        data = packed.read(f"{folder}/{file['path']}")
        assert (len(data), hashlib.sha256(data).hexdigest()) == (file["size"], file["sha256"])
    assert index["bytes"] == sum(file["size"] for file in index["files"])
    assert (index["images"], index["landmarks"], index["images_without_author_or_licence"]) == (16, 4, 1)
    assert (index["order"], index["seed"], index["images_per_shard"]) == ("shuffled", 3, 5)
    receipt = find_receipt(packed, "train_manifest")
    assert receipt is not None
    assert index["made_from"]["train_manifest"] == receipt.digest
    assert set(made.receipt.outputs) == {f"{folder}/{name}" for name in packed.names(folder)}
    summary = made.receipt.summary
    assert (summary["fewest_images_of_a_landmark"], summary["most_images_of_a_landmark"]) == (1, 6)
    assert summary["median_images_of_a_landmark"] == 4


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_set_gives_the_same_bytes_whatever_else_is_stored(
    packed: Store, kind: PackageKind, packed_once: Path, tmp_path: Path
) -> None:
    make_export(packed, kind, FIVE, 0)
    make_export(packed, kind, FIVE, 0, to=str(tmp_path / "to"))
    there = digests(tmp_path / "to")
    assert {name: digest for name, digest in there.items() if not name.startswith("receipts/")} == digests(
        Path(packed.root) / "exports" / FOLDER[kind]
    )
    make_export(packed, kind, FIVE, 1, to=str(tmp_path / "seed 1"))
    assert digests(tmp_path / "seed 1")[FILES[kind][0]] != there[FILES[kind][0]]


def test_what_is_finished_is_not_made_again(packed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first = make_export(packed, "zip", FIVE, 0)
    assert (first.reused, first.run["files_written"], first.run["images_written"]) == (False, 4, 16)
    before = digests(Path(packed.root))
    monkeypatch.setattr(ImageReader, "read_rows", lambda *_: pytest.fail("images were read again"))
    again = make_export(packed, "zip", FIVE, 0)
    assert again.reused
    assert digests(Path(packed.root)) == before


def broken_off(packed: Store, kind: PackageKind, after: int, **more: str) -> None:
    """An export that ends, as by an interrupt, after so many images."""

    def through(_: int) -> None:
        nonlocal after
        after -= 1
        if after < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_export(packed, kind, FIVE, 0, progress=Progress(through=through), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [0, 6, 15])
def test_an_export_that_was_broken_off_is_gone_on_with(packed: Store, kind: PackageKind, after: int) -> None:
    make_export(packed, kind, FIVE, 0, to=str(Path(packed.root).parent / "whole"))
    broken_off(packed, kind, after)
    folder = f"exports/{FOLDER[kind]}"
    assert packed.names(folder) == FILES[kind][: after // 4]
    assert find_receipt(packed, FOLDER[kind]) is None
    moved: list[int] = []
    begun: list[tuple[int, int]] = []
    progress = Progress(lambda images, files: begun.append((images, files)), moved.append)
    made = make_export(packed, kind, FIVE, 0, progress=progress)
    assert (made.run["files_done_before"], made.run["files_written"]) == (after // 4, 4 - after // 4)
    assert begun == [(16, 4)]
    assert sum(moved) == 16
    whole = digests(Path(packed.root).parent / "whole")
    found = digests(Path(packed.root), folder)
    assert {Path(name).name: digest for name, digest in found.items()} == {
        name: digest for name, digest in whole.items() if "/" not in name
    }


def test_a_file_that_was_cut_or_lost_is_made_again_and_no_other(packed: Store) -> None:
    make_export(packed, "webdataset", FIVE, 0)
    before = digests(Path(packed.root))
    for spoil in (lambda path: path.write_bytes(path.read_bytes()[:-1]), Path.unlink):
        spoil(Path(packed.root) / "exports/train_webdataset/train-000002.tar")
        made = make_export(packed, "webdataset", FIVE, 0)
        assert (made.run["files_written"], made.run["files_done_before"]) == (1, 3)
        assert digests(Path(packed.root)) == before


def test_a_change_elsewhere_leaves_files_and_one_inside_makes_those_it_is_in(packed: Store) -> None:
    make_export(packed, "tfrecord", FIVE, 0)
    rows = [(i, landmark, "kept") for i, landmark in LANDMARK_OF.items()]
    write_manifest(packed, TRAIN_MANIFEST, [*rows, ("0" * 16, 3, "dropped")])
    made = make_export(packed, "tfrecord", FIVE, 0)
    assert (made.reused, made.run["files_written"]) == (False, 0)
    write_manifest(packed, TRAIN_MANIFEST, [(i, 3 if i == IDS[6] else landmark, "kept") for i, landmark, _ in rows])
    made = make_export(packed, "tfrecord", FIVE, 0)
    assert made.run["files_written"] == 1


def test_another_number_of_files_leaves_none_of_the_others(packed: Store) -> None:
    make_export(packed, "tfrecord", FIVE, 0)
    broken_off_files = packed.names("exports/train_tfrecords")
    assert len([name for name in broken_off_files if name.endswith(".tfrecord")]) == 4
    made = make_export(packed, "tfrecord", Exports(images_per_shard=8), 0)
    files = [name for name in packed.names("exports/train_tfrecords") if name.endswith(".tfrecord")]
    assert files == ["train-00000-of-00002.tfrecord", "train-00001-of-00002.tfrecord"]
    assert packed.names("receipts/train_tfrecords") == ["00000.json", "00001.json"]
    assert set(made.receipt.outputs) == {
        f"exports/train_tfrecords/{name}" for name in packed.names("exports/train_tfrecords")
    }


def test_files_of_an_unfinished_export_of_another_size_go_too(packed: Store) -> None:
    broken_off(packed, "webdataset", 15)
    make_export(packed, "webdataset", Exports(images_per_shard=16), 0)
    names = [name for name in packed.names("exports/train_webdataset") if name.endswith(".tar")]
    assert names == ["train-000000.tar"]


def test_any_manifest_and_any_order(packed: Store) -> None:
    made = make_export(packed, "zip", Exports(order="id", images_per_shard=100), 0, manifest="deduped_manifest")
    assert made.receipt.name == "deduped_zip"
    kept = sorted(image_id for number, image_id in enumerate(IDS) if number % 3)
    with zipfile.ZipFile(io.BytesIO(packed.read("exports/deduped_zip/train.zip"))) as archive:
        assert [Path(name).stem for name in archive.namelist() if name.endswith(".jpg")] == kept
    assert "deduped_manifest" in made.receipt.inputs
    with pytest.raises(MissingInputError, match="no manifest nothing"):
        make_export(packed, "zip", FIVE, 0, manifest="nothing")


def flipped(store: Store, image_id: str) -> None:
    reader = ImageReader.of_split(store, "train")
    place = reader.places.place(reader.row(image_id))
    path = Path(store.root) / place.name
    data = bytearray(path.read_bytes())
    data[place.offset + place.size // 2] ^= 1
    path.write_bytes(data)


def test_damaged_images_are_named_and_only_their_files_are_not_written(packed: Store) -> None:
    order = expected_order(packed, FIVE)
    for place in (5, 7, 12):
        flipped(packed, order[place])
    with pytest.raises(StoreError) as error:
        make_export(packed, "tfrecord", FIVE, 0)
    text = str(error.value)
    assert f"3 stored images cannot be read, and no file that would hold one was written: {order[5]}, " in text
    assert f"{order[7]}, {order[12]}; the first: image {order[5]}: " in text
    assert "XXH3" in text
    assert "\n" not in text
    written = [FILES["tfrecord"][0], FILES["tfrecord"][2]]
    assert packed.names("exports/train_tfrecords") == written
    assert find_receipt(packed, "train_tfrecords") is None
    for place in (5, 7, 12):
        flipped(packed, order[place])
    made = make_export(packed, "tfrecord", FIVE, 0)
    assert (made.run["files_done_before"], made.run["files_written"]) == (2, 2)


def test_an_export_that_meets_nothing_but_damage_stops(packed: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export, "NAMED_AT_MOST", 5)
    order = expected_order(packed, FIVE)
    (Path(packed.root) / "images/train/000.tar").unlink()
    (Path(packed.root) / "images/train/001.tar").unlink()
    with pytest.raises(StoreError, match=rf"at least 8 stored images cannot be read.*{order[0]}"):
        make_export(packed, "tfrecord", FIVE, 0)


def test_a_lost_file_of_images_is_told(packed: Store) -> None:
    (Path(packed.root) / "images/train/001.tar").unlink()
    with pytest.raises(StoreError, match=r"8 stored images cannot be read.*001\.tar"):
        make_export(packed, "zip", FIVE, 0)


def test_a_folder_of_another_export_and_the_store_itself_are_refused(packed: Store, tmp_path: Path) -> None:
    folder = str(tmp_path / "mine")
    make_export(packed, "zip", FIVE, 0, to=folder)
    make_export(packed, "zip", FIVE, 1, to=folder)
    before = digests(tmp_path / "mine")
    with pytest.raises(StoreError, match="mine: holds the export train_zip; name another folder for train_tfrecords"):
        make_export(packed, "tfrecord", FIVE, 0, to=folder)
    with pytest.raises(StoreError, match="is the store itself"):
        make_export(packed, "zip", FIVE, 0, to=packed.url + "/")
    linked = tmp_path / "linked"
    linked.symlink_to(Path(packed.root) / "images", target_is_directory=True)
    own = digests(Path(packed.root))
    for inside in ("images", "images/train/new", "new", "exports", "exports/train_zip", "exports/train_zip/x"):
        with pytest.raises(StoreError, match=f"{inside}: lies among the store's own files"):
            make_export(packed, "zip", FIVE, 0, to=f"{packed.url}/{inside}")
    with pytest.raises(StoreError, match="linked: lies among the store's own files"):
        make_export(packed, "zip", FIVE, 0, to=str(linked))
    assert digests(Path(packed.root)) == own
    (tmp_path / "other").mkdir()
    for text in ("no json", '{"name": 3}'):
        (tmp_path / "other/export.json").write_text(text)
        with pytest.raises(GlrError, match=r"other/export\.json"):
            make_export(packed, "zip", FIVE, 0, to=str(tmp_path / "other"))
    assert digests(tmp_path / "mine") == before


def test_a_folder_in_exports_holds_a_package_that_a_repair_leaves(packed: Store) -> None:
    make_export(packed, "zip", FIVE, 0, to=f"{packed.url}/exports/mine")
    make_export(packed, "zip", FIVE, 0, to=f"{packed.root}-beside")
    held = digests(Path(packed.root) / "exports/mine")
    assert held.keys() >= {"export.json", "train.csv"}
    packed.write("exports/train_zip/left.zip", b"over")
    report = verify(packed, repair=True)
    assert [problem.path for problem in report.problems] == ["exports/train_zip/left.zip"]
    assert digests(Path(packed.root) / "exports/mine") == held


@pytest.fixture
def on_s3(packed: Store, s3_endpoint: str) -> Iterator[Callable[[str], Store]]:
    bucket = f"exports-{uuid.uuid4().hex}"

    def opened(folder: str) -> Store:
        return Store(f"s3://{bucket}/{folder}", {"endpoint_url": s3_endpoint})

    store = opened("store")
    store.fs.mkdir(bucket)
    store.fs.put(f"{packed.root}/", f"{bucket}/store/", recursive=True)
    yield opened
    store.fs.rm(bucket, recursive=True)


@pytest.mark.parametrize("kind", KINDS)
def test_on_s3_the_files_are_the_same(packed: Store, on_s3: Callable[[str], Store], kind: PackageKind) -> None:
    make_export(packed, kind, FIVE, 0)
    store, folder = on_s3("store"), f"exports/{FOLDER[kind]}"
    made = make_export(store, kind, FIVE, 0)
    assert made.run["files_written"] == 4
    to = make_export(store, kind, FIVE, 0, to=on_s3("elsewhere").url)
    assert to.run["files_written"] == 4
    for name in packed.names(folder):
        data = packed.read(f"{folder}/{name}")
        assert store.read(f"{folder}/{name}") == data, name
        assert on_s3("elsewhere").read(name) == data, name
    assert make_export(store, kind, FIVE, 0).reused


def test_damage_on_s3_is_named_too(packed: Store, on_s3: Callable[[str], Store]) -> None:
    store, victim = on_s3("store"), IDS[3]
    reader = ImageReader.of_split(store, "train")
    place = reader.places.place(reader.row(victim))
    data = bytearray(store.read(place.name))
    data[place.offset + 30] ^= 1
    store.write(place.name, bytes(data))
    with pytest.raises(StoreError, match=rf"1 stored images cannot be read.*{victim}"):
        make_export(store, "webdataset", FIVE, 0)


def test_names_of_packages_are_those_of_the_contract() -> None:
    assert {kind: package.name("train_manifest") for kind, package in PACKAGES.items()} == FOLDER
    assert PACKAGES["zip"].name("train_extra") == "train_extra_zip"
