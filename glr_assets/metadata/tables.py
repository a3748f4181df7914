"""One function a metadata asset: the source's CSV in, a typed Parquet table out."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.errors import TableError
from glr_assets.metadata.csv_files import (
    distinct_rows,
    integers_of,
    line_where,
    one_row_per_key,
    read_csv,
    split_words,
)
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
from glr_assets.metadata.sorting import sorted_rows
from glr_assets.ranges import ordered
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.source import Source, TableName
from glr_assets.store import Store
from glr_assets.tables import ROWS_A_GROUP, Table, TableWriter, fixed_width, places, read_table, taken

CODE_VERSION = "5"
UNLABELLED, UNKNOWN_LABELLED = "index_images_without_landmark", "landmarks_of_unknown_images"
"""Figures of `index_metadata` where index_image_to_landmark.csv is published: index images that it lacks, and images
that it names and index.csv lacks."""
_STRING, _INT = pa.string(), pa.int64()
_ROWS_AT_ONCE = ROWS_A_GROUP


def make_train_metadata(source: Source, store: Store) -> Made:
    """`train_metadata` from train.csv (a Kaggle folder's has no URLs)."""

    def read(figures: Summary) -> pa.Table:
        columns = {"id": _STRING, "url": _STRING, "landmark_id": _INT}
        data = read_csv(source, "train", columns, ["url"], figures)
        if data is None or not data.num_rows:
            raise TableError(
                f"{source.table_url('train')}: no image in it; expected rows of id,url,landmark_id; check GLR_SOURCE"
            )
        _refuse_negative(data["landmark_id"], source.table_url("train"))
        return data

    return _make_by_id(source, store, "train_metadata", TRAIN_METADATA, "train", read)


def make_train_attribution(source: Source, store: Store) -> Made:
    """`train_attribution` from train_attribution.csv; empty where the source publishes none."""

    def read(figures: Summary) -> pa.Table | None:
        columns = {column.name: column.type for column in TRAIN_ATTRIBUTION.columns}
        data = read_csv(source, "train_attribution", columns, figures=figures)
        return None if data is None else _without_unknown(data, ("author", "license"))

    return _make_by_id(source, store, "train_attribution", TRAIN_ATTRIBUTION, "train_attribution", read)


def _without_unknown(data: pa.Table, columns: Sequence[str]) -> pa.Table:
    """`data` with empty values where one of these columns says that its value is unknown."""
    for name in columns:
        values = data[name]
        trimmed = pc.utf8_lower(pc.utf8_trim_whitespace(values))
        unknown = pc.is_in(trimmed, pa.array(["", "unknown"]))
        if pc.any(unknown).as_py():
            data = data.set_column(data.schema.get_field_index(name), name, pc.if_else(unknown, "", values))
    return data


def make_landmark_labels(source: Source, store: Store) -> Made:
    """`landmark_labels` from the category table, with the hierarchy where it is published."""

    def build(figures: Summary) -> pa.Table:
        labels = read_csv(
            source, "train_label_to_category", {"landmark_id": _INT, "category": _STRING}, figures=figures
        )
        if labels is None:
            return LANDMARK_LABELS.empty()
        kinds = read_csv(
            source,
            "train_label_to_hierarchical",
            dict.fromkeys(("supercategory", "hierarchical_label", "natural_or_human_made"), _STRING)
            | {"landmark_id": _INT},
            figures=figures,
        )
        labels, repeated = one_row_per_key(labels, "landmark_id", source.table_url("train_label_to_category"))
        if kinds is None:
            kinds = LANDMARK_LABELS.empty().drop_columns(["name", "category"])
        kinds, _ = one_row_per_key(kinds, "landmark_id", source.table_url("train_label_to_hierarchical"))
        names = pa.array([readable_name(url) for url in labels["category"].to_pylist()], _STRING)
        joined = labels.append_column("name", names).join(kinds, "landmark_id", use_threads=False)
        figures |= {"published": True, "repeated_rows": repeated}
        return joined.sort_by("landmark_id")

    tables: tuple[TableName, ...] = ("train_label_to_category", "train_label_to_hierarchical")
    return _make(source, store, "landmark_labels", LANDMARK_LABELS, tables, build)


_CATEGORY = re.compile(r"(?:.*?[/=])??category(?::|%3a)", re.IGNORECASE)
_PAGE = re.compile(r"[a-z][a-z0-9+.-]*://(?:.*?/wiki/|(?:.*/)?)", re.IGNORECASE)


def readable_name(category: str) -> str:
    """`http://commons.wikimedia.org/wiki/Category:Eiffel_Tower` as `Eiffel Tower`.

    Of another page the name is its own; what is no name at all stays as it is.
    """
    page = category.rstrip("/ ")
    start = _CATEGORY.match(page) or _PAGE.match(page)
    # Within a name these two are percent-encoded: by themselves they begin a query or a section.
    if start is None:
        return re.sub(r"[_\s]+", " ", page).strip() or category
    name = re.split("[?#]", page[start.end() :])[0]
    try:
        name = unquote(name, errors="strict")
    except UnicodeDecodeError:
        name = unquote(name, "latin-1")
    return re.sub(r"[_\s]+", " ", name).strip(" /") or category


def make_competition_train(source: Source, store: Store) -> Made:
    """`competition_train` from train_clean.csv; of a source without one, every train image."""
    inputs = need_receipts(store, "train_metadata")

    def build(figures: Summary) -> pa.Table:
        train = read_table(store, TRAIN_METADATA, ["id", "landmark_id"])
        clean = read_csv(source, "train_clean", {"landmark_id": _INT, "images": _STRING}, figures=figures)
        if clean is None:
            figures["unknown_to_train"] = 0
            return train
        ids = split_words(clean["images"]).combine_chunks()
        listed = pa.table(
            {
                "id": pc.list_flatten(ids),
                "landmark_id": clean["landmark_id"].combine_chunks().take(pc.list_parent_indices(ids)),
            }
        )
        if not listed.num_rows:
            raise TableError(
                f"{source.table_url('train_clean')}: no image in it; expected rows of landmark_id,images; download it "
                "again or correct it at the source"
            )
        data, repeated = one_row_per_key(listed, "id", source.table_url("train_clean"))
        strange = _strange(data, train)
        if len(strange):
            raise TableError(
                f"{source.table_url('train_clean')}: {len(strange)} images are not in train.csv under the same "
                f"landmark, the first {strange[0]!r}; correct either file at the source"
            )
        figures |= {"published": True, "repeated_rows": repeated}
        return data

    return _make(source, store, "competition_train", COMPETITION_TRAIN, ("train_clean",), build, inputs=inputs)


def _strange(images: pa.Table, train: pa.Table) -> list[str]:
    """The ids of `images` that are not in `train` under the same landmark, in the order they have."""
    keys = fixed_width(images["id"])
    at = places(keys, fixed_width(train["id"]))
    landmarks = train["landmark_id"].to_numpy()[at] if train.num_rows else at
    known = (at >= 0) & (landmarks == images["landmark_id"].to_numpy())
    return images["id"].filter(pa.array(~known)).to_pylist()


def make_index_metadata(source: Source, store: Store) -> Made:
    """`index_metadata` from index.csv and its landmarks; empty where the source has no index."""

    def build(figures: Summary) -> pa.Table:
        index = read_csv(source, "index", {"id": _STRING, "url": _STRING}, ["url"], figures)
        if index is None:
            return INDEX_METADATA.empty()
        index, repeated = one_row_per_key(index, "id", source.table_url("index"))
        labels = read_csv(source, "index_image_to_landmark", {"id": _STRING, "landmark_id": _INT}, figures=figures)
        is_labelled = labels is not None
        if labels is None:
            labels = pa.schema({"id": _STRING, "landmark_id": _INT}).empty_table()
        labels, _ = one_row_per_key(labels, "id", source.table_url("index_image_to_landmark"))
        at = places(fixed_width(index["id"]), fixed_width(labels["id"]))
        landmarks = taken(labels.select(["landmark_id"]), at)["landmark_id"]
        figures |= {"published": True, "repeated_rows": repeated}
        if is_labelled:
            figures |= {
                UNLABELLED: landmarks.null_count,
                UNKNOWN_LABELLED: labels.num_rows - (index.num_rows - landmarks.null_count),
            }
        return index.append_column("index_landmark_id", landmarks)

    return _make(source, store, "index_metadata", INDEX_METADATA, ("index", "index_image_to_landmark"), build)


def make_test_metadata(source: Source, store: Store) -> Made:
    """`test_metadata` from test.csv (a Kaggle folder's sample_submission.csv)."""
    columns = {"id": _STRING, "url": _STRING}
    return _make_by_id(
        source,
        store,
        "test_metadata",
        TEST_METADATA,
        "test",
        lambda figures: read_csv(source, "test", columns, ["url"], figures),
    )


def make_recognition_solution(source: Source, store: Store) -> Made:
    """`recognition_solution` from its CSV; empty where the source publishes none."""

    def build(figures: Summary) -> pa.Table:
        url = source.table_url("recognition_solution")
        data = read_csv(
            source, "recognition_solution", dict.fromkeys(("id", "landmarks", "Usage"), _STRING), figures=figures
        )
        if data is None:
            return RECOGNITION_SOLUTION.empty()
        data, repeated = one_row_per_key(data, "id", url)
        words = split_words(data["landmarks"])
        try:
            integers_of(pc.list_flatten(words))
            landmarks = words.cast(pa.list_(_INT))
        except pa.ArrowInvalid as error:
            where = line_where(source, "recognition_solution", "landmarks", _holds_no_landmarks)
            raise TableError(
                f"{url}: {where}column landmarks: {error}; expected landmark ids with blanks between them; "
                "correct the file at the source"
            ) from error
        _refuse_negative(pc.list_flatten(landmarks), url)
        table = pa.table({"id": data["id"], "landmark_ids": landmarks, "usage": _usages(data["Usage"], url)})
        figures |= {"published": True, "repeated_rows": repeated}
        return table

    return _make(source, store, "recognition_solution", RECOGNITION_SOLUTION, ("recognition_solution",), build)


def make_retrieval_solution(source: Source, store: Store) -> Made:
    """`retrieval_solution` from its CSV; empty where the source publishes none."""

    def build(figures: Summary) -> pa.Table:
        url = source.table_url("retrieval_solution")
        data = read_csv(
            source, "retrieval_solution", dict.fromkeys(("id", "images", "Usage"), _STRING), figures=figures
        )
        if data is None:
            return RETRIEVAL_SOLUTION.empty()
        data, repeated = one_row_per_key(data, "id", url)
        ignored = pc.equal(pc.utf8_trim_whitespace(data["images"]), "None")
        images = split_words(pc.if_else(ignored, "", data["images"]))
        usage = _usages(pc.if_else(ignored, "Ignored", data["Usage"]), url)
        table = pa.table({"id": data["id"], "index_ids": images, "usage": usage})
        figures |= {"published": True, "repeated_rows": repeated}
        return table

    return _make(source, store, "retrieval_solution", RETRIEVAL_SOLUTION, ("retrieval_solution",), build)


def _holds_no_landmarks(value: str) -> bool:
    """Whether a value is something else than landmark ids with blanks between them."""
    return not all(re.fullmatch("-?[0-9]{1,19}", word) for word in value.split())


def _refuse_negative(landmarks: pa.ChunkedArray, url: str) -> None:
    """A negative number stands for no landmark in other data sets; here it would be a landmark of that number.

    Raises:
        TableError: there is one.
    """
    least = pc.min(landmarks).as_py()
    if least is not None and least < 0:
        raise TableError(
            f"{url}: landmark id {least}; expected ids from 0 on, and an empty value where there is no landmark; "
            "correct the file at the source"
        )


def _usages(values: pa.ChunkedArray, url: str) -> pa.ChunkedArray:
    known = pc.is_in(values, pa.array(["Public", "Private", "Ignored"]))
    if not pc.all(known).as_py() and len(values):
        wrong = values.filter(pc.invert(known))[0].as_py()
        raise TableError(f"{url}: Usage {wrong!r}; expected Public, Private or Ignored; correct the file at the source")
    return values


def _make_by_id(
    source: Source, store: Store, asset: str, table: Table, name: TableName, read: Callable[[Summary], pa.Table | None]
) -> Made:
    """A table that is one CSV sorted by id, however large: a part of the sorted rows at a time is in memory."""

    def write(writer: Writer) -> Summary:
        figures: Summary = {}
        data = read(figures)
        if data is None:
            writer.table(table, table.empty())
            return {"rows": 0, "published": False}
        columns = dict(zip(data.schema.names, data.columns, strict=True))
        ids = data["id"]
        del data
        with ThreadPoolExecutor(1) as pool:
            joined = pool.submit(_combined, columns)
            order, repeats = sorted_rows(ids)
            data = joined.result()
        rows = distinct_rows(data, "id", order, repeats, source.table_url(name))

        def part(begin: int) -> pa.Table:
            return data.take(pa.array(rows[begin : begin + _ROWS_AT_ONCE]))

        with writer.writing(table.path) as file, TableWriter(table, file) as parquet:
            # The next part is gathered while one is compressed.
            for sorted_part in ordered(part, range(0, len(rows), _ROWS_AT_ONCE), workers=1):
                parquet.append(sorted_part)
        return {"rows": len(rows), "published": True, "repeated_rows": data.num_rows - len(rows), **figures}

    inputs = {f"source:{name}": source.table_digest(name)}
    return make(store, asset, inputs=inputs, parameters={}, code_version=CODE_VERSION, build=write)


def _combined(columns: dict[str, pa.ChunkedArray]) -> pa.Table:
    """A table of `columns`, each in one piece, which rows are gathered from much faster.

    What was in `columns` is let go, so that no more than one of them is held twice.
    """
    whole = {}
    for name in list(columns):
        whole[name] = pa.table({name: columns.pop(name)}).combine_chunks()[name]
        # Arrow's allocator would keep the pieces' memory for later ones of their size.
        pa.default_memory_pool().release_unused()
    return pa.table(whole)


def _make(
    source: Source,
    store: Store,
    asset: str,
    table: Table,
    csv_tables: tuple[TableName, ...],
    build: Callable[[Summary], pa.Table],
    inputs: dict[str, str] | None = None,
) -> Made:
    def write(writer: Writer) -> Summary:
        figures: Summary = {"published": False}
        data = build(figures)
        data = data.select([column.name for column in table.columns])
        writer.table(table, data)
        return {"rows": data.num_rows, **figures}

    digests = {f"source:{name}": source.table_digest(name) for name in csv_tables}
    return make(store, asset, inputs=digests | (inputs or {}), parameters={}, code_version=CODE_VERSION, build=write)
