"""What every source answers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import IO, Final, Literal, Protocol

from glr_assets.errors import SourceError
from glr_assets.ranges import Place

TableName = Literal[
    "train",
    "train_clean",
    "train_attribution",
    "train_label_to_category",
    "train_label_to_hierarchical",
    "index",
    "index_image_to_landmark",
    "test",
    "recognition_solution",
    "retrieval_solution",
]

Split = Literal["train", "index", "test"]

UNREADABLE: Final = "unreadable file"
"""The kind of a member that a source lists and whose bytes it cannot read now."""
BEHIND_END_MARK: Final = " behind the end mark"
"""The end of the kinds of members that stand behind the end mark of a TAR, where readers of TARs do not look."""
BYTES_BEHIND_END_MARK: Final = f"bytes{BEHIND_END_MARK}"
"""The kind of what stands there and is no TAR."""


@dataclass(frozen=True)
class Member:
    """One entry of a shard, as the shard names it.

    Attributes:
        name: the entry's name, untrusted: never used as a path.
        kind: `file`, `directory`, or what else a TAR can hold (`link`, `device`, …).
        source_path: the file of the source that holds its bytes, relative to the source's root.
        offset: where in that file its bytes begin.
        size: how many bytes it has there; 0 where its kind has none.
        data: the bytes themselves; None where they were not read (no file, or over the size limit). A view keeps
            the block it is a part of in memory (8 MiB) until it is let go.
    """

    name: str
    kind: str
    source_path: str
    offset: int
    size: int
    data: bytes | memoryview | None


class Source(Protocol):
    """A set of photographs in shards, with tables about them."""

    url: str

    def open_table(self, name: TableName) -> IO[bytes] | None:
        """The CSV of that name; None where sources of this layout need not have it and this one has not.

        Raises:
            SourceError: it must be there and is not, or cannot be reached.
        """

    def table_url(self, name: TableName) -> str:
        """Where that CSV lies, for messages."""

    def table_digest(self, name: TableName) -> str:
        """Identifies the content of that CSV; `absent` where there is none."""

    def shards(self, split: Split) -> list[str]:
        """The keys of a split's shards, sorted."""

    def shard_digest(self, split: Split, shard: str, *, require_md5: bool) -> str:
        """Identifies the content of a shard without reading it.

        Raises:
            SourceError: there is no such shard, or no MD5 of it is published and one is required.
        """

    def shard_stamps(self, split: Split) -> dict[str, str]:
        """Each shard of a split with what listings alone tell of it and of its MD5 file: ETag or time, and size.

        Another stamp may be other content; that the content is the same where the stamp is holds as far as times do.
        """

    def shard_stamp(self, split: Split, shard: str) -> str:
        """The same of one shard, without listing the others.

        Raises:
            SourceError: there is no such shard.
        """

    def shard_sizes(self, split: Split) -> dict[str, int]:
        """Each shard of a split with its bytes, by listings; empty where listings do not tell."""

    def table_stamps(self) -> dict[TableName, str]:
        """The CSVs that are there, each with what a look at it tells of its content without reading it."""

    def members(self, split: Split, shard: str, *, require_md5: bool, max_member_bytes: int) -> Iterator[Member]:
        """The members of a shard in its order. Only when the last has been taken is the shard known to be whole.

        Raises:
            SourceError: the shard cannot be reached, is cut, or is not what its MD5 says.
        """

    def read_members(self, places: Iterable[Place]) -> Iterator[bytes | SourceError]:
        """The bytes of members by `source_path`, offset and size, in the order of `places`, several on their way.

        In the stead of a place's bytes stands the SourceError that says why they cannot be had; it is not raised, and
        the places after it come.
        """
