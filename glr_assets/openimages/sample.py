"""The rendered Open Images sample: a root of the published shape, with the defects of the real one, small and seeded.

What belongs here: how many images there are, which tables tell of them, and what is planted.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from PIL import ExifTags, Image, ImageDraw

from glr_assets import dry_run
from glr_assets.dry_run import need_done
from glr_assets.openimages import layout
from glr_assets.openimages.layout import Subset, image_path
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.receipts import Made, Summary, Writer, make
from glr_assets.seeded import drawn
from glr_assets.source.bucket_writer import BESIDE
from glr_assets.source.embedded import FOLDER as LANDMARK_SAMPLE
from glr_assets.source.embedded import SEED, keep_files
from glr_assets.store import Store

if TYPE_CHECKING:
    from glr_assets.source.render.labelled_scenes import Scene, Thing

SAMPLE_VERSION: Final = "2"
"""Goes up when the same seed gives other bytes."""
LICENSE: Final = "https://creativecommons.org/licenses/by/2.0/"
LABELS: Final[dict[str, str]] = {
    "/m/01g317": "Person",
    "/m/07j7r": "Tree",
    "/m/02wbm": "Food",
    "/m/0l515": "Sandwich",
    "/m/01b9xk": "Hot dog",
    "/m/0cdn1": "Hamburger",
    "/m/0jbk": "Animal",
    "/m/07s6nbt": "Text",
    "/m/0838f": "Water",
    "/m/04h7h": "Lighthouse",
}
"""Names as published; no picture shows the last."""
BELOW: Final[dict[str, tuple[str, ...]]] = {"/m/02wbm": ("/m/0l515", "/m/01b9xk"), "/m/0l515": ("/m/0cdn1",)}
"""Labels below a label in the hierarchy: a hamburger is a sandwich, and both, and hot dogs, are food."""
IMAGES: Final[dict[Subset, int]] = {"train": 72, "validation": 14, "test": 14}
ROTATIONS: Final = {20: 90, 21: 180, 22: 270}
"""Train images that lie there turned, and the degrees counterclockwise that turn them upright."""
UNKNOWN_ROTATION_SHARE: Final = 0.05
_SIDEWAYS: Final = 8
"""EXIF's orientation of what is upright after a quarter turn counterclockwise (EXIF 2.3, 4.6.4.A)."""


@dataclass(frozen=True)
class _Box:
    label: str
    edges: tuple[str, ...]
    flags: tuple[int, ...]
    source: str = "xclick"


@dataclass(frozen=True)
class _SampleImage:
    """An image as it shall lie there: its bytes (None: nothing lies there), and what the tables say of it."""

    image_id: str
    subset: Subset
    data: bytes | None
    original: bytes
    boxes: tuple[_Box, ...]
    rotation: str = "0.0"


def embedded_openimages(store: Store) -> OpenImagesRoot:
    """The sample under the store's `sample/openimages/`, written first where it is not there whole."""
    root = Store(f"{store.url}/{LANDMARK_SAMPLE}/{BESIDE}", store.options)
    name = "openimages_sample"

    def build(writer: Writer) -> Summary:
        writer.begin()
        with root.synced_at_end():
            write_openimages_sample(root, seed=SEED)
        keep_files(writer, f"{LANDMARK_SAMPLE}/{BESIDE}")
        return {}

    def written() -> Made:
        return make(store, name, inputs={}, parameters={"seed": SEED}, code_version=SAMPLE_VERSION, build=build)

    if dry_run.current() is not None:
        need_done("the built-in sample of Open Images", written)
    else:
        with store.locked(name):  # the processes of a run all ask for it at once
            written()
    return OpenImagesRoot(root.url, root.options)


def write_openimages_sample(root: Store, *, seed: int = 0) -> None:
    """Render the sample and write it; the same seed leaves the same bytes.

    The class descriptions are removed first and written last: without them nothing is taken for Open Images.
    """
    descriptions = layout.CLASS_DESCRIPTIONS[0]
    root.remove(descriptions)
    images = _with_defects([_image(seed, subset, n) for subset, count in IMAGES.items() for n in range(count)])
    for image in images:
        if image.data is not None:
            root.write(image_path(image.subset, image.image_id), image.data)
    for subset in layout.SUBSETS:
        here = sorted((image for image in images if image.subset == subset), key=lambda image: image.image_id)
        with_clicks = subset == "train"
        header = [*layout.BOX_COLUMNS, *(layout.CLICK_COLUMNS if with_clicks else ())]
        rows = [_box_row(image, box, with_clicks) for image in here for box in image.boxes]
        root.write(layout.BOXES[subset][0], _csv([header, *rows]))
        root.write(layout.IMAGES[subset][0], _csv([layout.IMAGE_COLUMNS, *(_image_row(image) for image in here)]))
    root.write(layout.HIERARCHY[0], f"{json.dumps(_hierarchy(), indent=1)}\n".encode())
    root.write(descriptions, _csv(LABELS.items()))


def _hierarchy() -> dict[str, Any]:
    """The tree as published: what lies below nothing else hangs on one node for everything."""

    def node(label: str) -> dict[str, Any]:
        below = [node(child) for child in BELOW.get(label, ())]
        return {"LabelName": label} | ({"Subcategory": below} if below else {})

    inner = {label for children in BELOW.values() for label in children}
    return {"LabelName": "/m/0bl9f", "Subcategory": [node(label) for label in LABELS if label not in inner]}


def _image(seed: int, subset: Subset, number: int) -> _SampleImage:
    from glr_assets.source.render.labelled_scenes import labelled_scene

    before = sum(IMAGES[other] for other in layout.SUBSETS[: layout.SUBSETS.index(subset)])
    scene = labelled_scene(seed, before + number)
    turn = ROTATIONS.get(number, 0) if subset == "train" else 0
    picture = Image.fromarray(scene.picture).rotate(-turn, expand=True)
    exif = Image.Exif()
    if turn == 90:
        exif[ExifTags.Base.Orientation] = _SIDEWAYS
    data = _jpeg(picture, exif)
    image_id = hashlib.sha256(f"{seed}\0openimages\0{subset}\0{number}".encode()).hexdigest()[:16]
    unknown = not turn and drawn(seed, "rotation", image_id) < UNKNOWN_ROTATION_SHARE
    boxes = tuple(_box(scene, at, turn) for at in range(len(scene.things)))
    return _SampleImage(image_id, subset, data, data, boxes, "nan" if unknown else f"{turn}.0")


def _box(scene: Scene, at: int, turn: int) -> _Box:
    """The published row of thing `at` of a scene that lies there turned clockwise by `turn` degrees."""
    thing: Thing = scene.things[at]
    height, width = scene.picture.shape[:2]
    left, right = thing.left / width, thing.right / width
    top, bottom = thing.top / height, thing.bottom / height
    edges = {
        0: (left, right, top, bottom),
        90: (1 - bottom, 1 - top, left, right),
        180: (1 - right, 1 - left, 1 - bottom, 1 - top),
        270: (top, bottom, 1 - right, 1 - left),
    }[turn]
    occluded = any(thing.overlaps(nearer) for nearer in scene.things[at + 1 :])
    truncated = min(thing.left, thing.top) == 0 or thing.right == width or thing.bottom == height
    label = next(label for label, name in LABELS.items() if name == thing.category)
    return _Box(label, tuple(f"{edge:.6f}" for edge in edges), (int(occluded), int(truncated), 0, 0, 0))


def _with_defects(images: list[_SampleImage]) -> list[_SampleImage]:
    """The images with what the real thing holds too, planted into the first ones of the train subset."""
    card = _lost_card()
    lost, png = _jpeg(card.convert("L")), io.BytesIO()
    card.save(png, "PNG")

    def lies_there(data: bytes | None) -> Callable[[_SampleImage], _SampleImage]:
        return lambda image: replace(image, data=data)

    def another_byte(image: _SampleImage) -> _SampleImage:
        """As many bytes as the original's, one of them another."""
        data = image.original
        return replace(image, data=data[:-3] + bytes([data[-3] ^ 1]) + data[-2:])

    def in_mode(mode: str) -> Callable[[_SampleImage], _SampleImage]:
        def changed(image: _SampleImage) -> _SampleImage:
            data = _jpeg(_opened(image.original).convert(mode))
            return replace(image, data=data, original=data)

        return changed

    def with_box(**changes: tuple[Any, ...]) -> Callable[[_SampleImage], _SampleImage]:
        """One row more, like the first but for these values; edges that are None stay."""

        def changed(image: _SampleImage) -> _SampleImage:
            first = image.boxes[0]
            edges = tuple(
                old if new is None else new
                for old, new in zip(first.edges, changes.get("edges", (None,) * 4), strict=True)
            )
            return replace(image, boxes=(*image.boxes, _Box(first.label, edges, changes.get("flags", first.flags))))

        return changed

    planted: tuple[Callable[[_SampleImage], _SampleImage], ...] = (
        lies_there(None),
        another_byte,
        lambda image: replace(image, data=image.original[: len(image.original) // 2]),
        lies_there(png.getvalue()),
        *(lies_there(lost),) * 3,
        in_mode("L"),
        in_mode("CMYK"),
        with_box(),  # a row twice, word for word
        with_box(flags=(0, 0, 1, 0, 0)),  # a box twice, with other flags
        with_box(edges=("0.250000", "0.250000", None, None)),
        with_box(flags=(-1, -1, -1, -1, -1)),
        with_box(edges=("-0.010000", None, None, None)),
        # Found by a network and verified by people, as a tenth of the published train boxes.
        lambda image: replace(image, boxes=tuple(replace(box, source="activemil") for box in image.boxes)),
        with_box(edges=("0.000000", "1.000000", "0.000000", "1.000000"), flags=(0, 1, 1, 0, 0)),
    )
    return [change(image) for change, image in zip(planted, images, strict=False)] + images[len(planted) :]


def _lost_card() -> Image.Image:
    """What a photo site sends in the stead of a photograph that its owner took away."""
    card = Image.new("P", (250, 188), 0)
    card.putpalette([236, 236, 236, 120, 120, 120])
    ImageDraw.Draw(card).text((40, 85), "This photo is no longer available", fill=1)
    return card


def _opened(data: bytes) -> Image.Image:
    with Image.open(io.BytesIO(data)) as image:
        image.load()
        return image


def _jpeg(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=82, **({"exif": exif} if exif else {}))
    return target.getvalue()


def _box_row(image: _SampleImage, box: _Box, with_clicks: bool) -> list[object]:
    left, right, top, bottom = box.edges
    row: list[object] = [image.image_id, box.source, box.label, 1, *box.edges, *box.flags]
    # The points by which the edges were found: here always the middle of each edge.
    return [*row, left, right, left, right, top, bottom, top, bottom] if with_clicks else row


def _image_row(image: _SampleImage) -> list[object]:
    place = f"https://photos.example/{image.image_id}"
    md5 = base64.b64encode(hashlib.md5(image.original, usedforsecurity=False).digest()).decode()
    return [
        image.image_id,
        image.subset,
        f"{place}_o.jpg",
        place,
        LICENSE,
        "https://photos.example/people/renderer",
        "glr sample, renderer",
        f'Picture "{image.image_id[:4]}", rendered',
        len(image.original),
        md5,
        f"{place}_z.jpg",
        image.rotation,
    ]


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()
