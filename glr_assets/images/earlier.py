"""What an earlier run left of a shard: the index of all its members and the images it stored.

It is relied on where it is of the same source bytes; another plan, other limits or another version of the code then
need only what the earlier run did not store, or stored otherwise.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from glr_assets.errors import MissingInputError, StoreError, TableError
from glr_assets.images.members import is_final
from glr_assets.images.pixels import Refused, StoredImage, stored_size
from glr_assets.images.reader import ImageReader
from glr_assets.images.schemas import IMAGE_INDEX
from glr_assets.images.versions import Versions
from glr_assets.ranges import Place
from glr_assets.receipts import need_receipt
from glr_assets.recipes import Images
from glr_assets.source import Member
from glr_assets.source.base import Split
from glr_assets.store import Store
from glr_assets.tables import read_parts

#: Rows of the index that are held as records at a time.
_ROWS = 2048
#: Values of `[images]` by which an image is refused, or stored smaller, and by which most images stay as they are.
LIMITS = ("max_pixels", "require_md5", "max_side", "max_stored_pixels")


#: Columns of the index that are relied on. What else rows say is said anew, so an index that lacks it serves too.
CARRIED = (
    *("id", "status", "reason", "member", "kind"),
    *("source_path", "source_offset", "source_size", "source_xxh3"),
    *("source_format", "source_width", "source_height"),
    *("stored_offset", "stored_size", "stored_xxh3"),
    *("pixel_path", "width", "height", "sharpness", "dhash", "dhash_path"),
)


class OutdatedError(Exception):
    """What an earlier run left is not as its index says."""


@dataclass(frozen=True)
class EarlierRow:
    """One row of the earlier index."""

    values: Mapping[str, Any]

    @property
    def member(self) -> Member:
        """The member, without its bytes."""
        value = self.values
        place = self.place
        return Member(value["member"], value["kind"], place.name, place.offset, place.size, None)

    @property
    def place(self) -> Place:
        """Where its bytes lie in the source."""
        return Place(self.values["source_path"], self.values["source_offset"], self.values["source_size"])

    @property
    def xxh3(self) -> int | None:
        """Digest of its bytes; None where they were not read."""
        return self.values["source_xxh3"]

    @property
    def is_stored(self) -> bool:
        """Whether its image was stored."""
        return bool(self.values["status"] == "stored")

    @property
    def is_repeated(self) -> bool:
        """Whether it was decoded well, and another member of that id had been stored."""
        return bool(self.values["status"] == "skipped" and self.values["reason"].startswith("repeated id"))

    @property
    def refused(self) -> Refused:
        """Why it failed."""
        return Refused(self.values["reason"])


class Earlier:
    """An earlier run's index and stored images, and how far they hold for a new run."""

    def __init__(
        self,
        store: Store,
        split: Split,
        shard: str,
        *,
        recipe: Images,
        same_limits: bool,
        versions: Versions,
        same_ways: bool,
    ) -> None:
        self._store, self._split, self._shard = store, split, shard
        self._reader = ImageReader.of_shard(store, split, shard)
        self._recipe = recipe
        self._versions = versions
        #: Whether an image that could not be stored would end as it did.
        self._ends_alike = same_limits and same_ways

    def rows(self) -> Iterator[EarlierRow]:
        """The rows of the index in their order, read as they are taken.

        Raises:
            OutdatedError: the index cannot be read.
        """
        try:
            split, shard = self._split, self._shard
            for part in read_parts(self._store, IMAGE_INDEX, CARRIED, most_rows=_ROWS, split=split, shard=shard):
                yield from map(EarlierRow, part.to_pylist())
        except (MissingInputError, TableError) as error:
            raise OutdatedError(str(error)) from error

    def settles(self, row: EarlierRow, retry_failed: bool) -> bool:
        """Whether what became of a member that is wanted again is known without reading it."""
        if row.is_stored:
            source = row.values["source_width"], row.values["source_height"]
            stored = row.values["width"], row.values["height"]
            if not self._versions.makes(row.values["pixel_path"], row.values["dhash_path"]):
                return False
            return bool(math.prod(source) <= self._recipe.max_pixels and stored_size(source, self._recipe) == stored)
        if row.is_repeated:
            return self._ends_alike
        again = retry_failed and not is_final(row.refused.reason)
        tried = row.values["status"] == "failed" and row.xxh3 is not None
        return tried and self._ends_alike and not again

    def images(self, rows: Iterable[EarlierRow]) -> Iterator[StoredImage]:
        """The stored images of these rows, in their order.

        Raises:
            OutdatedError: one is not there, or not as it was stored.
        """
        waiting: deque[EarlierRow] = deque()

        def ids() -> Iterator[str]:
            for row in rows:
                waiting.append(row)
                yield row.values["id"]

        data = self._reader.read_many(ids())
        while True:
            try:
                jpeg = next(data)
            except StopIteration:
                return
            except (StoreError, MissingInputError) as error:
                raise OutdatedError(str(error)) from error
            value = waiting.popleft().values
            yield StoredImage(
                jpeg,
                (value["width"], value["height"]),
                (value["source_width"], value["source_height"]),
                value["source_format"],
                value["dhash"],
                value["sharpness"],
                value["pixel_path"],
                value["dhash_path"],
            )


def find_earlier(
    store: Store, split: Split, shard: str, source_digest: str, parameters: Mapping[str, Any], code_version: str
) -> Earlier | None:
    """What is left of an earlier run over the same bytes that listed members the same way; None where there is none."""
    name = f"{split}_images/{shard}"
    try:
        receipt = need_receipt(store, name)
    except MissingInputError:
        return None
    earlier, wanted = dict(receipt.parameters), dict(parameters)
    same_limits = [earlier.pop(limit, None) for limit in LIMITS] == [wanted.pop(limit, None) for limit in LIMITS]
    before, versions = Versions.of(receipt.code_version), Versions.of(code_version)
    if before is None or versions is None or before.members != versions.members:
        return None
    if receipt.inputs.get(f"source:{split}/{shard}") != source_digest or earlier != wanted:
        return None
    try:
        recipe = Images.model_validate({key: value for key, value in parameters.items() if key in Images.model_fields})
        same_ways = before.ways == versions.ways
        return Earlier(
            store, split, shard, recipe=recipe, same_limits=same_limits, versions=versions, same_ways=same_ways
        )
    except (MissingInputError, TableError):
        return None
