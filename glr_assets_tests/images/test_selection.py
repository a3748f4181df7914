from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glr_assets.errors import MissingInputError, TableError
from glr_assets.images.selection import selection_for
from glr_assets.planning.schemas import FILL_PLAN
from glr_assets.receipts import Written
from glr_assets.recipes import Images
from glr_assets.source import BucketSource
from glr_assets.store import Store
from glr_assets_tests.images.handmade import TINY, Bucket, make_tables
from glr_assets_tests.lineage import rewritten

TRAIN = {"1e5": 3, "0123": 3, "12": 3, "ff": 4, "F": 4, "long-" * 12: 5}


@pytest.fixture
def made(tmp_path: Path, store: Store) -> Store:
    bucket = Bucket(TRAIN, ["1e5", "ff"], index={"12": 900}, test=["0123"])
    make_tables(
        BucketSource(bucket.write(tmp_path / "bucket")),
        store,
        TINY.overridden({"fill": {"threshold": 2, "reserves": 0}}),
    )
    return store


def test_of_train_the_competition_and_the_plan_are_wanted(made: Store) -> None:
    selection = selection_for(made, "train", Images(keep="wanted"))
    rows = {image_id: selection.row(image_id) for image_id in TRAIN}
    assert None not in rows.values()
    assert [selection.landmark(row) for row in rows.values() if row is not None] == list(TRAIN.values())
    wanted = {image_id for image_id, row in rows.items() if row is not None and selection.wanted[row]}
    assert wanted >= {"1e5", "ff", "F"}
    assert len(wanted) == 4
    assert "long-" * 12 not in wanted
    assert set(selection.digests) == {"train_metadata", "competition_train", "fill_plan"}


def test_all_of_train_is_wanted_where_the_recipe_keeps_all(made: Store) -> None:
    selection = selection_for(made, "train", Images(keep="all"))
    assert selection.wanted.all()
    assert set(selection.digests) == {"train_metadata"}


def test_tables_are_read_at_the_first_need_and_must_be_those_that_were_named(made: Store) -> None:
    columns = made.read(FILL_PLAN.path)
    made.write(FILL_PLAN.path, bytes(len(columns)))
    selection = selection_for(made, "train", Images(keep="wanted"))  # of a table that cannot be read
    with pytest.raises(TableError):
        selection.row("ff")
    made.write(FILL_PLAN.path, columns)
    rewritten(made, "fill_plan", outputs={"manifests/fill_plan.parquet": Written(size=len(columns), sha256="0")})
    with pytest.raises(MissingInputError, match="made again while a run read it"):
        selection.row("ff")


@pytest.mark.parametrize("stranger", ["", "1", "1e", "1e50", "zz", "0", "long-" * 13, "FF"])
def test_an_id_is_found_by_its_whole_text_or_not_at_all(made: Store, stranger: str) -> None:
    assert selection_for(made, "train", Images()).row(stranger) is None


def test_index_and_test_want_all_they_list_and_have_no_train_landmark(made: Store) -> None:
    for split, image_id, asset in (("index", "12", "index_metadata"), ("test", "0123", "test_metadata")):
        selection = selection_for(made, split, Images())  # type: ignore[arg-type]
        assert selection.ids.tolist() == [image_id.encode()]
        assert selection.row(image_id) == 0
        assert selection.landmark(0) is None
        assert np.array_equal(selection.wanted, [True])
        assert set(selection.digests) == {asset}


def test_without_tables_the_missing_one_is_named(store: Store) -> None:
    with pytest.raises(MissingInputError, match="train_metadata"):
        selection_for(store, "train", Images())


def test_a_split_without_images_has_an_empty_selection(tmp_path: Path, store: Store) -> None:
    make_tables(BucketSource(Bucket({"a": 1}, ["a"]).write(tmp_path / "bucket")), store, TINY)
    assert selection_for(store, "index", Images()).row("a") is None
