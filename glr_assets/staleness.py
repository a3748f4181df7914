"""What in a store is no longer made from what the store holds: told from receipts alone, whoever wrote them.

A receipt names the digests of its inputs and the version of its code, so it is outdated where one of these has another
digest today, where a partition has appeared or gone since, or where the code has another version. What another recipe
would change is not seen: a run of an asset sees it, and to ask for one is a person's decision.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from glr_assets.ranges import ordered
from glr_assets.receipts import Receipt, digest_of, find_receipt
from glr_assets.store import Store

#: Small files that are asked for at once; a remote store answers each in tens of milliseconds.
REQUESTS = 16
NEVER_MADE = "was never made"


@dataclass(frozen=True)
class Stored:
    """The receipts of assets, and which partitions each is to have.

    Attributes:
        partitions: by asset its partition keys; None of an asset that has no partitions.
        receipts: by name, `asset` or `asset/partition`; only of these partitions.
        code_versions: by asset, what its code is of today; one that is not named is not compared.
    """

    partitions: Mapping[str, Collection[str] | None]
    receipts: Mapping[str, Receipt]
    code_versions: Mapping[str, str] = field(default_factory=dict)

    def names(self, asset: str) -> list[str]:
        """The names of the receipts that an asset is to have."""
        keys = self.partitions[asset]
        return [asset] if keys is None else [f"{asset}/{key}" for key in sorted(keys)]

    def outdated(self, asset: str) -> dict[str, str]:
        """The names of those receipts of an asset that are not there or outdated, each with the reason."""
        found = {name: NEVER_MADE if name not in self.receipts else self._changed(name) for name in self.names(asset)}
        return {name: reason for name, reason in found.items() if reason}

    def digest(self, assets: Iterable[str]) -> str:
        """SHA-256 over all that there is of these assets."""
        names = [name for asset in assets for name in self.names(asset)]
        return digest_of({name: self.receipts[name].digest for name in names if name in self.receipts})

    def _changed(self, name: str) -> str:
        """The code or the first input that is not as the receipt has it, in words."""
        asset = name.partition("/")[0]
        if self.receipts[name].code_version != self.code_versions.get(asset, self.receipts[name].code_version):
            return f"the code of {asset} has changed"
        inputs = self.receipts[name].inputs
        whole: set[str] = set()
        for source, digest in inputs.items():
            asset, _, key = source.partition("/")
            if self.partitions.get(asset, None if key else ()) is None and not key:
                there = self.receipts.get(source)
                if there is not None and there.digest != digest:
                    return f"{source} has changed"
            elif key and self.partitions.get(asset) is not None:
                if source not in self.receipts:
                    return f"{source} is gone"
                if self.receipts[source].digest != digest:
                    return f"{source} has changed"
                whole.add(asset)
        # What is made of one partition reads that partition of others; what has none reads all there are.
        for asset in sorted(whole) if "/" not in name else ():
            added = [source for source in self.names(asset) if source in self.receipts and source not in inputs]
            if added:
                return f"{added[0]} is new" + (f", and {len(added) - 1} more" if len(added) > 1 else "")
        return ""


def read_stored(
    store: Store,
    partitions: Mapping[str, Collection[str] | None],
    code_versions: Mapping[str, str] = MappingProxyType({}),
) -> Stored:
    """The receipts that there are of assets, whatever has become of their files.

    Args:
        store: where they lie.
        partitions: by asset its partition keys; None of an asset that has no partitions.
        code_versions: by asset, what its code is of today.

    Raises:
        StoreError: the store cannot be read.
    """
    wanted = Stored(partitions, {})
    names = [name for asset in partitions for name in wanted.names(asset)]
    found = zip(names, ordered(lambda name: find_receipt(store, name), names, workers=REQUESTS), strict=True)
    return Stored(partitions, {name: receipt for name, receipt in found if receipt is not None}, code_versions)
