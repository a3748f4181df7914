"""`openimages_images`: the images that have a usable box, part by part, each obtained or missing with a reason.

An image is taken from the root, or, where the recipe allows, fetched. What was fetched is laid aside in the store at
once, and kept by the part's TAR afterwards: a part that was killed, or whose list of images has changed, asks no server
for an image twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Any, Final

import pyarrow.compute as pc
import xxhash

from glr_assets.errors import MissingInputError, RecipeError, StoreError, TableError
from glr_assets.images.stored_tar import StoredTar
from glr_assets.openimages.annotations import ASSET as ANNOTATIONS
from glr_assets.openimages.fetching import CONNECTIONS, Fetcher, NotFetched
from glr_assets.openimages.parts import part_keys, requests
from glr_assets.openimages.photographs import Origin, Photograph, Published, judged
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.openimages.schemas import OPENIMAGES_IMAGES, STORED_IMAGES
from glr_assets.ranges import RANGES_AHEAD, ordered
from glr_assets.receipts import Made, Summary, Writer, digest_of, find_receipt, is_forced, make, need_receipt
from glr_assets.recipes import Execution, OpenImages
from glr_assets.store import Store
from glr_assets.tables import read_table

CODE_VERSION = "2"
ASSET: Final = "openimages_images"
#: What decides which bytes are taken for an image.
DECIDED_BY: Final = {"fetch", "fetch_hosts", "check_md5", "placeholders", "max_bytes", "max_pixels", "parts"}
OBTAINED: Final = "obtained"
MISSING: Final = "missing"


@dataclass(frozen=True)
class Found:
    """What became of a request: bytes from somewhere and what they are, or the reason why there are none.

    Attributes:
        reason: why nothing was found; empty where there is a photograph to judge.
        data: what was found.
        origin: where.
        photograph: what it is.
        asked: whether a server was asked in this run.
    """

    reason: str
    data: bytes = b""
    origin: Origin | None = None
    photograph: Photograph | None = None
    asked: bool = False


def receipt_name(part: str) -> str:
    """The name of a part's receipt."""
    return f"{ASSET}/{part}"


def make_openimages_images(
    root: OpenImagesRoot,
    store: Store,
    part: str,
    recipe: OpenImages,
    execution: Execution,
    *,
    fetcher: Fetcher | None = None,
) -> Made:
    """Obtain a part's images: `openimages/images/<part>.tar` holds them byte for byte, `.parquet` has a row for each.

    A finished part is known by its list of images and, of a local root, by how many bytes each has there. Images that
    are missing are looked for again when the part is made anew, or with `[execution] retry_failed`.

    Args:
        root: where images are as files.
        store: where the part goes.
        part: its key.
        recipe: what may be fetched, and what is taken for an image.
        execution: threads, and whether what is missing is tried again.
        fetcher: asks servers; by default as the recipe says.

    Raises:
        RecipeError: the recipe has no such part.
        MissingInputError: `openimages_annotations` has not been made.
        SourceError: the root cannot be reached.
    """
    keys = part_keys(recipe.parts)
    if part not in keys:
        raise RecipeError(
            f"{ASSET}: there is no part {part} of {recipe.parts}, they are {keys[0]} to {keys[-1]}; "
            "`glr shards sync` registers those of the recipe"
        )
    need_receipt(store, ANNOTATIONS)
    wanted = requests(store, keys.index(part), recipe.parts).to_pylist()
    inputs = {ANNOTATIONS: digest_of(wanted)}
    if root.is_local:
        inputs["openimages:images"] = sizes_digest(root, wanted)
    receipt = find_receipt(store, receipt_name(part))
    asked: Counter[bool] = Counter()

    def build(writer: Writer) -> Summary:
        with ExitStack() as stack:
            asking = stack.enter_context(fetcher or Fetcher(recipe)) if recipe.fetch else None
            sought = _Sought(root, store, part, recipe, asking)
            local = execution.threads if root.is_local else RANGES_AHEAD
            found = ordered(
                sought.found,
                wanted,
                workers=local if asking is None else CONNECTIONS,
                # What a mirror has of an image is no larger than what was published.
                size=lambda row: min(row["original_size"] or 0, recipe.max_bytes),
            )
            return _written(writer, part, wanted, stack.enter_context(closing(found)), asked)

    made = make(
        store,
        receipt_name(part),
        inputs=inputs,
        parameters=recipe.model_dump(mode="json", include=set(DECIDED_BY)) | {"part": part},
        code_version=CODE_VERSION,
        build=build,
        again=execution.retry_failed and receipt is not None and bool(receipt.summary.get("missing")),
    )
    if recipe.fetch:
        for name in store.names(_aside(part)):
            store.remove(f"{_aside(part)}/{name}")
    return made if made.reused else replace(made, run={"fetched_now": asked[True]})


def sizes_digest(root: OpenImagesRoot, wanted: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 over how many bytes a root has of each image that a part asks for, as the part's receipt has it."""
    return digest_of([root.image_size(row["subset"], row["image_id"]) for row in wanted])


def _aside(part: str) -> str:
    """Where fetched images lie until their part is whole."""
    return f"openimages/fetched/{part}"


class _Sought:
    """Looks for images: under the root, among what was fetched before, and, where that is allowed, on servers."""

    def __init__(
        self, root: OpenImagesRoot, store: Store, part: str, recipe: OpenImages, fetcher: Fetcher | None
    ) -> None:
        self.root, self.store, self.part, self.recipe, self.fetcher = root, store, part, recipe, fetcher
        self._aside = frozenset(store.names(_aside(part))) if fetcher is not None else frozenset()
        takes_over = fetcher is not None and not is_forced(receipt_name(part))
        self._stored = self._fetched_earlier() if takes_over else {}

    def found(self, wanted: Mapping[str, Any]) -> Found:
        """What became of one request."""
        image_id, published = wanted["image_id"], Published(wanted["original_md5"], wanted["original_size"])
        data = self.root.read_image(wanted["subset"], image_id, self.recipe.max_bytes + 1)
        if data is not None:
            return Found("", data, "root", judged(data, published, "root", self.recipe))
        if self.fetcher is None:
            return Found("no file: the root has none of that name")
        data = self._kept(wanted)
        if data is not None:
            photograph = judged(data, published, "fetched", self.recipe)
            if not photograph.reason:
                return Found("", data, "fetched", photograph)
        if wanted["url"] is None:
            return Found("no file, and no OriginalURL is published")
        answer = self.fetcher.fetch(wanted["url"])
        if isinstance(answer, NotFetched):
            return Found(answer.reason, asked=True)
        photograph = judged(answer, published, "fetched", self.recipe)
        if not photograph.reason:
            self.store.write(f"{_aside(self.part)}/{image_id}.jpg", answer, sync=False)
        return Found("", answer, "fetched", photograph, asked=True)

    def _kept(self, wanted: Mapping[str, Any]) -> bytes | None:
        """What an earlier run has fetched of an image, if it is there and whole."""
        name = f"{wanted['image_id']}.jpg"
        if name in self._aside:
            return self.store.read(f"{_aside(self.part)}/{name}")
        row = self._stored.get(wanted["image_id"])
        if row is None or row["url"] != wanted["url"]:
            return None
        try:
            data = self.store.read(STORED_IMAGES.format(part=self.part), row["stored_offset"], row["stored_size"])
        except (FileNotFoundError, StoreError):
            return None
        return data if xxhash.xxh3_64_intdigest(data) == row["stored_xxh3"] else None

    def _fetched_earlier(self) -> dict[str, dict[str, Any]]:
        """Rows of fetched images in the part's index, where an earlier run has left one that can be read."""
        columns = ["image_id", "url", "origin", "status", "stored_offset", "stored_size", "stored_xxh3"]
        try:
            index = read_table(self.store, OPENIMAGES_IMAGES, columns, part=self.part)
        except (MissingInputError, TableError):
            return {}
        here = pc.and_(pc.equal(index["status"], "obtained"), pc.equal(index["origin"], "fetched"))
        return {row["image_id"]: row for row in index.filter(here).to_pylist()}


def _written(
    writer: Writer, part: str, wanted: Sequence[Mapping[str, Any]], found: Iterator[Found], asked: Counter[bool]
) -> Summary:
    """Write the TAR and the index; returns the figures of the requests."""
    rows: list[dict[str, Any]] = []
    with writer.writing(STORED_IMAGES.format(part=part)) as file, StoredTar(file) as tar:
        for request, outcome in zip(wanted, found, strict=True):
            rows.append(_row(request, outcome, tar))
            asked[outcome.asked] += 1
    writer.table(OPENIMAGES_IMAGES, OPENIMAGES_IMAGES.rows(rows), part=part)
    statuses = Counter(row["status"] for row in rows)
    reasons = Counter(row["reason"].split(":")[0] for row in rows if row["reason"])
    obtained = [row for row in rows if row["status"] == OBTAINED]
    checks = Counter(row["md5_check"] for row in obtained)
    origins = Counter(row["origin"] for row in obtained)
    return {
        "requested": len(rows),
        **{status: statuses[status] for status in (OBTAINED, MISSING)},
        "obtained_bytes": sum(row["stored_size"] for row in obtained),
        "of_the_root": origins["root"],
        "fetched": origins["fetched"],
        **{f"MD5: {check}": count for check, count in sorted(checks.items())},
        **{f"missing: {reason}": count for reason, count in sorted(reasons.items())},
    }


def _row(request: Mapping[str, Any], outcome: Found, tar: StoredTar) -> dict[str, Any]:
    """The index row of a request, its image written to the TAR where there is one."""
    row: dict[str, Any] = {**request, "status": MISSING, "reason": outcome.reason, "origin": outcome.origin or ""}
    photograph = outcome.photograph
    if photograph is None:
        return row
    row |= {"md5": photograph.md5, "md5_check": photograph.md5_check, "size": len(outcome.data)}
    if photograph.size is None:
        return row | {"reason": photograph.reason}
    return row | {
        "status": OBTAINED,
        "reason": "",
        "mode": photograph.mode,
        "width": photograph.size[0],
        "height": photograph.size[1],
        "stored_offset": tar.add(f"{request['image_id']}.jpg", outcome.data),
        "stored_size": len(outcome.data),
        "stored_xxh3": xxhash.xxh3_64_intdigest(outcome.data),
    }
