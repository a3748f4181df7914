"""What the assets have in common: who owns them, and what work on a GPU asks of a cluster."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from types import MappingProxyType
from typing import Any

import dagster as dg

from glr_assets import dry_run
from glr_assets.defs.column_lineage import column_lineage
from glr_assets.defs.launchpad import launchpad
from glr_assets.defs.links import docs_metadata, recipe_metadata
from glr_assets.defs.recipes import recipe_values, shown_keys
from glr_assets.defs.results import columns_of
from glr_assets.defs.shard_checks import specs
from glr_assets.defs.source import with_stored_shards
from glr_assets.recipes import Execution
from glr_assets.tables import Table

OWNERS = ["team:landmark-data"]
#: Naming a pool does not limit it: `infra/bootstrap.sh` sets the limit of the pool in the instance.
GPU_POOL = "gpu"
#: By it a selection finds what wants a GPU, what goes by shards and what is a table: `tag:"glr/work"="gpu"`.
WORK_TAG = "glr/work"
#: `part` of assets that read a part of a dependency, so that they may be stale though there is nothing to make.
READS_TAG = "glr/reads"
#: A GPU of its own, on a node that has one (the label is that of NVIDIA's GPU feature discovery, the taint what such
#: nodes are kept free by), and the queue that workers with a GPU serve. Memory is that of a loader of 384 px images and
#: a network beside a shard in memory.
GPU_TAGS: dict[str, Any] = {
    "dagster-k8s/config": {
        "container_config": {
            "resources": {
                "requests": {"cpu": "4", "memory": "16Gi"},
                "limits": {"memory": "32Gi", "nvidia.com/gpu": "1"},
            }
        },
        "pod_spec_config": {
            "node_selector": {"nvidia.com/gpu.present": "true"},
            "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        },
    },
    "dagster-celery/queue": "gpu",
}
#: What a partition is called in paths of tables, and the first of each, for examples.
_FIRST = {"shard": "000", "part": "000", "bucket": "00", "group": "00"}


def table_asset(
    table: Table | None,
    *,
    group: str,
    code_version: str,
    kinds: set[str],
    example: str | None = None,
    recipe: Mapping[str, Collection[str]] = MappingProxyType({}),
    deps: Iterable[Any] = (),
    reads_part: bool = False,
    **more: Any,
) -> Any:
    """`dg.asset` with owners, a tag for the work it is, the columns of its table, its checks and an example.

    Args:
        table: what it writes; None where that is no table.
        group: its group in the lineage.
        code_version: of the code that makes it.
        kinds: what it is made with, as the UI shows it.
        example: a command that shows what was made; how its table is read where it has one.
        recipe: by table the keys of the recipe that decide its bytes, its only dependencies among the recipe's; of
            `seed` no key is named.
        deps: the other assets that it is made from.
        reads_part: whether its receipt may hold though a dependency has another data version, because it reads some
            rows of a table, one of several assets, or nothing where a value of the recipe has no effect.
        more: as for `dg.asset`.
    """
    metadata: dict[str, Any] = {}
    if table is not None:
        metadata = {"dagster/column_schema": columns_of(table), "path": table.path, "grain": table.grain}
        kinds = kinds | {"parquet"}
    work = "gpu" if more.get("pool") == GPU_POOL else "tables" if more.get("partitions_def") is None else "shards"
    description = more.pop("description", None)
    deps = with_stored_shards(deps, more.get("partitions_def"))

    def decorated(function: Callable[..., Any]) -> dg.AssetsDefinition:
        name = more.get("name") or function.__name__
        sample = example or ("" if table is None else f'pq.read_table(f"{{GLR_STORE}}/{_example_path(table, name)}")')
        text = description or inspect.getdoc(function)
        lineage = column_lineage(name)
        told = metadata | docs_metadata(group, name)
        if recipe:
            told |= {"recipe": ", ".join(shown_keys(recipe))} | recipe_metadata(recipe)
        return dg.asset(
            group_name=group,
            code_version=code_version,
            kinds=kinds,
            owners=OWNERS,
            tags={WORK_TAG: work} | ({READS_TAG: "part"} if reads_part else {}),
            check_specs=specs(name, more.get("partitions_def")),
            metadata=told if lineage is None else {**told, "dagster/column_lineage": lineage},
            config_schema=launchpad(name, recipe),
            deps=[*deps, *(recipe_values(of, *keys) for of, keys in recipe.items())],
            description=f"{text}\n\nExample: `{sample}`",
            **more,
        )(function)

    return decorated


def _example_path(table: Table, asset: str) -> str:
    split = asset.partition("_")[0]
    return re.sub(r"{(\w+)}", lambda found: split if found[1] == "split" else _FIRST[found[1]], table.path)


def warn_without_gpu(context: dg.AssetExecutionContext, execution: Execution) -> None:
    """Say in the run's log that a network will run on the CPU for want of a GPU; a dry run runs none."""
    if dry_run.current() is not None:
        return
    import torch

    if execution.device == "auto" and not torch.cuda.is_available():
        context.log.warning(
            "no GPU that torch can use was found: this runs on the CPU, many times slower; "
            'set [execution] device = "cuda" to have it fail instead'
        )
