"""The cleaned set: of each image of the set that is cleaned, whether it stays and why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from glr_assets.curation.galleries import Shown, shown_gallery
from glr_assets.curation.schemas import decision_counts
from glr_assets.plots import class_histogram
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Verification
from glr_assets.store import Store
from glr_assets.tables import fixed_width, places, read_table, taken
from glr_assets.verification.plan import BEYOND_CAP, TOO_SMALL, bucket_keys, comparison_plan, set_to_clean
from glr_assets.verification.schemas import CLEANED_MANIFEST, VERIFIED_IMAGES, VERIFIED_PAIRS

CODE_VERSION = "2"
SIZES_PICTURE = "reports/cleaned_manifest.png"
DROPPED_PICTURE = "reports/cleaned_manifest_dropped.jpg"
GROUPS_PICTURE = "reports/cleaned_manifest_components.jpg"
LANDMARKS_SHOWN, IMAGES_SHOWN = 6, 4
_ANY = 2**31 - 1


def best_partners(pairs: pa.Table) -> pa.Table:
    """Of every image that was tried, its best pair: `id, partner, inliers, threshold, accepted, refusal`, sorted by id.

    An accepted pair is better than another, then one of more inliers, be it refused.

    Args:
        pairs: columns `first, second, inliers, threshold, accepted, refusal`.
    """
    same = pairs.select(["inliers", "threshold", "accepted", "refusal"])
    ways = [
        same.append_column("id", pairs[one]).append_column("partner", pairs[other])
        for one, other in (("first", "second"), ("second", "first"))
    ]
    both = pa.concat_tables(ways).combine_chunks()
    ids = fixed_width(both["id"])
    accepted, inliers = both["accepted"].to_numpy(), both["inliers"].to_numpy()
    order = np.lexsort((fixed_width(both["partner"]), -inliers, ~accepted, ids))
    first = np.ones(len(order), bool)
    first[1:] = ids[order][1:] != ids[order][:-1]
    return both.take(pa.array(order[first]))


def decide(images: pa.Table, verified: pa.Table, partners: pa.Table, recipe: Verification) -> pa.Table:
    """`CLEANED_MANIFEST`.

    Args:
        images: `comparison_plan`'s table, sorted by id.
        verified: `VERIFIED_IMAGES` of all buckets.
        partners: `best_partners` of all buckets, sorted by id.
        recipe: the bounds that the reasons name.
    """
    ids = fixed_width(images["id"])
    seen = taken(verified, places(ids, fixed_width(verified["id"])))
    best = taken(partners, places(ids, fixed_width(partners["id"])))
    best_inliers = best["inliers"].cast(pa.string())
    by = pc.binary_join_element_wise("verified: ", best_inliers, " inliers with ", best["partner"], "")
    few = pc.binary_join_element_wise(
        "not verified: at most ", best_inliers, " inliers with ", best["partner"], "; wanted are ",
        best["threshold"].cast(pa.string()), "",
    )  # fmt: skip
    trap = pc.binary_join_element_wise("not verified, ", best["refusal"], ": with ", best["partner"], "")
    alone = "not verified, no other image of its landmark has features"
    unverified = pc.fill_null(pc.if_else(pc.not_equal(best["refusal"], ""), trap, few), alone)
    failed = pc.fill_null(pc.not_equal(seen["reason"], ""), False)
    outside = pc.fill_null(pc.greater(seen["component"], 0 if recipe.component == "largest" else _ANY), False)
    conditions = [
        (pc.equal(images["outcome"], TOO_SMALL), f"its landmark has fewer than {recipe.min_class} images"),
        (pc.equal(images["outcome"], BEYOND_CAP), f"not among the {recipe.cap} images of its landmark compared"),
        (failed, seen["reason"]),
        (pc.fill_null(seen["chosen"], False), by),
        (pc.invert(pc.fill_null(seen["verified"], False)), unverified),
        (outside, "verified, but outside the largest group of its landmark"),
    ]
    kept = pc.fill_null(seen["chosen"], False)
    return pa.table(
        {
            "id": images["id"],
            "landmark_id": images["landmark_id"],
            "shard": images["shard"],
            "decision": pc.if_else(failed, "failed", pc.if_else(kept, "kept", "dropped")),
            "reason": _first(conditions, f"verified, but not among the {recipe.keep} best connected of its landmark"),
            "partner": best["partner"],
            "inliers": best["inliers"],
            "degree": seen["degree"],
            "component": seen["component"],
        }
    )


def _first(conditions: Sequence[tuple[pa.ChunkedArray, object]], otherwise: str) -> pa.ChunkedArray:
    """Of each row what stands beside the first condition it fulfils."""
    said: object = otherwise
    for condition, words in reversed(conditions):
        said = pc.if_else(condition, words, said)
    return said


def make_cleaned_manifest(store: Store, recipe: Verification, seed: int) -> Made:
    """`cleaned_manifest`, with class sizes before and after, dropped beside kept images, and groups of a landmark."""
    keys = bucket_keys(recipe.buckets)

    def build(writer: Writer) -> Summary:
        images = comparison_plan(set_to_clean(store, recipe), recipe, seed)
        verified = pa.concat_tables(read_table(store, VERIFIED_IMAGES, bucket=key) for key in keys)
        wanted = ["first", "second", "inliers", "threshold", "accepted", "refusal"]
        partners = pa.concat_tables(
            best_partners(read_table(store, VERIFIED_PAIRS, wanted, bucket=key)) for key in keys
        )
        cleaned = decide(images, verified, partners.sort_by("id"), recipe)
        writer.table(CLEANED_MANIFEST, cleaned)
        kept = cleaned.filter(pc.equal(cleaned["decision"], "kept"))
        sizes = {"before": _class_sizes(images), "cleaned": _class_sizes(kept)}
        writer.write(SIZES_PICTURE, class_histogram(sizes))
        writer.write(DROPPED_PICTURE, shown_gallery(store, _dropped_beside_kept(cleaned)))
        writer.write(GROUPS_PICTURE, shown_gallery(store, _groups(cleaned)))
        return {
            "requested": images.num_rows,
            **decision_counts(cleaned),
            "landmarks": len(sizes["before"]),
            "landmarks_left": len(sizes["cleaned"]),
        }

    manifest = {} if recipe.manifest == "stored" else need_receipts(store, recipe.manifest)
    inputs = need_receipts(store, "image_catalog", *(f"verified_pairs/{key}" for key in keys)) | manifest
    parameters = {
        "manifest": recipe.manifest,
        "min_class": recipe.min_class,
        "cap": recipe.cap,
        "keep": recipe.keep,
        "component": recipe.component,
        "buckets": recipe.buckets,
        "seed": seed,
    }
    return make(store, "cleaned_manifest", inputs=inputs, parameters=parameters, code_version=CODE_VERSION, build=build)


def _class_sizes(rows: pa.Table) -> np.ndarray:
    return np.unique(rows["landmark_id"].to_numpy(), return_counts=True)[1]


def _dropped_beside_kept(cleaned: pa.Table) -> list[list[Shown]]:
    """Of the landmarks with the most images dropped as unverified, kept ones with the most inliers and dropped ones."""
    unverified = cleaned.filter(pc.starts_with(cleaned["reason"], "not verified"))
    rows = []
    for landmark in _most_frequent(unverified, LANDMARKS_SHOWN):
        of_landmark = pc.equal(cleaned["landmark_id"], landmark)
        kept = cleaned.filter(pc.and_(of_landmark, pc.equal(cleaned["decision"], "kept")))
        dropped = unverified.filter(pc.equal(unverified["landmark_id"], landmark))
        best = [("inliers", "descending"), ("id", "ascending")]
        rows.append(
            [
                *(_shown(row) for row in kept.sort_by(best).slice(0, IMAGES_SHOWN).to_pylist()),
                *(_shown(row) for row in dropped.sort_by("id").slice(0, IMAGES_SHOWN).to_pylist()),
            ]
        )
    return rows


def _shown(row: dict) -> Shown:
    inliers = "no pair" if row["inliers"] is None else f"{row['inliers']} inliers"
    return Shown("train", row["id"], inliers, row["decision"] == "kept")


def _groups(cleaned: pa.Table) -> list[list[Shown]]:
    """The groups of the landmarks that have the most beside their largest: a row a group, the largest first."""
    beside = cleaned.filter(pc.fill_null(pc.greater(cleaned["component"], 0), False))
    rows = []
    for landmark in _most_frequent(beside, 2):
        of_landmark = cleaned.filter(pc.equal(cleaned["landmark_id"], landmark))
        of_landmark = of_landmark.filter(pc.is_valid(of_landmark["component"]))
        for component in range(min(pc.max(of_landmark["component"]).as_py() + 1, LANDMARKS_SHOWN // 2)):
            mine = of_landmark.filter(pc.equal(of_landmark["component"], component)).sort_by("id")
            told = f"{mine.num_rows} connected"
            rows.append(
                [
                    Shown("train", row["id"], told, row["decision"] == "kept")
                    for row in mine.slice(0, 2 * IMAGES_SHOWN).to_pylist()
                ]
            )
    return rows


def _most_frequent(rows: pa.Table, most: int) -> list[int]:
    counted = rows.group_by("landmark_id", use_threads=False).aggregate([([], "count_all")])
    ordered = counted.sort_by([("count_all", "descending"), ("landmark_id", "ascending")])
    return ordered["landmark_id"].slice(0, most).to_pylist()
