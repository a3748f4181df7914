"""Group `exports`: the set that trains as packages that others read."""

import dagster as dg

from glr_assets.defs.conventions import table_asset
from glr_assets.defs.platform import Platform
from glr_assets.defs.results import result_of
from glr_assets.exports import export
from glr_assets.exports.images import BESIDE
from glr_assets.recipes import Exports

_TFRECORDS = 'tf.data.TFRecordDataset(tf.io.gfile.glob(f"{GLR_STORE}/exports/train_tfrecords/*.tfrecord"))'
_ZIP = "unzip data/exports/train_zip/train.zip -d competition/train"
_PACKED_BY = {"exports": Exports.model_fields, "seed": ()}
_INPUTS = [export.TRAIN_MANIFEST, *BESIDE]


@table_asset(
    None,
    group="exports",
    code_version=export.CODE_VERSION,
    kinds={"tensorflow"},
    deps=_INPUTS,
    recipe=_PACKED_BY,
    example=_TFRECORDS,
)
def train_tfrecords(platform: Platform) -> dg.MaterializeResult:
    """One record per image that trains, with landmark, author and licence, in files that TensorFlow reads."""
    store, recipe = platform.open_store(), platform.load_recipe()
    return result_of(export.make_export(store, "tfrecord", recipe.exports, recipe.seed), store)


@table_asset(
    None,
    group="exports",
    code_version=export.CODE_VERSION,
    kinds={"file"},
    deps=_INPUTS,
    recipe=_PACKED_BY,
    example=_ZIP,
)
def train_zip(platform: Platform) -> dg.MaterializeResult:
    """One `a/b/c/<id>.jpg` per image that trains in zips, beside lists for Kaggle's tools and for FiftyOne."""
    store, recipe = platform.open_store(), platform.load_recipe()
    return result_of(export.make_export(store, "zip", recipe.exports, recipe.seed), store)


ASSETS = [train_tfrecords, train_zip]
