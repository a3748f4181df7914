"""Assets that are made again and again, each time with other files: `python -m … STORE SEED`; it can be killed.

What it does is what the lineage does: shards of two files, a model whose versions stay, a package whose files have
receipts of their own, locks, run records and the state of a training.
"""

from __future__ import annotations

import random
import sys

from glr_assets.receipts import Summary, Writer, make
from glr_assets.store import Store

LARGEST = 300_000


def main(url: str, seed: str) -> None:
    """Work until killed."""
    chance = random.Random(seed)
    store = Store(url)
    number = 0
    while True:
        number += 1
        version = f"{seed}.{number}"
        name = chance.choice(["train_images/000", "train_images/001", "faiss_index", "embedder", "train_zip"])
        store.write(f"runs/work/{name}.json", b"{}")
        if name == "embedder":
            store.write(f"models/embedder/{version}/checkpoint.ckpt", chance.randbytes(1000))
            _make(
                store, name, version, [f"models/embedder/{version}/{file}" for file in ("a.pt", "b.json")], chance, True
            )
            store.remove(f"models/embedder/{version}/checkpoint.ckpt")
        elif name == "train_zip":
            _package(store, version, chance)
        else:
            shard = name.partition("/")[2] or "all"
            files = ["tar", "parquet", *chance.sample(["rows", "info", version], chance.randrange(3))]
            _make(store, name, version, [f"images/{shard}.{file}" for file in files], chance)


def _make(
    store: Store, name: str, version: str, files: list[str], chance: random.Random, keep_earlier: bool = False
) -> None:
    def build(writer: Writer) -> Summary:
        for file in files:
            writer.write(file, chance.randbytes(chance.randrange(LARGEST)))
        return {}

    make(store, name, inputs={}, parameters={}, code_version=version, build=build, keep_earlier=keep_earlier)


def _package(store: Store, version: str, chance: random.Random) -> None:
    def build(writer: Writer) -> Summary:
        writer.begin()
        for number in range(3):
            held = f"{version if chance.random() < 0.5 else 'old'}"
            path = f"exports/{number}.zip"

            def file(of: Writer, path: str = path) -> Summary:
                of.write(path, chance.randbytes(chance.randrange(LARGEST)))
                return {}

            made = make(store, f"train_zip/{number}", inputs={}, parameters={}, code_version=held, build=file)
            writer.outputs |= made.receipt.outputs
        writer.write("exports/list.csv", version.encode())
        return {}

    make(store, "train_zip", inputs={}, parameters={}, code_version=version, build=build)


if __name__ == "__main__":
    main(*sys.argv[1:])
