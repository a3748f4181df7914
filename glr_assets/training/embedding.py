"""A network in use: photographs in, numbers or unit vectors out, in the order of the photographs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Literal, TypedDict, Unpack

import numpy as np
import numpy.typing as npt

# This module is imported only by functions that run a network.
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from glr_assets.errors import EmbedderError
from glr_assets.training.photographs import Picture, in_threads, normalised, squares, upright
from glr_assets.training.views import Views

Floats = npt.NDArray[np.float32]

#: Images a forward pass, where nothing is said.
BATCH = 64


class Running(TypedDict, total=False):
    """Where and how a network runs."""

    batch_size: int
    """images a forward pass; `BATCH` where left out"""
    device: str
    """auto, cpu or cuda; auto, which takes a GPU if there is one, where left out"""
    workers: int
    """threads that decode; 0, which decodes between the forward passes, where left out"""
    precision: Literal["float32", "bfloat16"]
    """of the network on a GPU, a CPU uses float32; float32 where left out"""


def torch_device(device: str) -> torch.device:
    """The device to run on; "auto" is a GPU if there is one.

    Raises:
        EmbedderError: "cuda" where there is none.
    """
    has_gpu = torch.cuda.is_available()
    if device == "auto":
        return torch.device("cuda" if has_gpu else "cpu")
    if device == "cuda" and not has_gpu:
        raise EmbedderError('device "cuda": no GPU that torch can use was found; set [execution] device = "auto"')
    return torch.device(device)


def embed(
    module: nn.Module,
    images: Iterable[Picture],
    size: int,
    **running: Unpack[Running],
) -> Floats:
    """L2-normalised embeddings, float32 [n, D], in the order of `images`.

    A row depends on its image alone, up to float noise, whatever stands in its batch. Images are read as
    they are needed, so a generator never has more than a few batches in memory.

    Args:
        module: an `EmbeddingNetwork` in eval mode, or a TorchScript embedder; it is moved to `device`.
        images: encoded bytes, RGB uint8 [H, W, 3] or Pillow images.
        size: side in pixels of the square that each is squeezed to.
        running: where and how the network runs.

    Raises:
        EmbedderError: an image that cannot be decoded, or an embedder that gives no finite vectors.
    """
    rows = F.normalize(module_outputs(module, images, size, **running))
    bad = (~torch.isfinite(rows)).any(dim=1).nonzero()
    if len(bad):
        raise EmbedderError(
            f"image number {int(bad[0])}: its embedding is not finite; train the embedder again or bring in another"
        )
    return np.asarray(rows.numpy(), dtype=np.float32)


def embed_views(
    module: nn.Module,
    images: Iterable[Picture],
    views: Views,
    **running: Unpack[Running],
) -> Floats:
    """The mean over some views of each image's embeddings, brought to unit length; arguments as `embed`'s.

    Raises:
        EmbedderError: an image that cannot be decoded, or an embedder that gives no finite vectors.
    """

    def of_side(pictures: Iterable[Picture], side: int) -> Floats:
        return embed(module, pictures, side, **running)

    if views.one:
        return of_side(images, views.sides[0])
    parts: list[Floats] = []
    batch_size, workers = running.get("batch_size", BATCH), running.get("workers", 0)
    remaining = iter(images)
    while chunk := list(islice(remaining, batch_size)):
        numbered = enumerate(chunk, sum(map(len, parts)))
        pixels = list(in_threads(lambda pair: upright(pair[1], f"image number {pair[0]}"), numbered, workers))
        mirrored = [np.ascontiguousarray(picture[:, ::-1]) for picture in pixels] if views.mirrored else []
        rows = sum(of_side(seen, side) for side in views.sides for seen in (pixels, mirrored) if seen)
        parts.append(np.asarray(F.normalize(torch.from_numpy(np.asarray(rows))).numpy(), np.float32))
    return np.concatenate(parts) if parts else of_side([], views.sides[0])


def module_outputs(
    module: nn.Module,
    images: Iterable[Picture],
    size: int,
    **running: Unpack[Running],
) -> Tensor:
    """What `module` gives for each image, float32 [n, D] on the CPU, in the order of `images`; arguments as `embed`'s.

    Raises:
        EmbedderError: an image that cannot be decoded.
    """
    found = list(output_batches(module, images, size, **running))
    if not found:
        place = torch_device(running.get("device", "auto"))
        with torch.inference_mode():
            return torch.zeros(0, module.to(place)(torch.zeros(1, 3, size, size, device=place)).shape[1])
    return torch.cat(found)


def output_batches(
    module: nn.Module,
    images: Iterable[Picture],
    size: int,
    **running: Unpack[Running],
) -> Iterator[Tensor]:
    """As `module_outputs`, a batch after another, for those who need not keep all of it.

    Raises:
        EmbedderError: an image that cannot be decoded.
    """
    place = torch_device(running.get("device", "auto"))
    module = module.to(place)
    half = place.type == "cuda" and running.get("precision") == "bfloat16"
    for batch in squares(images, size, running.get("batch_size", BATCH), running.get("workers", 0)):
        # Not around the loop: what the reader does between two batches is its own.
        with torch.inference_mode(), torch.autocast(place.type, dtype=torch.bfloat16, enabled=half):
            if place.type == "cuda":
                batch = batch.pin_memory().to(place, non_blocking=True)
            outputs = module(normalised(batch)).float().cpu()
        yield outputs
