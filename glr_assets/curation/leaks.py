"""The same photograph twice where it should not be: under two landmarks, or in train and in test or index."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.fates import stored_images
from glr_assets.curation.galleries import Shown, shown_gallery
from glr_assets.curation.near_duplicates import Near, near_others
from glr_assets.curation.schemas import LABEL_CONFLICTS, TRAIN_TEST_LEAKS
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "2"
CONFLICTS_PICTURE = "reports/label_conflicts.jpg"
LEAKS_PICTURE = "reports/train_test_leaks.jpg"
PAIRS_SHOWN = 12
PAIRS_A_ROW = 3
#: Splits that train images are compared with.
OTHERS: tuple[Split, ...] = ("index", "test")

_COLUMNS = ("landmark_id", "source_xxh3", "dhash")


def label_conflicts(train: pa.Table, bits: int) -> pa.Table:
    """`LABEL_CONFLICTS`: near-duplicates of different landmarks among stored train images.

    Args:
        train: `id, landmark_id, source_xxh3, dhash` of stored images, sorted by id; those of no landmark are left out.
        bits: bits within which two are near-duplicates.
    """
    train = train.filter(pc.is_valid(train["landmark_id"])).combine_chunks()
    near = near_others(_hashes(train), train["landmark_id"].to_numpy(), bits, _files(train))
    row, other = pa.array(near.row), pa.array(near.other)
    return pa.table(
        {
            "id": train["id"].take(row),
            "landmark_id": train["landmark_id"].take(row),
            "partner": train["id"].take(other),
            "partner_landmark_id": train["landmark_id"].take(other),
            **_told(near),
        }
    )


def train_leaks(train: pa.Table, others: pa.Table, split: Split, bits: int) -> pa.Table:
    """`TRAIN_TEST_LEAKS` of one other split: stored train images that are near-duplicates of its stored images.

    Args:
        train: `id, landmark_id, source_xxh3, dhash` of stored images, sorted by id.
        others: `id, source_xxh3, dhash` of the other split's.
        split: the other split.
        bits: bits within which two are near-duplicates.
    """
    count = train.num_rows
    hashes, files = (np.concatenate([read(train), read(others)]) for read in (_hashes, _files))
    found = near_others(hashes, (np.arange(len(hashes)) >= count).astype(np.int64), bits, files)
    mine = found.row < count
    near = Near(found.row[mine], found.other[mine] - count, found.distance[mine], found.same_file[mine], found.count)
    row = pa.array(near.row)
    return pa.table(
        {
            "id": train["id"].take(row),
            "landmark_id": train["landmark_id"].take(row),
            "split": pa.repeat(pa.scalar(split), len(near.row)),
            "partner": others["id"].take(pa.array(near.other)),
            **_told(near),
        }
    )


def _hashes(images: pa.Table) -> np.ndarray:
    return images["dhash"].to_numpy()


def _files(images: pa.Table) -> np.ndarray:
    return pc.fill_null(images["source_xxh3"], pa.scalar(0, pa.uint64())).to_numpy()


def _told(near: Near) -> dict[str, pa.Array]:
    return {
        "distance": pa.array(near.distance, pa.int32()),
        "same_file": pa.array(near.same_file),
        "near": pa.array(near.count[near.row]),
    }


def leaks_into_test(store: Store) -> pa.Table:
    """`id, partner, distance, same_file` of each train image that is like a test image, with the nearest of these."""
    columns = ["id", "split", "partner", "distance", "same_file"]
    leaks = read_table(store, TRAIN_TEST_LEAKS, columns)
    leaks = leaks.filter(pc.equal(leaks["split"], "test")).drop_columns(["split"]).combine_chunks()
    # An image's partners stand together, the nearest first.
    ids = leaks["id"].combine_chunks()
    first = np.ones(len(ids), bool)
    first[1:] = pc.not_equal(ids.slice(1), ids.slice(0, max(len(ids) - 1, 0))).to_numpy(zero_copy_only=False)
    return leaks.filter(pa.array(first))


def make_label_conflicts(store: Store, bits: int) -> Made:
    """`label_conflicts`, with a gallery of the nearest pairs."""

    def build(writer: Writer) -> Summary:
        found = label_conflicts(stored_images(store, "train", _COLUMNS), bits)
        writer.table(LABEL_CONFLICTS, found)
        # From one side only.
        pairs = found.filter(pc.less(found["id"], found["partner"]))
        shown = [
            [
                Shown("train", row["id"], f"{row['landmark_id']}, {row['distance']} bits"),
                Shown("train", row["partner"], f"{row['partner_landmark_id']}"),
            ]
            for row in _nearest(pairs, "landmark_id", "partner_landmark_id")
        ]
        writer.write(CONFLICTS_PICTURE, shown_gallery(store, _in_rows(shown)))
        images, near = _images(found)
        landmarks = len(pc.unique(found["landmark_id"]))
        return {"rows": found.num_rows, "images": images, "landmarks": landmarks, "pairs": near // 2}

    inputs = need_receipts(store, "image_catalog")
    return make(
        store,
        "label_conflicts",
        inputs=inputs,
        parameters={"near_duplicate_bits": bits},
        code_version=CODE_VERSION,
        build=build,
    )


def make_train_test_leaks(store: Store, bits: int) -> Made:
    """`train_test_leaks`, with a gallery of the nearest pairs, those with test images first."""

    def build(writer: Writer) -> Summary:
        train = stored_images(store, "train", _COLUMNS)
        of_split = {
            split: train_leaks(train, stored_images(store, split, _COLUMNS[1:]), split, bits) for split in OTHERS
        }
        found = pa.concat_tables(of_split.values()).combine_chunks()
        writer.table(TRAIN_TEST_LEAKS, found)
        shown = [
            [
                Shown("train", row["id"], f"train, {row['distance']} bits"),
                Shown(split, row["partner"], split),
            ]
            for split in ("test", "index")
            for row in _nearest(of_split[split], "partner")
        ][:PAIRS_SHOWN]
        writer.write(LEAKS_PICTURE, shown_gallery(store, _in_rows(shown)))
        summary: Summary = {"rows": found.num_rows}
        for split, leaks in of_split.items():
            images, near = _images(leaks)
            partners = len(pc.unique(leaks["partner"]))
            summary |= {
                f"train_images_in_{split}": images,
                f"{split}_images_in_train": partners,
                f"{split}_pairs": near,
            }
        return summary

    inputs = need_receipts(store, "image_catalog")
    return make(
        store,
        "train_test_leaks",
        inputs=inputs,
        parameters={"near_duplicate_bits": bits},
        code_version=CODE_VERSION,
        build=build,
    )


def _images(found: pa.Table) -> tuple[int, int]:
    """Images that have partners, and the partners of all of them."""
    of_image = found.group_by("id", use_threads=False).aggregate([("near", "min")])
    return of_image.num_rows, pc.sum(of_image["near_min"]).as_py() or 0


def _nearest(pairs: pa.Table, *once: str) -> list[dict]:
    """The nearest pairs for a gallery, one of those that agree in the columns `once`."""
    pairs = pairs.append_column("place", pa.array(np.arange(pairs.num_rows)))
    ordered = pairs.sort_by([("distance", "ascending"), ("place", "ascending")])
    ordered = ordered.append_column("order", pa.array(np.arange(pairs.num_rows)))
    firsts = ordered.group_by(list(once), use_threads=False).aggregate([("order", "min")])["order_min"]
    return ordered.take(firsts.take(pc.sort_indices(firsts)).slice(0, PAIRS_SHOWN)).to_pylist()


def _in_rows(pairs: list[list[Shown]]) -> list[list[Shown]]:
    """Pairs side by side, some in a row."""
    starts = range(0, len(pairs), PAIRS_A_ROW)
    return [[image for pair in pairs[start : start + PAIRS_A_ROW] for image in pair] for start in starts]
