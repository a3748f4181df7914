"""Every file of a finished lineage damaged in every way: it is named, and a repair and a run give its bytes back."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from glr_assets.defs.lineage import Progress, materialise_lineage
from glr_assets.defs.platform import Platform
from glr_assets.integrity import verify
from glr_assets.receipts import need_receipt, receipt_names, receipt_path
from glr_assets_tests.lineage import digests

QUIET = Progress(lambda _: None, lambda *_: None)


def flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def zeroed(data: bytes) -> bytes:
    """Zeros in the place of the 4 KiB in the middle, which some file systems leave after a power cut."""
    first = max(0, len(data) // 2 - 2048)
    zeros = bytes(min(4096, len(data)))
    found = data[:first] + zeros + data[first + len(zeros) :]
    return found if found != data else flipped(data)  # a tail of zeros is whole


DAMAGE: dict[str, Callable[[bytes], bytes | None]] = {
    "a bit": flipped,
    "zeros": zeroed,
    "cut": lambda data: data[: len(data) // 2],
    "deleted": lambda _: None,
}


def apply(path: Path, data: bytes | None) -> None:
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)


@pytest.mark.slow
def test_whatever_is_damaged_is_named_and_made_again(platform: Platform, instance: dg.DagsterInstance) -> None:
    store, settings = platform.open_store(), platform.settings()
    materialise_lineage(settings, instance, QUIET)
    root = Path(store.root)
    before = digests(root)
    owners = {path: name for name in receipt_names(store) for path in need_receipt(store, name).outputs}
    receipts = {receipt_path(name): name for name in receipt_names(store)}
    assert owners.keys() | receipts.keys() == before.keys()
    assert verify(store).whole

    tried = 0
    for path, owner in (owners | receipts).items():
        good = (root / path).read_bytes()
        for damage, change in DAMAGE.items():
            if path in receipts and damage == "deleted":
                continue  # then its files are left over: see below
            if not good:
                continue
            apply(root / path, change(good))
            assert [problem.path for problem in verify(store, [owner]).problems] == [path], damage
            (root / path).write_bytes(good)
            tried += 1
    siblings = itertools.groupby(sorted(owners), key=lambda path: (Path(path).parent, Path(path).suffix))
    of_receipts = itertools.groupby(sorted(receipts), key=lambda path: Path(path).parent)
    for _, group in [*((key, [*paths]) for key, paths in siblings), *((key, [*paths]) for key, paths in of_receipts)]:
        for first, second in itertools.pairwise(group):
            swapped = [(root / path).read_bytes() for path in (first, second)]
            if swapped[0] == swapped[1]:
                continue
            (root / first).write_bytes(swapped[1])
            (root / second).write_bytes(swapped[0])
            named = {(owners | receipts)[path] for path in (first, second)}
            assert {problem.path for problem in verify(store, named).problems} == {first, second}
            (root / first).write_bytes(swapped[0])
            (root / second).write_bytes(swapped[1])
            tried += 1
    assert digests(root) == before
    print(f"{tried} damages named, of {len(before)} files")

    # The receipt of a package names all its files. Those of single files serve one that is being made, and stay away.
    named_by = Counter(path for name in receipt_names(store) for path in need_receipt(store, name).outputs)
    spare = {
        path for path, name in receipts.items() if all(named_by[of] > 1 for of in need_receipt(store, name).outputs)
    }
    assert all(receipts[path].count("/") == 1 for path in spare)

    kinds = list(DAMAGE.items())
    # A receipt and its files are not damaged at once: then nothing can tell of the files.
    rounds = [[*paths][start::2] for paths in (owners, receipts) for start in range(2)]
    for turn, targets in enumerate(rounds):
        damaged = {}
        for number, path in enumerate(targets):
            damage, change = kinds[(number + turn) % len(kinds)]
            good = (root / path).read_bytes()
            if good:
                damaged[path] = damage
                apply(root / path, change(good))
        left_over = root / "images" / "train" / "999.tar"
        left_over.write_bytes(b"of a run that was killed")
        # A receipt that is gone is known by its files, which are left over.
        untold = {path for path, damage in damaged.items() if path in receipts and damage == "deleted"}
        named = {problem.path for problem in verify(store, repair=True).problems}
        assert damaged.keys() - untold <= named
        assert str(left_over.relative_to(root)) in named
        assert not left_over.exists()
        assert verify(store).whole
        materialise_lineage(settings, instance, QUIET)
        after = digests(root)
        assert after == {path: digest for path, digest in before.items() if path not in spare or path in after}
        assert verify(store).whole
        print(f"round {turn + 1}: {len(damaged)} files damaged, {len(named)} named, all made again with their bytes")
