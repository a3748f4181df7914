"""Which images stay and why: every reason by a worked example, and any set against a plain computation."""

from __future__ import annotations

import io
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glr_assets.curation.schemas import decision_counts
from glr_assets.recipes import Verification
from glr_assets.tables import problems, write_table
from glr_assets.verification.cleaned_manifest import best_partners, decide
from glr_assets.verification.plan import BEYOND_CAP, COMPARED, TOO_SMALL
from glr_assets.verification.schemas import CLEANED_MANIFEST, VERIFIED_IMAGES, VERIFIED_PAIRS
from glr_assets_tests.images.handmade import identifier

PLAN = pa.schema([("id", pa.string()), ("landmark_id", pa.int64()), ("shard", pa.string()), ("outcome", pa.string())])
RECIPE = Verification(min_class=6, cap=500, keep=100)


def plan_of(outcomes: dict[str, str], landmark: int = 7) -> pa.Table:
    rows = [{"id": name, "landmark_id": landmark, "shard": "003", "outcome": outcomes[name]} for name in outcomes]
    return pa.Table.from_pylist(sorted(rows, key=lambda row: str(row["id"])), PLAN)


def image(name: str, **of: Any) -> dict[str, Any]:
    """A row of `VERIFIED_IMAGES`: one of which nothing verifies it, but for what is said."""
    row = {"id": name, "landmark_id": 7, "stored_xxh3": 1, "reason": "", "tried": 0, "verified": False}
    return row | {"component": None, "degree": None, "chosen": False} | of


def pair(one: str, other: str, inliers: int, threshold: int = 11, refusal: str = "") -> dict[str, Any]:
    row = {"landmark_id": 7, "first": min(one, other), "second": max(one, other), "putative": 2 * inliers}
    row |= {"inliers": inliers, "threshold": threshold, "refusal": refusal, "connecting": False, "model": [0.0] * 6}
    return row | {"accepted": inliers >= threshold and not refusal}


def decided(
    outcomes: dict[str, str], images: list[dict[str, Any]], pairs: list[dict[str, Any]], recipe: Verification = RECIPE
) -> dict[str, dict[str, Any]]:
    found = decide(plan_of(outcomes), VERIFIED_IMAGES.rows(images), best_partners(VERIFIED_PAIRS.rows(pairs)), recipe)
    assert problems(CLEANED_MANIFEST, found.cast(CLEANED_MANIFEST.schema)) == []
    return {row["id"]: row for row in found.to_pylist()}


def test_every_branch_has_its_decision_and_its_reason() -> None:
    verified = {"verified": True, "component": 0}
    images = [
        image("kept", **verified, chosen=True),
        image("also", **verified, chosen=True),
        image("few"),
        image("trap"),
        image("alone"),
        image("broken", stored_xxh3=None, reason="undecodable: its 11 bytes cannot be decoded"),
        image("surplus", **verified, degree=3),
        image("beside", verified=True, component=1),
    ]
    pairs = [
        pair("kept", "also", 25),
        pair("also", "few", 9, 13),
        pair("kept", "few", 8, 11),
        pair("kept", "trap", 31, refusal="matches only in a strip"),
        pair("also", "trap", 10),
        pair("surplus", "also", 44),
        pair("beside", "also", 12, 11, "the same layout"),
        pair("beside", "kept", 3),
    ]
    outcomes = {row["id"]: COMPARED for row in images} | {"small": TOO_SMALL, "many": BEYOND_CAP}
    found = decided(outcomes, images, pairs)
    assert {name: (row["decision"], row["reason"]) for name, row in found.items()} == {
        "kept": ("kept", "verified: 25 inliers with also"),
        "also": ("kept", "verified: 44 inliers with surplus"),
        "few": ("dropped", "not verified: at most 9 inliers with also; wanted are 13"),
        "trap": ("dropped", "not verified, matches only in a strip: with kept"),
        "alone": ("dropped", "not verified, no other image of its landmark has features"),
        "broken": ("failed", "undecodable: its 11 bytes cannot be decoded"),
        "surplus": ("dropped", "verified, but not among the 100 best connected of its landmark"),
        "beside": ("dropped", "verified, but not among the 100 best connected of its landmark"),
        "small": ("dropped", "its landmark has fewer than 6 images"),
        "many": ("dropped", "not among the 500 images of its landmark compared"),
    }
    assert {name: (row["partner"], row["inliers"]) for name, row in found.items()} == {
        "kept": ("also", 25),
        "also": ("surplus", 44),
        "few": ("also", 9),
        "trap": ("kept", 31),
        "alone": (None, None),
        "broken": (None, None),
        "surplus": ("also", 44),
        "beside": ("also", 12),
        "small": (None, None),
        "many": (None, None),
    }
    assert {row["shard"] for row in found.values()} == {"003"}
    assert {row["landmark_id"] for row in found.values()} == {7}
    assert (found["surplus"]["degree"], found["surplus"]["component"]) == (3, 0)
    assert (found["beside"]["degree"], found["beside"]["component"]) == (None, 1)
    assert (found["small"]["degree"], found["small"]["component"]) == (None, None)


def test_the_pair_that_verifies_is_told_though_another_has_more_inliers() -> None:
    """More are wanted of a pair with more putative matches."""
    images = [image("a", verified=True, component=0, chosen=True), image("b"), image("c")]
    pairs = [pair("a", "b", 12, 11), pair("a", "c", 13, 14), pair("b", "c", 13, 14)]
    found = decided(dict.fromkeys("abc", COMPARED), images, pairs)
    assert found["a"]["reason"] == "verified: 12 inliers with b"
    assert found["c"]["reason"] == "not verified: at most 13 inliers with a; wanted are 14"


def test_an_image_whose_best_pair_is_refused_is_told_the_trap() -> None:
    images = [image("one"), image("other"), image("third")]
    pairs = [
        pair("one", "other", 30, refusal="matches only in a strip"),
        pair("one", "third", 40, refusal="the same layout"),
        pair("other", "third", 2),
    ]
    found = decided(dict.fromkeys(("one", "other", "third"), COMPARED), images, pairs)
    assert found["one"]["reason"] == "not verified, the same layout: with third"
    assert (found["one"]["decision"], found["one"]["inliers"]) == ("dropped", 40)
    assert found["other"]["reason"] == "not verified, matches only in a strip: with one"


@pytest.mark.parametrize(
    ("component", "reason"),
    [
        ("largest", "verified, but outside the largest group of its landmark"),
        ("exact", "verified, but not among the 100 best connected of its landmark"),
    ],
)
def test_outside_the_largest_group_an_image_is_dropped_only_where_the_recipe_says_so(
    component: Any, reason: str
) -> None:
    images = [image("in", verified=True, component=0, degree=1), image("out", verified=True, component=2)]
    recipe = RECIPE.model_copy(update={"component": component})
    found = decided(dict.fromkeys(("in", "out"), COMPARED), images, [pair("in", "out", 3)], recipe)
    assert found["out"]["reason"] == reason
    assert found["in"]["reason"] == "verified, but not among the 100 best connected of its landmark"
    kept = [row | {"chosen": True} for row in images]
    found = decided(dict.fromkeys(("in", "out"), COMPARED), kept, [pair("in", "out", 13)], recipe)
    assert {row["decision"] for row in found.values()} == {"kept"}


def test_bounds_of_the_recipe_are_named() -> None:
    recipe = Verification(min_class=3, cap=40, keep=9)
    images = [image("a", verified=True, component=0)]
    found = decided({"a": COMPARED, "b": TOO_SMALL, "c": BEYOND_CAP}, images, [], recipe)
    assert [found[name]["reason"] for name in "abc"] == [
        "verified, but not among the 9 best connected of its landmark",
        "its landmark has fewer than 3 images",
        "not among the 40 images of its landmark compared",
    ]


def test_no_images_at_all_are_no_error() -> None:
    assert decided({}, [], []) == {}
    found = decided({"a": TOO_SMALL}, [], [])
    assert found["a"]["decision"] == "dropped"


IDS = [identifier(number) for number in range(8)]
pairs_of_ids = st.dictionaries(
    st.tuples(st.sampled_from(IDS), st.sampled_from(IDS)).filter(lambda names: names[0] < names[1]),
    st.tuples(st.integers(0, 20), st.integers(11, 14), st.sampled_from(["", "", "a strip", "a layout"])),
    max_size=20,
)


def rank(row: dict[str, Any], partner: str) -> tuple[object, ...]:
    return not row["accepted"], -row["inliers"], partner


@given(pairs_of_ids, st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_the_best_pair_of_each_image_is_that_of_a_plain_computation(
    pairs: dict[tuple[str, str], tuple[int, int, str]], random: Random
) -> None:
    rows = [pair(one, other, inliers, least, why) for (one, other), (inliers, least, why) in pairs.items()]
    table = VERIFIED_PAIRS.rows(rows)
    found = best_partners(table)
    assert found["id"].to_pylist() == sorted({name for names in pairs for name in names})
    for row in found.to_pylist():
        mine = [
            (of, of["second"] if of["first"] == row["id"] else of["first"])
            for of in rows
            if row["id"] in (of["first"], of["second"])
        ]
        of, partner = min(mine, key=lambda one: rank(*one))
        assert (row["partner"], row["inliers"], row["threshold"]) == (partner, of["inliers"], of["threshold"])
        assert (row["accepted"], row["refusal"]) == (of["accepted"], of["refusal"])
    random.shuffle(rows)
    assert best_partners(VERIFIED_PAIRS.rows(rows)).equals(found)
    parts = pa.concat_tables([table.slice(0, len(rows) // 2), table.slice(len(rows) // 2)])
    assert best_partners(parts).equals(found)


KINDS = [COMPARED, COMPARED, COMPARED, TOO_SMALL, BEYOND_CAP]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[dict[str, str], list[dict[str, Any]], list[dict[str, Any]], Verification]:
    """Images of one landmark as verification may leave them: those compared with or without features, and pairs."""
    outcomes = {name: draw(st.sampled_from(KINDS)) for name in IDS}
    compared = [name for name, word in outcomes.items() if word == COMPARED]
    broken = {name for name in compared if draw(st.integers(0, 5)) == 0}
    pairs = [
        pair(one, other, inliers, least, why)
        for (one, other), (inliers, least, why) in draw(pairs_of_ids).items()
        if {one, other} <= set(compared) - broken
    ]
    verified = {name for row in pairs if row["accepted"] for name in (row["first"], row["second"])}
    recipe = Verification(keep=draw(st.integers(1, 9)), component=draw(st.sampled_from(["all", "exact", "largest"])))
    images = []
    for name in compared:
        of = image(name)
        if name in broken:
            of["reason"] = "undecodable: why"
        elif name in verified:
            group = draw(st.integers(0, 2))
            within = group == 0 or recipe.component != "largest"
            of |= {"verified": True, "component": group, "chosen": within and draw(st.booleans())}
        images.append(of)
    return outcomes, images, pairs, recipe


def by_hand(
    name: str, outcome: str, images: dict[str, dict[str, Any]], pairs: list[dict[str, Any]], recipe: Verification
) -> tuple[str, str]:
    of = images.get(name, {})
    mine = [
        (row, row["second"] if row["first"] == name else row["first"])
        for row in pairs
        if name in (row["first"], row["second"])
    ]
    best, partner = min(mine, key=lambda one: rank(*one), default=({}, ""))
    if outcome == TOO_SMALL:
        reason = f"its landmark has fewer than {recipe.min_class} images"
    elif outcome == BEYOND_CAP:
        reason = f"not among the {recipe.cap} images of its landmark compared"
    elif of["reason"]:
        return "failed", of["reason"]
    elif of["chosen"]:
        return "kept", f"verified: {best['inliers']} inliers with {partner}"
    elif of["verified"] and of["component"] > 0 and recipe.component == "largest":
        reason = "verified, but outside the largest group of its landmark"
    elif of["verified"]:
        reason = f"verified, but not among the {recipe.keep} best connected of its landmark"
    elif not mine:
        reason = "not verified, no other image of its landmark has features"
    elif best["refusal"]:
        reason = f"not verified, {best['refusal']}: with {partner}"
    else:
        told = f"{best['inliers']} inliers with {partner}; wanted are {best['threshold']}"
        reason = f"not verified: at most {told}"
    return "dropped", reason


@given(worlds(), st.randoms(use_true_random=False))
@settings(max_examples=200)
def test_any_set_is_decided_as_by_a_plain_computation(
    world: tuple[dict[str, str], list[dict[str, Any]], list[dict[str, Any]], Verification], random: Random
) -> None:
    outcomes, images, pairs, recipe = world
    found = decided(outcomes, images, pairs, recipe)
    of = {row["id"]: row for row in images}
    assert {name: (row["decision"], row["reason"]) for name, row in found.items()} == {
        name: by_hand(name, word, of, pairs, recipe) for name, word in outcomes.items()
    }
    counts = decision_counts(pa.Table.from_pylist(list(found.values())))
    assert sum(counts.values()) == len(outcomes)
    assert counts["kept"] == sum(row["chosen"] for row in images)
    random.shuffle(images)
    again = decide(plan_of(outcomes), VERIFIED_IMAGES.rows(images), best_partners(VERIFIED_PAIRS.rows(pairs)), recipe)
    assert parquet(again) == parquet(pa.Table.from_pylist(list(found.values()), CLEANED_MANIFEST.schema))


def parquet(cleaned: pa.Table) -> bytes:
    file = io.BytesIO()
    write_table(CLEANED_MANIFEST, cleaned.cast(CLEANED_MANIFEST.schema), file)
    return file.getvalue()


def test_ids_of_any_length_find_their_rows() -> None:
    names = ["1e5", "0", "00", "a" * 40, "é"]
    images = [image(name, verified=True, component=0, chosen=True) for name in names]
    rows = [pair("a" * 40, name, 20 + number) for number, name in enumerate(names) if len(name) < 40]
    found = decided(dict.fromkeys(names, COMPARED), images, rows)
    assert {name: row["inliers"] for name, row in found.items()} == {
        "1e5": 20,
        "0": 21,
        "00": 22,
        "é": 24,
        "a" * 40: 24,
    }
    assert {row["decision"] for row in found.values()} == {"kept"}
