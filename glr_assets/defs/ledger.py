"""Group `ledger`: every decision of every stage on every image."""

import dagster as dg

from glr_assets.defs.conventions import table_asset
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of
from glr_assets.ledger import image_ledger as ledger
from glr_assets.ledger.schemas import IMAGE_LEDGER


@table_asset(
    IMAGE_LEDGER,
    group="ledger",
    code_version=ledger.CODE_VERSION,
    kinds={"pyarrow"},
    deps=[*ledger.INPUTS, *ledger.OPTIONAL],
)
def image_ledger(platform: Platform) -> dg.MaterializeResult:
    """One row per image id that any table or shard names, with every decision on it (`glr why ID`)."""
    store = platform.open_store()
    made = ledger.make_image_ledger(store)
    told = dg.MetadataValue.table([dg.TableRecord(row) for row in store.read_json(ledger.REASONS)])
    return result_of(made, store, {"decisions": told})


ASSETS = [image_ledger]
