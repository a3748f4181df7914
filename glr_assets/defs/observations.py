"""What was last observed of the roots of the lineage, read back from the instance."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Final

import dagster as dg

from glr_assets.defs.provenance import DATA_VERSION_TAG, version_in

#: Metadata key of the stamp: ETag or time, and size, as the listing has them.
STAMP: Final = "stamp"
#: Observations read back from the instance at once.
_PAGE = 1000


@dataclass(frozen=True)
class Reported:
    """The last observation of a root, or of one partition of it.

    Attributes:
        version: its data version.
        stamp: ETag or time, and size, of the file that was observed.
    """

    version: str
    stamp: str


def last_reports(
    instance: dg.DagsterInstance, asset: str, partitions: Collection[str], *, with_stamps: bool
) -> dict[str | None, Reported]:
    """The last observation of each partition of a root, or under None that of a root without partitions.

    Args:
        instance: has the observations.
        asset: name of the root.
        partitions: keys that are looked up; none of a root without partitions.
        with_stamps: read stamps back; without it they are empty, and no event of a partition is read.
    """
    key = dg.AssetKey(asset)
    if not partitions:
        latest = instance.fetch_observations(key, limit=1).records
        return {None: _reported(latest[0])} if latest else {}
    tags = instance.event_log_storage.get_latest_tags_by_partition(
        key, dg.DagsterEventType.ASSET_OBSERVATION, [DATA_VERSION_TAG], sorted(partitions)
    )
    stamps = _latest_stamps(instance, key) if with_stamps else {}
    found: dict[str | None, Reported] = {}
    for partition, of in tags.items():
        last = stamps.get(partition)
        # A partition that was wiped and observed again has the version of the index, which is the truth.
        known = last is not None and last.version == of[DATA_VERSION_TAG]
        found[partition] = last if last is not None and known else Reported(of[DATA_VERSION_TAG], "")
    return found


#: By the instance's folder and asset the newest observation that was read, and the last one of each partition. Dagster
#: indexes data versions alone, and reading stamps back takes .3 s for a thousand events: later looks read new ones.
_stamps: dict[tuple[str, dg.AssetKey], tuple[dg.EventLogRecord, dict[str, Reported]]] = {}


def _latest_stamps(instance: dg.DagsterInstance, key: dg.AssetKey) -> dict[str, Reported]:
    of = (instance.root_directory, key)
    newest, found = _stamps.get(of, (None, {}))
    records = _observations(instance, key, 0 if newest is None else newest.storage_id - 1)
    first = next(records, None)
    if newest is not None and first != newest:  # the instance was wiped, or is another one in the same folder
        found, records, first = {}, _observations(instance, key, 0), None
    for newest in filter(None, (first, *records)):
        if newest.partition_key is not None:
            found[newest.partition_key] = _reported(newest)
    if newest is not None:
        _stamps[of] = newest, found
    return found


def _observations(instance: dg.DagsterInstance, key: dg.AssetKey, after: int) -> Iterator[dg.EventLogRecord]:
    """The observations of an asset with a higher storage id, the oldest first."""
    records = dg.AssetRecordsFilter(asset_key=key, after_storage_id=after)
    cursor: str | None = None
    more = True
    while more:
        page = instance.fetch_observations(records, limit=_PAGE, cursor=cursor, ascending=True)
        yield from page.records
        cursor, more = page.cursor, page.has_more


def _reported(record: dg.EventLogRecord) -> Reported:
    observation = record.asset_observation
    stamp = observation.metadata.get(STAMP) if observation is not None else None
    return Reported(version_in(record), "" if stamp is None else str(stamp.value))
