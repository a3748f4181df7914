"""Buckets made member by member, so that each test says what is in its shards."""

from __future__ import annotations

import csv
import hashlib
import io
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
from PIL import Image

from glr_assets.curation.dedupe import make_deduped_manifest
from glr_assets.curation.fill import make_fill_shortfall, make_train_extra
from glr_assets.curation.leaks import make_label_conflicts, make_train_test_leaks
from glr_assets.curation.train_manifest import make_train_manifest
from glr_assets.images import catalog
from glr_assets.images.catalog import make_image_catalog
from glr_assets.images.ingest import ingest_shard
from glr_assets.images.schemas import IMAGE_CATALOG, IMAGE_LOCATIONS
from glr_assets.images.selection import selection_for
from glr_assets.ledger.image_ledger import make_image_ledger
from glr_assets.metadata import tables
from glr_assets.planning.class_counts import make_class_counts
from glr_assets.planning.fill_plan import make_fill_plan
from glr_assets.receipts import Made, Writer, make
from glr_assets.recipes import Recipe
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store
from glr_assets.tables import Table, read_table

TINY = Recipe(name="tiny").overridden({"images": {"min_side": 32}, "execution": {"workers": 1}})


def picture(seed: int, size: tuple[int, int] = (60, 40), quality: int = 90) -> bytes:
    """A JPEG of smooth colours, another for each seed."""
    coarse = np.random.default_rng(seed).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=quality)
    return file.getvalue()


def write_locations(store: Store) -> None:
    """Leave the locations that belong to a catalog which a test wrote itself."""
    rows = read_table(store, IMAGE_CATALOG)
    stored = {}
    for split in SPLITS:
        stored[split] = catalog.SplitLocations(split)
        of_split = rows.filter(pc.equal(rows["split"], split))
        for shard in sorted(set(of_split["shard"].to_pylist())):
            stored[split].add(shard, of_split.filter(pc.equal(of_split["shard"], shard)))
    with store.writing(IMAGE_LOCATIONS.path) as file:
        catalog.write_locations(stored, file)


def identifier(number: int) -> str:
    """An id as GLDv2's: 16 hexadecimal digits."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Entry:
    """One member of a TAR: by default a file."""

    name: str
    data: bytes = b""
    type: bytes = tarfile.REGTYPE
    linkname: str = ""


def photo(image_id: str, data: bytes) -> Entry:
    """A member named as GLDv2 names it."""
    return Entry(f"{image_id[0]}/{image_id[1]}/{image_id[2]}/{image_id}.jpg", data)


def tar_of(entries: Iterable[Entry]) -> bytes:
    """An uncompressed TAR of these members, names as they are."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape") as tar:
        for entry in entries:
            header = tarfile.TarInfo(entry.name)
            header.type, header.linkname, header.size = entry.type, entry.linkname, len(entry.data)
            tar.addfile(header, io.BytesIO(entry.data))
    return file.getvalue()


@dataclass
class Bucket:
    """What a bucket is to hold: landmark by train id, the ids of the competition's set, and shards by split."""

    train: Mapping[str, int]
    competition: Iterable[str] = ()
    shards: Mapping[Split, Mapping[str, bytes]] = field(default_factory=dict)
    index: Mapping[str, int] = field(default_factory=dict)
    test: Iterable[str] = ()
    names: Mapping[int, str] = field(default_factory=dict)

    def write(self, folder: Path) -> str:
        """Write it under `folder`; returns its path."""
        competition = set(self.competition)
        clean: dict[int, list[str]] = {}
        for image_id, landmark in self.train.items():
            if image_id in competition:
                clean.setdefault(landmark, []).append(image_id)
        rows: dict[str, list[tuple[object, ...]]] = {
            "train": [("id", "url", "landmark_id"), *((i, f"https://x.org/{i}", n) for i, n in self.train.items())],
            "train_clean": [("landmark_id", "images"), *((n, " ".join(ids)) for n, ids in clean.items())],
            "train_attribution": [
                ("id", "url", "author", "license", "title"),
                *((i, f"https://x.org/{i}", f"Ann {i[:3]}", "CC BY 4.0", f"File:{i}.jpg") for i in self.train),
            ],
            "train_label_to_category": [
                ("landmark_id", "category"),
                *((n, f"http://commons.wikimedia.org/wiki/Category:{name}") for n, name in self.names.items()),
            ],
            "index": [("id",), *((i,) for i in self.index)],
            "index_image_to_landmark": [("id", "landmark_id"), *self.index.items()],
            "test": [("id",), *((i,) for i in self.test)],
        }
        (folder / "metadata").mkdir(parents=True)
        for name, lines in rows.items():
            with (folder / "metadata" / f"{name}.csv").open("w", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(lines)
        for split, shards in self.shards.items():
            for key, data in shards.items():
                write_shard(folder, split, key, data)
        return str(folder)


def write_shard(folder: Path, split: str, key: str, data: bytes, md5_of: bytes | None = None) -> None:
    """Write a shard and the MD5 of it, or of other bytes."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / "md5sum" / split).mkdir(parents=True, exist_ok=True)
    (folder / split / f"images_{key}.tar").write_bytes(data)
    digest = hashlib.md5(data if md5_of is None else md5_of, usedforsecurity=False).hexdigest()
    (folder / "md5sum" / split / f"md5.images_{key}.txt").write_text(f"{digest}  images_{key}.tar\n")


def make_tables(source: Source, store: Store, recipe: Recipe) -> None:
    """The metadata and planning tables that ingest and curation read."""
    for make_table in (
        tables.make_train_metadata,
        tables.make_train_attribution,
        tables.make_landmark_labels,
        tables.make_competition_train,
        tables.make_index_metadata,
        tables.make_test_metadata,
    ):
        make_table(source, store)
    make_class_counts(store)
    make_fill_plan(store, recipe.fill, recipe.seed)


def ingest(source: Source, store: Store, recipe: Recipe, split: Split, shard: str, workers: int = 1) -> Made:
    """Ingest one shard."""
    selection = selection_for(store, split, recipe.images)
    return ingest_shard(source, store, split, shard, selection, recipe.images, workers)


def make_curated(source: Source, store: Store, recipe: Recipe) -> dict[str, Made]:
    """The whole lineage from tables to the ledger; gives what the curation stage made."""
    make_tables(source, store, recipe)
    for split in SPLITS:
        for shard in source.shards(split):
            ingest(source, store, recipe, split, shard)
    return {
        "image_catalog": make_image_catalog(source, store),
        "label_conflicts": make_label_conflicts(store, recipe.dedupe.near_duplicate_bits),
        "train_test_leaks": make_train_test_leaks(store, recipe.dedupe.near_duplicate_bits),
        "deduped_manifest": make_deduped_manifest(store, recipe.dedupe, recipe.seed),
        "train_extra": make_train_extra(store, recipe.fill, recipe.dedupe),
        "fill_shortfall": make_fill_shortfall(store, recipe.fill.threshold),
        "train_manifest": make_train_manifest(store),
        "image_ledger": make_image_ledger(store),
    }


def write_made(store: Store, name: str, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    """An asset of one table, with its receipt."""

    def build(writer: Writer) -> dict[str, int | float | str | bool | None]:
        writer.table(table, table.rows(list(rows)))
        return {}

    make(store, name, inputs={}, parameters={}, code_version="1", build=build, again=True)
