"""The policies of infra/s3 on a server that holds to them: what they grant suffices, and they grant no more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from glr_assets.errors import StoreError
from glr_assets.images.ingest import ingest_shard
from glr_assets.images.selection import selection_for
from glr_assets.receipts import find_receipt
from glr_assets.source import open_source
from glr_assets.store import Store
from glr_assets_tests.images.handmade import TINY, make_tables
from glr_assets_tests.infra.cluster import ROOT

PLACES = {"SOURCE_BUCKET": "rights-source", "STORE_BUCKET": "rights-store", "PREFIX": "v1"}


def policy(name: str) -> str:
    text = (ROOT / "infra" / "s3" / f"{name}.json").read_text()
    for placeholder, value in PLACES.items():
        text = text.replace(placeholder, value)
    return text


@pytest.fixture(scope="module")
def keys(bucket: str, s3_server: str) -> Iterator[dict[str, dict[str, Any]]]:
    """By policy the options of a user who has that alone; meanwhile the server asks everyone for rights."""
    from botocore.session import get_session

    everything = {"endpoint_url": s3_server}
    root = {"key": "test", "secret": "test"}
    for name in ("rights-source", "rights-store"):
        Store(f"s3://{name}", everything | root).fs.mkdir(name)
    Store("s3://rights-source", everything | root).fs.put(f"{bucket}/", "rights-source/", recursive=True)
    Store("s3://rights-store/other", everything | root).write("mine", b"of another team")
    names = {"aws_access_key_id": root["key"], "aws_secret_access_key": root["secret"]}
    iam = get_session().create_client("iam", endpoint_url=s3_server, region_name="us-east-1", **names)
    found = {}
    for name in ("source", "store"):
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName=name, PolicyDocument=policy(name))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        found[name] = everything | {"key": key["AccessKeyId"], "secret": key["SecretAccessKey"]}
    httpx.post(f"{s3_server}/moto-api/reset-auth", content=b"0").raise_for_status()
    yield found
    httpx.post(f"{s3_server}/moto-api/reset-auth", content=b"inf").raise_for_status()


def test_an_ingest_needs_no_more_than_both(keys: dict[str, dict[str, Any]]) -> None:
    source, store = open_source("s3://rights-source", keys["source"]), Store("s3://rights-store/v1", keys["store"])
    make_tables(source, store, TINY)
    selection = selection_for(store, "train", TINY.images)
    ingest_shard(source, store, "train", "000", selection, TINY.images, 1)
    assert find_receipt(store, "train_images/000") is not None
    store.remove("receipts/train_images/000.json")


def test_the_source_cannot_be_changed(keys: dict[str, dict[str, Any]]) -> None:
    source = Store("s3://rights-source", keys["source"])
    assert source.read("metadata/train.csv")
    for change in (lambda: source.write("metadata/train.csv", b""), lambda: source.remove("metadata/train.csv")):
        with pytest.raises(StoreError, match=r"metadata/train\.csv: cannot (write|delete)"):
            change()
    assert source.read("metadata/train.csv")


def test_the_store_ends_at_its_prefix(keys: dict[str, dict[str, Any]]) -> None:
    for url in ("s3://rights-store/other", "s3://rights-source"):
        elsewhere = Store(url, keys["store"])
        with pytest.raises(StoreError, match="cannot write"):
            elsewhere.write("mine", b"not mine")
    with pytest.raises(StoreError, match="cannot read"):
        Store("s3://rights-store/other", keys["store"]).read("mine")


def test_a_listing_is_of_the_prefix_alone() -> None:
    """Conditions are what the test's server does not look at."""
    (listing, _) = json.loads(policy("store"))["Statement"]
    assert listing["Action"] == "s3:ListBucket"
    assert listing["Condition"] == {"StringLike": {"s3:prefix": ["v1", "v1/*"]}}
