"""Where photographs come from: a bucket of GLDv2's shape, or a Kaggle competition folder.

Both answer the same questions: which tables and shards there are, what identifies their content, and the
members of a shard one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glr_assets.source.base import Member, Source, TableName
from glr_assets.source.bucket import BucketSource
from glr_assets.source.kaggle import KaggleSource

__all__ = ["BucketSource", "KaggleSource", "Member", "Source", "TableName", "open_source"]

KAGGLE_SCHEME = "kaggle://"


def open_source(url: str, options: Mapping[str, Any] | None = None) -> Source:
    """The source at `url`: `kaggle:///path` is a competition folder, any other URL a GLDv2-shaped bucket.

    Raises:
        SourceError: nothing is there, it cannot be reached, or it is of no known layout.
    """
    if url.startswith(KAGGLE_SCHEME):
        return KaggleSource(url.removeprefix(KAGGLE_SCHEME))
    return BucketSource(url, options)
