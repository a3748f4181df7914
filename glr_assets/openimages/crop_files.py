"""Files of crops: pixels as fixed-size tensors in Parquet, the same as a webdataset TAR, and, if asked for, as CSV."""

from __future__ import annotations

import io
import json
from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from glr_assets.errors import StoreError
from glr_assets.images.stored_tar import StoredTar
from glr_assets.openimages.crops import CROPS_VERSION, Pixels, Rectangle, cropped
from glr_assets.openimages.layout import FLAGS as PUBLISHED_FLAGS
from glr_assets.openimages.schemas import FLAGS, crops_table
from glr_assets.ranges import Place, ordered, read_ranges
from glr_assets.receipts import Made, Summary, Writer, digest_of, make
from glr_assets.recipes import OpenImages
from glr_assets.store import Store
from glr_assets.tables import damage_explained, opened_parquet

ASSET: Final = "openimages_classifier_dataset"
FOLDER: Final = "openimages/classifier_dataset"
#: Rows of a row group: 12 MiB of pixels at 128 pixels a side.
GROUP: Final = 256
#: What of the recipe changes a crop's pixels or its file.
_DECIDING: Final = {"size", "aspect", "upright", "csv_of_pixels"}
#: Pixels hardly repeat; by their bytes apart they compress (Parquet keeps 8 bits in 32).
_PIXELS: Final = "image.list.element"


@dataclass(frozen=True)
class Crop:
    """A kept box: all that its file tells of it but the pixels.

    Attributes:
        told: the columns of `crops_table` but the last.
        rectangle: in pixels of its image as stored.
        turn: degrees counterclockwise by which it is upright.
    """

    told: Mapping[str, Any]
    rectangle: Rectangle
    turn: int

    @property
    def key(self) -> str:
        """The name of its members in a TAR, and of no others."""
        return f"{self.told['image_id']}_{self.told['box']:05d}"


@dataclass(frozen=True)
class CropImage:
    """An image and the kept boxes of it that stand in a file together."""

    place: Place
    xxh3: int
    mode: str
    crops: tuple[Crop, ...]


def make_crop_file(store: Store, name: str, images: Sequence[CropImage], recipe: OpenImages, workers: int) -> Made:
    """Write one file of crops, `name` less its endings, or find it finished: what it holds decides it.

    Raises:
        StoreError: a stored image is gone, or is not what the index says.
    """

    def build(writer: Writer) -> Summary:
        with ExitStack() as stack:
            parquet = stack.enter_context(_ParquetCrops(writer, name, recipe.size, stack))
            tar = stack.enter_context(StoredTar(stack.enter_context(writer.writing(f"{FOLDER}/{name}.tar"))))
            text = stack.enter_context(writer.writing(f"{FOLDER}/{name}.csv")) if recipe.csv_of_pixels else None
            if text is not None:
                text.write(_csv_header(recipe.size))
            rows = 0
            for crop, pixels, png in stack.enter_context(closing(_crops(store, images, recipe, workers))):
                parquet.add(crop, pixels)
                tar.add(f"{crop.key}.png", png)
                tar.add(f"{crop.key}.cls", str(crop.told["class"]).encode())
                tar.add(f"{crop.key}.json", json.dumps(dict(crop.told), ensure_ascii=False).encode())
                if text is not None:
                    text.write(_csv_row(crop, pixels))
                rows += 1
        return {"rows": rows}

    return make(
        store,
        f"{ASSET}/{name}",
        inputs={},
        parameters=recipe.model_dump(include=_DECIDING) | {"holds": digest_of([_identity(image) for image in images])},
        code_version=CROPS_VERSION,
        build=build,
    )


def _identity(image: CropImage) -> list[Any]:
    crops = [[dict(crop.told), crop.rectangle.__dict__, crop.turn] for crop in image.crops]
    return [f"{image.xxh3:016x}", image.mode, crops]


def _crops(
    store: Store, images: Sequence[CropImage], recipe: OpenImages, workers: int
) -> Generator[tuple[Crop, Pixels, bytes]]:
    """Every crop in order, with its pixels and a PNG of them."""

    def work(item: tuple[CropImage, bytes | StoreError]) -> list[tuple[Crop, Pixels, bytes]]:
        image, data = item
        name = str(image.crops[0].told["image_id"])
        if isinstance(data, StoreError):
            raise StoreError(f"image {name}: {data}") from data
        if xxhash.xxh3_64_intdigest(data) != image.xxh3:
            raise StoreError(
                f"image {name}: {store.full_url(image.place.name)}, {image.place.size} bytes at {image.place.offset}: "
                "not those of the index; materialise its partition of openimages_images again"
            )
        rectangles = [crop.rectangle for crop in image.crops]
        pixels = cropped(data, image.mode, rectangles, image.crops[0].turn, recipe)
        return [(crop, found, png(found)) for crop, found in zip(image.crops, pixels, strict=True)]

    with ExitStack() as stack:
        found = stack.enter_context(closing(read_ranges(store, (image.place for image in images))))
        pairs = zip(images, found, strict=True)
        done = stack.enter_context(
            closing(ordered(work, pairs, workers=workers, size=lambda item: len(item[0].crops) * recipe.size**2 * 3))
        )
        for crops in done:
            yield from crops


def png(pixels: Pixels) -> bytes:
    """RGB [H, W, 3] as a PNG, packed little: these are read more often than sent."""
    import cv2

    _, data = cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 1])
    return data.tobytes()


class _ParquetCrops:
    """Writes crops to Parquet in row groups of `GROUP`, no more of which is in memory."""

    def __init__(self, writer: Writer, name: str, size: int, stack: ExitStack) -> None:
        self._table = crops_table(size)
        self._size = size
        self._crops: list[Crop] = []
        self._pixels: list[Pixels] = []
        plain = [column.name for column in self._table.columns if pa.types.is_string(column.type)]
        self._parquet = pq.ParquetWriter(
            stack.enter_context(writer.writing(self._table.at(file=name))),
            self._table.schema,
            compression="zstd",
            use_dictionary=plain,
            column_encoding={_PIXELS: "BYTE_STREAM_SPLIT"},
            write_page_checksum=True,
        )

    def __enter__(self) -> _ParquetCrops:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._flush()
        self._parquet.close()

    def add(self, crop: Crop, pixels: Pixels) -> None:
        """Append a crop."""
        self._crops.append(crop)
        self._pixels.append(pixels)
        if len(self._crops) == GROUP:
            self._flush()

    def _flush(self) -> None:
        if not self._crops:
            return
        told = pa.Table.from_pylist(
            [dict(crop.told) for crop in self._crops], schema=self._table.schema.remove(len(self._table.columns) - 1)
        )
        flat = pa.array(np.stack(self._pixels).reshape(-1))
        stored = pa.FixedSizeListArray.from_arrays(flat, self._size * self._size * 3)
        kind = self._table.columns[-1].type
        self._parquet.write_table(
            told.append_column(self._table.schema.field("image"), pa.ExtensionArray.from_storage(kind, stored))
        )
        self._crops, self._pixels = [], []


def read_crops(store: Store, file: str, rows: Sequence[int], size: int) -> list[Pixels]:
    """The pixels of some rows of a file of crops, RGB uint8 [size, size, 3] each.

    Raises:
        MissingInputError: the file has not been made.
        DamagedTableError: it is damaged.
    """
    groups: dict[int, Pixels] = {}
    path = crops_table(size).at(file=file)
    with damage_explained(store, path), opened_parquet(store, path) as parquet:
        for number in sorted({row // GROUP for row in rows}):
            column = parquet.read_row_group(number, ["image"])["image"].combine_chunks()
            groups[number] = column.to_numpy_ndarray()
        return [groups[row // GROUP][row % GROUP] for row in rows]


def _csv_header(size: int) -> bytes:
    pixels = ",".join(f"p{number}" for number in range(size * size * 3))
    return f"ImageID,{pixels},LabelName,{','.join(PUBLISHED_FLAGS)}\n".encode()


def _csv_row(crop: Crop, pixels: Pixels) -> bytes:
    """A row as the earlier system wrote it: the pixels one after the other, row by row, the display name, the flags."""
    text = io.StringIO()
    name = str(crop.told["category"])
    quoted = f'"{name}"' if "," in name else name
    text.write(f"{crop.told['image_id']},")
    text.write(",".join(map(str, pixels.reshape(-1).tolist())))
    text.write(f",{quoted},{','.join(str(crop.told[flag]) for flag in FLAGS)}\n")
    return text.getvalue().encode()
