"""Packing folders of photographs: the split, the conversion, and what is refused."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
import shutil
import tarfile
import unicodedata
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glr_assets.codecs import formats
from glr_assets.errors import SourceError
from glr_assets.packing import pack as pack_module
from glr_assets.packing.pack import FILES, PackSummary, pack, summary_lines
from glr_assets.recipes import Images
from glr_assets.source import layout
from glr_assets.source.base import TableName
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
    if not index_fraction:
        assert Counter(train[landmark] + test[landmark] for landmark in train) == Counter(counts)
    assert bool(test_fraction) or not test
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
    assert category["category"] == "eiffel tower"
    (attribution,) = table(tmp_path / "bucket", "train_attribution")
    assert (attribution["author"], attribution["license"], attribution["title"]) == ("", "", "0.jpg")


def test_colliding_hashes_get_ids_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sha256 = hashlib.sha256

    class Narrow:
        """SHA-256 whose hexadecimal form begins with fifteen noughts: sixteen ids in all."""

        def __init__(self, data: bytes) -> None:
            self.digest = sha256(data).digest
            self.hexdigest = lambda: "0" * 15 + sha256(data).hexdigest()

    photos = folder(tmp_path / "photos", {"a": 5, "b": 3})
    monkeypatch.setattr("glr_assets.packing.pack.hashlib.sha256", Narrow)
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


def splits(bucket: Path) -> dict[str, tuple[str, str]]:
    """Split and usage of every photograph by its path, the index's copies left aside."""
    with (bucket / FILES).open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["outcome"] == "packed" and row["split"] != "index"]
    return {row["path"]: (row["split"], row["usage"]) for row in rows}


def test_shares_are_those_asked_for(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {f"l{n}": 30 for n in range(40)})
    summary, _ = packed(photos, tmp_path / "bucket", test_fraction=0.3)
    # 1,200 draws of probability .3: five standard deviations of a binomial count are 79.
    assert abs(summary.test - 360) < 79
    assert summary.clean == summary.train == 1200 - summary.test


@pytest.mark.parametrize("fresh", [False, True])
def test_photographs_keep_split_and_shard_when_others_come_and_go(tmp_path: Path, fresh: bool) -> None:
    counts = {f"l{n}": 12 for n in range(6)}
    photos = folder(tmp_path / "photos", counts)
    packed(photos, tmp_path / "bucket", shards=8)
    before, tars = splits(tmp_path / "bucket"), files(tmp_path / "bucket")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "bucket").rglob("*.tar")}
    for number in range(5):
        (photos / "l0" / f"new{number}.jpg").write_bytes(jpeg(9000 + number))
    (photos / "l5" / "3.jpg").unlink()
    bucket = tmp_path / ("fresh" if fresh else "bucket")
    summary, _ = packed(photos, bucket, shards=8)
    after = splits(bucket)
    assert len(after) == len(before) + 4
    assert {path: side for path, side in after.items() if path in before} == {
        path: side for path, side in before.items() if path != "l5/3.jpg"
    }
    same = {name for name, data in files(bucket).items() if name.endswith(".tar") and tars.get(name) == data}
    changed = {name for name in tars if name.endswith(".tar")} - same
    assert 0 < len(changed) <= 12  # six photographs in at most two shards each
    if not fresh:
        assert [after[f"l0/new{number}.jpg"][0] for number in range(5)] == ["train"] * 5
        assert summary.changes == {"added to train": 5, "removed": 1}
        assert summary.unchanged_shards == len(same)
        assert {
            str(p.relative_to(bucket)) for p, at in stamps.items() if p.exists() and p.stat().st_mtime_ns == at
        } == same
        removed = hashlib.sha256(b"l5/3.jpg").hexdigest()[:16]
        assert not any(removed.encode() in data for data in files(bucket).values())


def test_a_landmark_of_which_a_query_is_due_has_one(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {f"l{n}": 4 for n in range(60)} | {"few": 2})
    _, warnings = packed(photos, tmp_path / "bucket", test_fraction=0.3)
    tested = {path.partition("/")[0] for path, (split, _) in splits(tmp_path / "bucket").items() if split == "test"}
    # By chance alone .7^4 = 24 % of the landmarks would have none.
    assert tested >= {f"l{n}" for n in range(60)}
    assert [line for line in warnings if "without a test query" in line] == (
        []
        if "few" in tested
        else [
            "landmarks without a test query: 1, the first 'few'; they have few photographs, or all are near-duplicates"
        ]
    )
    for number in range(8):
        (photos / "l7" / f"new{number}.jpg").write_bytes(jpeg(20_000 + number))
    before = splits(tmp_path / "bucket")
    packed(photos, tmp_path / "bucket", test_fraction=0.3)
    assert splits(tmp_path / "bucket").items() >= before.items()


def test_what_changed_since_the_last_pack_is_counted(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 8, "b": 8})
    others = folder(tmp_path / "others", {"x": 2})
    first, _ = packed(photos, tmp_path / "bucket")
    assert first.changes == {}
    again, _ = packed(photos, tmp_path / "bucket")
    assert (again.changes, again.unchanged_shards) == ({}, sum(again.shards.values()))
    (photos / "a" / "0.jpg").rename(photos / "b" / "was_a.jpg")
    (photos / "a" / "1.jpg").rename(photos / "a" / "renamed.jpg")
    (photos / "a" / "2.jpg").write_bytes(jpeg(9000))
    (photos / "b" / "3.jpg").unlink()
    (photos / "new").mkdir()
    (photos / "new" / "0.jpg").write_bytes(jpeg(9001))
    summary, _ = packed(photos, tmp_path / "bucket", non_landmarks=others)
    assert summary.changes == {
        "added to train": 1,
        "added without a landmark": 2,
        "given another landmark": 1,
        "removed": 1,
        "replaced by other content": 1,
    }
    (photos / "b" / "copy.jpg").write_bytes((photos / "b" / "4.jpg").read_bytes())
    copied, _ = packed(photos, tmp_path / "bucket", non_landmarks=others)
    assert sum(copied.changes.values()) == 1
    assert next(iter(copied.changes)).startswith("added to ")
    assert copied.packed == summary.packed + 1


def test_the_figures_of_a_pack_are_sums(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"Old Tower": 9, "b": 6})
    (photos / "b" / "notes.txt").write_text("mine")
    (photos / "Old Tower" / "credits.csv").write_text("path,author,license\n.,Ann,CC BY 4.0\n")
    others = folder(tmp_path / "others", {"x": 5})
    (others / "notes.txt").write_text("of another folder")
    summary, _ = packed(photos, tmp_path / "bucket", non_landmarks=others, index_fraction=0.3, clean_fraction=0.5)
    with (tmp_path / "bucket" / FILES).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len({(row["path"], row["landmark"]) for row in rows if row["outcome"] == "packed"}) + 2 == 22
    counted = Counter((row["split"], row["landmark"] != "") for row in rows if row["outcome"] == "packed")
    assert counted == {
        ("train", True): summary.train,
        ("index", True): summary.index,
        ("test", True): summary.test - 5,
        ("test", False): 5,
    }
    rights = {row["landmark"]: (row["author"], row["license"]) for row in rows if row["outcome"] == "packed"}
    assert rights == {"Old Tower": ("Ann", "CC BY 4.0"), "b": ("", ""), "": ("", "")}
    lines = summary_lines(asdict(summary))
    for line in lines[:3]:
        total, parts = line[9:].split(" = ")
        figures = [int(part.split(" ")[0]) for part in parts.split(" + ")]
        assert int(re.match(r"\d+", total)[0]) == sum(figures)  # type: ignore[index]
    assert lines[0] == "files    22 = 20 packed + 2 left out (2 not a picture)"
    assert lines[1].startswith("packed   20, of 2 landmarks = ")
    assert lines[3] == "rights   author and terms are known of 9, not known of 11"


def test_a_photograph_under_another_landmark_keeps_its_side(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 20, "b": 20})
    packed(photos, tmp_path / "bucket")
    before = splits(tmp_path / "bucket")
    for number in range(10):
        (photos / "a" / f"{number}.jpg").rename(photos / "b" / f"moved{number}.jpg")
    packed(photos, tmp_path / "bucket")
    after = splits(tmp_path / "bucket")
    assert [after[f"b/moved{n}.jpg"][0] for n in range(10)] == [before[f"a/{n}.jpg"][0] for n in range(10)]
    names = {row["id"]: row["landmark_id"] for row in table(tmp_path / "bucket", "train")}
    assert len(set(names.values())) == 2


def test_the_only_photographs_that_trained_may_go(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 12})
    packed(photos, tmp_path / "bucket", test_fraction=0.5)
    for path, (split, _) in splits(tmp_path / "bucket").items():
        if split == "train":
            (photos / path).unlink()
    packed(photos, tmp_path / "bucket", test_fraction=0.5)
    assert [split for split, _ in splits(tmp_path / "bucket").values()].count("train") == 1


def test_another_seed_at_the_same_place_is_refused(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 6})
    packed(photos, tmp_path / "bucket")
    with pytest.raises(SourceError, match="holds a bucket made with seed = 0, expected seed = 1; choose"):
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
    assert (summary.train, summary.converted, summary.left_out) == (6, 4, {})
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


def left_out(bucket: Path) -> dict[str, str]:
    with (bucket / FILES).open(newline="", encoding="utf-8") as file:
        return {row["path"]: row["reason"] for row in csv.DictReader(file) if row["outcome"] == "left out"}


def test_only_what_decodes_is_drawn_into_a_split_and_every_other_file_has_its_reason(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 9})
    rng = np.random.default_rng(0)
    whole = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole, "JPEG")
    ftyp = b"\0\0\0\x18ftyp"
    others = {
        "empty.jpg": (b"", "empty file"),
        "cut.jpg": (whole.getvalue()[:300], "cannot be decoded"),
        "page.png": (b"<html>not found</html>", "not a picture"),
        "1.xmp": (b'<x:xmpmeta xmlns:x="adobe:ns:meta/"/>', "not a picture"),
        "1.jpg.xmp": (b'<?xpacket?><x:xmpmeta xmlns:x="adobe:ns:meta/"/>', "not a picture"),
        "1.aae": (b"<?xml?><plist><key>adjustmentBaseVersion</key></plist>", "not a picture"),
        "1.heic": (ftyp + b"heic\0\0\0\0mif1heic", "HEIC photograph without its decoder"),
        "1.m4v": (ftyp + b"M4V \0\0\0\0mp42isom", "video or audio"),
        "1.lrv": (ftyp + b"mp42\0\0\0\0mp42isom", "video or audio"),
        "1.thm": (jpeg(700), "thumbnail of a video"),
        "1.svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not a picture"),
        "1.docx": (b"PK\x03\x04" + bytes(40), "not a picture"),
        "1.lnk": (b"L\0\0\0\x01\x14\x02\0" + bytes(60), "not a picture"),
        "1.jpg.part": (whole.getvalue()[:400], "unfinished download"),
        "1.jpg.crdownload": (jpeg(701), "unfinished download"),
        "1.jpg~": (jpeg(702), "backup copy of a file"),
        "Thumbs.db": (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "not a picture"),
        "1.raf": (b"FUJIFILMCCD-RAW" + bytes(90), "unsupported format"),
        "noise": (bytes(range(256)), "not a picture"),
    }
    if formats.has_heif():
        others["1.heic"] = (others["1.heic"][0], "cannot be decoded")
    for name, (data, _) in others.items():
        (photos / "a" / name).write_bytes(data)
    summary, warnings = packed(photos, tmp_path / "bucket", test_fraction=0.3)
    assert left_out(tmp_path / "bucket") == {f"a/{name}": reason for name, (_, reason) in others.items()}
    assert summary.files == summary.packed + sum(summary.left_out.values()) == 9 + len(others)
    contents = [data for split in ("train", "test") for data in images(tmp_path / "bucket", split).values()]
    assert sorted(contents) == sorted(path.read_bytes() for path in (photos / "a").glob("[0-9].jpg"))
    loud = {"empty.jpg", "cut.jpg", "page.png", "1.heic", "1.raf"}
    assert {Path(line.split(": ")[0]).name for line in warnings if "left out" in line} == loud
    assert formats.has_heif() or any("glr-assets[heif]" in line for line in warnings)


def test_names_of_one_landmark_and_folders_of_systems(tmp_path: Path) -> None:
    photos = folder(
        tmp_path / "photos",
        {
            "Eiffel Tower": 4,
            "eiffel tower": 1,
            "Eiffel_Tower": 1,
            unicodedata.normalize("NFC", "Sacré Cœur"): 1,
            unicodedata.normalize("NFD", "Sacré Cœur"): 2,
            "Sacre-Cœur": 1,
            "@eaDir": 3,
            "#recycle": 1,
            "$RECYCLE.BIN": 1,
            ".Trash-1000": 1,
            "__MACOSX": 1,
            "lost+found": 1,
        },
    )
    folder(photos / "Eiffel Tower", {"@eaDir": 2, ".picasaoriginals": 1})
    summary, warnings = packed(photos, tmp_path / "bucket", test_fraction=0)
    assert summary.landmarks == 3
    names = {row["category"] for row in table(tmp_path / "bucket", "train_label_to_category")}
    assert names == {"Eiffel Tower", "Sacré Cœur", "Sacre-Cœur"}
    assert summary.left_out == {"hidden": 2, "in a folder of the system": 9}
    assert sum("one landmark, packed as" in line for line in warnings) == 2
    assert sum("give the folders one name if they are one" in line for line in warnings) == 1


def test_a_file_in_two_landmarks_is_said(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 2, "b": 2})
    shutil.copy(photos / "a" / "1.jpg", photos / "b" / "copy.jpg")
    _, warnings = packed(photos, tmp_path / "bucket", test_fraction=0)
    assert any(line.startswith("b/copy.jpg: the same file as a/1.jpg") for line in warnings)


def test_a_panorama_beyond_what_ingest_takes_is_shrunk_with_a_note(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"a": 1})
    Image.new("RGB", (22_000, 3_000), (90, 120, 30)).save(photos / "a" / "wide.jpg", quality=60)
    summary, _ = packed(photos, tmp_path / "bucket", test_fraction=0)
    assert (summary.shrunk, summary.packed) == (1, 2)
    found = [Image.open(io.BytesIO(data)) for data in images(tmp_path / "bucket", "train").values()]
    wide = max(found, key=lambda image: image.width)
    assert wide.width * wide.height <= Images().max_pixels < 22_000 * 3_000
    assert wide.width / wide.height == pytest.approx(22 / 3, rel=0.001)


def test_files_that_go_or_change_while_they_are_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = folder(tmp_path / "photos", {"a": 6})
    write = pack_module.write_bucket

    def disturbed(*arguments: object, **options: object) -> object:
        (photos / "a" / "0.jpg").unlink()
        (photos / "a" / "1.jpg").write_bytes(b"no picture any more")
        (photos / "a" / "2.jpg").write_bytes(jpeg(555))
        return write(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(pack_module, "write_bucket", disturbed)
    summary, _ = packed(photos, tmp_path / "bucket", test_fraction=0)
    assert summary.left_out == {"gone or changed while it was packed": 2}
    assert (summary.files, summary.packed, summary.train) == (6, 4, 4)
    assert len(table(tmp_path / "bucket", "train")) == len(images(tmp_path / "bucket", "train")) == 4
    assert jpeg(555) in images(tmp_path / "bucket", "train").values()


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
    assert summary.left_out == {
        "folder visited before": 3,
        "hidden": 1,
        "not a picture": 1,
        "not in a landmark folder": 1,
        "unreadable": 1,
    }
    told = [line for line in warnings if "the same file as" not in line]
    assert [Path(line.split(": ")[0]).name for line in told] == ["broken.jpg", "empty"]


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
    assert (summary.landmarks, summary.non_landmarks) == (1, 9)
    solution = table(tmp_path / "bucket", "recognition_solution")
    usages = defaultdict(list)
    for row in solution:
        usages[row["landmarks"] == ""].append(row["Usage"])
    assert Counter(usages[True])["Ignored"] == summary.ignored
    assert 0 < summary.ignored < 9
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
    # 32 groups of three are drawn by .4, 12 by 3/8: three standard deviations are 25 and 15 photographs.
    assert summary.test - summary.non_landmarks == pytest.approx(96 * 0.4, abs=25)
    assert summary.index > 0
    assert summary.ignored == pytest.approx(36 * 3 / 8, abs=15)
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
    assert line.startswith("landmarks without a test query: 1, the first 'once'")
    assert summary.train + summary.test == 16
    assert summary.test


@needs_photos
def test_real_photographs(tmp_path: Path) -> None:
    landmarks, others = SHARED_PHOTOS / "landmarks", SHARED_PHOTOS / "non_landmarks"
    summary, warnings = packed(landmarks, tmp_path / "bucket", non_landmarks=others)
    count = sum(p.is_file() for p in landmarks.rglob("*"))
    strangers = sum(p.is_file() for p in others.rglob("*"))
    assert summary.train + summary.test - summary.non_landmarks == count
    assert summary.non_landmarks == strangers
    # A binomial count of probability 3/8: five standard deviations, more where near-duplicates go together.
    assert abs(summary.ignored - strangers * 3 / 8) < 30
    assert all("without a test query" in line for line in warnings)
    originals = {p.read_bytes() for p in landmarks.rglob("*") if p.is_file()}
    train = images(tmp_path / "bucket", "train")
    assert sum(content in originals for content in train.values()) >= len(train) - summary.converted


@needs_photos
def test_nasty_files_are_all_accounted_for(tmp_path: Path) -> None:
    nasty = SHARED_PHOTOS / "nasty"
    summary, warnings = packed(nasty, tmp_path / "bucket")
    candidates = [p for p in nasty.rglob("*") if p.is_file()]
    assert summary.files == summary.packed + sum(summary.left_out.values()) == len(candidates)
    assert summary.train + summary.test == summary.packed
    assert sum(summary.left_out.values()) > 20
    assert all("\n" not in line and not re.search("0x[0-9a-f]{6}", line) for line in warnings)


def test_a_damaged_list_of_files_is_refused_before_ids_are_given_again(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"gate": 4, "tower": 4})
    bucket = tmp_path / "bucket"
    packed(photos, bucket)
    sound = (bucket / FILES).read_bytes()
    lines = sound.split(b"\n")
    cut = b"\n".join([*lines[:3], lines[3][: len(lines[3]) // 2]])
    unclosed = b"\n".join([*lines[:3], lines[3].replace(b",", b',"', 1), *lines[4:]])
    for damaged in (cut, unclosed, sound[:200] + b"\0" + sound[200:]):
        (bucket / FILES).write_bytes(damaged)
        with pytest.raises(SourceError, match=r"files\.csv: damaged .* remove it to pack everything"):
            packed(photos, bucket)
    (bucket / FILES).write_bytes(sound)
    assert packed(photos, bucket)[0].changes == {}


def test_paths_that_differ_in_unicode_form_alone_keep_their_splits(tmp_path: Path) -> None:
    photos, bucket = tmp_path / "photos", tmp_path / "bucket"
    for kind, form in enumerate(("NFC", "NFD")):
        place = photos / unicodedata.normalize(form, "Café")
        place.mkdir(parents=True)
        for number in range(3):
            scene(100 * kind + number).save(place / f"{number}.jpg")
    packed(photos, bucket, test_fraction=0.99)
    rows = list(csv.DictReader((bucket / FILES).read_text().splitlines()))
    by_path = defaultdict(set)
    for row in rows:
        by_path[row["path"]].add(row["split"])
    assert any(len(found) == 2 for found in by_path.values()), "no pair of paths is on two sides"
    before = files(bucket)
    summary, _ = packed(photos, bucket, test_fraction=0.99)
    assert summary.changes == {}
    assert {**files(bucket), "pack.json": b""} == {**before, "pack.json": b""}


def test_a_shard_damaged_where_it_lies_is_written_again(tmp_path: Path) -> None:
    photos, bucket = folder(tmp_path / "photos", {"One": 6}), tmp_path / "bucket"
    packed(photos, bucket)
    before = files(bucket)
    shard = next((bucket / "train").glob("*.tar"))
    damaged = bytearray(shard.read_bytes())
    damaged[600:700] = bytes(100)
    shard.write_bytes(damaged)
    summary, _ = packed(photos, bucket)
    assert summary.unchanged_shards == sum(summary.shards.values()) - 1
    assert files(bucket)[shard.relative_to(bucket).as_posix()] == before[shard.relative_to(bucket).as_posix()]


def test_a_photograph_of_a_landmark_and_of_none_is_said(tmp_path: Path) -> None:
    photos, others = folder(tmp_path / "photos", {"One": 3}), tmp_path / "others"
    others.mkdir()
    shutil.copy(photos / "One" / "1.jpg", others / "x.jpg")
    _, warnings = packed(photos, tmp_path / "bucket", non_landmarks=others)
    assert "x.jpg: without a landmark, and the same file as One/1.jpg; remove one of them" in warnings


def test_a_pipe_is_named_as_one(tmp_path: Path) -> None:
    photos = folder(tmp_path / "photos", {"One": 2})
    os.mkfifo(photos / "One" / "pipe.jpg")
    _, warnings = packed(photos, tmp_path / "bucket")
    assert "One/pipe.jpg: left out: unreadable (a pipe, socket or device)" in warnings


@pytest.mark.parametrize("text", ["", "path,outcome\n", "a,b\n1,2\n"])
def test_a_list_of_files_without_its_columns_is_refused(tmp_path: Path, text: str) -> None:
    photos, bucket = folder(tmp_path / "photos", {"One": 3}), tmp_path / "bucket"
    packed(photos, bucket)
    (bucket / FILES).write_text(text)
    with pytest.raises(SourceError, match="damaged"):
        packed(photos, bucket)
