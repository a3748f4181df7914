"""What the UI shows of a training: while it runs, when it broke, and of what it made."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from dataclasses import replace

import dagster as dg
import pytest

from glr_assets.defs.platform import Platform
from glr_assets.errors import EmbedderError
from glr_assets.receipts import Made, Summary, Writer, make
from glr_assets.recipes import Recipe
from glr_assets.store import Store
from glr_assets.training import group_classifiers, versions
from glr_assets.training.kept import Sight
from glr_assets.training.lesson import EpochReport
from glr_assets_tests.assets.conftest import Runner
from glr_assets_tests.assets.test_shards import latest, materialized

REPORT = EpochReport(epoch=1, epochs=4, loss=2.0, validation_top1=None, learning_rate=1e-3, seconds=7.5)
CARD = "# A card\n\n| figure | value |\n| --- | --- |\n| top-1 | 0.5 |\n"


def observations(instance: dg.DagsterInstance, asset: str) -> list[dg.AssetObservation]:
    """In the order of the log."""
    records = instance.fetch_observations(dg.AssetKey(asset), limit=100).records
    found = [record.asset_observation for record in reversed(records)]
    return [observation for observation in found if observation is not None]


def stub(name: str, seen: Callable[[Sight], None], store: Store, fails: bool) -> Made:
    """A training of two epochs, without the training."""
    seen(Sight(name, REPORT, b"\x89PNG one"))
    seen(Sight(name, replace(REPORT, epoch=2, loss=1.5, validation_top1=0.25), b"\x89PNG two"))
    if fails:
        raise EmbedderError("training: the loss of epoch 3 is nan, expected a number; lower it")

    def build(writer: Writer) -> Summary:
        writer.write(f"models/{name}/x/card.md", CARD.encode())
        return {"folder": f"models/{name}/x"}

    return make(store, name, inputs={}, parameters={}, code_version="1", build=build)


@pytest.mark.parametrize("fails", [False, True])
def test_a_running_training_of_the_embedder_is_observed(
    fails: bool, run: Runner, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(store: Store, recipe: Recipe, told: Callable[[str], None], seen: Callable[[Sight], None]) -> Made:
        return stub("embedder", seen, store, fails)

    monkeypatch.setattr(versions, "make_embedder", made)
    assert run("embedder").success is not fails
    first, second = observations(instance, "embedder")
    assert {name: first.metadata[name].value for name in ("part", "epoch", "epochs", "loss", "seconds_of_epoch")} == {
        "part": "training",
        "epoch": 1,
        "epochs": 4,
        "loss": 2.0,
        "seconds_of_epoch": 7.5,
    }
    assert "validation_top1" not in first.metadata
    assert second.metadata["validation_top1"].value == 0.25
    assert second.description == "epoch 2 of 4"
    picture = b64encode(b"\x89PNG two").decode()
    assert second.metadata["picture curves"].value == f"![curves](data:image/png;base64,{picture})"
    # It says nothing of what is stored: no data version, and a training that broke has made nothing.
    assert "dagster/data_version" not in (second.tags or {})
    made_event = instance.get_latest_materialization_event(dg.AssetKey("embedder"))
    assert (made_event is None) is fails
    if made_event is not None and made_event.asset_materialization is not None:
        card = made_event.asset_materialization.metadata["text card"]
        assert isinstance(card, dg.MarkdownMetadataValue)
        assert card.value == CARD


def test_a_running_training_of_a_group_is_observed_in_its_partition(
    run: Runner, platform: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def made(
        store: Store, group: str, recipe: Recipe, told: Callable[[str], None], seen: Callable[[Sight], None]
    ) -> Made:
        return stub(f"group_classifiers/{group}", seen, store, fails=False)

    monkeypatch.setattr(group_classifiers, "make_group_classifier", made)
    assert run("group_classifiers", shards=("00", "01")).success
    found = [(one.partition, one.metadata["epoch"].value) for one in observations(instance, "group_classifiers")]
    assert found == [("00", 1), ("00", 2), ("01", 1), ("01", 2)]
    assert materialized(instance, "group_classifiers") == {"00", "01"}
    assert latest(instance, "group_classifiers", "01").metadata["text card"].value == CARD
