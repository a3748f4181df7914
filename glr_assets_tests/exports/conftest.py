"""A store whose manifests are written row by row, so that each test knows what a package must hold."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from glr_assets.curation.schemas import DEDUPED_MANIFEST, TRAIN_MANIFEST
from glr_assets.exports.images import ExportImage
from glr_assets.images.catalog import make_image_catalog
from glr_assets.metadata import tables
from glr_assets.receipts import Summary, Writer, make
from glr_assets.recipes import Exports
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets.tables import Table
from glr_assets_tests.images.handmade import TINY, Bucket, identifier, ingest, photo, picture, tar_of

RECIPE = TINY.overridden({"images": {"keep": "all"}})
#: Landmark 7 has no published name, the others have strange ones.
NAMES = {3: "Eiffel_Tower", 11: 'Kölner_Dom,_"Köln"', 2**40: "A/B"}
SIZES = {3: 6, 7: 5, 11: 1, 2**40: 4}
LANDMARKS = [landmark for landmark, size in SIZES.items() for _ in range(size)]
IDS = [identifier(number) for number in range(len(LANDMARKS))]
#: No author and no licence are published of it.
ANONYMOUS = IDS[1]
FIVE = Exports(order="shuffled", images_per_shard=5)


def write_manifest(store: Store, table: Table, rows: list[tuple[str, int | None, str]]) -> None:
    """A manifest, with a receipt as its asset leaves one."""
    more = {"origin": "competition"} if table is TRAIN_MANIFEST else {}
    data = table.rows(
        {"id": i, "landmark_id": landmark, "shard": "000", "decision": decision, "reason": "so told"} | more
        for i, landmark, decision in rows
    )
    name = Path(table.path).stem

    def build(writer: Writer) -> Summary:
        writer.table(table, data)
        return {"rows": data.num_rows}

    make(store, name, inputs={}, parameters={"rows": rows}, code_version="1", build=build)


@pytest.fixture(scope="session")
def packed_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exports")
    known = dict(zip(IDS, LANDMARKS, strict=True))
    shards = {
        key: tar_of(photo(i, picture(n, (60 + n, 40))) for n, i in enumerate(IDS) if n % 2 == part)
        for part, key in enumerate(("000", "001"))
    }
    bucket = folder / "bucket"
    Bucket(known, IDS, {"train": shards}, names=NAMES).write(bucket)
    attribution = bucket / "metadata/train_attribution.csv"
    lines = attribution.read_text().splitlines(keepends=True)
    lines = [line for line in lines if not line.startswith(ANONYMOUS)]
    attribution.write_text("".join(lines).replace(f"Ann {IDS[0][:3]}", '"Ann, ""the"" Ñandú\nof two lines"'))
    source, store = BucketSource(str(bucket)), Store(str(folder / "store"))
    tables.make_train_metadata(source, store)
    tables.make_train_attribution(source, store)
    tables.make_landmark_labels(source, store)
    for shard in source.shards("train"):
        ingest(source, store, RECIPE, "train", shard)
    make_image_catalog(source, store)
    write_manifest(store, TRAIN_MANIFEST, [(i, landmark, "kept") for i, landmark in known.items()])
    deduped = [(i, landmark, "dropped" if n % 3 == 0 else "kept") for n, (i, landmark) in enumerate(known.items())]
    write_manifest(store, DEDUPED_MANIFEST, deduped)
    return folder


@pytest.fixture
def packed(packed_once: Path, tmp_path: Path) -> Store:
    """A store of its own with `train_manifest` (16 images of 4 landmarks) and `deduped_manifest`."""
    shutil.copytree(packed_once / "store", tmp_path / "store")
    return Store(str(tmp_path / "store"))


def export_image(number: int = 0, **more: object) -> ExportImage:
    """Any image."""
    told: dict[str, object] = {
        "id": identifier(number),
        "landmark_id": 12345678901,
        "label": number,
        "name": "Kölner Dom",
        "url": f"https://x.org/{number}",
        "author": 'Ann, of "there"',
        "license": "CC BY 4.0",
        "title": "File:x.jpg",
        "width": 60,
        "height": 40,
    }
    return ExportImage(**(told | more))  # type: ignore[arg-type]
