"""A store that is looked at and never changed: each folder is listed once, and small answers are kept."""

from __future__ import annotations

import posixpath
import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Never, TypeVar

from glr_assets.errors import StoreError
from glr_assets.store import Store

#: Requests of a remote store at once.
REQUESTS: Final = 16
T = TypeVar("T")


class SnapshotStore(Store):
    """A view of a store that answers from listings and from what it has read, and refuses every change.

    What is written to the store while the view is in use may show or not. Sizes come from listings, one a folder, so
    whether a thousand files are there costs a request. Use it for minutes, not for hours.

    Raises from every method that changes a `Store`:
        StoreError: the view is read only; report this as a fault.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store.url, store.options)
        self._guard = threading.Lock()
        self._of_key: dict[object, threading.Lock] = {}
        self._kept: dict[object, Any] = {}

    def kept(self, key: object, find: Callable[[], T]) -> T:
        """What `find` gave the first time that this key was asked for; an error is not kept."""
        with self._guard:
            lock = self._of_key.setdefault(key, threading.Lock())
        with lock:
            if key not in self._kept:
                self._kept[key] = find()
            found: T = self._kept[key]
            return found

    def size(self, name: str) -> int | None:
        """Bytes of the file `name` by the listing of its folder, or None where there is none."""
        self.path(name)  # refuses one outside of the store
        clean = posixpath.normpath(name)
        return self.sizes(posixpath.dirname(clean)).get(posixpath.basename(clean))

    def sizes(self, folder: str) -> dict[str, int]:
        """As `Store.sizes`, of the first listing."""
        return self.kept(("sizes", folder), partial(super().sizes, folder))

    def _refuse(self, name: str) -> Never:
        raise StoreError(f"{self.full_url(name)}: would be changed, but this view of the store is read only")

    def writing(self, name: str, *, sync: bool = True) -> Never:
        """Refused."""
        self._refuse(name)

    def locked(self, name: str) -> Never:
        """Refused."""
        self._refuse(name)

    def locked_if_free(self, name: str) -> Never:
        """Refused."""
        self._refuse(name)

    def create(self, name: str, data: bytes) -> bool:
        """Refused."""
        self._refuse(name)

    def remove(self, name: str) -> None:
        """Refused."""
        self._refuse(name)

    def move(self, name: str, to: str) -> None:
        """Refused."""
        self._refuse(name)


def kept_by(store: Store, key: object, find: Callable[[], T]) -> T:
    """What `find` gives; of a snapshot what it gave the first time for this key, so that assets share the work."""
    return store.kept(key, find) if isinstance(store, SnapshotStore) else find()
