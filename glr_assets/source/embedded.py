"""The embedded sample as a source: generated in the store when it is first asked for."""

from __future__ import annotations

from collections.abc import Collection

from glr_assets import dry_run
from glr_assets.dry_run import need_done
from glr_assets.receipts import Made, Summary, Writer, Written, make, sha256_of
from glr_assets.source.bucket import BucketSource
from glr_assets.source.bucket_writer import BESIDE
from glr_assets.store import Store, is_transient

FOLDER = "sample"
SEED = 0


def embedded_sample(store: Store) -> BucketSource:
    """The sample bucket under the store's `sample/`, written first where it is not there whole."""
    from glr_assets.source.sample import SAMPLE_VERSION, write_sample

    bucket = Store(f"{store.url}/{FOLDER}", store.options)

    def build(writer: Writer) -> Summary:
        writer.begin()
        with bucket.synced_at_end():
            write_sample(bucket, seed=SEED)
        keep_files(writer, FOLDER, beside=(BESIDE,))
        return {}

    def written() -> Made:
        return make(store, "sample", inputs={}, parameters={"seed": SEED}, code_version=SAMPLE_VERSION, build=build)

    if dry_run.current() is not None:
        need_done("the built-in sample", written)
    else:
        with store.locked(FOLDER):  # the processes of a run all ask for it at once
            written()
    return BucketSource(bucket.url, bucket.options)


def keep_files(writer: Writer, folder: str, beside: Collection[str] = ()) -> None:
    """Count every file below a folder of the store, which was written past `writer`, as the asset's.

    Args:
        writer: of the asset.
        folder: of the store.
        beside: names in it that are not the asset's.
    """
    for path, size in writer.store.walk(folder):
        name = path.removeprefix(f"{folder}/")
        if name.partition("/")[0] not in beside and not is_transient(path):
            writer.keep(path, Written(size=size, sha256=sha256_of(writer.store, path)))
