"""The embedded sample as a source: generated in the store when it is first asked for."""

from __future__ import annotations

from glr_assets.receipts import Summary, Writer, make, receipt_path
from glr_assets.source import layout
from glr_assets.source.bucket import BucketSource
from glr_assets.store import Store

FOLDER = "sample"
SEED = 0


def embedded_sample(store: Store) -> BucketSource:
    """The sample bucket under the store's `sample/`, written first where it is absent or of another version."""
    from glr_assets.source.sample import SAMPLE_VERSION, write_sample

    bucket = Store(f"{store.url}/{FOLDER}", store.options)

    def build(writer: Writer) -> Summary:
        write_sample(bucket, seed=SEED)
        return {}

    with store.locked(FOLDER):  # the processes of a run all ask for it at once
        if not bucket.exists(layout.TABLE_PATHS["train"]):
            store.remove(receipt_path("sample"))
        make(store, "sample", inputs={}, parameters={"seed": SEED}, code_version=SAMPLE_VERSION, build=build)
    return BucketSource(bucket.url, bucket.options)
