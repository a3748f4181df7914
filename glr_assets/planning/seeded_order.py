"""A random order of images that depends on their ids and a seed alone, never on the order they came in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def seeded_hash(ids: pa.Array | pa.ChunkedArray, seed: int, purpose: str) -> npt.NDArray[np.uint64]:
    """A 64-bit hash of each id [n], another for each seed and purpose.

    It is SipHash-2-4 keyed by both and mixed once more as SplitMix64 does, as pandas hashes strings. Sorting by it,
    and by id where two are equal, gives the order.
    """
    from hashlib import blake2b

    from pandas.util import hash_array

    key = blake2b(f"{purpose}:{seed}".encode(), digest_size=8).hexdigest()
    values = np.asarray(ids.to_pylist(), dtype=object)
    return hash_array(values, hash_key=key, categorize=False) if len(values) else np.zeros(0, np.uint64)
