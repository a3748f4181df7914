from __future__ import annotations

from hashlib import blake2b

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.seeded import seeded_hash
from glr_assets_tests.siphash import siphash24, splitmix64

GOLDEN = ["2da7ee7d9aa00586", "846cdc427b13bba6", "e4b7bbf8441c50ea", "27bb2106ec07b6a2"]
IDS = [f"{number:016x}" for number in range(4096)]


def reference(image_id: str, seed: int, purpose: str) -> int:
    key = blake2b(f"{purpose}:{seed}".encode(), digest_size=8).hexdigest().encode()
    return splitmix64(siphash24(key, image_id.encode()))


def test_siphash_of_these_tests_gives_the_vectors_of_its_paper() -> None:
    key = bytes(range(16))
    assert siphash24(key, bytes(range(15))) == 0xA129CA6149BE45E5
    assert siphash24(key, b"") == 0x726FDB47DD0E0E31


def test_values_are_these_whatever_the_version_of_pandas() -> None:
    ids = pa.array(["0000000000000000", "1e5", "deadbeefdeadbeef", "A-_z"])
    assert [f"{value:016x}" for value in seeded_hash(ids, 0, "fill").tolist()] == GOLDEN


@given(st.lists(st.text(st.characters(codec="ascii", exclude_characters="\0"), min_size=1)), st.integers(0, 2**31 - 1))
@settings(max_examples=50, deadline=None)
def test_it_is_siphash_keyed_by_purpose_and_seed_and_mixed(ids: list[str], seed: int) -> None:
    found = seeded_hash(pa.array(ids, pa.string()), seed, "dedupe")
    assert found.dtype == np.uint64
    assert found.tolist() == [reference(image_id, seed, "dedupe") for image_id in ids]


def test_each_id_keeps_its_value_in_any_order_of_rows_and_chunks() -> None:
    straight = dict(zip(IDS, seeded_hash(pa.array(IDS), 7, "fill").tolist(), strict=True))
    mixed = np.random.default_rng(0).permutation(IDS).tolist()
    chunks = pa.chunked_array([mixed[:1000], [], mixed[1000:]], pa.string())
    assert dict(zip(mixed, seeded_hash(chunks, 7, "fill").tolist(), strict=True)) == straight


def test_another_seed_or_purpose_gives_another_order() -> None:
    ids = pa.array(IDS)
    orders = [np.argsort(seeded_hash(ids, *by)) for by in ((0, "fill"), (1, "fill"), (0, "dedupe"))]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        ranks = [np.argsort(orders[number]) for number in (first, second)]
        assert abs(np.corrcoef(*ranks)[0, 1]) < 0.06  # 4 standard errors of 4096 unrelated ranks


def test_values_are_spread_evenly_and_unrelated_to_the_ids_own_order() -> None:
    values = seeded_hash(pa.array(IDS), 0, "fill")
    assert len(set(values.tolist())) == len(IDS)
    counts = np.bincount((values >> np.uint64(60)).astype(int), minlength=16)
    chi_squared = ((counts - 256) ** 2 / 256).sum()
    assert chi_squared < 37.7  # 99.9 % of uniform draws, 15 degrees of freedom
    assert abs(np.corrcoef(np.argsort(np.argsort(values)), np.arange(4096))[0, 1]) < 0.06


def test_no_ids_have_no_values() -> None:
    assert seeded_hash(pa.array([], pa.string()), 0, "fill").shape == (0,)
