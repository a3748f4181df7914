"""What a run would make again, over a store that was made up to the filter of non-landmarks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from glr_assets.curation import leaks
from glr_assets.defs.dry_runs import DryPlatform, dry_verdicts
from glr_assets.dry_run import Verdict
from glr_assets.receipts import find_receipt
from glr_assets.settings import Settings
from glr_assets.store import Store
from glr_assets_tests.assets.conftest import with_recipe
from glr_assets_tests.lineage import digests, rewritten

#: What the template does not hold: the sets that train and are searched, and everything from the embedder on.
NOT_MADE = {
    "training_manifest",
    "gallery_manifest",
    "embedder",
    "evaluation",
    "faiss_index",
    "fill_potential",
    "group_calibration",
    "group_classifiers",
    "index_embeddings",
    "model_comparison",
    "non_landmark_embeddings",
    "recognition_model",
    "retrieval_submission",
    "search_features",
    "submission",
    "test_embeddings",
    "test_features",
    "train_embeddings",
    "train_tfrecords",
    "train_zip",
    "training_groups",
}


def verdicts(settings: Settings) -> dict[str, Verdict]:
    """By name, of what the template holds."""
    found = dry_verdicts(DryPlatform.of(settings))
    return {name: verdict for asset in found if asset not in NOT_MADE for name, verdict in found[asset].items()}


def reasons(settings: Settings) -> dict[str, list[str]]:
    """Why what the template holds would be made again."""
    return {
        name: [change.text for change in verdict.changes] + ([verdict.error] if verdict.error else [])
        for name, verdict in verdicts(settings).items()
        if not verdict.is_done
    }


def test_finished_work_is_done_and_what_was_never_made_is_named(settings: Settings) -> None:
    found = dry_verdicts(DryPlatform.of(settings))
    assert reasons(settings) == {}
    store = Store(settings.store)
    assert {asset for asset in found if any(not verdict.is_done for verdict in found[asset].values())} == NOT_MADE
    names = {name for asset in found for name in found[asset]}
    assert {name for name in names if find_receipt(store, name) is not None} == {
        name for asset in found if asset not in NOT_MADE for name in found[asset]
    }
    assert [change.text for change in found["embedder"]["embedder"].changes] == ["never made"]
    assert "submission" in found
    assert found["train_embeddings"]["train_embeddings/000"].error.startswith("embedder has not been made")


def test_nothing_is_written_and_no_network_is_loaded(settings: Settings) -> None:
    before = digests(Path(settings.store))
    code = (
        "import sys; from glr_assets.defs.dry_runs import DryPlatform, dry_verdicts;"
        "from glr_assets.settings import Settings;"
        "dry_verdicts(DryPlatform.of(Settings.from_environment()));"
        "print([name for name in ('torch', 'faiss', 'cv2', 'transformers', 'tensorflow') if name in sys.modules])"
    )
    given = {"GLR_SOURCE": settings.source, "GLR_STORE": settings.store, "GLR_RECIPE": str(settings.recipe)}
    done = subprocess.run(
        [sys.executable, "-c", code], env={**given, "PATH": ""}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
    assert digests(Path(settings.store)) == before
    assert not list(Path(settings.store).rglob(".*.lock"))


def test_a_changed_recipe_names_its_value(settings: Settings) -> None:
    with_recipe(settings, dedupe={"keep": 20})
    assert reasons(settings) == {"deduped_manifest": ["keep: 25 → 20"]}


def test_a_changed_shard_and_a_damaged_file(settings: Settings) -> None:
    checksum = next(Path(settings.source or "").rglob("md5.images_001.txt"))
    split = "test" if "test" in checksum.parent.name else "index" if "index" in checksum.parent.name else "train"
    checksum.write_text(checksum.read_text().replace(checksum.read_text()[:32], 32 * "0"))
    store = Store(settings.store)
    store.write("images/train/002.tar", b"cut")
    found = reasons(settings)
    assert found[f"{split}_images/001"] == [f"source:{split}/001 changed"]
    assert found["train_images/002"][0].startswith("files: images/train/002.tar has 3 bytes")


def test_another_code_version_and_an_input_that_is_made_otherwise(settings: Settings) -> None:
    store = Store(settings.store)
    rewritten(store, "label_conflicts", code_version="0")
    deduped = find_receipt(store, "deduped_manifest")
    assert deduped is not None
    rewritten(store, "deduped_manifest", inputs=deduped.inputs | {"image_catalog": "0"})
    assert reasons(settings) == {
        "label_conflicts": [f"code version 0 → {leaks.CODE_VERSION}"],
        "deduped_manifest": ["image_catalog changed"],
    }
