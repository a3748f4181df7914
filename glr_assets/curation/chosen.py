"""Chosen manifests: which curated set a stage reads, by the recipe, as an asset of its own.

The recipe lets a stage read one of several curated sets. The stage's assets depend on the chosen manifest, so that the
sets that are not chosen decide nothing of them. A chosen manifest is a small JSON file: name and digest of the set.
"""

from __future__ import annotations

from typing import Final

from glr_assets.errors import MissingInputError
from glr_assets.receipts import Made, Summary, Writer, find_receipt, make, need_receipt, need_receipts
from glr_assets.store import Store

CODE_VERSION: Final = "1"
#: Every stored image of a landmark, in place of a curated set.
STORED: Final = "stored"
#: The assets: the set that is cleaned, filtered, trained on, and searched.
VERIFICATION_MANIFEST: Final = "verification_manifest"
FILTER_MANIFEST: Final = "filter_manifest"
TRAINING_MANIFEST: Final = "training_manifest"
GALLERY_MANIFEST: Final = "gallery_manifest"
#: By chosen manifest the table of the recipe whose `manifest` chooses it.
CHOSEN_BY: Final = {
    VERIFICATION_MANIFEST: "verification",
    FILTER_MANIFEST: "filter",
    TRAINING_MANIFEST: "training",
    GALLERY_MANIFEST: "retrieval",
}
PATH: Final = "manifests/{name}.json"
#: The figures of a curated set's receipt that count the images it keeps, the first that is there.
_KEPT: Final = ("kept", "rows")


def make_chosen_manifest(store: Store, name: str, choice: str) -> Made:
    """`training_manifest` or another chosen manifest.

    Args:
        store: the store.
        name: a key of `CHOSEN_BY`.
        choice: the recipe's value: a curated set, or `stored`.

    Raises:
        MissingInputError: the chosen set has not been made.
    """
    asset = _asset(choice)
    receipt = need_receipt(store, asset)
    figures = [receipt.summary[key] for key in _KEPT if key in receipt.summary]
    rows = receipt.summary["train_stored"] if choice == STORED else figures[0]

    def build(writer: Writer) -> Summary:
        writer.json(PATH.format(name=name), {"manifest": choice, "digest": receipt.digest})
        return {"manifest": choice, "rows": rows}

    return make(
        store,
        name,
        inputs={asset: receipt.digest},
        parameters={"manifest": choice},
        code_version=CODE_VERSION,
        build=build,
    )


def chosen_inputs(store: Store, name: str, choice: str) -> dict[str, str]:
    """The set of a chosen manifest and its digest, as `inputs` of what is made from it.

    A store whose chosen manifest was never made, as earlier releases left it, is read by the recipe alone.

    Args:
        store: the store.
        name: a key of `CHOSEN_BY`.
        choice: the recipe's value.

    Raises:
        MissingInputError: the set has not been made, or the chosen manifest is of another set or of an earlier one.
    """
    inputs = need_receipts(store, _asset(choice))
    receipt = find_receipt(store, name)
    if receipt is not None and (receipt.parameters["manifest"], receipt.inputs) != (choice, inputs):
        found = receipt.parameters["manifest"]
        of = f"an earlier {_asset(choice)}" if found == choice else f"{found}, the recipe names {choice}"
        raise MissingInputError(f"{name} in {store.url} is of {of}: materialize {name} again")
    return inputs


def _asset(choice: str) -> str:
    return "image_catalog" if choice == STORED else choice
