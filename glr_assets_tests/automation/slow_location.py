"""The code location, with shards and a catalog that take seconds: long enough to be killed at work."""

import time
from typing import Any

from glr_assets.definitions import defs
from glr_assets.images import catalog, ingest

SHARD_SECONDS = 5.0
CATALOG_SECONDS = 25.0


def _slowed(module: Any, name: str, seconds: float) -> None:
    original = getattr(module, name)

    def slowed(*given: Any, **named: Any) -> Any:
        time.sleep(seconds)
        return original(*given, **named)

    setattr(module, name, slowed)


_slowed(ingest, "ingest_shard", SHARD_SECONDS)
_slowed(catalog, "make_image_catalog", CATALOG_SECONDS)

__all__ = ["defs"]
