"""The embedded sample: rendered landmarks as a small bucket shaped like GLDv2, the same for the same seed.

What belongs here: which landmarks, how many photographs, and the defects of real buckets that are planted.
Class sizes are as uneven as real ones: some classes are cut down by deduplication, many filled up.
"""

from __future__ import annotations

import hashlib
import io
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

from PIL import Image, ImageEnhance, ImageOps

from glr_assets.seeded import drawn
from glr_assets.source.base import Split
from glr_assets.source.bucket_writer import (
    IGNORED_NON_LANDMARKS,
    PUBLIC_SHARE,
    Landmark,
    Photo,
    category_page,
    write_bucket,
)
from glr_assets.source.layout import Usage
from glr_assets.store import Store

SAMPLE_VERSION: Final = "2"
"""Goes up when the same seed gives other bytes."""
SHARDS: Final[dict[Split, int]] = {"train": 4, "index": 2, "test": 2}
CATEGORIES: Final = "sample:///wiki/Category:"
"""No page of the web: the landmarks are invented."""
LICENSE: Final = "https://creativecommons.org/publicdomain/zero/1.0/"
AUTHOR: Final = "glr sample, renderer"
DUPLICATE_SHARE: Final = 0.12
"""Share of a landmark's train images that are another one's, cropped a little and saved again."""
TRAP_IDS: Final = ("0000000012345678", "00000000000001e5")
"""Ids that a careless reader takes for numbers; some of GLDv2's look like these."""


@dataclass(frozen=True)
class SampleSummary:
    """What the sample holds: landmarks, images of each split and kind, shards."""

    landmarks: int
    train: int
    clean: int
    index: int
    test: int
    ignored: int
    non_landmarks: int
    undecodable: int
    shards: dict[Split, int]
    shard_bytes: int


@dataclass(frozen=True)
class SampleLandmark:
    """A rendered landmark, and how many photographs of it are in each split; `clean` of `train` compete."""

    title: str
    family: str
    variant: int
    train: int
    clean: int
    index: int = 4
    test: int = 5


_KINDS: Final[dict[str, tuple[str, str, str]]] = {
    "tower": ("tower", "tower", "human-made"),
    "dome": ("mosque", "religious building", "human-made"),
    "arch": ("triumphal arch", "monument", "human-made"),
    "bridge": ("bridge", "bridge", "human-made"),
    "temple": ("temple", "religious building", "human-made"),
    "castle": ("castle / fort", "castle / fort", "human-made"),
    "pagoda": ("pagoda", "religious building", "human-made"),
    "skyscraper": ("skyscraper", "tower", "human-made"),
    "pyramid": ("pyramid", "archaeological site", "human-made"),
    "falls": ("waterfall", "waterfall", "natural"),
}
"""Hierarchical label, supercategory and nature of each family."""

LANDMARKS: Final[tuple[SampleLandmark, ...]] = (
    SampleLandmark("Aldermoor Clock Tower", "tower", 0, 45, 36, 5, 6),
    SampleLandmark("Rose Belfry of Vantry", "tower", 1, 26, 16),
    SampleLandmark("Tower of the Seven Bells", "tower", 2, 14, 8),
    SampleLandmark("Mosque of Qasr Velin", "dome", 0, 40, 33, 5, 6),
    SampleLandmark("Tomb of Amrith", "dome", 1, 18, 12),
    SampleLandmark("Baths of Serrano, Old Town", "dome", 2, 11, 7),
    SampleLandmark("Lindgate", "arch", 0, 32, 18),
    SampleLandmark('Arch "of the Three Roads"', "arch", 1, 16, 10),
    SampleLandmark("Bridge of Two Towers", "bridge", 0, 36, 30, 5, 6),
    SampleLandmark("Kestrel Strait Bridge", "bridge", 1, 22, 13),
    SampleLandmark("Temple of the Hesperid", "temple", 0, 34, 29, 4, 6),
    SampleLandmark("Old Exchange, Corvin", "temple", 1, 20, 13),
    SampleLandmark("Temple at Cape Ýrsa", "temple", 2, 10, 7),
    SampleLandmark("Marrow Castle", "castle", 0, 28, 19),
    SampleLandmark("Castle of Three Spires", "castle", 1, 24, 15),
    SampleLandmark("Hohenfels Keep", "castle", 2, 14, 9, 3, 4),
    SampleLandmark("Five-Storey Pagoda of Min", "pagoda", 0, 27, 17),
    SampleLandmark("Octagon Pagoda", "pagoda", 1, 15, 9, 3, 4),
    SampleLandmark("Meridian Building", "skyscraper", 0, 32, 27, 4, 6),
    SampleLandmark("Wedge Tower", "skyscraper", 1, 18, 11),
    SampleLandmark("Stairs of Itzamal", "pyramid", 0, 22, 14),
    SampleLandmark("Pyramid of the Two Queens", "pyramid", 1, 9, 7, 3, 4),
    SampleLandmark("Skarn Falls", "falls", 0, 20, 13),
    SampleLandmark("Triple Falls of Morrow", "falls", 1, 6, 6, 3, 4),
)


def write_sample(
    bucket: Store,
    *,
    seed: int = 0,
    landmarks: Sequence[SampleLandmark] = LANDMARKS,
    non_landmarks: int = 63,
) -> SampleSummary:
    """Render the sample and write it as a whole bucket; the same arguments leave the same bytes.

    On top of the counts, the first landmark gets three train files that are no pictures.

    Raises:
        SourceError: the place holds something else.
    """
    photos = [photo for landmark in landmarks for photo in _landmark_photos(seed, landmark)]
    photos += _defects(seed, landmarks[0])
    photos += _non_landmark_photos(seed, non_landmarks)
    _set_trap_ids(photos)
    written = write_bucket(
        photos,
        {landmark.title: _described(landmark) for landmark in landmarks},
        bucket,
        shards=SHARDS,
        origin={"made_by": "glr sample", "seed": seed},
        seed=seed,
    )

    def count(split: Split) -> int:
        return sum(photo.split == split for photo in photos)

    return SampleSummary(
        landmarks=len(landmarks),
        train=count("train"),
        clean=sum(photo.clean for photo in photos),
        index=count("index"),
        test=count("test"),
        ignored=sum(photo.split == "test" and photo.usage == "Ignored" for photo in photos),
        non_landmarks=non_landmarks,
        undecodable=sum(photo.title.startswith(DEFECT) for photo in photos),
        shards=written.shards,
        shard_bytes=written.shard_bytes,
    )


def _described(landmark: SampleLandmark) -> Landmark:
    label, supercategory, nature = _KINDS[landmark.family]
    return Landmark(category_page(CATEGORIES, landmark.title), supercategory, label, nature)


def _photo(
    seed: int,
    landmark: str | None,
    split: Split,
    name: str,
    read: Callable[[], bytes],
    clean: bool = False,
    usage: Usage = "Private",
) -> Photo:
    """A photograph of the sample; its id depends on the seed and its place in the sample."""
    place = f"{landmark or 'no landmark'}/{split}/{name}"
    return Photo(
        image_id=hashlib.sha256(f"{seed}\0{place}".encode()).hexdigest()[:16],
        split=split,
        landmark=landmark,
        read=read,
        clean=clean,
        usage=usage,
        url="sample:///" + place.replace(" ", "_").replace('"', "%22"),
        page="sample:///" + place.replace(" ", "_").replace('"', "%22"),
        author=AUTHOR,
        license=LICENSE,
        title=f"{name}, {landmark or 'no landmark'}.jpg",
    )


def _landmark_photos(seed: int, landmark: SampleLandmark) -> Iterator[Photo]:
    counts: tuple[tuple[Split, int], ...] = (
        ("train", landmark.train),
        ("index", landmark.index),
        ("test", landmark.test),
    )
    duplicates = math.floor(landmark.train * DUPLICATE_SHARE)
    for split, count in counts:
        for number in range(count):
            name = f"{number:03d}"
            read = partial(_rendered, seed, landmark, f"{split}{number}")
            if split == "train" and 0 < number <= duplicates:
                # Originals are the last ones, duplicates the first after number 0: no image is both.
                original = landmark.train - number
                read = partial(_taken_again, seed, landmark, original, number)
            elif split == "train" and landmark.variant == 0 and number == landmark.train - 1:
                read = partial(_unusual, seed, landmark, f"{split}{number}")
            yield _photo(
                seed,
                landmark.title,
                split,
                name,
                read,
                # Spread over the numbers, so that duplicates and their originals fall on both sides.
                clean=split == "train" and (number + 1) * landmark.clean // count > number * landmark.clean // count,
                usage=_scored(seed, landmark.title, name) if split == "test" else "Private",
            )


def _scored(seed: int, *parts: object) -> Usage:
    return "Public" if drawn(seed, "usage", *parts) < PUBLIC_SHARE else "Private"


def _rendered(seed: int, landmark: SampleLandmark, number: str) -> bytes:
    from glr_assets.source.render.photograph import landmark_photo

    return landmark_photo(seed, landmark.family, landmark.variant, number)


def _taken_again(seed: int, landmark: SampleLandmark, original: int, number: int) -> bytes:
    """The train image `original`, cropped by a few hundredths, brightness changed, saved again."""
    with Image.open(io.BytesIO(_rendered(seed, landmark, f"train{original}"))) as image:
        parts = (seed, "again", landmark.title, number)
        left, top, right, foot = (0.03 * drawn(*parts, side) for side in range(4))
        width, height = image.size
        cropped = image.crop(
            (round(left * width), round(top * height), round((1 - right) * width), round((1 - foot) * height))
        )
        brighter = ImageEnhance.Brightness(cropped).enhance(0.95 + 0.1 * drawn(*parts, "brightness"))
        return _saved(brighter, quality=60 + int(25 * drawn(*parts, "quality")))


def _unusual(seed: int, landmark: SampleLandmark, number: str) -> bytes:
    """A good photograph in a form that careless readers stumble over, another one each family."""
    with Image.open(io.BytesIO(_rendered(seed, landmark, number))) as image:
        form = sorted(_KINDS).index(landmark.family) % 3
        if form == 0:
            return _saved(ImageOps.grayscale(image))
        if form == 1:
            return _saved(image.convert("CMYK"))
        exif = Image.Exif()
        exif[0x0112] = 6  # Orientation: to be turned a quarter clockwise for viewing
        target = io.BytesIO()
        image.transpose(Image.Transpose.ROTATE_90).save(target, "JPEG", quality=75, exif=exif)
        return target.getvalue()


def _saved(image: Image.Image, quality: int = 75) -> bytes:
    target = io.BytesIO()
    image.save(target, "JPEG", quality=quality)
    return target.getvalue()


DEFECT: Final = "defect"


def _defects(seed: int, landmark: SampleLandmark) -> list[Photo]:
    """Files that real buckets hold too: a picture cut short, none at all, and a web page."""
    page = b"<!DOCTYPE html>\n<title>429 Too many requests</title>\n"
    readers: dict[str, Callable[[], bytes]] = {
        f"{DEFECT} cut": lambda: _rendered(seed, landmark, "train0")[:4000],
        f"{DEFECT} empty": lambda: b"",
        f"{DEFECT} page": lambda: page,
    }
    return [
        _photo(seed, landmark.title, "train", name, read, clean=name != f"{DEFECT} empty")
        for name, read in readers.items()
    ]


def _non_landmark_photos(seed: int, count: int) -> list[Photo]:
    """Pictures without landmark, a share of them, drawn from the seed, never scored."""
    order = sorted(range(count), key=lambda number: drawn(seed, "ignored", number))
    ignored = frozenset(order[: math.ceil(count * IGNORED_NON_LANDMARKS)])
    return [
        _photo(
            seed,
            None,
            "test",
            f"{number:03d}",
            partial(_rendered_without_landmark, seed, number),
            usage="Ignored" if number in ignored else _scored(seed, "no landmark", number),
        )
        for number in range(count)
    ]


def _rendered_without_landmark(seed: int, number: int) -> bytes:
    from glr_assets.source.render.non_landmarks import non_landmark_photo

    return non_landmark_photo(seed, number)


def _set_trap_ids(photos: list[Photo]) -> None:
    """Give the first good train images the ids that look like numbers."""
    for position, trap in enumerate(TRAP_IDS[: len(photos)]):
        photos[position] = replace(photos[position], image_id=trap)
