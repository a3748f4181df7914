"""The network that turns a photograph into a vector: a backbone, pooling, a bottleneck, unit length."""

from __future__ import annotations

from typing import Literal

# These modules are imported only by functions that train or run a network.
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from glr_assets.recipes import Embedder
from glr_assets.training.backbones import BACKBONES, class_token, maps, pretrained_backbone, set_aside, widths


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
    brought to unit length before they are joined, so that none outweighs the others. A class token needs no
    pooling. Batch normalisation before the final normalisation centres embeddings on the training images' mean.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        pooling: Literal["gem", "class_token"],
        stages: int,
        dimensions: int,
        gem_power: float,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        set_aside(backbone)
        self.pools = nn.ModuleList(GeM(gem_power) for _ in range(stages) if pooling == "gem")
        self.bottleneck = nn.Linear(sum(widths(backbone, stages)), dimensions, bias=False)
        self.norm = nn.BatchNorm1d(dimensions)

    def forward(self, pixels: Tensor) -> Tensor:
        """L2-normalised float32 embeddings [B, dimensions]."""
        return F.normalize(self.norm(self.bottleneck(self._pooled(pixels))).float())

    def _pooled(self, pixels: Tensor) -> Tensor:
        if not len(self.pools):
            return class_token(self.backbone, pixels)
        found = maps(self.backbone, pixels, len(self.pools))
        pooled = [pool(features) for pool, features in zip(self.pools, found, strict=True)]
        return pooled[0] if len(pooled) == 1 else torch.cat([F.normalize(p) for p in pooled], dim=1)


def architecture(recipe: Embedder) -> EmbeddingNetwork:
    """The network of a recipe, its parameters drawn from torch's generator as it stands."""
    return _network(BACKBONES[recipe.backbone].built(), recipe)


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


def _network(backbone: nn.Module, recipe: Embedder) -> EmbeddingNetwork:
    return EmbeddingNetwork(
        backbone,
        pooling=recipe.pooling,
        stages=recipe.stages,
        dimensions=recipe.dimensions,
        gem_power=recipe.gem_power,
    )
