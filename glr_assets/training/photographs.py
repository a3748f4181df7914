"""Photographs as a network sees them: the held-out share, one preparation for all, augmentation, batches.

Pixels are uint8 until they are on the device, where `normalised` turns them into what networks take; so
decoding threads move a quarter of the bytes and training, inference and service cannot differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from glr_assets.concurrency import single_threaded
from glr_assets.errors import EmbedderError
from glr_assets.grouped_split import held_out_groups
from glr_assets.ranges import ordered
from glr_assets.seeded import derived_seed

if TYPE_CHECKING:
    import torch
    from PIL import Image

    from glr_assets.training.samplers import Draw

Pixels = npt.NDArray[np.uint8]
#: Encoded bytes, RGB uint8 [H, W, 3], or a Pillow image.
Picture: TypeAlias = "bytes | Pixels | Image.Image"
Item = TypeVar("Item")
Result = TypeVar("Result")
#: Encoded bytes of photographs in the order of their ids, several requested at once.
ReadAhead: TypeAlias = "Callable[[Iterable[str]], Iterator[bytes]]"

# Mean and deviation of ImageNet's RGB channels in 0…1, which published backbones were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Rec. 601 luma, which JPEG and Pillow's "L" use.
LUMA = (0.299, 0.587, 0.114)

# Kept pictures are this much larger than the network's square, so that crops of them lose little.
CACHE_MARGIN = 1.15
CACHE_BYTES = 2 * 2**30
#: Pictures of which it is decided together which ones are read ahead.
WINDOW = 4096
#: Bytes of pictures that are decoded ahead of the reader, at most.
DECODED_AHEAD = 256 * 2**20


@dataclass(frozen=True)
class TrainingSet:
    """Photographs and their landmarks.

    Attributes:
        ids: of the photographs.
        landmark_ids: one each.
        read: the stored JPEG bytes of an id; called from several threads.
        read_ahead: the stored JPEG bytes of many ids in order, several requested at once; absent where one read at a
            time is as fast.
    """

    ids: tuple[str, ...]
    landmark_ids: tuple[int, ...]
    read: Callable[[str], bytes]
    read_ahead: ReadAhead | None = None

    def __post_init__(self) -> None:
        if len(self.ids) != len(self.landmark_ids):
            raise EmbedderError(
                f"training set: {len(self.ids)} ids but {len(self.landmark_ids)} landmark ids; pass one each"
            )

    def __len__(self) -> int:
        return len(self.ids)

    def images(self) -> Iterator[bytes]:
        """The stored JPEG bytes of all photographs, in their order."""
        return map(self.read, self.ids) if self.read_ahead is None else self.read_ahead(self.ids)

    def of(self, ids: Iterable[str], landmark_ids: Iterable[int]) -> TrainingSet:
        """Other photographs that are read from the same place."""
        return replace(self, ids=tuple(ids), landmark_ids=tuple(landmark_ids))


def hold_out(
    ids: Sequence[str],
    landmark_ids: Sequence[int],
    share: float,
    seed: int,
    groups: Sequence[int] | npt.NDArray[np.int64] | None = None,
) -> tuple[list[str], list[str]]:
    """Part ids into those that train and those held out of training, landmark by landmark, in whole groups.

    Of a landmark with n photographs about `share * n`, rounded by a seeded coin, are held out, never more than
    n - 1: every landmark trains. Who is held out depends on the seed, the ids, their landmarks and their groups, not
    on the order in which they come.

    Args:
        ids: of the photographs.
        landmark_ids: of each.
        share: held out.
        seed: of the draw.
        groups: of each, the place in `ids` of its group's first photograph by id (`duplicate_groups`), which is of the
            same landmark: near-duplicates go to one side. Absent: each is a group of its own.

    Returns:
        (training, validation), each in the order of `ids`.
    """
    members: dict[int, list[str]] = {}
    for place, image_id in enumerate(ids):
        members.setdefault(place if groups is None else int(groups[place]), []).append(image_id)
    classes: dict[int, list[int]] = {}
    for first in members:
        classes.setdefault(landmark_ids[first], []).append(first)
    held: set[str] = set()
    for landmark, of_landmark in classes.items():
        exact = share * sum(len(members[first]) for first in of_landmark)
        coin = derived_seed("hold out landmark", seed, landmark) / 2**63
        ordered = sorted(of_landmark, key=lambda first: derived_seed("hold out", seed, ids[first]))
        sizes = [len(members[first]) for first in ordered]
        count = math.floor(exact) + (coin < exact % 1)
        for place in held_out_groups(sizes, count, _coin("hold out group", seed, landmark)):
            held.update(members[ordered[place]])
    return [i for i in ids if i not in held], [i for i in ids if i in held]


def _coin(*parts: object) -> Callable[[], float]:
    return lambda: derived_seed(*parts) / 2**63


def decode(data: bytes, name: str = "image") -> Pixels:
    """Encoded bytes as RGB uint8 [H, W, 3], turned upright by their EXIF orientation.

    Raises:
        EmbedderError: the bytes are no image; `name` says which.
    """
    import cv2

    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB) if data else None
    if pixels is None:
        raise EmbedderError(
            f"{name}: its {len(data)} bytes cannot be decoded as an image; store it again, or leave it out"
        )
    return np.asarray(pixels, dtype=np.uint8)


def square(image: Picture, size: int, name: str = "image") -> Pixels:
    """The whole picture squeezed to a square, RGB uint8 [size, size, 3].

    Squeezing keeps what stands at the edges, towers above all; a centre crop cuts it off, and on the 25
    landmarks it was measured on cost about a tenth of the GAP.

    Raises:
        EmbedderError: bytes that are no image.
    """
    import cv2

    pixels = upright(image, name)
    if pixels.shape[:2] == (size, size):
        return pixels
    shrinks = min(pixels.shape[:2]) >= size
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(pixels, (size, size), interpolation=how), dtype=np.uint8)


def normalised(batch: torch.Tensor) -> torch.Tensor:
    """uint8 [B, H, W, 3] as float32 [B, 3, H, W] on the same device, normalised by ImageNet's statistics."""
    import torch

    std = torch.tensor(IMAGENET_STD, device=batch.device)
    mean = torch.tensor(IMAGENET_MEAN, device=batch.device)
    # The permuted view is laid out channels last, which convolutions take without a copy.
    return batch.to(torch.float32).mul_(1 / (255 * std)).sub_(mean / std).permute(0, 3, 1, 2)


def upright(image: Picture, name: str = "image") -> Pixels:
    """A picture in any form as RGB uint8 [H, W, 3], turned as its EXIF orientation says.

    Raises:
        EmbedderError: bytes that are no image.
    """
    if isinstance(image, bytes):
        return decode(image, name)
    if isinstance(image, np.ndarray):
        return image
    from PIL import ImageOps

    return np.asarray(ImageOps.exif_transpose(image).convert("RGB"), dtype=np.uint8)


@dataclass(frozen=True)
class Augmentation:
    """How far a training picture may be varied; every range is drawn from evenly."""

    area: float = 0.35
    """least share of the picture's area that a crop keeps"""
    aspect: float = 4 / 3
    """a crop's aspect is the picture's times at most this, or divided by it"""
    perspective: float = 0.08
    """corners move by at most this share of the crop's sides"""
    degrees: float = 15.0
    """rotation either way"""
    colour: float = 0.4
    """brightness, contrast and saturation are scaled by 1 ± this, each channel by 1 ± a quarter of it"""
    grey: float = 0.1
    """share of pictures without colour"""
    erase: float = 0.3
    """share of pictures with a rectangle of 1/8 to 1/2 of each side blanked (Zhong et al. 2020)"""

    def scaled(self, strength: float) -> Augmentation:
        """Every range times `strength`; 0 leaves the picture whole but for mirroring."""
        return Augmentation(
            area=1 - strength * (1 - self.area),
            aspect=self.aspect**strength,
            perspective=strength * self.perspective,
            degrees=strength * self.degrees,
            colour=strength * self.colour,
            grey=strength * self.grey,
            erase=strength * self.erase,
        )


def augmented(pixels: Pixels, size: int, random: np.random.Generator, how: Augmentation | None = None) -> Pixels:
    """A random variation of a picture, RGB uint8 [size, size, 3]; the same generator state gives the same."""
    import cv2

    how = how or Augmentation()
    matrix = _warp(pixels.shape[0], pixels.shape[1], size, random, how)
    warped = cv2.warpPerspective(
        pixels, matrix, (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101
    )
    # OpenCV transforms uint8 with saturation; one matrix is brightness, contrast, saturation and tint at once.
    tinted = cv2.transform(warped, _tint(cv2.mean(warped)[:3], random, how))
    if random.random() < how.erase:
        height, width = random.integers(size // 8, size // 2 + 1, 2)
        top, left = random.integers(0, size - height + 1), random.integers(0, size - width + 1)
        tinted[top : top + height, left : left + width] = np.round(255 * np.array(IMAGENET_MEAN))
    return np.asarray(tinted, dtype=np.uint8)


def _warp(
    height: int, width: int, size: int, random: np.random.Generator, how: Augmentation
) -> npt.NDArray[np.float64]:
    """The 3×3 perspective from a random, turned, bent and perhaps mirrored crop to the square."""
    import cv2

    area = height * width * random.uniform(how.area, 1.0)
    bound = math.log(how.aspect)
    aspect = width / height * math.exp(random.uniform(-bound, bound))
    crop = np.array([min(width, math.sqrt(area * aspect)), min(height, math.sqrt(area / aspect))])
    corner = random.uniform(0, 1, 2) * (np.array([width, height]) - crop)
    unit = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    corners = corner + (unit + random.uniform(-how.perspective, how.perspective, (4, 2))) * crop
    angle = math.radians(random.uniform(-how.degrees, how.degrees))
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = corners.mean(axis=0)
    corners = (corners - middle) @ turn.T + middle
    target = (unit if random.random() < 0.5 else unit[[1, 0, 3, 2]]) * size
    # From pixel edges to pixel centres, which is what OpenCV counts in.
    found = cv2.getPerspectiveTransform((corners - 0.5).astype(np.float32), (target - 0.5).astype(np.float32))
    return np.asarray(found, dtype=np.float64)


def _tint(mean: Sequence[float], random: np.random.Generator, how: Augmentation) -> npt.NDArray[np.float32]:
    """The 3×4 affine map of RGB that changes brightness, then contrast about the mean luma, then colour."""
    low, high = 1 - how.colour, 1 + how.colour
    brightness, contrast, saturation = random.uniform(low, high, 3)
    if random.random() < how.grey:
        saturation = 0.0
    tint = random.uniform(1 - how.colour / 4, 1 + how.colour / 4, 3)
    luma = np.array(LUMA)
    colour = tint[:, None] * (saturation * np.eye(3) + (1 - saturation) * luma[None, :])
    # Grey keeps its luma under `colour` up to the tint, so the offset is the same for all three channels.
    offset = tint * (1 - contrast) * brightness * float(luma @ np.array(mean))
    return np.concatenate([contrast * brightness * colour, offset[:, None]], axis=1).astype(np.float32)


class Pictures:
    """Decoded pictures by id, kept in memory at a little more than the network's size up to a limit.

    A picture beyond the limit is decoded each time and gives the same pixels. Smaller sources are not
    enlarged.

    Args:
        read: the encoded bytes of an id, from any thread.
        size: side in pixels of the network's square.
        cache_bytes: the limit.
        read_ahead: as `TrainingSet.read_ahead`.
    """

    def __init__(
        self,
        read: Callable[[str], bytes],
        size: int,
        cache_bytes: int = CACHE_BYTES,
        read_ahead: ReadAhead | None = None,
    ) -> None:
        self.read, self.read_ahead = read, read_ahead
        self.side = round(CACHE_MARGIN * size)
        self.cache_bytes = cache_bytes
        self.held_bytes = 0
        self._kept: dict[str, Pixels] = {}

    def __call__(self, image_id: str, data: bytes | None = None) -> Pixels:
        """RGB uint8 [H, W, 3] of `image_id`.

        Args:
            image_id: the picture's.
            data: its encoded bytes, where they have been read ahead.

        Raises:
            EmbedderError: it cannot be decoded.
        """
        kept = self._kept.get(image_id)
        if kept is not None:
            return kept
        pixels = self._shrunk(decode(self.read(image_id) if data is None else data, f"image {image_id}"))
        # Two threads may pass here together: the limit is then passed by a picture, never by more than threads.
        if self.held_bytes + pixels.nbytes <= self.cache_bytes:
            self._kept[image_id] = pixels
            self.held_bytes += pixels.nbytes
        return pixels

    def encoded(self, ids: Iterable[str]) -> Iterator[bytes | None]:
        """For each id the encoded bytes, many requested at once; None where `__call__` does without them."""
        if self.read_ahead is None:
            yield from (None for _ in ids)
            return
        remaining = iter(ids)
        while window := list(islice(remaining, WINDOW)):
            wanted = [image_id not in self._kept for image_id in window]
            found = self.read_ahead(image_id for image_id, is_wanted in zip(window, wanted, strict=True) if is_wanted)
            for is_wanted in wanted:
                yield next(found) if is_wanted else None

    def _shrunk(self, pixels: Pixels) -> Pixels:
        import cv2

        height, width = pixels.shape[:2]
        scale = self.side / min(height, width)
        if scale >= 1:
            return pixels
        target = (max(self.side, round(width * scale)), max(self.side, round(height * scale)))
        return np.asarray(cv2.resize(pixels, target, interpolation=cv2.INTER_AREA), dtype=np.uint8)


class EpochBatches:
    """Batches of varied photographs: (uint8 [views · B, size, size, 3], class numbers int64 [B]) tensors.

    Pixels depend on (seed, epoch, draw, view) alone, not on `workers` or on what else is in a batch. Of several
    views of B photographs, the B first rows are the first view of each.

    Args:
        batches: what each batch holds, from `samplers.batches_of`.
        pictures: the photographs.
        size: side in pixels of what comes out.
        seed: of the training.
        epoch: counted from 0.
        workers: threads that decode and vary; 0 does it between the batches.
        augmentation: how far photographs are varied.
        views: variations of each photograph.
        part: (number, of how many) of the parts that each batch is dealt out in; this one's alone come.
    """

    def __init__(
        self,
        batches: Sequence[Sequence[Draw]],
        pictures: Pictures,
        *,
        size: int,
        seed: int,
        epoch: int,
        workers: int,
        augmentation: Augmentation,
        views: int = 1,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.size, self.workers, self.pictures, self.views = size, workers, pictures, views
        self.seed, self.epoch, self.augmentation = seed, epoch, augmentation
        number, parts = part
        self.batches = [batch[number::parts] for batch in batches]
        # A process's mean loss counts by its share of the batch's photographs, times the number of processes that
        # are averaged over: 1 where all have as many.
        self.weights = [parts * len(own) / len(batch) for own, batch in zip(self.batches, batches, strict=True)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        import torch

        def wanted() -> Iterator[tuple[Draw, int]]:
            return ((draw, view) for batch in self.batches for view in range(self.views) for draw in batch)

        def work(item: tuple[tuple[Draw, int], bytes | None]) -> Pixels:
            (draw, view), data = item
            return self._varied(draw, view, data)

        images = zip(wanted(), self.pictures.encoded(draw.id for draw, _ in wanted()), strict=True)
        varied = in_threads(work, images, self.workers, lambda _: 3 * self.size**2)
        for batch in self.batches:
            pixels = np.empty((self.views * len(batch), self.size, self.size, 3), np.uint8)
            for row in pixels:
                row[...] = next(varied)
            yield torch.from_numpy(pixels), torch.tensor([draw.class_number for draw in batch], dtype=torch.int64)

    def _varied(self, draw: Draw, view: int, data: bytes | None) -> Pixels:
        # The first look at a photograph in an epoch is the same however many looks there are.
        look = (view, draw.repeat) if view or draw.repeat else ()
        random = np.random.default_rng(derived_seed("augment", self.seed, self.epoch, draw.id, *look))
        return augmented(self.pictures(draw.id, data), self.size, random, self.augmentation)


def squares(images: Iterable[Picture], size: int, batch_size: int, workers: int) -> Iterator[torch.Tensor]:
    """Pictures as uint8 batches [≤ batch_size, size, size, 3] in their order, prepared by `workers` threads."""
    import torch

    def prepared(pair: tuple[int, Picture]) -> Pixels:
        return square(pair[1], size, f"image number {pair[0]}")

    def largest(pair: tuple[int, Picture]) -> int:
        return max(3 * size**2, len(pair[1]) if isinstance(pair[1], bytes) else 0)

    numbered = in_threads(prepared, enumerate(images), workers, largest)
    batch: list[Pixels] = []
    for pixels in numbered:
        batch.append(pixels)
        if len(batch) == batch_size:
            yield torch.from_numpy(np.stack(batch))
            batch = []
    if batch:
        yield torch.from_numpy(np.stack(batch))


def in_threads(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    size: Callable[[Item], int] = lambda _: 0,
) -> Iterator[Result]:
    """`work` of each item in order, `workers` threads ahead of the reader; in this thread where it is 0.

    OpenCV leaves Python's lock while it decodes and warps, so threads suffice and nothing is pickled.

    Args:
        work: called once an item, from any thread.
        items: taken as they are needed, by this thread.
        workers: threads.
        size: bytes of an item, or of its result where that is larger; together at most `DECODED_AHEAD` are ahead.
    """
    if workers < 1:
        yield from map(work, items)
        return
    # Enough for two batches of a GPU's size without holding an epoch.
    ahead = 8 * workers + 64
    with (
        single_threaded("opencv"),
        closing(ordered(work, items, workers=workers, ahead=ahead, most_bytes=DECODED_AHEAD, size=size)) as done,
    ):
        yield from done
