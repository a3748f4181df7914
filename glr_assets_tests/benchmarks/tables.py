"""Tables and plans at GLDv2's size: every asset made of tables alone, beside pandas as the earlier system and duckdb.

Writes the ten CSVs of `full_size`, then makes each asset, and the same by other ways, in a process of its own: wall and
CPU seconds and the peak of memory, medians of `--rounds` interleaved rounds. Imports are not timed. All ways of
planning must find the same number of extras. What another way leaves out is said in its docstring; ours also checks
and hashes what it reads and writes. Prints Markdown with the targets:
`python -m glr_assets_tests.benchmarks.tables`, or with `--scale 0.01` a hundredth of the size.

duckdb is measured where it is installed (extra `bench`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import pyarrow as pa
from pyarrow import csv as arrow_csv

from glr_assets.metadata import tables
from glr_assets.planning.class_counts import make_class_counts
from glr_assets.planning.fill_plan import make_fill_plan
from glr_assets.planning.fill_potential import make_fill_potential
from glr_assets.planning.schemas import FILL_PLAN
from glr_assets.receipts import Made
from glr_assets.recipes import Fill
from glr_assets.source import open_source
from glr_assets.source.layout import TABLE_PATHS
from glr_assets.store import Store
from glr_assets.tables import read_table
from glr_assets_tests.benchmarks.full_size import GLDV2, train_images, write_bucket
from glr_assets_tests.benchmarks.measure import in_a_process, machine, markdown, timed, verdict

MODULE = "glr_assets_tests.benchmarks.tables"
RECIPE = Fill()
KAGGLE_CSV = "kaggle.csv"
"""The competition's own train.csv, `id,landmark_id`, which the earlier system starts from."""
METADATA = (
    *("train_metadata", "competition_train", "train_attribution", "landmark_labels"),
    *("index_metadata", "test_metadata", "recognition_solution", "retrieval_solution"),
)
PLANNING = ("class_counts", "fill_potential", "fill_plan")
#: Arrow has as many threads as this says: the targets are of wall seconds, as a user waits.
THREADS = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}
TO_PLAN = ("train_metadata", "competition_train", "class_counts", "fill_plan")
COMPARED: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("pandas: train.csv to Parquet", ("train_metadata",)),
    ("duckdb: train.csv to Parquet", ("train_metadata",)),
    ("pandas as the seed: plan from CSV", TO_PLAN),
    ("pandas vectorised: plan from CSV", TO_PLAN),
    ("duckdb: plan from CSV", TO_PLAN),
    ("pandas as the seed: plan from CSV", ("fill_plan",)),
    ("duckdb: plan from Parquet", ("fill_plan",)),
)
SECONDS_OF_TABLE, SECONDS_OF_PLAN, MB_OF_PLAN, MB_OF_ANY = 6, 1, 700, 2000


def write_inputs(work: Path, scale: float) -> None:
    """The bucket, and the competition's set as Kaggle has it."""
    size = GLDV2.scaled(scale)
    write_bucket(work / "bucket", size)
    train = train_images(size)
    kept = pa.array(train.competition)
    data = pa.table({"id": train.ids.filter(kept), "landmark_id": pa.array(train.landmark_ids).filter(kept)})
    options = arrow_csv.WriteOptions(quoting_style="none")
    arrow_csv.write_csv(data, work / KAGGLE_CSV, options)


def ours(asset: str, work: Path) -> dict[str, float]:
    """One asset through its own function, anew."""
    store, source = Store(str(work / "store")), open_source(str(work / "bucket"))
    store.remove(f"receipts/{asset}.json")
    makers: dict[str, Callable[[], Made]] = {
        "class_counts": lambda: make_class_counts(store),
        "fill_potential": lambda: make_fill_potential(store, RECIPE.threshold),
        "fill_plan": lambda: make_fill_plan(store, RECIPE, 0),
    }
    import pandas.util  # noqa: F401

    make = makers.get(asset) or partial(getattr(tables, f"make_{asset}"), source, store)
    found = timed(lambda: int(make().receipt.summary["rows"] or 0))
    return found | ({"extras": extras(store)} if asset == "fill_plan" else {})


def extras(store: Store) -> int:
    """Planned extras, without reserves."""
    return read_table(store, FILL_PLAN, ["role"])["role"].to_pylist().count("extra")


def seed_plan(work: Path) -> dict[str, float]:
    """As the earlier system does it (000): both CSVs, dicts and sets of them, a loop over the images.

    Its order is that of the shards; here it is that of train.csv. It has no reserves and writes nothing.
    """
    import pandas as pd

    def plan() -> int:
        original = pd.read_csv(work / KAGGLE_CSV, dtype={"id": str})
        landmarks = set(original["landmark_id"].unique())
        count_of = original.groupby("landmark_id").count().squeeze().to_dict()
        original_ids = set(original["id"])
        full = pd.read_csv(work / "bucket" / TABLE_PATHS["train"], dtype={"id": str})
        landmark_of = full[["id", "landmark_id"]].set_index("id").squeeze().to_dict()
        found = 0
        for image_id, landmark_id in landmark_of.items():
            if landmark_id in landmarks and image_id not in original_ids and count_of[landmark_id] < RECIPE.threshold:
                count_of[landmark_id] += 1
                found += 1
        return found

    found = timed(plan)
    return found | {"extras": found["rows"]}


def pandas_plan(work: Path) -> dict[str, float]:
    """The same with pandas' columns: order-free by a seeded hash, with reserves, written as Parquet."""
    import pandas as pd

    def plan() -> int:
        original = pd.read_csv(work / KAGGLE_CSV, dtype={"id": str})
        full = pd.read_csv(
            work / "bucket" / TABLE_PATHS["train"], dtype={"id": str}, usecols=["id", "landmark_id"]
        ).drop_duplicates()
        need = RECIPE.threshold - original["landmark_id"].value_counts()
        need = need[need > 0]
        rows = full[full["landmark_id"].isin(need.index) & ~full["id"].isin(original["id"])].copy()
        rows["hash"] = pd.util.hash_array(rows["id"].to_numpy(dtype=object), categorize=False)
        rows = rows.sort_values(["landmark_id", "hash", "id"])
        rows["rank"] = rows.groupby("landmark_id").cumcount()
        rows["need"] = rows["landmark_id"].map(need)
        rows = rows[rows["rank"] < rows["need"] + RECIPE.reserves]
        rows.to_parquet(work / "pandas_plan.parquet")
        return int((rows["rank"] < rows["need"]).sum())

    found = timed(plan)
    return found | {"extras": found["rows"]}


_DUCKDB_PLAN = """
COPY (
    WITH need AS (
        SELECT landmark_id, {threshold} - count(*) AS need FROM {original} GROUP BY 1 HAVING count(*) < {threshold}
    ),
    ranked AS (
        SELECT id, landmark_id, need, row_number() OVER (PARTITION BY landmark_id ORDER BY hash(id), id) - 1 AS rank
        FROM {full} AS f JOIN need USING (landmark_id)
        WHERE NOT EXISTS (SELECT 1 FROM {original} AS o WHERE o.id = f.id)
    )
    SELECT *, rank < need AS extra FROM ranked WHERE rank < need + {reserves} ORDER BY landmark_id, rank
) TO '{plan}' (FORMAT parquet, COMPRESSION zstd)
"""


def duckdb_plan(work: Path, *, parquet: bool) -> dict[str, float]:
    """The same in SQL, of the CSVs or of the Parquet that ours wrote."""
    import duckdb

    if parquet:
        sets = [f"read_parquet('{work}/store/metadata/{asset}.parquet')" for asset in METADATA[:2]]
    else:
        types = "types={'id': 'VARCHAR'}"
        sets = [f"read_csv('{path}', {types})" for path in (work / "bucket" / TABLE_PATHS["train"], work / KAGGLE_CSV)]
    plan = work / "duckdb_plan.parquet"
    query = _DUCKDB_PLAN.format(
        full=sets[0], original=sets[1], plan=plan, threshold=RECIPE.threshold, reserves=RECIPE.reserves
    )
    with duckdb.connect() as database:
        database.execute("SET enable_progress_bar = false")
        found = timed(lambda: len(database.execute(query).fetchall()))
        count = database.execute(f"SELECT count(*), count(*) FILTER (extra) FROM '{plan}'").fetchone()
    assert count is not None
    return found | {"rows": count[0], "extras": count[1]}


def pandas_table(work: Path) -> dict[str, float]:
    """train.csv as Parquet sorted by id, repeated rows dropped; contradictions are not looked for."""
    import pandas as pd

    def convert() -> int:
        data = pd.read_csv(work / "bucket" / TABLE_PATHS["train"], dtype={"id": str}, keep_default_na=False)
        data = data.drop_duplicates().sort_values("id")
        data.to_parquet(work / "pandas.parquet", compression="zstd", index=False)
        return len(data)

    return timed(convert)


def duckdb_table(work: Path) -> dict[str, float]:
    """The same in SQL."""
    import duckdb

    with duckdb.connect() as database:
        database.execute("SET enable_progress_bar = false")
        found = timed(
            lambda: len(
                database.execute(
                    f"COPY (SELECT DISTINCT * FROM read_csv('{work / 'bucket' / TABLE_PATHS['train']}', "
                    f"types={{'id': 'VARCHAR'}}) ORDER BY id) TO '{work / 'duckdb.parquet'}' "
                    "(FORMAT parquet, COMPRESSION zstd)"
                ).fetchall()
            )
        )
        count = database.execute(f"SELECT count(*) FROM '{work / 'duckdb.parquet'}'").fetchone()
    assert count is not None
    return found | {"rows": count[0]}


def seed_potential(work: Path) -> dict[str, float]:
    """The potential of thresholds 0 to 100 as the earlier system does it (000), without supply or picture."""
    import pandas as pd

    original = pd.read_csv(work / KAGGLE_CSV, dtype={"id": str})

    def potential() -> int:
        count_of = original.groupby("landmark_id").count().squeeze().to_dict()
        return len([sum(max(0, n - count) for count in count_of.values()) for n in range(101)])

    return timed(potential)


def steps() -> dict[str, Callable[[Path], dict[str, float]]]:
    """What is measured, in the order in which each needs what is before it."""
    found: dict[str, Callable[[Path], dict[str, float]]] = {
        asset: partial(ours, asset) for asset in (*METADATA, *PLANNING)
    }
    found |= {"pandas: train.csv to Parquet": pandas_table, "pandas as the seed: potential": seed_potential}
    found |= {"pandas as the seed: plan from CSV": seed_plan, "pandas vectorised: plan from CSV": pandas_plan}
    if importlib.util.find_spec("duckdb"):
        found |= {
            "duckdb: train.csv to Parquet": duckdb_table,
            "duckdb: plan from CSV": partial(duckdb_plan, parquet=False),
            "duckdb: plan from Parquet": partial(duckdb_plan, parquet=True),
        }
    return found


def report(measured: dict[str, dict[str, float]]) -> str:
    """The table of steps, and the targets beside what was reached."""
    columns = ("rows", "wall s", "CPU s", "peak MB")
    rows = [
        [step, *(f"{found[c]:,.2f}" if c.endswith(" s") else f"{found[c]:,.0f}" for c in columns)]
        for step, found in measured.items()
    ]
    table, plan = measured["train_metadata"], measured["fill_plan"]
    counted = table["wall s"] + measured["class_counts"]["wall s"]
    largest = max(measured[asset]["peak MB"] for asset in (*METADATA, *PLANNING))
    told = [
        ("train.csv to Parquet and class counts, wall s", counted, SECONDS_OF_TABLE),
        ("fill plan from Parquet, wall s", plan["wall s"], SECONDS_OF_PLAN),
        ("fill plan from Parquet, peak MB", plan["peak MB"], MB_OF_PLAN),
        ("any of these assets, peak MB", largest, MB_OF_ANY),
    ]
    targets = [[name, f"{value:,.2f}", f"{most:,}", verdict(value, most, at_least=False)] for name, value, most in told]
    compared = []
    for other, assets in COMPARED:
        if other in measured:
            cpu = sum(measured[asset]["CPU s"] for asset in assets)
            peak = max(measured[asset]["peak MB"] for asset in assets)
            theirs = measured[other]
            compared.append(
                [other, " + ".join(assets), f"{theirs['CPU s'] / cpu:.1f}", f"{theirs['peak MB'] / peak:.1f}"]
            )
    return "\n".join(
        [
            markdown(("step", *columns), rows),
            markdown(("target", "reached", "at most", "met"), targets),
            markdown(("other way", "against ours", "its CPU by ours", "its peak by ours"), compared),
        ]
    )


def main() -> None:
    """Print the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--scale", type=float, default=1.0, help="part of GLDv2's size")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--step", choices=["inputs", *steps()], help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help="folder to work in; by default one that is removed afterwards")
    arguments = parser.parse_args()
    if arguments.step == "inputs":
        write_inputs(arguments.work, arguments.scale)
        print("{}")
        return
    if arguments.step:
        print(json.dumps(steps()[arguments.step](arguments.work)))
        return
    print(machine(), f"{GLDV2.scaled(arguments.scale)}\n", sep="\n", flush=True)
    with tempfile.TemporaryDirectory(prefix="glr-tables-", dir=arguments.work) as work:
        in_a_process(MODULE, "--step", "inputs", "--work", work, "--scale", str(arguments.scale))
        rounds = [
            {step: in_a_process(MODULE, "--step", step, "--work", work, environment=THREADS) for step in steps()}
            for _ in range(arguments.rounds)
        ]
    measured = {
        step: {name: median(found[step][name] for found in rounds) for name in rounds[0][step]} for step in rounds[0]
    }
    found = {step: row["extras"] for step, row in measured.items() if "extras" in row}
    assert len(set(found.values())) == 1, f"the ways plan different numbers of extras: {found}"
    print(report(measured), end="")


if __name__ == "__main__":
    main()
