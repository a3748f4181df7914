"""The metadata assets against rows worked out by hand, for every table and every defect of a published file."""

from __future__ import annotations

import csv
import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from glr_assets.errors import MissingInputError, SourceError, TableError
from glr_assets.metadata import schemas, tables
from glr_assets.metadata.checks import mislabelled, shared, unlisted
from glr_assets.metadata.tables import (
    UNKNOWN_LABELLED,
    UNLABELLED,
    make_competition_train,
    make_index_metadata,
    make_landmark_labels,
    make_recognition_solution,
    make_retrieval_solution,
    make_test_metadata,
    make_train_attribution,
    make_train_metadata,
    readable_name,
)
from glr_assets.receipts import Made
from glr_assets.source import Source, open_source
from glr_assets.source.layout import TABLE_PATHS
from glr_assets.store import Store
from glr_assets.tables import Table, problems, read_table

MAKERS: dict[str, tuple[Callable[[Source, Store], Made], Table]] = {
    "train_metadata": (make_train_metadata, schemas.TRAIN_METADATA),
    "train_attribution": (make_train_attribution, schemas.TRAIN_ATTRIBUTION),
    "landmark_labels": (make_landmark_labels, schemas.LANDMARK_LABELS),
    "competition_train": (make_competition_train, schemas.COMPETITION_TRAIN),
    "index_metadata": (make_index_metadata, schemas.INDEX_METADATA),
    "test_metadata": (make_test_metadata, schemas.TEST_METADATA),
    "recognition_solution": (make_recognition_solution, schemas.RECOGNITION_SOLUTION),
    "retrieval_solution": (make_retrieval_solution, schemas.RETRIEVAL_SOLUTION),
}

CSVS = {
    "train": """id,url,landmark_id
1e5,http://x/a.jpg,7
007,"http://x/b,c.jpg",7
0123456789012345,,203093
abc,http://x/d.jpg,40
""",
    "train_clean": """landmark_id,images
7,1e5 007
203093,0123456789012345
""",
    "train_attribution": """id,url,author,license,title
1e5,http://x/a,Ýrsa 東京,https://creativecommons.org/licenses/by/3.0/,"A ""tall"" tower, at night"
007,http://x/b,"Smith, J.",CC0,"two
lines"
""",
    "train_label_to_category": """landmark_id,category
203093,http://commons.wikimedia.org/wiki/Category:Mus%C3%A9e_d%27Orsay
7,http://commons.wikimedia.org/wiki/Category:Eiffel_Tower
40,http://commons.wikimedia.org/wiki/Category:Bath%2C_Old__Town
""",
    "train_label_to_hierarchical": """landmark_id,category,supercategory,hierarchical_label,natural_or_human_made
7,http://commons.wikimedia.org/wiki/Category:Eiffel_Tower,tower,tower,human-made
203093,http://commons.wikimedia.org/wiki/Category:Mus%C3%A9e_d%27Orsay,museum,,human-made
""",
    "index": """id
00f
1e9
""",
    "index_image_to_landmark": """id,landmark_id
1e9,7
""",
    "test": """id
9e9
000
""",
    "recognition_solution": """id,landmarks,Usage
9e9,,Ignored
000,7,Public
c,7 203093,Private
d,  ,Private
""",
    "retrieval_solution": """id,images,Usage
9e9,None,Ignored
000,1e9 00f,Public
c,00f,Private
d,,Private
""",
}

EXPECTED: dict[str, list[dict[str, Any]]] = {
    "train_metadata": [
        {"id": "007", "url": "http://x/b,c.jpg", "landmark_id": 7},
        {"id": "0123456789012345", "url": "", "landmark_id": 203093},
        {"id": "1e5", "url": "http://x/a.jpg", "landmark_id": 7},
        {"id": "abc", "url": "http://x/d.jpg", "landmark_id": 40},
    ],
    "train_attribution": [
        {"id": "007", "url": "http://x/b", "author": "Smith, J.", "license": "CC0", "title": "two\nlines"},
        {
            "id": "1e5",
            "url": "http://x/a",
            "author": "Ýrsa 東京",
            "license": "https://creativecommons.org/licenses/by/3.0/",
            "title": 'A "tall" tower, at night',
        },
    ],
    "landmark_labels": [
        {
            "landmark_id": 7,
            "name": "Eiffel Tower",
            "category": "http://commons.wikimedia.org/wiki/Category:Eiffel_Tower",
            "supercategory": "tower",
            "hierarchical_label": "tower",
            "natural_or_human_made": "human-made",
        },
        {
            "landmark_id": 40,
            "name": "Bath, Old Town",
            "category": "http://commons.wikimedia.org/wiki/Category:Bath%2C_Old__Town",
            "supercategory": None,
            "hierarchical_label": None,
            "natural_or_human_made": None,
        },
        {
            "landmark_id": 203093,
            "name": "Musée d'Orsay",
            "category": "http://commons.wikimedia.org/wiki/Category:Mus%C3%A9e_d%27Orsay",
            "supercategory": "museum",
            "hierarchical_label": "",
            "natural_or_human_made": "human-made",
        },
    ],
    "competition_train": [
        {"id": "007", "landmark_id": 7},
        {"id": "0123456789012345", "landmark_id": 203093},
        {"id": "1e5", "landmark_id": 7},
    ],
    "index_metadata": [
        {"id": "00f", "index_landmark_id": None, "url": None},
        {"id": "1e9", "index_landmark_id": 7, "url": None},
    ],
    "test_metadata": [{"id": "000", "url": None}, {"id": "9e9", "url": None}],
    "recognition_solution": [
        {"id": "000", "landmark_ids": [7], "usage": "Public"},
        {"id": "9e9", "landmark_ids": [], "usage": "Ignored"},
        {"id": "c", "landmark_ids": [7, 203093], "usage": "Private"},
        {"id": "d", "landmark_ids": [], "usage": "Private"},
    ],
    "retrieval_solution": [
        {"id": "000", "index_ids": ["1e9", "00f"], "usage": "Public"},
        {"id": "9e9", "index_ids": [], "usage": "Ignored"},
        {"id": "c", "index_ids": ["00f"], "usage": "Private"},
        {"id": "d", "index_ids": [], "usage": "Private"},
    ],
}


class Bucket:
    """A bucket of tables alone, in a folder, whose files a test can change."""

    def __init__(self, root: Path, csvs: dict[str, str]) -> None:
        self.root = root
        for name, text in csvs.items():
            self.write(name, text)

    def write(self, name: Any, text: str | bytes) -> None:
        path = self.root / TABLE_PATHS[name]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())

    def remove(self, name: Any) -> None:
        (self.root / TABLE_PATHS[name]).unlink()

    def url(self, name: Any) -> str:
        return f"{self.root}/{TABLE_PATHS[name]}"

    def make(self, asset: str, store: Store) -> Made:
        return MAKERS[asset][0](open_source(str(self.root)), store)

    def make_all(self, store: Store) -> dict[str, Made]:
        return {asset: self.make(asset, store) for asset in MAKERS}


@pytest.fixture
def source(tmp_path: Path) -> Bucket:
    return Bucket(tmp_path / "source", CSVS)


def rows(store: Store, asset: str) -> list[dict[str, Any]]:
    return read_table(store, MAKERS[asset][1]).to_pylist()


def digests(store: Store) -> dict[str, str]:
    return {name: hashlib.sha256(store.read(f"metadata/{name}")).hexdigest() for name in store.names("metadata")}


def refused(source: Bucket, store: Store, asset: str, *told: str) -> None:
    with pytest.raises(TableError) as error:
        source.make(asset, store)
    message = str(error.value)
    assert "\n" not in message
    assert [word for word in told if word not in message] == []
    assert not store.exists(f"metadata/{asset}.parquet")


# What is published


def test_every_table_of_a_worked_example(source: Bucket, store: Store) -> None:
    made = source.make_all(store)
    for asset, expected in EXPECTED.items():
        assert rows(store, asset) == expected, asset
        assert problems(MAKERS[asset][1], read_table(store, MAKERS[asset][1])) == []
        assert made[asset].receipt.summary["rows"] == len(expected)
        assert made[asset].receipt.summary["published"] is True
        assert made[asset].receipt.outputs.keys() == {f"metadata/{asset}.parquet"}
    assert store.names("metadata") == sorted(f"{asset}.parquet" for asset in MAKERS)


def test_the_order_of_rows_leaves_no_trace(source: Bucket, store: Store, tmp_path: Path) -> None:
    source.make_all(store)
    order = random.Random(3)
    shuffled = Bucket(tmp_path / "shuffled", {})
    for name, text in CSVS.items():
        head, *body = csv.reader(text.splitlines(keepends=True))
        order.shuffle(body)
        path = shuffled.root / TABLE_PATHS[name]  # type: ignore[index]
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([head, *body])
    other = Store(str(tmp_path / "other"))
    shuffled.make_all(other)
    assert digests(other) == digests(store)


def test_files_as_excel_saves_them(source: Bucket, store: Store, tmp_path: Path) -> None:
    plain = {name: text for name, text in CSVS.items() if name != "train_attribution"}  # its title has a line end
    Bucket(source.root, {name: f"\ufeff{text}".replace("\n", "\r\n") for name, text in plain.items()})
    source.make_all(store)
    for asset, expected in EXPECTED.items():
        assert rows(store, asset) == expected, asset


def test_a_table_of_several_parts_is_that_of_one(
    source: Bucket, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = list(range(1000))
    random.Random(0).shuffle(numbers)
    rows = [
        f'{number:04x},"http://x/{number},{"y" * (number % 7)}",{number % 9}\n' for number in [*numbers, *numbers[:5]]
    ]
    source.write("train", "id,url,landmark_id\n" + "".join(rows))
    whole = source.make("train_metadata", store)
    monkeypatch.setattr(tables, "_ROWS_AT_ONCE", 64)
    other = Store(str(tmp_path / "other"))
    parts = source.make("train_metadata", other)
    found = read_table(other, schemas.TRAIN_METADATA)
    assert found["id"].to_pylist() == sorted(f"{number:04x}" for number in numbers)
    assert found.equals(read_table(store, schemas.TRAIN_METADATA))
    assert parts.receipt.summary == whole.receipt.summary == {"rows": 1000, "published": True, "repeated_rows": 5}


def test_finished_tables_are_not_made_again(source: Bucket, store: Store) -> None:
    source.make_all(store)
    assert all(made.reused for made in source.make_all(store).values())
    source.write("train", CSVS["train"] + "new,http://x/n.jpg,9\n")
    again = source.make_all(store)
    assert {asset for asset, made in again.items() if not made.reused} == {"train_metadata", "competition_train"}
    assert "new" in {row["id"] for row in rows(store, "train_metadata")}


def test_a_packed_bucket(bucket: str, store: Store) -> None:
    for asset, (maker, _) in MAKERS.items():
        maker(open_source(bucket), store)
        assert rows(store, asset)
    with (Path(bucket) / TABLE_PATHS["train_attribution"]).open(newline="") as file:
        assert [r["id"] for r in rows(store, "train_attribution")] == sorted(r["id"] for r in csv.DictReader(file))
    names = {row["name"] for row in rows(store, "landmark_labels")}
    assert names == {"Alder Tower", "Bell Gate", "Corn Exchange", "Dial House"}


# What is absent


OPTIONAL = {
    "train_attribution": "train_attribution",
    "landmark_labels": "train_label_to_category",
    "index_metadata": "index",
    "test_metadata": "test",
    "recognition_solution": "recognition_solution",
    "retrieval_solution": "retrieval_solution",
}


@pytest.mark.parametrize("asset", OPTIONAL)
def test_an_optional_table_that_is_absent_is_an_empty_one(source: Bucket, store: Store, asset: str) -> None:
    source.remove(OPTIONAL[asset])
    made = source.make(asset, store)
    assert made.receipt.summary == {"rows": 0, "published": False}
    assert rows(store, asset) == []
    assert problems(MAKERS[asset][1], read_table(store, MAKERS[asset][1])) == []
    source.write(OPTIONAL[asset], CSVS[OPTIONAL[asset]])
    assert source.make(asset, store).receipt.summary["published"] is True


@pytest.mark.parametrize("asset", OPTIONAL)
def test_an_optional_table_of_a_header_alone_is_published_and_empty(source: Bucket, store: Store, asset: str) -> None:
    name = OPTIONAL[asset]
    source.write(name, CSVS[name].splitlines(keepends=True)[0])
    summary = source.make(asset, store).receipt.summary
    assert (summary["rows"], summary["published"]) == (0, True)
    assert rows(store, asset) == []


def test_labels_without_a_hierarchy_and_an_index_without_landmarks(source: Bucket, store: Store) -> None:
    source.remove("train_label_to_hierarchical")
    source.remove("index_image_to_landmark")
    source.make("landmark_labels", store)
    source.make("index_metadata", store)
    assert [row["name"] for row in rows(store, "landmark_labels")] == [
        "Eiffel Tower",
        "Bath, Old Town",
        "Musée d'Orsay",
    ]
    assert {row["supercategory"] for row in rows(store, "landmark_labels")} == {None}
    assert rows(store, "index_metadata") == [
        {"id": "00f", "index_landmark_id": None, "url": None},
        {"id": "1e9", "index_landmark_id": None, "url": None},
    ]


def test_required_tables_that_are_absent(source: Bucket, store: Store) -> None:
    opened = open_source(str(source.root))
    source.make("train_metadata", store)
    source.remove("train_clean")
    with pytest.raises(SourceError, match=r"train_clean\.csv is missing"):
        make_competition_train(opened, store)
    source.remove("train")
    with pytest.raises(SourceError, match=r"metadata/train\.csv is missing"):
        make_train_metadata(opened, store)


def test_the_competition_set_needs_the_train_table(source: Bucket, store: Store) -> None:
    with pytest.raises(MissingInputError, match="train_metadata has not been made"):
        source.make("competition_train", store)


@pytest.mark.parametrize("text", ["", "id,url,landmark_id\n", "\n", "\ufeff"])
def test_a_train_csv_without_images(source: Bucket, store: Store, text: str) -> None:
    source.write("train", text)
    refused(source, store, "train_metadata", source.url("train"))


@pytest.mark.parametrize("text", ["landmark_id,images\n", "landmark_id,images\n7,\n40, \n"])
def test_a_train_clean_csv_without_images(source: Bucket, store: Store, text: str) -> None:
    source.make("train_metadata", store)
    source.write("train_clean", text)
    refused(source, store, "competition_train", source.url("train_clean"), "no image in it")


@pytest.mark.parametrize(
    ("labels", "unlabelled", "unknown", "problem"),
    [
        ("1e9,7\n00f,8\n", 0, 0, ""),
        ("1e9,7\n", 1, 0, ""),
        ("1e9,7\nghost,8\n", 1, 1, "1 images of index_image_to_landmark.csv are not in index.csv"),
        ("", 2, 0, "index_image_to_landmark.csv has a landmark of none of the 2 images of index.csv"),
        ("1E9,7\n00F,8\n", 2, 2, "2 images of index_image_to_landmark.csv are not in index.csv; index_image_to"),
    ],
)
def test_landmarks_of_other_images_than_the_index_has_are_counted(
    source: Bucket, store: Store, labels: str, unlabelled: int, unknown: int, problem: str
) -> None:
    source.write("index_image_to_landmark", f"id,landmark_id\n{labels}")
    summary = source.make("index_metadata", store).receipt.summary
    assert (summary[UNLABELLED], summary[UNKNOWN_LABELLED]) == (unlabelled, unknown)
    assert mislabelled(summary).startswith(problem)
    assert bool(mislabelled(summary)) == bool(problem)


def test_an_index_without_published_landmarks_is_not_warned_of(source: Bucket, store: Store) -> None:
    source.remove("index_image_to_landmark")
    assert mislabelled(source.make("index_metadata", store).receipt.summary) == ""


def strings(*values: str) -> pa.ChunkedArray:
    return pa.chunked_array([list(values)], pa.string())


def test_ids_of_two_tables_are_counted() -> None:
    assert shared(strings("a", "bb", "c"), strings("a", "c", "longer"), "train_metadata") == (
        "2 images are also in train_metadata, the first 'a'"
    )
    assert shared(strings("a"), strings("b"), "train_metadata") == ""
    assert shared(strings(), strings("b"), "train_metadata") == shared(strings("b"), strings(), "train_metadata") == ""


def test_ids_that_no_table_lists_are_counted_once() -> None:
    assert unlisted(strings("a", "x", "yy", "x"), strings("a", "b"), "queries", "test_metadata") == (
        "2 queries are not in test_metadata, the first 'x'"
    )
    assert unlisted(strings("a", "x"), strings(), "queries", "test_metadata").startswith("2 queries")
    assert unlisted(strings("a"), strings("a"), "queries", "t") == unlisted(strings(), strings(), "queries", "t") == ""


def test_a_kaggle_folder(tmp_path: Path, store: Store) -> None:
    (tmp_path / "k" / "train").mkdir(parents=True)
    (tmp_path / "k" / "train.csv").write_text("id,landmark_id\n1e5,7\n007,40\n")
    (tmp_path / "k" / "sample_submission.csv").write_text("id,landmarks\n9e9,7 0.1\n000,\n")
    opened = open_source(f"kaggle://{tmp_path}/k")
    made = {asset: maker(opened, store) for asset, (maker, _) in MAKERS.items()}
    assert rows(store, "train_metadata") == [
        {"id": "007", "url": None, "landmark_id": 40},
        {"id": "1e5", "url": None, "landmark_id": 7},
    ]
    assert rows(store, "competition_train") == [{"id": "007", "landmark_id": 40}, {"id": "1e5", "landmark_id": 7}]
    assert rows(store, "test_metadata") == [{"id": "000", "url": None}, {"id": "9e9", "url": None}]
    for asset in ("train_attribution", "landmark_labels", "index_metadata", "recognition_solution"):
        assert rows(store, asset) == []
        assert made[asset].receipt.summary["published"] is False
    (tmp_path / "k" / "train.csv").write_text("id,landmark_id\n1e5,7\n")
    for asset in ("train_metadata", "competition_train"):
        assert not MAKERS[asset][0](opened, store).reused
    assert len(rows(store, "competition_train")) == 1


# What is wrong


COLUMNS = [(asset, name, column) for asset, name in OPTIONAL.items() for column in CSVS[name].split("\n")[0].split(",")]


@pytest.mark.parametrize(("asset", "name", "column"), COLUMNS)
def test_a_lacking_column_is_named(source: Bucket, store: Store, asset: str, name: str, column: str) -> None:
    source.write(name, CSVS[name].replace(column, f"{column}_2", 1))
    refused(source, store, asset, source.url(name), f"'{column}'")


@pytest.mark.parametrize(
    ("asset", "name", "old", "wrong", "told"),
    [
        ("train_metadata", "train", "id,url,landmark_id", "id,url,landmark", "'landmark_id'"),
        ("train_metadata", "train", "id,url", "image,url", "'id'"),
        ("train_metadata", "train", ",40", ",forty", "'forty'"),
        ("train_metadata", "train", ",40", ",", "line 5: no landmark_id"),
        ("train_metadata", "train", ",40", "", "line 5: 2 values, expected 3"),
        ("train_metadata", "train", "\nabc", "\nab\0", "line 5: holds a NUL"),
        ("test_metadata", "test", "\n9e9", "\n9\0e", "line 2: holds a NUL"),
        ("landmark_labels", "train_label_to_category", "\n40,", "\nx,", "'x'"),
        ("landmark_labels", "train_label_to_hierarchical", "\n7,", "\n,", "line 2: no landmark_id"),
        ("index_metadata", "index_image_to_landmark", "1e9,7", "1e9,7.5", "'7.5'"),
        ("recognition_solution", "recognition_solution", ",7,", ",seven,", "seven"),
        ("recognition_solution", "recognition_solution", "7 203093", "7;203093", "7;203093"),
        ("recognition_solution", "recognition_solution", ",7,", ",-1,", "landmark id -1"),
        ("train_metadata", "train", "d.jpg,40", "d.jpg,-1", "landmark id -1"),
        (
            "recognition_solution",
            "recognition_solution",
            ",7 203093,",
            ",7 0x31955,",
            "line 4: column landmarks: '0x31955'",
        ),
        ("train_metadata", "train", ",40", ",0x28", "line 5: landmark_id is '0x28'"),
        ("landmark_labels", "train_label_to_category", "\n40,", "\n0x28,", "line 4: landmark_id is '0x28'"),
        ("index_metadata", "index_image_to_landmark", "1e9,7", "1e9,0x7", "line 2: landmark_id is '0x7'"),
        ("train_metadata", "train", "\nabc,", "\nabc\u00a0,", "line 5: id 'abc\\xa0' begins or ends with a blank"),
        ("train_attribution", "train_attribution", "\n1e5,", "\n1e5 ,", "line 2: id '1e5 '"),
        ("index_metadata", "index", "\n1e9", "\n1e9 ", "line 3: id '1e9 '"),
        ("index_metadata", "index_image_to_landmark", "\n1e9", "\n1e9\u00a0", "line 2: id '1e9\\xa0'"),
        ("test_metadata", "test", "\n000", "\n000 ", "line 3: id '000 '"),
        ("recognition_solution", "recognition_solution", "\n000", "\n000 ", "line 3: id '000 '"),
        ("retrieval_solution", "retrieval_solution", "\n000", "\n000\u2003", "line 3: id '000\\u2003'"),
        ("recognition_solution", "recognition_solution", "Public", "public", "Usage 'public'"),
        ("recognition_solution", "recognition_solution", "Public", "", "Usage ''"),
        ("retrieval_solution", "retrieval_solution", "Private", "Secret", "Usage 'Secret'"),
    ],
)
def test_a_wrong_value_is_named(
    source: Bucket, store: Store, asset: str, name: str, old: str, wrong: str, told: str
) -> None:
    assert old in CSVS[name]
    source.write(name, CSVS[name].replace(old, wrong, 1))
    refused(source, store, asset, source.url(name), told)


def test_a_train_csv_in_another_encoding_keeps_no_half_of_it(source: Bucket, store: Store) -> None:
    source.write("train", CSVS["train"].replace("d.jpg", "dé.jpg").encode("latin-1"))
    refused(source, store, "train_metadata", source.url("train"), "UTF-")


REPEATED = [
    ("train_metadata", "train", "abc,http://x/d.jpg,40", "abc,http://x/d.jpg,41"),
    ("train_attribution", "train_attribution", '007,http://x/b,"Smith, J.",CC0,t', '007,http://x/b,"Smith, J.",CC1,t'),
    ("landmark_labels", "train_label_to_category", "5,http://x/Category:A", "5,http://x/Category:B"),
    ("index_metadata", "index_image_to_landmark", "1e9,7", "1e9,8"),
    ("recognition_solution", "recognition_solution", "e,7,Public", "e,8,Public"),
    ("retrieval_solution", "retrieval_solution", "e,00f,Public", "e,00f,Private"),
]


@pytest.mark.parametrize(("asset", "name", "row", "other"), REPEATED)
def test_equal_rows_are_one_and_contradicting_ones_are_refused(
    source: Bucket, store: Store, asset: str, name: str, row: str, other: str
) -> None:
    head = CSVS[name].split("\n")[0]
    source.write(name, f"{head}\n{row}\n")
    once = source.make(asset, store)
    before = store.read(f"metadata/{asset}.parquet")
    source.write(name, f"{head}\n{row}\n{row}\n{row}\n")
    thrice = source.make(asset, store)
    assert store.read(f"metadata/{asset}.parquet") == before
    assert once.receipt.summary["repeated_rows"] == 0
    if name != "index_image_to_landmark":  # it is joined to the table that is counted
        assert thrice.receipt.summary["repeated_rows"] == 2
    store.remove(f"metadata/{asset}.parquet")
    source.write(name, f"{head}\n{row}\n{other}\n")
    refused(source, store, asset, source.url(name), "1 values of", "contradict")


def test_ids_repeated_in_tables_of_ids_alone(source: Bucket, store: Store) -> None:
    for asset, name in (("test_metadata", "test"), ("index_metadata", "index")):
        source.write(name, "id\n007\n1e5\n007\n")
        assert source.make(asset, store).receipt.summary["repeated_rows"] == 1
        assert [row["id"] for row in rows(store, asset)] == ["007", "1e5"]


@pytest.mark.parametrize(
    ("clean", "told"),
    [
        ("7,1e5 nobody\n", ["1 images", "'nobody'"]),
        ("7,1e5 zz yy xx\n", ["3 images", "'xx'"]),
        ("40,1e5\n", ["1 images", "'1e5'"]),  # known, of another landmark
        ("7,1e5\n40,1e5\n", ["1 values of id", "'1e5'", "contradict"]),
        ("7,100000\n", ["'100000'"]),  # what 1e5 becomes in a careless program
        ("7,7\n", ["'7'"]),  # and 007
    ],
)
def test_a_competition_set_that_does_not_fit_the_train_table(
    source: Bucket, store: Store, clean: str, told: list[str]
) -> None:
    source.make("train_metadata", store)
    source.write("train_clean", f"landmark_id,images\n{clean}")
    refused(source, store, "competition_train", source.url("train_clean"), *told)


def test_a_competition_set_with_blanks_and_repeats(source: Bucket, store: Store) -> None:
    source.make("train_metadata", store)
    source.write("train_clean", "landmark_id,images\n7, 1e5  007 1e5 \n40,\n203093,0123456789012345\n7,007\n")
    made = source.make("competition_train", store)
    assert rows(store, "competition_train") == EXPECTED["competition_train"]
    assert made.receipt.summary == {"rows": 3, "published": True, "repeated_rows": 2}


def test_none_is_ignored_whatever_its_usage(source: Bucket, store: Store) -> None:
    source.write("retrieval_solution", "id,images,Usage\na,None,Private\nb, None ,Public\nc,Nonesuch,Public\n")
    source.make("retrieval_solution", store)
    assert rows(store, "retrieval_solution") == [
        {"id": "a", "index_ids": [], "usage": "Ignored"},
        {"id": "b", "index_ids": [], "usage": "Ignored"},
        {"id": "c", "index_ids": ["Nonesuch"], "usage": "Public"},
    ]


@pytest.mark.parametrize(
    ("category", "name"),
    [
        ("http://commons.wikimedia.org/wiki/Category:Eiffel_Tower", "Eiffel Tower"),
        ("https://commons.wikimedia.org/wiki/Category:A__B___C", "A B C"),
        ("http://commons.wikimedia.org/wiki/Category:Mus%C3%A9e_d%27Orsay", "Musée d'Orsay"),
        ("http://commons.wikimedia.org/wiki/Category:%E6%9D%B1%E4%BA%AC%E5%A1%94", "東京塔"),
        ("http://commons.wikimedia.org/wiki/Category:Gate,_Old_Town_(Bern)", "Gate, Old Town (Bern)"),
        ("http://commons.wikimedia.org/wiki/Category:100%25_Tower", "100% Tower"),
        ("http://commons.wikimedia.org/wiki/Category:Category:Odd", "Category:Odd"),
        ("_Leading_and_trailing_", "Leading and trailing"),
        ("Plain name", "Plain name"),
        ("http://commons.wikimedia.org/wiki/Category:", "http://commons.wikimedia.org/wiki/Category:"),
        ("http://commons.wikimedia.org/wiki/Category:Eiffel_Tower/", "Eiffel Tower"),
        ("http://commons.wikimedia.org/wiki/Category:Eiffel_Tower_", "Eiffel Tower"),
        ("http://commons.wikimedia.org/wiki/Category:Gate_%28Bern%29", "Gate (Bern)"),
        ("http://commons.wikimedia.org/wiki/Category%3AGate_%28Bern%29", "Gate (Bern)"),
        ("http://commons.wikimedia.org/wiki/category:%22The_Gate%22", '"The Gate"'),
        ("http://commons.wikimedia.org/wiki/Category:Number_9/11_Square", "Number 9/11 Square"),
        ("http://commons.wikimedia.org/wiki/Category:Who%3F_Tower_%231?uselang=de#Top", "Who? Tower #1"),
        ("http://commons.wikimedia.org/w/index.php?title=Category:Eiffel_Tower", "Eiffel Tower"),
        ("http://commons.wikimedia.org/wiki/Category:Mus%E9e", "Musée"),  # Latin-1, which is not UTF-8
        ("http://commons.wikimedia.org/wiki/Category:100%_Tower", "100% Tower"),
        ("http://commons.wikimedia.org/wiki/Category:A+B_&_C", "A+B & C"),
        ("http://commons.wikimedia.org/wiki/Eiffel_Tower", "Eiffel Tower"),
        ("https://en.wikipedia.org/wiki/AC/DC_Lane", "AC/DC Lane"),
        ("https://example.org/places/Eiffel_Tower/", "Eiffel Tower"),
        ("Category:Eiffel_Tower", "Eiffel Tower"),
        ("Category:A/Category:B", "A/Category:B"),
        ("Subcategory: none", "Subcategory: none"),
        ("/", "/"),
        ("", ""),
    ],
)
def test_readable_names(category: str, name: str) -> None:
    assert readable_name(category) == name
