"""One function a metadata asset: the source's CSV in, a typed Parquet table out."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.errors import TableError
from glr_assets.metadata.csv_files import one_row_per_key, read_csv, split_words
from glr_assets.metadata.schemas import (
    COMPETITION_TRAIN,
    INDEX_METADATA,
    LANDMARK_LABELS,
    RECOGNITION_SOLUTION,
    RETRIEVAL_SOLUTION,
    TEST_METADATA,
    TRAIN_ATTRIBUTION,
    TRAIN_METADATA,
)
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.source import Source, TableName
from glr_assets.store import Store
from glr_assets.tables import Table, read_table

CODE_VERSION = "1"
_STRING, _INT = pa.string(), pa.int64()


def make_train_metadata(source: Source, store: Store) -> Made:
    """`train_metadata` from train.csv (a Kaggle folder's has no URLs)."""

    def build() -> tuple[pa.Table, Summary]:
        columns = {"id": _STRING, "url": _STRING, "landmark_id": _INT}
        data = read_csv(source, "train", columns, optional=["url"])
        if data is None or not data.num_rows:
            raise TableError(
                f"{source.table_url('train')}: no image in it; expected rows of id,url,landmark_id; check GLR_SOURCE"
            )
        return _deduplicated(data, source.table_url("train"))

    return _make(source, store, "train_metadata", TRAIN_METADATA, ("train",), build)


def make_train_attribution(source: Source, store: Store) -> Made:
    """`train_attribution` from train_attribution.csv; empty where the source publishes none."""

    def build() -> tuple[pa.Table, Summary]:
        data = read_csv(source, "train_attribution", {c.name: c.type for c in TRAIN_ATTRIBUTION.columns})
        return _deduplicated_or_empty(data, TRAIN_ATTRIBUTION, source.table_url("train_attribution"))

    return _make(source, store, "train_attribution", TRAIN_ATTRIBUTION, ("train_attribution",), build)


def make_landmark_labels(source: Source, store: Store) -> Made:
    """`landmark_labels` from the category table, with the hierarchy where it is published."""

    def build() -> tuple[pa.Table, Summary]:
        labels = read_csv(source, "train_label_to_category", {"landmark_id": _INT, "category": _STRING})
        if labels is None:
            return LANDMARK_LABELS.empty(), {"published": False}
        kinds = read_csv(
            source,
            "train_label_to_hierarchical",
            dict.fromkeys(("supercategory", "hierarchical_label", "natural_or_human_made"), _STRING)
            | {"landmark_id": _INT},
        )
        labels, repeated = one_row_per_key(labels, "landmark_id", source.table_url("train_label_to_category"))
        if kinds is None:
            kinds = LANDMARK_LABELS.empty().drop_columns(["name", "category"])
        kinds, _ = one_row_per_key(kinds, "landmark_id", source.table_url("train_label_to_hierarchical"))
        names = pa.array([readable_name(url) for url in labels["category"].to_pylist()], _STRING)
        joined = labels.append_column("name", names).join(kinds, "landmark_id", use_threads=False)
        return joined.sort_by("landmark_id"), {"published": True, "repeated_rows": repeated}

    tables: tuple[TableName, ...] = ("train_label_to_category", "train_label_to_hierarchical")
    return _make(source, store, "landmark_labels", LANDMARK_LABELS, tables, build)


def readable_name(category: str) -> str:
    """`http://commons.wikimedia.org/wiki/Category:Eiffel_Tower` as `Eiffel Tower`."""
    name = re.sub(r"^.*?Category:", "", unquote(category))
    return re.sub(r"[_\s]+", " ", name).strip() or category


def make_competition_train(source: Source, store: Store) -> Made:
    """`competition_train` from train_clean.csv; of a source without one, every train image."""
    inputs = need_receipts(store, "train_metadata")

    def build() -> tuple[pa.Table, Summary]:
        train = read_table(store, TRAIN_METADATA, ["id", "landmark_id"])
        clean = read_csv(source, "train_clean", {"landmark_id": _INT, "images": _STRING})
        if clean is None:
            return train, {"published": False, "unknown_to_train": 0}
        ids = split_words(clean["images"]).combine_chunks()
        listed = pa.table(
            {
                "id": pc.list_flatten(ids),
                "landmark_id": clean["landmark_id"].combine_chunks().take(pc.list_parent_indices(ids)),
            }
        )
        data, repeated = one_row_per_key(listed, "id", source.table_url("train_clean"))
        known = data.join(train, ["id", "landmark_id"], join_type="left semi", use_threads=False)
        if known.num_rows < data.num_rows:
            strange = data.join(train, ["id", "landmark_id"], join_type="left anti", use_threads=False)
            raise TableError(
                f"{source.table_url('train_clean')}: {strange.num_rows} images are not in train.csv under the same "
                f"landmark, the first {strange.sort_by('id')['id'][0].as_py()!r}; mend either file at the source"
            )
        return data, {"published": True, "repeated_rows": repeated}

    return _make(source, store, "competition_train", COMPETITION_TRAIN, ("train_clean",), build, inputs=inputs)


def make_index_metadata(source: Source, store: Store) -> Made:
    """`index_metadata` from index.csv and its landmarks; empty where the source has no index."""

    def build() -> tuple[pa.Table, Summary]:
        index = read_csv(source, "index", {"id": _STRING})
        if index is None:
            return INDEX_METADATA.empty(), {"published": False}
        index, repeated = one_row_per_key(index, "id", source.table_url("index"))
        labels = read_csv(source, "index_image_to_landmark", {"id": _STRING, "landmark_id": _INT})
        if labels is None:
            labels = pa.schema({"id": _STRING, "landmark_id": _INT}).empty_table()
        labels, _ = one_row_per_key(labels, "id", source.table_url("index_image_to_landmark"))
        labels = labels.rename_columns(["id", "index_landmark_id"])
        joined = index.join(labels, "id", use_threads=False).sort_by("id")
        return joined, {"published": True, "repeated_rows": repeated}

    return _make(source, store, "index_metadata", INDEX_METADATA, ("index", "index_image_to_landmark"), build)


def make_test_metadata(source: Source, store: Store) -> Made:
    """`test_metadata` from test.csv (a Kaggle folder's sample_submission.csv)."""

    def build() -> tuple[pa.Table, Summary]:
        data = read_csv(source, "test", {"id": _STRING})
        return _deduplicated_or_empty(data, TEST_METADATA, source.table_url("test"))

    return _make(source, store, "test_metadata", TEST_METADATA, ("test",), build)


def make_recognition_solution(source: Source, store: Store) -> Made:
    """`recognition_solution` from its CSV; empty where the source publishes none."""

    def build() -> tuple[pa.Table, Summary]:
        url = source.table_url("recognition_solution")
        data = read_csv(source, "recognition_solution", dict.fromkeys(("id", "landmarks", "Usage"), _STRING))
        if data is None:
            return RECOGNITION_SOLUTION.empty(), {"published": False}
        data, repeated = one_row_per_key(data, "id", url)
        words = split_words(data["landmarks"])
        try:
            landmarks = words.cast(pa.list_(_INT))
        except pa.ArrowInvalid as error:
            raise TableError(
                f"{url}: column landmarks: {error}; expected blank-separated landmark ids; mend the file at the source"
            ) from error
        table = pa.table({"id": data["id"], "landmark_ids": landmarks, "usage": _usages(data["Usage"], url)})
        return table, {"published": True, "repeated_rows": repeated}

    return _make(source, store, "recognition_solution", RECOGNITION_SOLUTION, ("recognition_solution",), build)


def make_retrieval_solution(source: Source, store: Store) -> Made:
    """`retrieval_solution` from its CSV; empty where the source publishes none."""

    def build() -> tuple[pa.Table, Summary]:
        url = source.table_url("retrieval_solution")
        data = read_csv(source, "retrieval_solution", dict.fromkeys(("id", "images", "Usage"), _STRING))
        if data is None:
            return RETRIEVAL_SOLUTION.empty(), {"published": False}
        data, repeated = one_row_per_key(data, "id", url)
        ignored = pc.equal(pc.utf8_trim_whitespace(data["images"]), "None")
        images = split_words(pc.if_else(ignored, "", data["images"]))
        usage = _usages(pc.if_else(ignored, "Ignored", data["Usage"]), url)
        table = pa.table({"id": data["id"], "index_ids": images, "usage": usage})
        return table, {"published": True, "repeated_rows": repeated}

    return _make(source, store, "retrieval_solution", RETRIEVAL_SOLUTION, ("retrieval_solution",), build)


def _usages(values: pa.ChunkedArray, url: str) -> pa.ChunkedArray:
    known = pc.is_in(values, pa.array(["Public", "Private", "Ignored"]))
    if not pc.all(known).as_py() and len(values):
        wrong = values.filter(pc.invert(known))[0].as_py()
        raise TableError(f"{url}: Usage {wrong!r}; expected Public, Private or Ignored; mend the file at the source")
    return values


def _deduplicated(data: pa.Table, url: str) -> tuple[pa.Table, Summary]:
    unique, repeated = one_row_per_key(data, "id", url)
    return unique, {"published": True, "repeated_rows": repeated}


def _deduplicated_or_empty(data: pa.Table | None, table: Table, url: str) -> tuple[pa.Table, Summary]:
    return (table.empty(), {"published": False}) if data is None else _deduplicated(data, url)


def _make(
    source: Source,
    store: Store,
    asset: str,
    table: Table,
    csv_tables: tuple[TableName, ...],
    build: Callable[[], tuple[pa.Table, Summary]],
    inputs: dict[str, str] | None = None,
) -> Made:
    def write(writer: Writer) -> Summary:
        data, summary = build()
        data = data.select([column.name for column in table.columns])
        writer.table(table, data)
        return {"rows": data.num_rows, **summary}

    digests = {f"source:{name}": source.table_digest(name) for name in csv_tables}
    return make(store, asset, inputs=digests | (inputs or {}), parameters={}, code_version=CODE_VERSION, build=write)
