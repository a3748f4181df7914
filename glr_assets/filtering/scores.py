"""`non_landmark_scores`: of each stored train image, how likely it shows no landmark."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

import pyarrow as pa

from glr_assets.errors import EmbedderError, GlrError
from glr_assets.filtering.classifier import ASSET as CLASSIFIER
from glr_assets.filtering.classifier import FilterConfig, probabilities, scores_of
from glr_assets.filtering.examples import photograph_name
from glr_assets.images.reader import ImageReader
from glr_assets.openimages.schemas import NON_LANDMARK_SCORES
from glr_assets.receipts import Made, Summary, Writer, make, need_receipts
from glr_assets.recipes import Execution
from glr_assets.store import Store
from glr_assets.training.photographs import Pixels, in_threads, square

ASSET: Final = "non_landmark_scores"
CODE_VERSION = "2"
#: Images that are decoded at once.
_AT_ONCE: Final = 128

#: The current classifier and what it is, opened at the first need.
Opened = Callable[[], tuple[Any, FilterConfig]]


def make_non_landmark_scores(store: Store, shard: str, opened: Opened, execution: Execution) -> Made:
    """`non_landmark_scores/<shard>`: whatever the manifests say today, so that another one needs no new scores.

    An image that cannot be read or decoded has a row with the reason.

    Raises:
        MissingInputError: the classifier, or the shard's images, have not been made.
        ClassifierError: the classifier gives no numbers.
    """

    def build(writer: Writer) -> Summary:
        reader = ImageReader.of_shard(store, "train", shard)
        parts = [NON_LANDMARK_SCORES.empty(), *_scored(reader, opened, execution)]
        table = pa.concat_tables(parts).sort_by("id").combine_chunks()
        writer.table(NON_LANDMARK_SCORES, table, shard=shard)
        return {"rows": table.num_rows, "failed": table["score"].null_count}

    return make(
        store,
        f"{ASSET}/{shard}",
        inputs=need_receipts(store, CLASSIFIER, f"train_images/{shard}"),
        parameters={},
        code_version=CODE_VERSION,
        build=build,
    )


def _scored(reader: ImageReader, opened: Opened, execution: Execution) -> Iterator[pa.Table]:
    if not len(reader):
        return
    module, config = opened()

    def prepared(image: tuple[str, bytes | GlrError]) -> Pixels | str:
        """The square that the network takes, or why there is none."""
        image_id, data = image
        if isinstance(data, GlrError):
            return str(data)
        try:
            return square(data, config.image_size, f"image {image_id}")
        except EmbedderError as error:
            return str(error)

    # As they lie in the shard, so that neighbors are fetched together.
    order = reader.places.in_file_order().tolist()
    ordered_ids = [reader.places.name(row) for row in order]
    images = zip(ordered_ids, reader.try_rows(order), strict=True)
    squares = in_threads(prepared, images, execution.threads, lambda _: 3 * config.image_size**2)
    remaining = iter(ordered_ids)
    while ids := list(islice(remaining, _AT_ONCE)):
        pixels = list(islice(squares, len(ids)))
        readable = [found for found in pixels if not isinstance(found, str)]
        names = [photograph_name(name) for name, found in zip(ids, pixels, strict=True) if not isinstance(found, str)]
        scores, categories = scores_of(probabilities(module, config, names, readable, execution), config.classes)
        told = iter(zip(scores.tolist(), categories, strict=True))
        yield NON_LANDMARK_SCORES.rows([_row(name, found, told) for name, found in zip(ids, pixels, strict=True)])


def _row(image_id: str, found: Pixels | str, told: Iterator[tuple[float, str]]) -> dict[str, Any]:
    if isinstance(found, str):
        return {"id": image_id, "score": None, "category": None, "reason": found}
    score, category = next(told)
    return {"id": image_id, "score": score, "category": category, "reason": ""}


def scored_shards(store: Store, shards: Sequence[str]) -> dict[str, str]:
    """The digests of the scores of these shards.

    Raises:
        MissingInputError: one has not been made.
    """
    return need_receipts(store, *(f"{ASSET}/{shard}" for shard in sorted(shards)))
