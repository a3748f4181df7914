"""The filter of photographs that show no landmark, in Dagster: shards singly and as a range, the ledger, its checks."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from glr_assets.defs.platform import Platform
from glr_assets.filtering.classifier import make_non_landmark_classifier, open_filter, probabilities
from glr_assets.filtering.examples import gather_examples, photograph_name
from glr_assets.images.reader import ImageReader
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.ledger.schemas import IMAGE_LEDGER
from glr_assets.manifests import kept_images
from glr_assets.openimages.schemas import NON_LANDMARK_FILTER, NON_LANDMARK_SCORES, NON_LANDMARK_VALIDATION
from glr_assets.receipts import Summary, Writer, make, need_receipt
from glr_assets.recipes import load_recipe
from glr_assets.seeded import derived_seed
from glr_assets.tables import read_table
from glr_assets.training.versions import make_embedder
from glr_assets_tests.assets.conftest import Runner
from glr_assets_tests.assets.test_checks import BY_NAME, evaluated, rewrite, with_column
from glr_assets_tests.lineage import digests, rewritten, write_recipe

FOLDERS = ("openimages", "manifests", "receipts", "reports", "models")


def test_scores_by_range_and_by_shard_are_the_same_bytes(
    run: Runner, platform: Platform, instance: dg.DagsterInstance
) -> None:
    run.verified()
    store = platform.open_store()
    root = Path(store.path(""))
    whole = digests(root, *FOLDERS)
    for receipt in root.glob("receipts/non_landmark_*/*.json"):
        receipt.unlink()
    for name in ("non_landmark_classifier", "non_landmark_filter"):
        (root / f"receipts/{name}.json").unlink()
    assert run("non_landmark_classifier").success
    for shard in reversed(instance.get_dynamic_partitions("train_shards")):
        assert run("non_landmark_scores", shard=shard, config={"execution": {"workers": 2}}).success
    assert run("non_landmark_filter").success
    assert digests(root, *FOLDERS) == whole


def test_each_stored_image_has_the_score_of_the_kept_network(
    run: Runner, platform: Platform, instance: dg.DagsterInstance
) -> None:
    run.verified()
    store, recipe = platform.open_store(), platform.load_recipe()
    module, config = open_filter(store)
    reader = ImageReader.of_split(store, "train")
    shards = instance.get_dynamic_partitions("train_shards")
    rows = [row for key in shards for row in read_table(store, NON_LANDMARK_SCORES, shard=key).to_pylist()]
    assert sorted(row["id"] for row in rows) == sorted(reader.ids)
    for row in rows[:5]:
        name = photograph_name(row["id"])
        (alone,) = probabilities(module, config, [name], [reader.read(row["id"])], recipe.execution)
        assert row["score"] == pytest.approx(1 - alone[-1], abs=2e-3)
        assert row["category"] == config.classes[int(alone[:-1].argmax())]
    held_out = read_table(store, NON_LANDMARK_VALIDATION)
    assert set(held_out["shown"].to_pylist()) <= set(config.classes)
    assert pc.any(pc.starts_with(held_out["picture"], "photograph ")).as_py()


def test_the_ledger_tells_what_the_filter_decided(run: Runner, platform: Platform) -> None:
    run.verified()
    store = platform.open_store()
    found = {row["id"]: row for row in read_table(store, NON_LANDMARK_FILTER).to_pylist()}
    assert sorted(found) == kept_images(store, "train_manifest")["id"].to_pylist()
    version = need_receipt(store, "non_landmark_filter").digest[:12]
    for row in read_table(store, IMAGE_LEDGER).filter(pc.field("split") == "train").to_pylist():
        told = [one for one in row["decisions"] if one["asset"] == "non_landmark_filter"]
        if row["id"] not in found:
            assert told == []
            continue
        (decision,) = told
        assert decision == row["decisions"][-1]
        mine = found[row["id"]]
        assert (decision["decision"], decision["reason"]) == (mine["decision"], mine["reason"])
        assert decision["version"] == version
        assert row["in_filtered"] == (mine["decision"] == "kept")


def test_a_recipe_may_train_on_what_the_filter_leaves(run: Runner, platform: Platform) -> None:
    run.verified()
    store = platform.open_store()
    some = kept_images(store, "train_manifest")["id"][:3]
    found = read_table(store, NON_LANDMARK_FILTER)
    dropped = pc.is_in(found["id"], some.combine_chunks())
    decided = with_column(found, "decision", pc.if_else(dropped, "dropped", "kept"))

    def build(writer: Writer) -> Summary:
        writer.table(NON_LANDMARK_FILTER, decided)
        return {}

    make(store, "non_landmark_filter", inputs={}, parameters={}, code_version="1", build=build)
    recipe = platform.load_recipe().overridden({"training": {"manifest": "non_landmark_filter"}})
    made = make_embedder(store, recipe, print)
    left = kept_images(store, "non_landmark_filter")
    assert left.num_rows == len(dropped) - 3
    assert (
        int(made.receipt.summary["training_images"] or 0) + int(made.receipt.summary["held_out"] or 0) == left.num_rows
    )


def test_a_trained_network_is_kept_and_not_trained_twice(run: Runner, platform: Platform, tmp_path: Path) -> None:
    run.verified()
    store = platform.open_store()
    own = load_recipe(str(write_recipe(tmp_path / "trained.toml")))
    recipe = platform.load_recipe().overridden({"filter": own.filter.model_dump(mode="json")})
    told: list[str] = []
    made = make_non_landmark_classifier(store, recipe, told.append).receipt
    assert [line.split(":")[0] for line in told] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert made.summary["epochs"] == 2
    assert make_non_landmark_classifier(store, recipe, told.append).reused
    first = digests(Path(store.path("")), str(made.summary["folder"]))
    store.remove("receipts/non_landmark_classifier.json")
    make_non_landmark_classifier(store, recipe, told.append)
    assert digests(Path(store.path("")), str(made.summary["folder"])) == first


def test_near_duplicates_teach_together_or_are_held_out_together(run: Runner, platform: Platform) -> None:
    run.verified()
    store, recipe = platform.open_store(), platform.load_recipe()
    kept = kept_images(store, recipe.filter.manifest)
    landmark_of = dict(zip(map(photograph_name, kept["id"].to_pylist()), kept["landmark_id"].to_pylist(), strict=True))

    def on_both_sides() -> list[int]:
        """Landmarks that teach and are held out, by seed."""
        found = []
        for seed in range(8):
            examples = gather_examples(store, recipe.model_copy(update={"seed": seed}))
            teach, held_out = (
                {landmark_of[name] for name in part.ids if name in landmark_of}
                for part in (examples.training, examples.held_out)
            )
            sides.append((len(teach), len(held_out)))
            found.append(len(teach & held_out))
        return found

    sides: list[tuple[int, int]] = []
    assert max(on_both_sides()) > 0
    sides.clear()

    # A landmark's photographs have one hash, as bursts and copies do.
    def copies(catalog: pa.Table) -> pa.Table:
        landmark = {name.partition(" ")[2]: of for name, of in landmark_of.items()}
        hashes = [derived_seed(landmark.get(image_id, image_id)) for image_id in catalog["id"].to_pylist()]
        alike = with_column(catalog, "dhash", pa.array(hashes, pa.uint64()))
        return with_column(
            alike, "sharpness", pa.array([9.0] * catalog.num_rows, catalog.schema.field("sharpness").type)
        )

    rewrite(platform, IMAGE_CATALOG, copies)
    assert max(on_both_sides()) == 0
    assert any(teach and held_out for teach, held_out in sides)


def test_the_filters_checks_fail_on_what_they_are_for(run: Runner, platform: Platform) -> None:
    run.verified()
    store = platform.open_store()
    summary = need_receipt(store, "non_landmark_filter").summary
    for name in ("filter_decides_all", "filter_is_plausible"):
        assert evaluated(BY_NAME[name], platform).passed, name
    rewrite(platform, NON_LANDMARK_FILTER, lambda t: t.slice(1))
    result = evaluated(BY_NAME["filter_decides_all"], platform)
    assert not result.passed
    assert "1 images of the set have no decision" in str(result.metadata["problem"].value)
    rewrite(platform, NON_LANDMARK_FILTER, lambda t: with_column(t, "decision", pa.array(["dropped"] * t.num_rows)))
    result = evaluated(BY_NAME["filter_is_plausible"], platform)
    assert not result.passed
    assert "100% of the set are dropped" in str(result.metadata["problem"].value)
    # Too few images to judge are a note and no warning.
    for share, least, told, passes in (
        (0.2, 0.1, "20.0% of held-out", False),
        (None, None, "is not known", True),
        (0.2, 0.0, "", True),
    ):
        judged = {"held_out_landmarks_dropped": share, "held_out_landmarks_dropped_least": least}
        rewritten(store, "non_landmark_filter", summary=summary | judged)
        result = evaluated(BY_NAME["landmarks_seldom_dropped"], platform)
        assert result.passed == passes
        assert told in str(result.metadata)
