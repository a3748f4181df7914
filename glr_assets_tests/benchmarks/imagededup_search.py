"""imagededup's own search for near-duplicates by hash, without the libraries that only its other methods need.

Its packages import torchvision (for CNN features) and scikit-learn (to compare these) as they load. Neither takes part
in comparing hashes: the packages' own modules are loaded here without running the `__init__` of those that import
torchvision, and scikit-learn's place is held while they load.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

#: `search_method` of `find_duplicates` by the name of the way; the first is its default.
METHODS = {"brute force": "brute_force_cython", "BK-tree": "bktree"}
_LIGHT = ("imagededup.methods", "imagededup.utils")
_UNUSED = ("sklearn", "sklearn.metrics", "sklearn.metrics.pairwise")


def installed() -> bool:
    """Whether imagededup is there."""
    return importlib.util.find_spec("imagededup") is not None


def hashing() -> Any:
    """Its module `imagededup.methods.hashing`, quiet."""
    loaded = sys.modules.get("imagededup.methods.hashing")
    if loaded is not None:
        return loaded
    folder = Path(importlib.import_module("imagededup").__file__ or "").parent
    for name in _LIGHT:
        package = ModuleType(name)
        package.__path__ = [str(folder / name.split(".")[1])]
        sys.modules[name] = package
    held = [] if importlib.util.find_spec("sklearn") else list(_UNUSED)
    sys.modules.update({name: ModuleType(name) for name in held})
    if held:
        sys.modules[held[-1]].cosine_similarity = None  # type: ignore[attr-defined]
    try:
        found = importlib.import_module("imagededup.methods.hashing")
    finally:
        for name in held:
            del sys.modules[name]
    for name in ("imagededup.methods.hashing", "imagededup.handlers.search.retrieval"):
        sys.modules[name].logger.disabled = True  # type: ignore[attr-defined]
    return found


def near_duplicates(
    hashes: npt.NDArray[np.uint64], bits: int, method: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Rows and their near-duplicates' rows, as its `find_duplicates` finds them for hashes in one worker.

    The worker is a process, which it starts also where it is asked for none.
    """
    names = {f"{value:016x}-{row}": row for row, value in enumerate(hashes.tolist())}
    encoded = {name: name.partition("-")[0] for name in names}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # that no image is encoded
        found = (
            hashing()
            .DHash(verbose=False)
            .find_duplicates(
                encoding_map=encoded, max_distance_threshold=bits, search_method=method, num_dist_workers=1
            )
        )
    pairs = [(names[name], names[other]) for name, others in found.items() for other in others]
    rows, others = np.array(pairs, np.int64).reshape(-1, 2).T
    return rows, others
