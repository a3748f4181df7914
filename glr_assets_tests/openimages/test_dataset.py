"""The classifier dataset: a decision on every box, the same crops in each form, the same bytes on every way."""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from glr_assets.errors import MissingInputError, StoreError
from glr_assets.openimages import crop_files
from glr_assets.openimages.annotations import make_openimages_annotations
from glr_assets.openimages.checks import leaking, repeated_crops, unaccounted
from glr_assets.openimages.dataset import make_openimages_classifier_dataset, sheet_path
from glr_assets.openimages.images import make_openimages_images
from glr_assets.openimages.parts import part_keys, requests
from glr_assets.openimages.plan import obtained_images
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.openimages.schemas import (
    OPENIMAGES_ANNOTATIONS,
    OPENIMAGES_CLASSIFIER_DATASET,
    OPENIMAGES_IMAGES,
    STORED_IMAGES,
    crops_table,
)
from glr_assets.receipts import Made
from glr_assets.recipes import Execution, OpenImages, load_recipe
from glr_assets.store import Store
from glr_assets.tables import problems, read_table
from glr_assets_tests.lineage import digests
from glr_assets_tests.openimages.handmade import ONE, RECIPE, Root, across_then_down, box, jpeg, make_all, pixels

SMALL = load_recipe("small").openimages.model_copy(update={"boxes_per_file": 60, "csv_of_pixels": True, "size": 32})


def plan_of(store: Store) -> list[dict]:
    return read_table(store, OPENIMAGES_CLASSIFIER_DATASET).to_pylist()


def crops_of(store: Store, size: int = RECIPE.size) -> dict[tuple[str, int], np.ndarray]:
    """Every crop of the Parquet files by image and box."""
    found = {}
    for path in sorted((Path(store.root) / "openimages/classifier_dataset").glob("*.parquet")):
        data = pq.read_table(path)
        assert data.schema.field("image").type == pa.fixed_shape_tensor(pa.uint8(), (size, size, 3))
        images = data["image"].combine_chunks().to_numpy_ndarray()
        found |= {
            (image_id, number): image
            for image_id, number, image in zip(
                data["image_id"].to_pylist(), data["box"].to_pylist(), images, strict=True
            )
        }
    return found


@pytest.fixture(scope="module")
def of_sample(sample: OpenImagesRoot, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """The sample's dataset of small crops, several files of them, CSV and all."""
    store = Store(str(tmp_path_factory.mktemp("dataset") / "store"))
    make_all(sample, store, SMALL)
    return store


def test_every_box_is_decided_and_every_planted_defect_has_its_reason(of_sample: Store) -> None:
    rows = plan_of(of_sample)
    assert len(rows) == read_table(of_sample, OPENIMAGES_ANNOTATIONS).num_rows
    assert all((row["decision"] == "kept") == (row["reason"] == "") for row in rows)
    reasons = Counter(
        ":".join(row["reason"].split(":")[: 1 + row["reason"].startswith("image missing")]) for row in rows
    )
    assert reasons.keys() == {
        "",
        "flags not told",
        "image is a placeholder",
        "image missing: no file",
        "image missing: placeholder",
        "image missing: undecodable",
        "image missing: wrong MD5",
        "outside the image",
        "repeated box",
        "zero area",
    }
    kept = [row for row in rows if row["decision"] == "kept"]
    assert {row["category"] for row in kept} == set(SMALL.categories)
    assert len({row["image_id"] for row in rows if row["reason"].startswith("image is a placeholder: 3 images")}) == 3


def test_crops_are_cut_out_by_hand(of_sample: Store, sample: OpenImagesRoot) -> None:
    """Each by Pillow from the published CSV and the published files, through no code of this project."""
    published: dict[tuple[str, str], list[dict[str, str]]] = {}
    for path in Path(sample.files.root).glob("*bbox.csv"):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                published.setdefault((row["ImageID"], row["LabelName"]), []).append(row)
    rotations = {}
    for path in Path(sample.files.root).glob("*images*rotation.csv"):
        with path.open(newline="") as file:
            rotations |= {row["ImageID"]: row["Rotation"] for row in csv.DictReader(file)}
    crops = crops_of(of_sample, SMALL.size)
    turned = exact = 0
    for row in plan_of(of_sample):
        if row["decision"] != "kept":
            continue
        with Image.open(Path(sample.files.root, row["subset"], f"{row['image_id']}.jpg")) as image:
            width, height = image.size
            millionths = [
                {name: round(float(told[name]) * 10**6) for name in ("XMin", "XMax", "YMin", "YMax")}
                for told in published[row["image_id"], row["label"]]
            ]
            rectangles = {
                (
                    told["XMin"] * width // 10**6,
                    told["YMin"] * height // 10**6,
                    -(-told["XMax"] * width // 10**6),
                    -(-told["YMax"] * height // 10**6),
                )
                for told in millionths
            }
            rectangle = (row["left"], row["top"], row["right"], row["bottom"])
            assert rectangle in rectangles
            rgb = image.convert("RGB")
            expected = across_then_down(rgb.crop(rectangle), SMALL.size)
        turn = 0 if rotations[row["image_id"]] == "nan" else int(float(rotations[row["image_id"]]))
        turned += turn != 0
        found = crops[row["image_id"], row["box"]]
        difference = np.abs(found.astype(int) - np.asarray(expected.rotate(turn, expand=True)))
        reduced = min(row["right"] - row["left"], row["bottom"] - row["top"]) >= 2.5 * SMALL.size
        assert difference.mean() < 4 if reduced else not difference.any()
        exact += not difference.any()
    assert turned >= 3
    assert exact > 0.85 * len(crops)
    assert len(crops) == sum(row["decision"] == "kept" for row in plan_of(of_sample))


def test_each_form_holds_the_same(of_sample: Store) -> None:
    folder = Path(of_sample.root) / "openimages/classifier_dataset"
    plan = {(row["image_id"], row["box"]): row for row in plan_of(of_sample)}
    crops = crops_of(of_sample, SMALL.size)
    names = sorted(path.stem for path in folder.glob("*.parquet"))
    assert len(names) > 4
    rows_seen = 0
    for name in names:
        table = pq.read_table(folder / f"{name}.parquet")
        assert table.num_rows <= SMALL.boxes_per_file
        with tarfile.open(folder / f"{name}.tar") as tar:
            members = {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]
        with (folder / f"{name}.csv").open(newline="") as file:
            lines = list(csv.DictReader(file))
        for number, (row, line) in enumerate(zip(table.drop(["image"]).to_pylist(), lines, strict=True)):
            key = row["image_id"], row["box"]
            decided = plan[key]
            assert (decided["file"], decided["row"]) == (name, number)
            assert decided["split"] == name.rsplit("-", 1)[0]
            member = f"{row['image_id']}_{row['box']:05d}"
            with Image.open(io.BytesIO(members[f"{member}.png"])) as image:
                assert np.array_equal(np.asarray(image), crops[key])
            assert int(members[f"{member}.cls"]) == row["class"] == SMALL.categories.index(row["category"])
            assert json.loads(members[f"{member}.json"]) == row
            assert [int(line[f"p{at}"]) for at in range(SMALL.size**2 * 3)] == crops[key].reshape(-1).tolist()
            assert (line["ImageID"], line["LabelName"]) == (row["image_id"], row["category"])
            assert line["IsTruncated"] == str(row["is_truncated"])
            rows_seen += 1
        assert len(members) == 3 * table.num_rows
    assert rows_seen == len(crops)


def test_webdataset_reads_the_tars(of_sample: Store) -> None:
    webdataset = pytest.importorskip("webdataset")
    path = Path(of_sample.root) / "openimages/classifier_dataset/train-000000.tar"
    found = list(webdataset.WebDataset(str(path), shardshuffle=False).decode("rgb8"))
    crops = crops_of(of_sample, SMALL.size)
    for item in found:
        assert np.array_equal(item["png"], crops[item["json"]["image_id"], item["json"]["box"]])
        assert item["cls"] == item["json"]["class"]
    assert len(found) == pq.read_metadata(path.with_suffix(".parquet")).num_rows


def test_rows_of_a_group_are_bounded(root: Root, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crop_files, "GROUP", 4)
    for number in range(11):
        root.add(f"i{number}", jpeg(pixels(number)), box(f"i{number}"))
    make_all(root.write(), store, RECIPE.model_copy(update={"held_out": 0.0}))
    metadata = pq.read_metadata(Path(store.root) / "openimages/classifier_dataset/train-000000.parquet")
    assert [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)] == [4, 4, 3]
    assert len(crops_of(store)) == 11


def test_splits_share_no_image_and_have_about_the_asked_size(root: Root, store: Store) -> None:
    for number in range(200):
        name = f"i{number:03d}"
        root.add(name, jpeg(pixels(number, (16, 12))), box(name), box(name, "/m/dog"), box(name, edges=(0, 1, 0, 1)))
    make_all(root.write(), store, RECIPE.model_copy(update={"held_out": 0.25}))
    splits: dict[str, set[str]] = {}
    for row in plan_of(store):
        splits.setdefault(row["image_id"], set()).add(row["split"])
    assert all(len(names) == 1 for names in splits.values())
    assert 30 < sum(names == {"held_out"} for names in splits.values()) < 70


def test_the_same_bytes_under_two_ids_are_in_one_split(root: Root, store: Store) -> None:
    for number in range(40):
        data = jpeg(pixels(number))
        for copy in "ab":
            root.add(f"i{number:02d}{copy}", data, box(f"i{number:02d}{copy}"))
    make_all(root.write(), store, RECIPE.model_copy(update={"held_out": 0.5}))
    rows = plan_of(store)
    splits = {row["image_id"]: row["split"] for row in rows}
    assert all(splits[f"i{number:02d}a"] == splits[f"i{number:02d}b"] for number in range(40))
    assert set(splits.values()) == {"train", "held_out"}


def test_grey_and_cmyk_are_converted_or_dropped(root: Root, store: Store) -> None:
    for mode in ("RGB", "L", "CMYK"):
        root.add(mode, jpeg(pixels(1), mode), box(mode))
    opened = root.write()
    make_all(opened, store)
    assert {row["decision"] for row in plan_of(store)} == {"kept"}
    make_all(opened, store, RECIPE.model_copy(update={"colours": "drop"}))
    reasons = {row["image_id"]: row["reason"] for row in plan_of(store)}
    assert reasons == {"RGB": "", "L": "image not RGB: L", "CMYK": "image not RGB: CMYK"}


def test_small_boxes_and_margins(root: Root, store: Store) -> None:
    root.add(
        "a1", jpeg(pixels(1)), box("a1", edges=(0.5, 0.55, 0.5, 0.9)), box("a1", "/m/dog", edges=(0.0, 0.5, 0.5, 1.0))
    )
    opened = root.write()
    make_all(opened, store, RECIPE.model_copy(update={"min_pixels": 4}))
    small, large = plan_of(store)
    assert small["reason"] == "too small: its smaller side has 3 pixels"
    assert [large[name] for name in ("left", "top", "right", "bottom")] == [0, 20, 30, 40]
    make_all(opened, store, RECIPE.model_copy(update={"margin": 0.5}))
    assert [plan_of(store)[1][name] for name in ("left", "top", "right", "bottom")] == [0, 10, 45, 40]


def test_workers_parts_and_order_of_parts_change_no_crop(
    of_sample: Store, sample: OpenImagesRoot, tmp_path: Path
) -> None:
    folders = ("openimages/classifier_dataset", "manifests", "reports")
    other = Store(str(tmp_path / "store"))
    recipe = SMALL.model_copy(update={"parts": 7})
    execution = Execution(workers=3)
    make_openimages_annotations(sample, other, recipe, 0)
    for part in reversed(part_keys(7)):
        make_openimages_images(sample, other, part, recipe, execution)
    make_openimages_classifier_dataset(other, recipe, execution, 0)
    assert digests(Path(of_sample.root), *folders) == digests(Path(other.root), *folders)


def test_a_killed_run_goes_on_and_leaves_the_same_bytes(
    of_sample: Store, sample: OpenImagesRoot, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, left = crop_files.cropped, [60]

    def killed(*arguments: object) -> object:
        left[0] -= 1
        if not left[0]:
            raise KeyboardInterrupt
        return original(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(crop_files, "cropped", killed)
    with pytest.raises(KeyboardInterrupt):
        make_all(sample, store, SMALL)
    finished = {path.name for path in (Path(store.root) / "receipts/openimages_classifier_dataset").glob("*.json")}
    assert finished
    assert not store.exists("receipts/openimages_classifier_dataset.json")
    assert not list((Path(store.root) / "openimages/classifier_dataset").glob(".*"))
    monkeypatch.setattr(crop_files, "cropped", original)
    made = make_all(sample, store, SMALL)
    files = [name for name in made.receipt.outputs if name.endswith(".parquet") and "classifier_dataset/" in name]
    assert made.run == {"files_written": len(files) - len(finished)}
    assert digests(Path(store.root)) == digests(Path(of_sample.root))


def test_what_was_made_before_is_known_and_another_size_replaces_it(root: Root, store: Store) -> None:
    for number in range(9):
        root.add(f"i{number}", jpeg(pixels(number)), box(f"i{number}"))
    opened = root.write()
    several = RECIPE.model_copy(update={"boxes_per_file": 2, "held_out": 0.0})
    make_all(opened, store, several)
    assert make_all(opened, store, several).reused
    made = make_all(opened, store, several.model_copy(update={"boxes_per_file": 9}))
    folder = Path(store.root) / "openimages/classifier_dataset"
    assert sorted(path.name for path in folder.iterdir()) == ["train-000000.parquet", "train-000000.tar"]
    assert [path.name for path in (Path(store.root) / "receipts/openimages_classifier_dataset").iterdir()] == [
        "train-000000.json"
    ]
    assert set(made.receipt.outputs) == {
        "manifests/openimages_classifier_dataset.parquet",
        "openimages/classifier_dataset/train-000000.parquet",
        "openimages/classifier_dataset/train-000000.tar",
        sheet_path("Cat"),
    }


def test_a_lost_file_alone_is_written_again(root: Root, store: Store) -> None:
    for number in range(6):
        root.add(f"i{number}", jpeg(pixels(number)), box(f"i{number}"))
    opened = root.write()
    recipe = RECIPE.model_copy(update={"boxes_per_file": 2, "held_out": 0.0})
    make_all(opened, store, recipe)
    whole = digests(Path(store.root))
    store.remove("openimages/classifier_dataset/train-000001.tar")
    assert make_all(opened, store, recipe).run == {"files_written": 1}
    assert digests(Path(store.root)) == whole


def test_damaged_images_and_images_of_other_annotations_are_told(root: Root, store: Store) -> None:
    root.add("a1", jpeg(pixels(1)), box("a1"))
    opened = root.write()
    make_all(opened, store)
    row = read_table(store, OPENIMAGES_IMAGES, part="00").to_pylist()[0]
    path = Path(store.root) / STORED_IMAGES.format(part="00")
    data = bytearray(path.read_bytes())
    data[row["stored_offset"] + 100] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(StoreError, match=r"image a1: .*not those of the index"):
        make_openimages_classifier_dataset(store, RECIPE.model_copy(update={"size": 8}), ONE, 0)
    root.add("b1", jpeg(pixels(2)), box("b1"))
    make_openimages_annotations(root.write(), store, RECIPE, 0)
    with pytest.raises(MissingInputError, match="made for other boxes: of openimages_annotations, b1"):
        make_openimages_classifier_dataset(store, RECIPE, ONE, 0)
    with pytest.raises(MissingInputError, match="openimages_images/01"):
        make_openimages_classifier_dataset(store, RECIPE.model_copy(update={"parts": 2}), ONE, 0)


def test_no_usable_box_is_an_empty_dataset(root: Root, store: Store) -> None:
    root.add("a1", jpeg(pixels(1)), box("a1", edges=(0, 0, 0, 1)))
    made: Made = make_all(root.write(), store)
    assert made.receipt.summary["kept"] == 0
    assert made.receipt.summary["categories_without_crops"] == "Cat, Dog"
    assert problems(OPENIMAGES_CLASSIFIER_DATASET, read_table(store, OPENIMAGES_CLASSIFIER_DATASET)) == []
    assert crops_of(store) == {}


def test_sheets_show_crops_and_fit_into_the_ui(of_sample: Store) -> None:
    for category in SMALL.categories:
        data = of_sample.read(sheet_path(category))
        assert 1000 < len(data) < 100_000
        with Image.open(io.BytesIO(data)) as sheet:
            assert sheet.width == 8 * 100 + 4
    assert sheet_path("Hot dog") == "reports/openimages/hot_dog.jpg"


def test_tables_keep_their_schemas(of_sample: Store) -> None:
    assert problems(OPENIMAGES_CLASSIFIER_DATASET, read_table(of_sample, OPENIMAGES_CLASSIFIER_DATASET)) == []
    assert problems(OPENIMAGES_ANNOTATIONS, read_table(of_sample, OPENIMAGES_ANNOTATIONS)) == []
    stored = pq.read_schema(Path(of_sample.root) / "openimages/classifier_dataset/train-000000.parquet")
    assert stored.names == crops_table(SMALL.size).schema.names


class TestChecks:
    """Each seen passing and failing."""

    def test_requests_are_accounted_for(self, of_sample: Store) -> None:
        index = read_table(of_sample, OPENIMAGES_IMAGES, ["image_id", "status", "reason"], part="00")
        requested = requests(of_sample, 0, SMALL.parts).select(["image_id"])
        assert unaccounted(index, requested) == ""
        assert "are requested, but" in unaccounted(index.slice(1), requested)
        strange = index.set_column(0, "image_id", pa.array([f"x{n}" for n in range(index.num_rows)]))
        assert "were not requested, the first x0" in unaccounted(strange, requested)
        silent = index.set_column(2, "reason", pa.array([""] * index.num_rows))
        assert "missing without a reason" in unaccounted(silent, requested)

    def test_no_crop_stands_twice(self, of_sample: Store) -> None:
        plan = read_table(of_sample, OPENIMAGES_CLASSIFIER_DATASET)
        assert repeated_crops(plan) == ""
        kept = plan.filter(pa.compute.equal(plan["decision"], "kept"))
        assert "['image_id', 'box'] stand twice" in repeated_crops(pa.concat_tables([plan, kept.slice(0, 1)]))
        at = plan.schema.get_field_index("row")
        same = plan.set_column(at, "row", pa.array([0] * plan.num_rows, pa.int32()))
        assert "['file', 'row'] stand twice" in repeated_crops(same)

    def test_no_image_leaks(self, of_sample: Store) -> None:
        plan = read_table(of_sample, OPENIMAGES_CLASSIFIER_DATASET)
        index = obtained_images(of_sample, SMALL)
        assert leaking(plan, index) == ""
        at = plan.schema.get_field_index("split")
        mixed = plan.set_column(at, "split", pa.array(["train", "held_out"] * plan.num_rows)[: plan.num_rows])
        assert "images are in train and in held_out" in leaking(mixed, index)
        one = index.set_column(index.schema.get_field_index("md5"), "md5", pa.array(["same"] * index.num_rows))
        assert "1 contents of images are in train and in held_out" in leaking(plan, one)


def test_the_recipe_refuses_what_cannot_be() -> None:
    for wrong in (
        {"categories": []},
        {"categories": ["Cat", "Cat"]},
        {"subsets": ["challenge"]},
        {"placeholders": ["nonsense"]},
        {"held_out": 1.0},
        {"check_md5": True},
    ):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            OpenImages.model_validate(wrong)


def test_the_worked_example_of_the_docs(of_sample: Store) -> None:
    (row,) = [
        row for row in plan_of(of_sample) if (row["image_id"], row["category"]) == ("0571dbe37ad533af", "Hamburger")
    ]
    assert (row["left"], row["right"], row["top"], row["bottom"]) == (138, 223, 46, 123)
    box, theirs = np.zeros((240, 320), bool), np.zeros((240, 320), bool)
    box[row["top"] : row["bottom"], row["left"] : row["right"]] = True
    rows = math.floor(0.43125 * 240), math.ceil(0.696875 * 240)
    columns = math.floor(0.191667 * 320), math.ceil(0.5125 * 320)
    assert (rows, columns) == ((103, 168), (61, 164))
    theirs[slice(*rows), slice(*columns)] = True
    assert round((box & theirs).sum() / box.sum(), 2) == 0.08


def test_a_root_and_a_store_on_s3_give_the_same_files(root: Root, store: Store, s3_endpoint: str) -> None:
    for number in range(6):
        root.add(f"i{number}", jpeg(pixels(number)) if number else None, box(f"i{number}"), original=b"")
    local = root.write()
    make_all(local, store)
    options = {"endpoint_url": s3_endpoint}
    bucket = Store("s3://open-images/root", options)
    bucket.fs.mkdir("open-images")
    for path in (path for path in root.folder.rglob("*") if path.is_file()):
        bucket.write(str(path.relative_to(root.folder)), path.read_bytes())
    remote = Store("s3://open-images/store", options)
    make_all(OpenImagesRoot(bucket.url, options), remote)
    names = [name for name in digests(Path(store.root)) if not name.startswith(("receipts/", "."))]
    assert {name.split("/")[0] for name in names} == {"manifests", "metadata", "openimages", "reports"}
    for name in names:
        assert remote.read(name) == store.read(name), name
    assert make_all(OpenImagesRoot(bucket.url, options), remote).reused
