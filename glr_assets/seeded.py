"""Chance that repeats: numbers that depend on a seed and on names alone, never on what was drawn before.

What is chosen at random anywhere is chosen by one of these three, so that no order of rows, shards or
workers can change it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pyarrow as pa


def derived_seed(*parts: object) -> int:
    """63 bits (BLAKE2b) that depend on nothing but `parts`: the seed of a generator, or the key of an order."""
    text = "\x1f".join(str(part) for part in parts).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") >> 1


def drawn(seed: int, *parts: object) -> float:
    """A number in [0, 1) that depends on `seed` and `parts` alone (SHA-256)."""
    text = "\0".join(str(part) for part in (seed, *parts))
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:7], "big") / 2**56


def seeded_hash(ids: pa.Array | pa.ChunkedArray, seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each id [n] of a column, another for each seed and purpose.

    It is SipHash-2-4 keyed by both and mixed once more as SplitMix64 does, as pandas hashes strings. Sorting by it,
    and by id where two are equal, gives the order.
    """
    from pandas.util import hash_array

    key = hashlib.blake2b(f"{purpose}:{seed}".encode(), digest_size=8).hexdigest()
    values = np.asarray(ids.to_pylist(), dtype=object)
    return hash_array(values, hash_key=key, categorize=False) if len(values) else np.zeros(0, np.uint64)
