"""Versions of what an ingested shard is made by, kept apart, so that a change needs no more than it concerns.

- `MEMBERS`: another pass over the same shard would list other members, or other places of them: it is read whole again.
- Ways of making and hashing pixels (`pixels.py`): the images that were made that way are read again, each by its range,
  and so are those that no way could decode.
- `INDEX`: rows say something else of the same members and images: nothing of the source is read, nothing decoded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from glr_assets.images.pixels import PIXELS_VERSION

MEMBERS: Final = "members-2"
INDEX: Final = "index-3"
#: Of a shard's receipt and of the assets of shards.
CODE_VERSION: Final = f"{MEMBERS};{INDEX};{PIXELS_VERSION}"


@dataclass(frozen=True)
class Versions:
    """The parts of a shard's code version.

    Attributes:
        members: of listing members.
        index: of what rows say.
        ways: of making and hashing pixels, each of them.
    """

    members: str
    index: str
    ways: frozenset[str]

    @classmethod
    def of(cls, code_version: str) -> Versions | None:
        """The parts of a receipt's code version; None where it is of another form."""
        parts = code_version.split(";")
        return cls(parts[0], parts[1], frozenset(parts[2].split(","))) if len(parts) == 3 else None

    def makes(self, pixel_path: str, dhash_path: str) -> bool:
        """Whether pixels made and hashed this way would be made and hashed so again."""
        return {*pixel_path.split("+"), dhash_path} <= self.ways
