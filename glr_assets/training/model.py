"""The network that turns a photograph into a vector: a ResNet, GeM pooling, a bottleneck, unit length."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

# These modules are imported only by functions that train or run a network.
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253
from transformers import ResNetConfig, ResNetModel  # noqa: TID253

from glr_assets.errors import EmbedderError
from glr_assets.recipes import Embedder

# Layers and widths of He et al. 2016 (arXiv 1512.03385), table 1; resnet-tiny is ResNet-10 at half width.
BACKBONES: Final[dict[str, dict[str, Any]]] = {
    "resnet-tiny": {
        "embedding_size": 32,
        "hidden_sizes": [32, 64, 128, 256],
        "depths": [1, 1, 1, 1],
        "layer_type": "basic",
    },
    "resnet-18": {
        "embedding_size": 64,
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [2, 2, 2, 2],
        "layer_type": "basic",
    },
    "resnet-34": {
        "embedding_size": 64,
        "hidden_sizes": [64, 128, 256, 512],
        "depths": [3, 4, 6, 3],
        "layer_type": "basic",
    },
    "resnet-50": {
        "embedding_size": 64,
        "hidden_sizes": [256, 512, 1024, 2048],
        "depths": [3, 4, 6, 3],
        "layer_type": "bottleneck",
    },
}


class GeM(nn.Module):
    """Generalised-mean pooling [B, C, H, W] → [B, C] with a learnt exponent (Radenović et al. 2018).

    1 is the mean, infinity the maximum; activations are taken as at least `floor`.
    """

    def __init__(self, power: float, floor: float = 1e-6) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.tensor(power))
        self.floor = floor

    def forward(self, features: Tensor) -> Tensor:
        """The generalised mean over height and width, in float32 whatever the precision around it."""
        raised = features.float().clamp(min=self.floor).pow(self.power)
        return raised.mean(dim=(2, 3)).pow(1 / self.power)


class EmbeddingNetwork(nn.Module):
    """[B, 3, H, W] normalised RGB → [B, dimensions] of unit length.

    Each of the backbone's last `stages` stages is pooled; where there are several, each pooled vector is
    brought to unit length before they are joined, so that none outweighs the others. Batch normalisation
    before the final normalisation centres embeddings on the training images' mean.
    """

    def __init__(self, backbone: ResNetModel, *, stages: int, dimensions: int, gem_power: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.stages = stages
        self.pools = nn.ModuleList(GeM(gem_power) for _ in range(stages))
        pooled = sum(list(backbone.config.hidden_sizes or [])[-stages:])
        self.bottleneck = nn.Linear(pooled, dimensions, bias=False)
        self.norm = nn.BatchNorm1d(dimensions)

    def forward(self, pixels: Tensor) -> Tensor:
        """L2-normalised float32 embeddings [B, dimensions]."""
        stem = self.backbone.embedder
        # The stem's own forward compares a traced size with a number, which tracing warns of.
        features = stem.pooler(stem.embedder(pixels))
        pooled = []
        first = len(self.backbone.encoder.stages) - self.stages
        for number, stage in enumerate(self.backbone.encoder.stages):
            features = stage(features)
            if number >= first:
                pooled.append(self.pools[number - first](features))
        joined = torch.cat([F.normalize(p) for p in pooled], dim=1) if self.stages > 1 else pooled[0]
        return F.normalize(self.norm(self.bottleneck(joined)).float())


def architecture(recipe: Embedder) -> EmbeddingNetwork:
    """The network of a recipe, its parameters drawn from torch's generator as it stands."""
    return _network(random_backbone(recipe.backbone), recipe)


def untrained(recipe: Embedder, seed: int) -> EmbeddingNetwork:
    """The network of a recipe with seeded random parameters, ready to embed: the control of a training."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return architecture(recipe).eval()


def initial(recipe: Embedder, seed: int) -> EmbeddingNetwork:
    """The network a training starts from: `weights` in the backbone where given, else random; the rest random.

    Raises:
        EmbedderError: the weights cannot be had, or are not of the recipe's backbone.
    """
    if recipe.weights is None:
        return untrained(recipe, seed).train()
    backbone = pretrained_backbone(recipe.weights, recipe.backbone, "embedder")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _network(backbone, recipe).train()


def random_backbone(name: str) -> ResNetModel:
    """The backbone of that name, its parameters drawn from torch's generator as it stands."""
    with quiet_transformers():
        return ResNetModel(ResNetConfig(**BACKBONES[name]))


def _network(backbone: ResNetModel, recipe: Embedder) -> EmbeddingNetwork:
    return EmbeddingNetwork(backbone, stages=recipe.stages, dimensions=recipe.dimensions, gem_power=recipe.gem_power)


def pretrained_backbone(weights: str, name: str, section: str) -> ResNetModel:
    """A backbone in transformers' own format, from a folder or the hub.

    Args:
        weights: the folder or hub id.
        name: a key of `BACKBONES`.
        section: the recipe's table that asks for them.

    Raises:
        EmbedderError: the weights cannot be had, or are not of that backbone.
    """
    expected = BACKBONES[name]
    where = f"[{section}] weights = {weights!r}"
    try:
        folder = Path(weights)
        if folder.is_dir() and not (folder / "config.json").is_file():
            # transformers would take the defaults of its own for such a folder.
            raise FileNotFoundError("the folder has no config.json")
        with quiet_transformers():
            config = ResNetConfig.from_pretrained(weights)
            found = {key: getattr(config, key) for key in expected}
            fits = config.model_type == "resnet" and found == expected
            # With a configuration of another network the weights are not worth fetching.
            loaded: Any = ResNetModel.from_pretrained(weights, output_loading_info=True) if fits else None
    except (OSError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EmbedderError(
            f"{where}: cannot be had ({reason}); give a folder in transformers' format, a hub id and a network, "
            "or leave it out to start from random weights"
        ) from error
    if loaded is None:
        raise EmbedderError(
            f"{where}: expected a {name} {expected}, found {config.model_type} {found}; "
            f"set [{section}] backbone to match"
        )
    backbone, report = loaded
    if report["missing_keys"]:
        raise EmbedderError(
            f"{where}: lacks {len(report['missing_keys'])} tensors, the first {sorted(report['missing_keys'])[0]}; "
            "save the whole backbone with save_pretrained"
        )
    return backbone


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars or notes of left-out classifier weights on the terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
