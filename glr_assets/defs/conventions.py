"""What the assets have in common: who owns them, and what work on a GPU asks of a cluster."""

from __future__ import annotations

from typing import Any

import dagster as dg

from glr_assets.defs.results import columns_of
from glr_assets.tables import Table

OWNERS = ["team:landmark-data"]
#: Naming a pool does not limit it: `infra/bootstrap.sh` sets the limit of the pool in the instance.
GPU_POOL = "gpu"
GPU_TAGS: dict[str, Any] = {
    "dagster-k8s/config": {
        "container_config": {"resources": {"limits": {"nvidia.com/gpu": "1"}}},
    },
}


def table_asset(table: Table | None, *, group: str, code_version: str, kinds: set[str], **more: Any) -> Any:
    """`dg.asset` with the owners, and with the columns, the path and the grain of the table that it writes."""
    metadata: dict[str, Any] = {}
    if table is not None:
        metadata = {"dagster/column_schema": columns_of(table), "path": table.path, "grain": table.grain}
        kinds = kinds | {"parquet"}
    return dg.asset(group_name=group, code_version=code_version, kinds=kinds, owners=OWNERS, metadata=metadata, **more)
