"""The bucket's form, read back with other means than those that wrote it."""

from __future__ import annotations

import csv
import hashlib
import io
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.errors import SourceError
from glr_assets.seeded import drawn
from glr_assets.source import layout
from glr_assets.source.base import Split, TableName
from glr_assets.source.bucket_writer import Landmark, Photo, landmark_ids, write_bucket
from glr_assets.store import Store

ORIGIN = {"made_by": "test"}
SHARDS: dict[Split, int] = {"train": 3, "index": 2, "test": 1}


def photo(number: int, split: Split, landmark: str | None, **what: object) -> Photo:
    data = f"photograph {number}".encode()
    return Photo(hashlib.sha256(data).hexdigest()[:16], split, landmark, lambda: data, **what)  # type: ignore[arg-type]


def photos() -> list[Photo]:
    rows = [photo(i, "train", "ab"[i % 2], clean=i % 3 == 0, title=f'"{i}", é\nnew line') for i in range(20)]
    rows += [photo(i, "index", "a") for i in range(20, 25)]
    rows += [photo(25, "test", "a", usage="Public"), photo(26, "test", "b", usage="Private")]
    rows += [photo(27, "test", None, usage="Ignored"), photo(28, "test", None, usage="Public")]
    return rows


def described(rows: list[Photo]) -> dict[str, Landmark]:
    names = {row.landmark for row in rows if row.landmark is not None}
    return {name: Landmark(f"église {name}, (old)", "church", "church", "human-made") for name in names}


def written(root: Path, rows: list[Photo], shards: dict[Split, int] | None = None) -> Store:
    store = Store(str(root))
    write_bucket(rows, described(rows), store, shards=shards or SHARDS, origin=ORIGIN)
    return store


def table(store: Store, name: TableName) -> list[dict[str, str]]:
    text = store.read(layout.TABLE_PATHS[name]).decode()
    reader = csv.DictReader(io.StringIO(text, newline=""))
    rows = list(reader)
    assert tuple(reader.fieldnames or ()) == layout.WRITTEN_COLUMNS[name]
    return rows


def members(root: Path, split: str) -> dict[str, list[str]]:
    """Members of each shard, as the tar command lists them."""
    return {
        path.name: subprocess.run(["tar", "-tf", path], check=True, capture_output=True, text=True).stdout.split()
        for path in sorted((root / split).glob("*.tar"))
    }


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_names() -> None:
    assert layout.shard_path("train", "000") == "train/images_000.tar"
    assert layout.md5_path("train", "000") == "md5sum/train/md5.images_000.txt"
    assert layout.member_name("1e5f000000000000") == "1/e/5/1e5f000000000000.jpg"


def test_md5sum_accepts_every_shard(tmp_path: Path) -> None:
    written(tmp_path, photos())
    for split, shards in SHARDS.items():
        published = sorted((tmp_path / "md5sum" / split).iterdir())
        assert [p.name for p in published] == [f"md5.images_{n:03d}.txt" for n in range(shards)]
        for path in published:
            subprocess.run(["md5sum", "-c", path], cwd=tmp_path / split, check=True, capture_output=True)


def test_every_image_lies_in_one_shard_under_its_name_with_its_bytes(tmp_path: Path) -> None:
    rows = photos()
    written(tmp_path, rows)
    for split in layout.SPLITS:
        listed = [name for names in members(tmp_path, split).values() for name in names]
        expected = [p.image_id for p in rows if p.split == split]
        assert sorted(listed) == sorted(f"{i[0]}/{i[1]}/{i[2]}/{i}.jpg" for i in expected)
    subprocess.run(["tar", "-xf", tmp_path / "train/images_000.tar", "-C", tmp_path], check=True)
    first = members(tmp_path, "train")["images_000.tar"][0]
    data = {layout.member_name(p.image_id): p.read() for p in rows}[first]
    extracted = tmp_path / first
    assert extracted.read_bytes() == data
    assert extracted.stat().st_mtime == 0
    assert extracted.stat().st_mode & 0o777 == 0o644


def test_tables_agree_with_the_photographs(tmp_path: Path) -> None:
    rows = photos()
    store = written(tmp_path, rows)
    by_id = {p.image_id: p for p in rows}
    train = {row["id"]: row["landmark_id"] for row in table(store, "train")}
    number = {by_id[i].landmark or "": landmark for i, landmark in train.items()}
    assert set(train) == {p.image_id for p in rows if p.split == "train"}
    assert all(number[by_id[i].landmark or ""] == landmark for i, landmark in train.items())
    assert len(set(number.values())) == 2
    clean = {row["landmark_id"]: row["images"].split(" ") for row in table(store, "train_clean")}
    assert {i: n for n, ids in clean.items() for i in ids} == {i: n for i, n in train.items() if by_id[i].clean}
    attribution = {row["id"]: row for row in table(store, "train_attribution")}
    assert {i: row["title"] for i, row in attribution.items()} == {i: by_id[i].title for i in train}
    index = {row["id"]: row["landmark_id"] for row in table(store, "index_image_to_landmark")}
    assert [row["id"] for row in table(store, "index")] == sorted(index)
    assert not set(index) & set(train)
    assert not set(index.values()) & set(train.values())
    assert table(store, "train_label_to_hierarchical")[0] == {
        "landmark_id": min(number.values(), key=int),
        "category": f"église {min(number, key=lambda name: int(number[name]))}, (old)",
        "supercategory": "church",
        "hierarchical_label": "church",
        "natural_or_human_made": "human-made",
    }


def test_ground_truth(tmp_path: Path) -> None:
    rows = photos()
    store = written(tmp_path, rows)
    a, b, ignored, scored = (p.image_id for p in rows[25:29])
    train = {row["id"]: row["landmark_id"] for row in table(store, "train")}
    recognition = {row["id"]: (row["landmarks"], row["Usage"]) for row in table(store, "recognition_solution")}
    assert recognition == {
        a: (train[rows[0].image_id], "Public"),
        b: (train[rows[1].image_id], "Private"),
        ignored: ("", "Ignored"),
        scored: ("", "Public"),
    }
    retrieval = {row["id"]: (row["images"], row["Usage"]) for row in table(store, "retrieval_solution")}
    of_a = " ".join(sorted(p.image_id for p in rows if p.split == "index"))
    none = ("None", "Ignored")
    assert retrieval == {a: (of_a, "Public"), b: none, ignored: none, scored: none}
    assert [row["id"] for row in table(store, "test")] == sorted([a, b, ignored, scored])


@settings(max_examples=15, deadline=None)
@given(counts=st.lists(st.integers(1, 12), min_size=1, max_size=5), shards=st.integers(1, 6))
def test_shards_are_balanced_and_so_is_each_landmark(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], shards: int
) -> None:
    root = tmp_path_factory.mktemp("bucket")
    rows = [
        photo(100 * kind + n, "train", f"landmark {kind}") for kind, count in enumerate(counts) for n in range(count)
    ]
    written(root, rows, {"train": shards, "index": 1, "test": 1})
    name = {layout.member_name(p.image_id): p.landmark for p in rows}
    dealt = [Counter(name[m] for m in listed) for listed in members(root, "train").values()]
    assert len(dealt) == min(shards, len(rows))
    sizes = [shard.total() for shard in dealt]
    assert max(sizes) - min(sizes) <= 1
    for landmark in set(name.values()):
        shares = [shard[landmark] for shard in dealt]
        assert max(shares) - min(shares) <= 1
    assert not list((root / "index").glob("*"))


def test_order_of_photographs_does_not_matter(tmp_path: Path) -> None:
    written(tmp_path / "a", photos())
    written(tmp_path / "b", photos()[::-1])
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_killed_writer_leaves_no_bucket_and_the_next_one_mends_it(tmp_path: Path) -> None:
    rows = photos()
    written(tmp_path / "whole", rows)
    expected = files(tmp_path / "whole")
    for victim in range(0, len(rows), 4):
        root = tmp_path / f"killed {victim}"
        store = written(root, rows)

        def dies() -> bytes:
            raise KeyboardInterrupt

        broken = [replace(p, read=dies) if n == victim else p for n, p in enumerate(rows)]
        with pytest.raises(KeyboardInterrupt):
            write_bucket(broken, described(rows), store, shards=SHARDS, origin=ORIGIN)
        assert not (root / "metadata/train.csv").exists()
        assert not store.exists("metadata/train.csv")
        written(root, rows)
        assert store.exists("metadata/train.csv")
        assert files(root) == expected


def test_train_csv_is_the_last_file_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []
    write = Store.write

    def noted(self: Store, name: str, data: bytes) -> None:
        names.append(name)
        write(self, name, data)

    monkeypatch.setattr(Store, "write", noted)
    written(tmp_path, photos())
    assert names[0] == "bucket.json"
    assert names[-1] == "metadata/train.csv"
    assert names.count("metadata/train.csv") == 1


def test_shards_of_an_earlier_bucket_do_not_stay(tmp_path: Path) -> None:
    written(tmp_path / "a", photos(), {"train": 9, "index": 4, "test": 4})
    written(tmp_path / "a", photos())
    written(tmp_path / "b", photos())
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_writes_through_remote_file_systems(tmp_path: Path) -> None:
    rows = photos()
    written(tmp_path, rows)
    store = Store("memory://bucket-writer/remote")
    write_bucket(rows, described(rows), store, shards=SHARDS, origin=ORIGIN)
    assert store.exists("metadata/train.csv")
    assert {name: store.read(name) for name in files(tmp_path)} == files(tmp_path)
    with pytest.raises(SourceError, match="made with"):
        write_bucket(rows, described(rows), store, shards=SHARDS, origin={"made_by": "another"})
    full = Store("memory://bucket-writer/full")
    full.write("notes.txt", b"mine")
    with pytest.raises(SourceError, match="not empty"):
        write_bucket(rows, described(rows), full, shards=SHARDS, origin=ORIGIN)


def test_open_images_may_lie_there_before_and_stay(tmp_path: Path) -> None:
    (tmp_path / "openimages").mkdir()
    (tmp_path / "openimages" / "labels.csv").write_bytes(b"mine")
    written(tmp_path, photos())
    alone = tmp_path / "alone"
    written(alone, photos())
    beside = {name: data for name, data in files(tmp_path).items() if not name.startswith("alone/")}
    assert beside == files(alone) | {"openimages/labels.csv": b"mine"}


def test_refuses_places_that_hold_something_else(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"mine")
    with pytest.raises(SourceError, match=r"not empty \(it holds photo.jpg\)"):
        written(tmp_path, photos())
    assert files(tmp_path) == {"photo.jpg": b"mine"}
    with pytest.raises(SourceError, match="is a file"):
        written(tmp_path / "photo.jpg", photos())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([photo(1, "train", "a"), photo(1, "test", "a")], "stands twice"),
        ([photo(1, "train", None)], "not described"),
        ([replace(photo(1, "train", "a"), image_id="../../etc/passwd")], "16 lower-case hex digits"),
    ],
)
def test_refuses_what_no_bucket_can_hold(tmp_path: Path, rows: list[Photo], message: str) -> None:
    with pytest.raises(SourceError, match=message):
        written(tmp_path, rows)
    assert not files(tmp_path)


def test_refuses_shards_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="1001 shards, expected 1 to 1000"):
        written(tmp_path, photos(), {"train": 1001, "index": 1, "test": 1})


@given(names=st.sets(st.text(max_size=5), min_size=1, max_size=60), seed=st.integers(0, 3))
def test_landmark_ids_are_distinct_and_depend_on_numbering(names: set[str], seed: int) -> None:
    train, index = landmark_ids(names, "train", seed), landmark_ids(names, "index", seed)
    assert len(set(train.values())) == len(names)
    assert all(0 <= number < 203_094 for number in train.values())
    assert train != index
    assert train == landmark_ids(sorted(names, reverse=True), "train", seed)


def test_drawn_is_uniform_and_fixed() -> None:
    values = [drawn(0, "image", n) for n in range(4000)]
    assert all(0 <= value < 1 for value in values)
    bins = Counter(int(value * 10) for value in values)
    # Each of ten bins expects 400 with a standard deviation of 19; five of these are allowed.
    assert all(abs(bins[n] - 400) < 95 for n in range(10))
    digest = hashlib.sha256(b"7\0a\x001").digest()
    assert drawn(7, "a", 1) == int(digest.hex()[:14], 16) / 2**56
