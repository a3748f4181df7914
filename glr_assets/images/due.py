"""Whether a shard is to be ingested: from its published MD5, its receipt and what is told of its last run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Literal

from glr_assets.errors import DamagedSourceError
from glr_assets.images import versions
from glr_assets.images.catalog import REQUESTS, receipt_name
from glr_assets.images.shard_runs import find_run
from glr_assets.ranges import ordered
from glr_assets.receipts import find_receipt
from glr_assets.recipes import Images
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.store import Store

Due = Literal["done", "wanted", "failed", "unverifiable"]


def due_shards(
    source: Source, store: Store, split: Split, shards: Collection[str], tables: Mapping[str, str], recipe: Images
) -> dict[str, Due]:
    """What is to be done with each of these shards.

    `done`: its receipt is of this content, these tables and this version of the code. `failed`: these bytes were tried
    and failed, so that a retry is to decide. `unverifiable`: no MD5 is published where one is required, as while it is
    being uploaded.
    `wanted`: all others.

    Args:
        source: where the shards are.
        store: where their receipts are.
        split: train, index or test.
        shards: their keys.
        tables: the digests of what decides, besides its bytes, which images of a shard are stored.
        recipe: whether an MD5 is required.

    Raises:
        SourceError: the source cannot be reached.
    """

    def judged(shard: str) -> Due:
        try:
            digest = source.shard_digest(split, shard, require_md5=recipe.require_md5)
        except DamagedSourceError:
            return "unverifiable"
        receipt = find_receipt(store, receipt_name(split, shard))
        inputs = {f"source:{split}/{shard}": digest, **tables}
        if receipt is not None and receipt.inputs == inputs and receipt.code_version == versions.CODE_VERSION:
            return "done"
        run = find_run(store, split, shard)
        return "failed" if run is not None and run.outcome == "failed" and run.source == digest else "wanted"

    keys = sorted(shards)
    return dict(zip(keys, ordered(judged, keys, workers=REQUESTS), strict=True))
