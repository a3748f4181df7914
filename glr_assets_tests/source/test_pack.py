"""Packing folders of photographs: the split, the conversion, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import io
import math
import os
import shutil
import tarfile
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glr_assets.errors import SourceError
from glr_assets.source import layout
from glr_assets.source.base import TableName
from glr_assets.source.pack import PackSummary, pack
from glr_assets.store import Store
from glr_assets_tests.source.test_fingerprints import exif_of
from glr_assets_tests.test_grouped_split import scene

SHARED_PHOTOS = Path(__file__).resolve().parents[2].parent / "shared" / "photos"
needs_photos = pytest.mark.skipif(
    not SHARED_PHOTOS.is_dir(), reason="no shared/photos beside the repository: real photographs are not here"
)


def jpeg(value: int = 128, size: tuple[int, int] = (8, 6)) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", size, (value % 256, value // 256, 90)).save(target, "JPEG", comment=str(value))
    return target.getvalue()


def folder(root: Path, counts: dict[str, int]) -> Path:
    for kind, (name, count) in enumerate(counts.items()):
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.jpg").write_bytes(jpeg(256 * kind + number))
    return root


def packed(photos: Path, bucket: Path, **options: object) -> tuple[PackSummary, list[str]]:
    warnings: list[str] = []
    summary = pack(photos, Store(str(bucket)), warn=warnings.append, **options)  # type: ignore[arg-type]
    return summary, warnings


def table(bucket: Path, name: TableName) -> list[dict[str, str]]:
    with (bucket / layout.TABLE_PATHS[name]).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def images(bucket: Path, split: str) -> dict[str, bytes]:
    found = {}
    for path in sorted((bucket / split).glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found[Path(member.name).stem] = file.read()
    return found


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@settings(max_examples=15, deadline=None)
@given(
    counts=st.lists(st.integers(1, 14), min_size=1, max_size=4),
    test_fraction=st.floats(0, 0.99),
    clean_fraction=st.floats(0, 1),
    index_fraction=st.one_of(st.just(0.0), st.floats(0.01, 0.99)),
    seed=st.integers(0, 5),
)
def test_split_of_each_landmark(
    tmp_path_factory: pytest.TempPathFactory,
    counts: list[int],
    test_fraction: float,
    clean_fraction: float,
    index_fraction: float,
    seed: int,
) -> None:
    root = tmp_path_factory.mktemp("pack")
    photos = folder(root / "photos", {f"landmark_{n}": count for n, count in enumerate(counts)})
    packed(
        photos,
        root / "bucket",
        test_fraction=test_fraction,
        clean_fraction=clean_fraction,
        index_fraction=index_fraction,
        seed=seed,
    )
    bucket = root / "bucket"
    by_landmark = {row["id"]: row["landmark_id"] for row in table(bucket, "train")}
    train = Counter(by_landmark.values())
    test = Counter(row["landmarks"] for row in table(bucket, "recognition_solution"))
    clean = {row["landmark_id"]: row["images"].split(" ") for row in table(bucket, "train_clean")}
    assert len(train) == len(counts)
    expected: Counter[tuple[int, int]] = Counter()
    for count in counts:
        tests = min(math.floor(count * test_fraction + 0.5), count - 1)
        rest = count - tests
        held = min(math.floor(rest * index_fraction + 0.5), rest - 1)
        expected[(rest - held, tests)] += 1
    assert Counter((train[landmark], test[landmark]) for landmark in train) == expected
    for landmark, ids in clean.items():
        assert {by_landmark[i] for i in ids} == {landmark}
        assert min(2, train[landmark]) <= len(set(ids)) == len(ids)
    assert set(clean) == set(train)
    if clean_fraction == 1:
        assert sum(map(len, clean.values())) == len(by_landmark)
    contents = {split: Counter(images(bucket, split).values()) for split in layout.SPLITS}
    assert not contents["train"] & contents["test"]
    assert contents["train"] + contents["test"] + (contents["index"] if index_fraction else Counter()) == Counter(
        p.read_bytes() for p in photos.rglob("*.jpg")
    )
    if not index_fraction:
        assert contents["index"] == contents["train"]
    assert not set(images(bucket, "index")) & set(by_landmark)


def test_clean_shares_vary_around_the_fraction(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {f"l{n}": 40 for n in range(30)})
    packed(photos, tmp_path / "bucket", test_fraction=0.0, clean_fraction=0.7)
    shares = [len(row["images"].split(" ")) / 40 for row in table(tmp_path / "bucket", "train_clean")]
    assert 0.6 < sum(shares) / 30 < 0.8
    assert min(shares) < 0.55
    assert max(shares) > 0.85


def test_ids_are_hashes_of_paths(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"eiffel_tower": 1})
    packed(photos, tmp_path / "bucket")
    (row,) = table(tmp_path / "bucket", "train")
    assert row["id"] == hashlib.sha256(b"eiffel_tower/0.jpg").hexdigest()[:16]
    assert row["url"] == "eiffel_tower/0.jpg"
    (category,) = table(tmp_path / "bucket", "train_label_to_category")
    assert category["category"] == "http://commons.wikimedia.org/wiki/Category:Eiffel_tower"
    (attribution,) = table(tmp_path / "bucket", "train_attribution")
    assert (attribution["author"], attribution["license"], attribution["title"]) == ("unknown", "unknown", "0.jpg")


def test_colliding_hashes_get_ids_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = hashlib.sha256

    class Narrow:
        """SHA-256 whose hexadecimal form begins with fifteen noughts: sixteen ids in all."""

        def __init__(self, data: bytes) -> None:
            self.digest = sha256(data).digest
            self.hexdigest = lambda: "0" * 15 + sha256(data).hexdigest()

    photos = folder(tmp_path / "photos", {"a": 5, "b": 3})
    monkeypatch.setattr("glr_assets.source.pack.hashlib.sha256", Narrow)
    summary, _ = packed(photos, tmp_path / "bucket", index_fraction=0.5)
    ids = [i for split in layout.SPLITS for i in images(tmp_path / "bucket", split)]
    assert len(set(ids)) == len(ids) == 8 == summary.train + summary.index + summary.test


def test_same_photographs_elsewhere_give_the_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    counts = {"a": 9, "b": 4}
    for place in ("one", "two"):
        packed(folder(tmp_path / place / "photos", counts), tmp_path / place / "bucket")
    packed(tmp_path / "one/photos", tmp_path / "other", seed=1)
    assert files(tmp_path / "one/bucket") == files(tmp_path / "two/bucket")
    assert files(tmp_path / "one/bucket") != files(tmp_path / "other")


def test_packing_again_takes_up_new_photographs(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 6})
    packed(photos, tmp_path / "bucket")
    (photos / "a" / "3.jpg").unlink()
    packed(photos, tmp_path / "bucket")
    packed(photos, tmp_path / "fresh")
    assert files(tmp_path / "bucket") == files(tmp_path / "fresh")
    with pytest.raises(SourceError, match=r"holds a bucket made with .*\"seed\": 0"):
        packed(photos, tmp_path / "bucket", seed=1)


def test_jpeg_bytes_are_untouched_and_other_formats_converted(tmp_path: Path) -> None:
    photos = tmp_path / "photos" / "a"
    photos.mkdir(parents=True)
    original = jpeg(77)
    (photos / "photo.JPG").write_bytes(original)
    ramp = np.linspace(0, 65535, 64 * 48).reshape(48, 64).astype(np.uint16)
    Image.fromarray(ramp).save(photos / "deep.png")
    clear = Image.new("RGBA", (64, 48), (255, 0, 0, 0))
    clear.paste((0, 0, 200, 255), (0, 0, 32, 48))
    clear.save(photos / "clear.webp", lossless=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    wide = Image.new("RGB", (64, 48), (200, 10, 10))
    wide.paste((10, 200, 10), (0, 0, 64, 24))
    wide.save(photos / "turned.tif", exif=exif)
    wide.convert("P").save(photos / "indexed.gif")
    (photos / "named_wrongly.png").write_bytes(jpeg(5))
    summary, warnings = packed(tmp_path / "photos", tmp_path / "bucket", test_fraction=0)
    assert not warnings
    assert (summary.train, summary.converted, summary.undecodable) == (6, 4, 0)
    titles = {row["id"]: row["title"] for row in table(tmp_path / "bucket", "train_attribution")}
    data = {titles[i]: content for i, content in images(tmp_path / "bucket", "train").items()}
    assert data["photo.JPG"] == original
    assert data["named_wrongly.png"] == jpeg(5)
    pictures = {name: Image.open(io.BytesIO(content)) for name, content in data.items()}
    assert {picture.format for picture in pictures.values()} == {"JPEG"}
    pixels = {name: np.asarray(picture.convert("RGB")).astype(int) for name, picture in pictures.items()}
    assert np.abs(pixels["deep.png"][:, :, 0] - ramp / 257).max() < 8
    assert np.abs(pixels["clear.webp"][24, 50] - 255).max() < 6
    assert np.abs(pixels["clear.webp"][24, 10] - (0, 0, 200)).max() < 12
    assert pictures["turned.tif"].size == (48, 64)
    assert np.abs(pixels["turned.tif"][32, 40] - (10, 200, 10)).max() < 12
    assert np.abs(pixels["turned.tif"][32, 8] - (200, 10, 10)).max() < 12


def test_undecodable_files_are_packed_as_they_are_with_one_warning_each(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 2})
    (photos / "a" / "empty.jpg").write_bytes(b"")
    rng = np.random.default_rng(0)
    whole = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    (photos / "a" / "cut.jpg").write_bytes(whole.getvalue()[:-2000])
    (photos / "a" / "page.png").write_bytes(b"<html>not found</html>")
    summary, warnings = packed(photos, tmp_path / "bucket", test_fraction=0)
    assert summary.undecodable == 3
    assert {Path(line.split(": ")[0]).name for line in warnings} == {"empty.jpg", "cut.jpg", "page.png"}
    assert len(warnings) == 3
    contents = images(tmp_path / "bucket", "train").values()
    assert sum(content in (b"", b"<html>not found</html>", whole.getvalue()[:-2000]) for content in contents) == 3


def test_nested_linked_hidden_and_foreign_files(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 1, "b": 1})
    elsewhere = folder(tmp_path / "elsewhere", {"album": 2})
    (photos / "a" / "deep" / "er").mkdir(parents=True)
    (photos / "a" / "deep" / "er" / "x.jpg").write_bytes(jpeg(901))
    (photos / "a" / "linked").symlink_to(elsewhere / "album")
    (photos / "a" / "again").symlink_to(elsewhere / "album")
    (photos / "a" / "deep" / "circle").symlink_to(photos / "a")
    (photos / "a" / "root").symlink_to(photos)
    (photos / "c").symlink_to(elsewhere)
    (photos / "a" / "broken.jpg").symlink_to(tmp_path / "nowhere.jpg")
    (photos / "a" / ".hidden.jpg").write_bytes(jpeg(902))
    (photos / "a" / "notes.txt").write_text("mine")
    (photos / "README.md").write_text("mine")
    (photos / "empty").mkdir()
    summary, warnings = packed(photos, tmp_path / "bucket", test_fraction=0)
    urls = sorted(row["url"] for row in table(tmp_path / "bucket", "train"))
    assert urls == [
        "a/0.jpg",
        "a/again/0.jpg",
        "a/again/1.jpg",
        "a/deep/er/x.jpg",
        "b/0.jpg",
        "c/album/0.jpg",
        "c/album/1.jpg",
    ]
    assert summary.skipped == {
        "folder seen before": 3,
        "hidden": 1,
        "not an image": 1,
        "not in a landmark folder": 1,
        "unreadable": 1,
    }
    assert [Path(line.split(": ")[0]).name for line in warnings] == ["broken.jpg", "empty"]


def test_names_of_any_characters(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    for name in ('Café, "the old"', "日本 塔", "a\nb"):
        (photos / name).mkdir(parents=True)
        (photos / name / "p,\n1.jpg").write_bytes(jpeg())
    raw = os.fsencode(photos) + b"/\xff\xfe"
    Path(os.fsdecode(raw)).mkdir()
    (Path(os.fsdecode(raw)) / os.fsdecode(b"\xfd.jpg")).write_bytes(jpeg())
    summary, _ = packed(photos, tmp_path / "bucket")
    assert summary.landmarks == summary.train == len(table(tmp_path / "bucket", "train_attribution")) == 4
    assert {row["title"] for row in table(tmp_path / "bucket", "train_attribution")} == {"p,\n1.jpg", "�.jpg"}


def test_non_landmarks_are_test_images_without_landmark(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 4})
    others = folder(tmp_path / "photos" / "others", {"x": 5, "y": 4})
    summary, _ = packed(photos, tmp_path / "bucket", non_landmarks=others, test_fraction=0.25)
    assert (summary.landmarks, summary.non_landmarks, summary.ignored, summary.test) == (1, 9, 4, 10)
    solution = table(tmp_path / "bucket", "recognition_solution")
    usages = defaultdict(list)
    for row in solution:
        usages[row["landmarks"] == ""].append(row["Usage"])
    assert Counter(usages[True])["Ignored"] == math.ceil(9 * 3 / 8) == 4
    assert "Ignored" not in usages[False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_fraction": 1.0}, "test fraction = 1.0: expected 0 below 1"),
        ({"clean_fraction": 1.01}, "clean fraction = 1.01: expected 0 to 1"),
        ({"index_fraction": float("nan")}, "index fraction = nan"),
        ({"shards": 0}, "0 shards, expected 1 to 1000"),
    ],
)
def test_refuses_arguments_out_of_range(tmp_path: Path, options: dict[str, float], message: str) -> None:
    photos = folder(tmp_path / "photos", {"a": 2})
    with pytest.raises(SourceError, match=message):
        packed(photos, tmp_path / "bucket", **options)
    assert not (tmp_path / "bucket").exists()


def test_refuses_places_that_cannot_be(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 2})
    (tmp_path / "none").mkdir()
    (tmp_path / "bare" / "a").mkdir(parents=True)
    (tmp_path / "link").symlink_to(photos)
    for place, bucket, message in (
        (tmp_path / "missing", tmp_path / "bucket", "not a folder of photographs"),
        (tmp_path / "none", tmp_path / "bucket", "no landmark folder"),
        (tmp_path / "bare", tmp_path / "bucket", "no photograph in its 1 folders"),
        (photos, photos / "bucket", "lies inside the photographs"),
        (photos, tmp_path / "link" / "bucket", "lies inside the photographs"),
        (photos, tmp_path / "bare", "not empty"),
    ):
        before = files(tmp_path)
        with pytest.raises(SourceError, match=message) as raised:
            packed(place, bucket)
        assert "\n" not in str(raised.value)
        assert files(tmp_path) == before
    with pytest.raises(SourceError, match="both landmarks and non-landmarks"):
        packed(photos, tmp_path / "bucket", non_landmarks=tmp_path / "link")


def burst(root: Path, landmark: str, scenes: list[int], frames: int) -> None:
    """`frames` frames of each scene: the camera moves on by some pixels, a second apart, by EXIF."""
    (root / landmark).mkdir(parents=True)
    for number in scenes:
        wide = scene(number)
        for frame in range(frames):
            exif = exif_of("X100", f"2024:05:01 12:{number % 60:02d}:{frame:02d}")
            shift = 5 * frame
            wide.crop((shift, 0, shift + 240, 240)).save(root / landmark / f"{number}_{frame}.jpg", exif=exif)


def sides(bucket: Path) -> dict[bytes, set[str]]:
    """The splits that each file is in, of test images their Usage."""
    usage = {row["id"]: f"test {row['Usage']}" for row in table(bucket, "recognition_solution")}
    found: dict[bytes, set[str]] = defaultdict(set)
    for split in layout.SPLITS:
        for image_id, data in images(bucket, split).items():
            found[data].add(usage.get(image_id, split))
    return found


def test_a_burst_is_on_one_side_of_every_split(tmp_path: Path) -> None:
    photos, others = tmp_path / "photos", tmp_path / "others"
    for landmark in range(4):
        burst(photos, f"l{landmark}", [10 * landmark + scene for scene in range(8)], 3)
    burst(others, "none", list(range(100, 112)), 3)
    summary, warnings = packed(
        photos, tmp_path / "bucket", non_landmarks=others, test_fraction=0.4, index_fraction=0.3, seed=3
    )
    assert not warnings
    found = sides(tmp_path / "bucket")
    for root, landmark, scenes in [
        *((photos, f"l{n}", range(10 * n, 10 * n + 8)) for n in range(4)),
        (others, "none", range(100, 112)),
    ]:
        for number in scenes:
            frames = [(root / landmark / f"{number}_{frame}.jpg").read_bytes() for frame in range(3)]
            assert len(set(frames)) == 3
            assert len({frozenset(found[frame]) for frame in frames}) == 1, (landmark, number)
    # As many as were wanted, but for the size of a group: 10 of 24 test each landmark, 4 of 14 the index.
    assert summary.test - summary.non_landmarks == pytest.approx(4 * 9.6, abs=4 * 3)
    assert summary.index > 0
    assert summary.ignored == pytest.approx(36 * 3 / 8, abs=3)
    # Nothing but the photographs decides, so a copy is split alike.
    shutil.copytree(photos, tmp_path / "copied" / "photos")
    shutil.copytree(others, tmp_path / "copied" / "others")
    packed(
        tmp_path / "copied" / "photos", tmp_path / "again", non_landmarks=tmp_path / "copied" / "others",
        test_fraction=0.4, index_fraction=0.3, seed=3,
    )  # fmt: skip
    assert files(tmp_path / "again") == files(tmp_path / "bucket")


def test_a_landmark_of_one_burst_has_no_test_photograph_and_is_named(tmp_path: Path) -> None:
    burst(tmp_path / "photos", "once", [7], 6)
    burst(tmp_path / "photos", "often", list(range(20, 30)), 1)
    summary, warnings = packed(tmp_path / "photos", tmp_path / "bucket", test_fraction=0.3)
    (line,) = warnings
    assert line.startswith(f"{tmp_path / 'photos' / 'once'}: most of its 6 photographs are near-duplicates")
    assert (summary.train, summary.test) == (13, 3)


@needs_photos
def test_real_photographs(tmp_path: Path) -> None:
    landmarks, others = SHARED_PHOTOS / "landmarks", SHARED_PHOTOS / "non_landmarks"
    summary, warnings = packed(landmarks, tmp_path / "bucket", non_landmarks=others)
    count = sum(p.is_file() for p in landmarks.rglob("*"))
    strangers = sum(p.is_file() for p in others.rglob("*"))
    assert summary.train + summary.test - summary.non_landmarks == count
    assert (summary.non_landmarks, summary.ignored) == (strangers, math.ceil(strangers * 3 / 8))
    assert not warnings
    originals = {p.read_bytes() for p in landmarks.rglob("*") if p.is_file()}
    train = images(tmp_path / "bucket", "train")
    assert sum(content in originals for content in train.values()) >= len(train) - summary.converted


@needs_photos
def test_nasty_files_are_all_packed(tmp_path: Path) -> None:
    nasty = SHARED_PHOTOS / "nasty"
    summary, warnings = packed(nasty, tmp_path / "bucket")
    candidates = [p for p in nasty.rglob("*") if p.is_file()]
    skipped = sum(summary.skipped.values())
    assert summary.train + summary.test + skipped == len(candidates)
    grouped = [line for line in warnings if "near-duplicates of each other" in line]
    # One photograph in all orientations.
    assert [line.partition(": ")[0] for line in grouped] == [str(nasty / "exif_orientation")]
    assert len(warnings) - len(grouped) == summary.undecodable > 50
    assert all("\n" not in line and "0x" not in line for line in warnings)
