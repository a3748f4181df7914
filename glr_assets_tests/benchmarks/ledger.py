"""The ledger at GLDv2's size: made, checked and asked, beside the same join by pandas and duckdb.

The store has the published sizes: tables made of the CSVs of `full_size`, the plan, indexes of all 620 shards with the
fates and hashes of `full_store`, the catalog and the manifests, by the assets' own functions and with their receipts,
but without pixels and so without galleries. Each step runs in a process of its own: wall and CPU seconds and the peak
of memory. Imports are not timed, but of the command `glr why`.

The other ways read the same Parquet tables and must find what the ledger holds. pandas' leaves the list of decisions
out, which duckdb's has; neither writes row groups by which one id is looked up, receipts, digests or counts, or looks
for repeated keys. Prints Markdown: `python -m glr_assets_tests.benchmarks.ledger`, or with `--scale 0.01` a hundredth.

duckdb is measured where it is installed (extra `bench`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from glr_assets.curation.dedupe import competition_images, dedupe
from glr_assets.curation.fates import stored_images
from glr_assets.curation.fill import make_train_extra
from glr_assets.curation.leaks import OTHERS, train_leaks
from glr_assets.curation.schemas import (
    DEDUPED_MANIFEST,
    TRAIN_EXTRA,
    TRAIN_MANIFEST,
    TRAIN_TEST_LEAKS,
)
from glr_assets.curation.train_manifest import make_train_manifest
from glr_assets.images.catalog import make_image_catalog
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.ledger.balance import BALANCED, unbalanced
from glr_assets.ledger.image_ledger import (
    ABSENT_REASON,
    INPUTS,
    PLANNED,
    STORED_REASON,
    VERSION_DIGITS,
    make_image_ledger,
)
from glr_assets.ledger.schemas import DECISIONS, IMAGE_LEDGER
from glr_assets.ledger.why import why
from glr_assets.metadata import tables
from glr_assets.metadata.schemas import (
    COMPETITION_TRAIN,
    INDEX_METADATA,
    TEST_METADATA,
    TRAIN_ATTRIBUTION,
    TRAIN_METADATA,
)
from glr_assets.planning.class_counts import make_class_counts
from glr_assets.planning.fill_plan import make_fill_plan
from glr_assets.planning.schemas import FILL_PLAN
from glr_assets.receipts import Summary, Writer, find_receipt, make
from glr_assets.recipes import Dedupe, Fill
from glr_assets.source import open_source
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store
from glr_assets.tables import Table, read_parts, read_table, stored_problems
from glr_assets_tests.benchmarks.full_size import GLDV2, write_bucket
from glr_assets_tests.benchmarks.full_store import write_shards
from glr_assets_tests.benchmarks.measure import in_a_process, machine, markdown, peak_megabytes, timed

MODULE = "glr_assets_tests.benchmarks.ledger"
DEDUPE, FILL = Dedupe(), Fill()
METADATA = (
    *("train_metadata", "competition_train", "train_attribution", "landmark_labels"),
    *("index_metadata", "test_metadata"),
)
#: Arrow has as many threads as this says.
THREADS = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}
ASKED = 20
PANDAS, DUCKDB = "pandas: the same join, without decisions", "duckdb: the same join"
OTHERS_FILES = {PANDAS: "pandas.parquet", DUCKDB: "duckdb.parquet"}


def store_of(work: Path) -> Store:
    """The store in a working folder."""
    return Store(str(work / "store"))


def write_inputs(work: Path, scale: float) -> None:
    """All that the ledger is made from, with receipts."""
    size, bucket, store = GLDV2.scaled(scale), work / "bucket", store_of(work)
    write_bucket(bucket, size)
    source = open_source(str(bucket))
    for asset in METADATA:
        getattr(tables, f"make_{asset}")(source, store)
    make_class_counts(store)
    make_fill_plan(store, FILL, 0)
    write_shards(bucket, store, size)
    make_image_catalog(source, store)
    _leave(store, "train_test_leaks", TRAIN_TEST_LEAKS, _leaks)
    _leave(store, "deduped_manifest", DEDUPED_MANIFEST, _deduped)
    make_train_extra(store, FILL, DEDUPE)
    make_train_manifest(store)


def _leave(store: Store, asset: str, table: Table, rows: Callable[[Store], pa.Table]) -> None:
    """An asset's table and receipt, without the galleries that its own function draws."""

    def build(writer: Writer) -> Summary:
        data = rows(store)
        writer.table(table, data)
        return {"rows": data.num_rows}

    make(store, asset, inputs={}, parameters={}, code_version="0", build=build)


def _leaks(store: Store) -> pa.Table:
    train = stored_images(store, "train", ("landmark_id", "source_xxh3", "dhash"))
    others = {split: stored_images(store, split, ("source_xxh3", "dhash")) for split in OTHERS}
    return pa.concat_tables(train_leaks(train, others[s], s, DEDUPE.near_duplicate_bits) for s in OTHERS)


def _deduped(store: Store) -> pa.Table:
    return dedupe(competition_images(store), DEDUPE, 0).manifest


def make_manifest(work: Path) -> dict[str, float]:
    """`train_manifest`, anew."""
    store_of(work).remove("receipts/train_manifest.json")
    return timed(lambda: int(make_train_manifest(store_of(work)).receipt.summary["rows"] or 0))


def make_ledger(work: Path) -> dict[str, float]:
    """`image_ledger`, anew."""
    store = store_of(work)
    store.remove("receipts/image_ledger.json")
    found = timed(lambda: int(make_image_ledger(store).receipt.summary["rows"] or 0))
    return found | {"MB": (store.size(IMAGE_LEDGER.path) or 0) / 1e6}


def check_schema(work: Path) -> dict[str, float]:
    """The check of the ledger's columns and keys."""

    def check() -> int:
        assert stored_problems(store_of(work), IMAGE_LEDGER) == []
        return pq.read_metadata(work / "store" / IMAGE_LEDGER.path).num_rows

    return timed(check)


def check_balance(work: Path) -> dict[str, float]:
    """The check that it adds up."""

    def check() -> int:
        assert unbalanced(read_parts(store_of(work), IMAGE_LEDGER, BALANCED)) == ""
        return pq.read_metadata(work / "store" / IMAGE_LEDGER.path).num_rows

    return timed(check)


def asked_ids(work: Path) -> list[str]:
    """Some ids of every split, most of train and of these most stored."""
    rows = read_table(store_of(work), IMAGE_LEDGER, ["id", "split", "status"])
    random = np.random.default_rng(0)
    found = []
    for split, count in (("train", ASKED - 4), ("index", 2), ("test", 2)):
        of_split = rows.filter(pc.equal(rows["split"], split))
        of_split = of_split if split != "train" else of_split.filter(pc.not_equal(of_split["status"], "skipped"))
        found += of_split["id"].take(pa.array(random.integers(0, of_split.num_rows, count))).to_pylist()
    return found


def ask(work: Path, ids: list[str]) -> dict[str, float]:
    """`why` of each id: the first, which reads what others find read, and the median."""
    store, times = store_of(work), []
    cpu = time.process_time()
    for image_id in ids:
        began = time.perf_counter()
        (story,) = why(store, image_id)
        times.append(time.perf_counter() - began)
        assert story.id == image_id
    cpu = (time.process_time() - cpu) / len(ids)
    return {"rows": 1, "wall s": median(times), "first, wall s": times[0], "CPU s": cpu, "peak MB": peak_megabytes()}


def ask_by_command(work: Path, image_id: str) -> dict[str, float]:
    """`glr why`: the command whole, its start included."""
    began = time.perf_counter()
    command = [sys.executable, "-c", "from glr_assets.cli import main; main()", "why", image_id]
    told = subprocess.run(
        [*command, "--store", str(work / "store")], check=True, stdout=subprocess.PIPE, text=True, env=os.environ
    )
    wall = time.perf_counter() - began
    assert image_id in told.stdout
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"rows": 1, "wall s": wall, "CPU s": used.ru_utime + used.ru_stime, "peak MB": used.ru_maxrss * 1024 / 1e6}


def pandas_ledger(work: Path) -> dict[str, float]:
    """The ledger's columns but the decisions, by merges."""
    import pandas as pd

    def read(table: Table, *columns: str) -> Any:
        return pd.read_parquet(work / "store" / table.path, columns=list(columns))

    def join() -> int:
        catalog = read(IMAGE_CATALOG, "id", "split", "shard", "status", "reason").dropna(subset="id")
        catalog["rank"] = catalog["status"].map({"stored": 0, "failed": 1, "skipped": 2})
        found = catalog.sort_values("rank", kind="stable").drop_duplicates(["split", "id"]).drop(columns="rank")
        listed = [
            read(TRAIN_METADATA, "id", "landmark_id").astype({"landmark_id": "Int64"}).assign(split="train"),
            read(INDEX_METADATA, "id").assign(split="index"),
            read(TEST_METADATA, "id").assign(split="test"),
        ]
        ledger = pd.concat(listed).merge(found, on=["split", "id"], how="outer")
        planned = pd.concat(
            [
                read(COMPETITION_TRAIN, "id").assign(planned="competition"),
                read(FILL_PLAN, "id", "role").rename(columns={"role": "planned"}),
            ]
        )
        columns = ("id", "decision", "reason", "partner", "distance")
        decided = pd.concat([read(DEDUPED_MANIFEST, *columns), read(TRAIN_EXTRA, *columns)])
        decided = decided.rename(columns={"reason": "decision_reason"}).astype({"distance": "Int32"})
        sides = [
            planned,
            decided,
            read(TRAIN_ATTRIBUTION, "id", "author", "license"),
            read(TRAIN_MANIFEST, "id").assign(in_train=True),
        ]
        for side in sides:
            ledger = ledger.merge(side.assign(split="train"), on=["split", "id"], how="left")
        ledger["status"] = ledger["status"].fillna("missing")
        ledger["reason"] = ledger["reason"].fillna(ABSENT_REASON)
        ledger["in_train"] = ledger["in_train"].fillna(value=False).astype(bool)
        ledger = ledger.sort_values(["split", "id"])
        ledger.to_parquet(work / OTHERS_FILES[PANDAS], compression="zstd", index=False)
        return len(ledger)

    return timed(join)


_DUCKDB = """
COPY (
    WITH found AS (
        SELECT DISTINCT ON (split, id) split, id, shard, status, reason FROM {catalog} WHERE id IS NOT NULL
        ORDER BY split, id, list_position(['stored', 'failed', 'skipped'], status), shard, source_path, source_offset
    ),
    listed AS (
        SELECT id, 'train' AS split, landmark_id FROM {train}
        UNION ALL SELECT id, 'index', NULL FROM {index} UNION ALL SELECT id, 'test', NULL FROM {test}
    ),
    planned AS (SELECT id, 'competition' AS planned FROM {competition} UNION ALL SELECT id, role FROM {plan}),
    decided AS (
        SELECT id, decision, reason, partner, distance FROM {deduped}
        UNION ALL SELECT id, decision, reason, partner, distance FROM {extra}
    ),
    joined AS (
        SELECT id, split, landmark_id, shard, coalesce(f.status, 'missing') AS status,
            coalesce(f.reason, '{missing}') AS reason, planned, decision, d.reason AS decision_reason,
            partner, distance, author, license, t.id IS NOT NULL AS in_train,
            CASE planned WHEN 'competition' THEN 'competition_train' ELSE 'fill_plan' END AS plan_asset,
            coalesce(split || '_images/' || shard, split || '_images') AS shard_asset,
            CASE planned WHEN 'competition' THEN 'deduped_manifest' ELSE 'train_extra' END AS decided_asset
        FROM listed FULL JOIN found AS f USING (split, id)
        LEFT JOIN (SELECT *, 'train' AS split FROM planned) USING (split, id)
        LEFT JOIN (SELECT *, 'train' AS split FROM decided) AS d USING (split, id)
        LEFT JOIN (SELECT id, author, license, 'train' AS split FROM {attribution}) USING (split, id)
        LEFT JOIN (SELECT id, 'train' AS split FROM {manifest}) AS t USING (split, id)
    )
    SELECT j.* EXCLUDE (plan_asset, shard_asset, decided_asset),
        CASE WHEN planned IS NOT NULL THEN [{{
            'asset': plan_asset, 'version': v1.version, 'decision': planned, 'reason': w.word,
            'partner': NULL::VARCHAR, 'distance': NULL::INTEGER
        }}] ELSE [] END
        || [{{
            'asset': shard_asset, 'version': v2.version, 'decision': status,
            'reason': CASE reason WHEN '' THEN '{stored}' ELSE reason END,
            'partner': NULL::VARCHAR, 'distance': NULL::INTEGER
        }}]
        || CASE WHEN decision IS NOT NULL THEN [{{
            'asset': decided_asset, 'version': v3.version, 'decision': decision, 'reason': decision_reason,
            'partner': partner, 'distance': distance
        }}] ELSE [] END AS decisions
    FROM joined AS j LEFT JOIN words AS w USING (planned)
    LEFT JOIN versions AS v1 ON v1.asset = plan_asset
    LEFT JOIN versions AS v2 ON v2.asset = shard_asset
    LEFT JOIN versions AS v3 ON v3.asset = decided_asset
    ORDER BY split, id
) TO '{to}' (FORMAT parquet, COMPRESSION zstd)
"""


def duckdb_ledger(work: Path) -> dict[str, float]:
    """The ledger in SQL, decisions included."""
    import duckdb

    store = store_of(work)
    read = {
        name: f"read_parquet('{work}/store/{table.path}')"
        for name, table in {
            "catalog": IMAGE_CATALOG,
            "train": TRAIN_METADATA,
            "index": INDEX_METADATA,
            "test": TEST_METADATA,
            "competition": COMPETITION_TRAIN,
            "plan": FILL_PLAN,
            "deduped": DEDUPED_MANIFEST,
            "extra": TRAIN_EXTRA,
            "attribution": TRAIN_ATTRIBUTION,
            "manifest": TRAIN_MANIFEST,
        }.items()
    }
    words = pa.table({"planned": list(PLANNED), "word": [word for _, word in PLANNED.values()]})

    def join() -> int:
        assets = list(INPUTS)
        for split in SPLITS:
            assets += [f"{split}_images/{path.stem}" for path in (work / f"store/images/{split}").glob("*.parquet")]
        receipts = {asset: find_receipt(store, asset) for asset in assets}
        digests = [receipt and receipt.digest[:VERSION_DIGITS] for receipt in receipts.values()]
        versions = pa.table({"asset": assets, "version": digests})
        query = _DUCKDB.format(**read, missing=ABSENT_REASON, stored=STORED_REASON, to=work / OTHERS_FILES[DUCKDB])
        with duckdb.connect() as database:
            database.execute("SET enable_progress_bar = false")
            database.register("words", words)
            database.register("versions", versions)
            database.execute(query).fetchall()
        return pq.read_metadata(work / OTHERS_FILES[DUCKDB]).num_rows

    return timed(join)


def different(work: Path, file: str) -> list[str]:
    """The ledger's columns that another way's file has otherwise."""
    path = work / file
    found = []
    for name in pq.read_schema(path).names:
        kind = IMAGE_LEDGER.schema.field(name).type
        ours = read_table(store_of(work), IMAGE_LEDGER, [name])[name]
        theirs = pq.read_table(path, columns=[name])[name]
        if kind == DECISIONS:
            theirs = pa.chunked_array([_decisions(chunk) for chunk in theirs.chunks], kind)
        if not ours.equals(theirs.cast(kind)):
            found.append(name)
    return found


def _decisions(lists: pa.ListArray) -> pa.ListArray:
    """Lists of decisions with their values' types and order."""
    fields = list(DECISIONS.value_type)
    flat = lists.flatten()
    values = pa.StructArray.from_arrays([flat.field(f.name).cast(f.type) for f in fields], fields=fields)
    offsets = np.concatenate([[0], np.cumsum(pc.list_value_length(lists).to_numpy())])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def steps() -> dict[str, Callable[[Path], dict[str, float]]]:
    """What is measured in processes of their own, in an order in which each has what it needs."""
    found: dict[str, Callable[[Path], dict[str, float]]] = {
        "train_manifest": make_manifest,
        "image_ledger": make_ledger,
        "its check of the schema": check_schema,
        "its check that it adds up": check_balance,
        PANDAS: pandas_ledger,
    }
    if importlib.util.find_spec("duckdb"):
        found[DUCKDB] = duckdb_ledger
    return found


def asking() -> dict[str, Callable[[Path, list[str]], dict[str, float]]]:
    """Ways of asking for ids."""
    return {"why of an id": ask, "the command glr why": lambda work, ids: ask_by_command(work, ids[0])}


def report(measured: dict[str, dict[str, float]]) -> str:
    """The table of steps, and the other ways beside ours."""
    rows = []
    for step, found in measured.items():
        told = f"{found['MB']:,.0f} MB" if "MB" in found else ""
        told = f"{found['first, wall s']:,.2f} s the first" if "first, wall s" in found else told
        times = (f"{found[name]:,.2f}" for name in ("wall s", "CPU s"))
        rows.append([step, f"{found['rows']:,.0f}", *times, f"{found['peak MB']:,.0f}", told])
    ours = measured["image_ledger"]
    compared = [
        [step, *(f"{measured[step][name] / ours[name]:.2f}" for name in ("wall s", "CPU s", "peak MB"))]
        for step in OTHERS_FILES
        if step in measured
    ]
    return "\n".join(
        [
            markdown(("step", "rows", "wall s", "CPU s", "peak MB", ""), rows),
            markdown(("other way", "its wall by ours", "its CPU by ours", "its peak by ours"), compared),
        ]
    )


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", type=float, default=1.0, help="part of GLDv2's size")
    parser.add_argument("--step", choices=["inputs", "ids", "compare", *steps(), *asking()], help=argparse.SUPPRESS)
    parser.add_argument("--ids", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="folder to work in; by default one that is removed afterwards")
    arguments = parser.parse_args()
    if arguments.step:
        print(json.dumps(_step(arguments.step, arguments.work, arguments.scale, arguments.ids)))
        return
    print(machine(), f"{GLDV2.scaled(arguments.scale)}\n", sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="glr-ledger-", dir=arguments.work) as work:

        def step(name: str, *more: str) -> Any:
            return in_a_process(MODULE, "--step", name, "--work", work, *more, environment=THREADS)

        step("inputs", "--scale", str(arguments.scale))
        measured = {name: step(name) for name in steps()}
        ids = step("ids")
        measured |= {name: step(name, "--ids", *ids) for name in asking()}
        wrong = step("compare")
    assert not wrong, f"the ways differ in {wrong}"
    print(report(measured), end="")


def _step(step: str, work: Path, scale: float, ids: list[str]) -> Any:
    special: dict[str, Callable[[], Any]] = {
        "inputs": lambda: write_inputs(work, scale),
        "ids": lambda: asked_ids(work),
        "compare": lambda: {
            way: wrong
            for way, file in OTHERS_FILES.items()
            if (work / file).exists() and (wrong := different(work, file))
        },
    }
    if step in special:
        return special[step]()
    return asking()[step](work, ids) if step in asking() else steps()[step](work)


if __name__ == "__main__":
    main()
