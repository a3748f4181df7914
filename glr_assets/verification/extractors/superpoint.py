"""SuperPoint (DeTone et al., CVPR workshops 2018) by transformers: a network that is best run on a GPU.

Photographs go in at their stored size as luma in 0…1, as the authors' own demonstration does.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import numpy.typing as npt

from glr_assets import dry_run
from glr_assets.errors import ExtractorError
from glr_assets.store import first_line
from glr_assets.verification.extractors.base import Pixels, files_digest, luma, none_found, without_orientation
from glr_assets.verification.features import MAX_DIMENSIONS, Features

if TYPE_CHECKING:
    from torch import Tensor

PUBLISHED: Final = "magic-leap-community/superpoint"
#: Pixels of a side that become one place of the network's map; it sees nothing of what is left over.
CELL: Final = 8
#: Images a forward pass: of 16 of 512 x 384 the two largest maps, of 64 channels, are 1.6 GB. A CPU takes one, so that
#: what it computes depends on no other image.
FORWARD: Final = {"cpu": 1, "cuda": 16}
_FILES: Final = ("config.json", "*.safetensors", "*.bin")

Found = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


@dataclass(frozen=True)
class SuperPoint:
    """Weights and how they are used.

    On a CPU an image's features depend on the image alone; on a GPU, up to float noise, which rounding mostly swallows.

    Attributes:
        folder: configuration and weights in transformers' format.
        digest: of these files.
        dimensions: length of a descriptor.
        max_features: at most so many of an image.
        device: auto, cpu or cuda; auto is a GPU if there is one.
    """

    folder: str
    digest: str
    dimensions: int
    max_features: int
    device: str
    signed: ClassVar[bool] = True
    oriented: ClassVar[bool] = False
    #: The authors match unit vectors at a distance of .7 or less: 1 - .7² / 2.
    min_cosine: ClassVar[float] = 0.755
    #: Many at once, so that several of them are of one size and can pass together.
    batch: ClassVar[int] = 64

    @classmethod
    def opened(cls, module: str | None, max_features: int, device: str) -> SuperPoint:
        """The weights of a recipe, not loaded yet; those of a hub are fetched.

        Raises:
            ExtractorError: there are none, or not of SuperPoint.
        """
        module = module or PUBLISHED
        folder = Path(module) if Path(module).is_dir() else _fetched(module)
        try:
            config = json.loads((folder / "config.json").read_bytes())
            kind, dimensions = config["model_type"], int(config.get("descriptor_decoder_dim", 256))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ExtractorError(
                f"{_where(module)}: its config.json cannot be read ({type(error).__name__}: {first_line(error)}); "
                "give a folder in transformers' format or a hub id"
            ) from error
        if kind != "superpoint" or not 0 < dimensions <= MAX_DIMENSIONS:
            raise ExtractorError(
                f"{_where(module)}: expected a superpoint of at most {MAX_DIMENSIONS} dimensions, found a {kind} of "
                f"{dimensions}; give SuperPoint's weights"
            )
        files = [path for pattern in _FILES for path in folder.glob(pattern)]
        return cls(str(folder), files_digest(folder, files), dimensions, max_features, device)

    @property
    def version(self) -> str:
        """Name, version of this code, and the digest of configuration and weights."""
        return f"superpoint 1, {self.digest}"

    def extract(self, images: Sequence[Pixels]) -> list[Features]:
        """Their features; those of one size pass through the network together on a GPU, one by one on a CPU.

        Raises:
            ExtractorError: the weights cannot be loaded, or there is no such device.
        """
        network, place = _loaded(self.folder, self.digest, self.device)
        features = [none_found(self.dimensions, image) for image in images]
        for numbers in _of_one_size(images, FORWARD[place]):
            planes = np.stack([luma(images[number]) for number in numbers])
            for number, (xy, descriptors) in zip(numbers, self._found(network, place, planes), strict=True):
                features[number] = without_orientation(xy, descriptors, images[number])
        return features

    def _found(self, network: Any, place: str, planes: npt.NDArray[np.uint8]) -> Iterator[Found]:
        """Places [n, 2] and descriptors [n, d] of each luma [B, H, W], the strongest first."""
        import torch

        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            pixels = torch.from_numpy(planes).to(place)[:, None].float() / 255
            places, scores, descriptors = _features(network, pixels, self.max_features)
            threshold = network.config.keypoint_threshold
            arrays = [part.float().cpu().numpy() for part in (places, scores, descriptors)]
        for xy, score, of_image in zip(*arrays, strict=True):
            strong = score > threshold
            yield xy[strong], of_image[strong]


def _features(network: Any, pixels: Tensor, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """The strongest places of a batch [B, 1, H, W]: x and y [B, n, 2], scores [B, n], unit descriptors [B, n, d].

    As the network's own forward, which takes one image after the other and, of the four borders that the authors
    leave out, leaves out two.
    """
    import torch
    from torch.nn import functional as F

    encoding = network.encoder(pixels).last_hidden_state
    scores = network.keypoint_decoder._get_pixel_scores(encoding)
    _, height, width = scores.shape
    border = network.config.border_removal_distance
    inside = torch.zeros_like(scores, dtype=torch.bool)
    inside[:, border : height - border, border : width - border] = True
    # Of places as strong as one another the first in reading order, which topk does not promise.
    scores, order = scores.where(inside, 0).flatten(1).sort(dim=1, descending=True, stable=True)
    scores, order = scores[:, :most], order[:, :most]
    places = torch.stack([order % width, order // width], dim=2).float()
    head = network.descriptor_decoder
    dense = F.normalize(head.conv_descriptor_b(head.relu(head.conv_descriptor_a(encoding))).float(), dim=1)
    return places, scores, head._sample_descriptors(places, dense, CELL).transpose(1, 2)


def _of_one_size(images: Sequence[Pixels], most: int) -> Iterator[list[int]]:
    """The numbers of images that have a size in common, at most so many together; of too small ones none."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for number, image in enumerate(images):
        if min(image.shape[:2]) >= CELL:
            sizes.setdefault(image.shape, []).append(number)
    for numbers in sizes.values():
        for first in range(0, len(numbers), most):
            yield numbers[first : first + most]


@functools.lru_cache(maxsize=1)
def _loaded(folder: str, digest: str, device: str) -> tuple[Any, str]:
    """The network and where it runs. `digest` tells apart what changed in the folder."""
    import torch
    from safetensors import SafetensorError
    from transformers import SuperPointForKeypointDetection

    if device == "cuda" and not torch.cuda.is_available():
        raise ExtractorError('device "cuda": no GPU that torch can use was found; set [execution] device = "auto"')
    place = "cuda" if device != "cpu" and torch.cuda.is_available() else "cpu"
    try:
        with _no_progress_bar():
            loaded: Any = SuperPointForKeypointDetection.from_pretrained(
                folder, output_loading_info=True, local_files_only=True, dtype=torch.float32
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise ExtractorError(
            f"{_where(folder)}: its weights cannot be loaded ({first_line(error)}); "
            "save the network with save_pretrained"
        ) from error
    network, report = loaded
    if report["missing_keys"]:
        raise ExtractorError(
            f"{_where(folder)}: lacks {len(report['missing_keys'])} tensors, the first "
            f"{sorted(report['missing_keys'])[0]}; save the whole network with save_pretrained"
        )
    return network.eval().to(place), place


def _fetched(module: str) -> Path:
    """Where the files of a hub's repository lie on this machine, once they have been fetched."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    try:
        fetches = dry_run.current() is None
        return Path(snapshot_download(module, allow_patterns=list(_FILES), local_files_only=not fetches))
    except (OSError, HFValidationError, HfHubHTTPError, ValueError) as error:
        raise ExtractorError(
            f"{_where(module)}: no such folder, and the hub does not give it ({type(error).__name__}: "
            f"{first_line(error)}); give a folder in transformers' format, or a hub id and a network"
        ) from error


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _where(module: str) -> str:
    return f"[verification] module = {module!r}"
