"""The sub-centre ArcFace head: what an embedding is trained under and what no exported embedder holds.

ArcFace: Deng et al. 2019 (arXiv 1801.07698); sub-centres: Deng et al. 2020 (ECCV, "Sub-center ArcFace");
a margin by class size: Ha et al. 2020 (arXiv 2010.05350), second place of Google Landmarks 2019 and 2020.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

# These modules are imported only by functions that train or run a network.
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

# Below this the sine is held, so that its slope at an angle of 0 or π stays finite in float32.
LEAST_SINE_SQUARED = 1e-6


def class_margins(sizes: Sequence[int], *, margin_size: float, margin_base: float) -> Tensor:
    """Margin in radians of each class: `margin_size * n^(-1/4) + margin_base` for n training images."""
    counts = torch.tensor(list(sizes), dtype=torch.float64)
    return (margin_size * counts.clamp(min=1).pow(-0.25) + margin_base).to(torch.float32)


def widened(cosines: Tensor, margins: Tensor) -> Tensor:
    """cos(θ + m) for cosines of θ in [0, π], without taking an arc cosine.

    Where θ + m passes π the cosine would rise again; there cos θ - m·sin m goes on falling, as in the
    authors' code. Shapes of both arguments are the same, or broadcast.
    """
    sines = (1 - cosines * cosines).clamp(min=LEAST_SINE_SQUARED).sqrt()
    shifted = cosines * torch.cos(margins) - sines * torch.sin(margins)
    return torch.where(cosines > torch.cos(math.pi - margins), shifted, cosines - margins * torch.sin(margins))


class SubCentreArcFace(nn.Module):
    """Scaled cosines to the nearest of a class's centres, the true class's angle widened by its margin."""

    margins: Tensor

    def __init__(self, dimensions: int, margins: Tensor, *, sub_centers: int, scale: float) -> None:
        super().__init__()
        self.classes, self.sub_centers, self.scale = len(margins), sub_centers, scale
        self.weight = nn.Parameter(torch.empty(self.classes * sub_centers, dimensions))
        nn.init.xavier_uniform_(self.weight)
        self.register_buffer("margins", margins, persistent=False)

    def cosines(self, embeddings: Tensor) -> Tensor:
        """Cosine of each embedding [B, D] (L2-normalised) to each class's nearest centre: [B, classes]."""
        all_centres = F.linear(embeddings, F.normalize(self.weight))
        return all_centres.view(len(embeddings), self.classes, self.sub_centers).amax(dim=2)

    def centres(self) -> Tensor:
        """The centres [classes, sub_centers, D] of unit length, apart from what is learnt of them."""
        return F.normalize(self.weight.detach()).view(self.classes, self.sub_centers, -1)

    def forward(self, embeddings: Tensor, targets: Tensor, share: float = 1.0) -> Tensor:
        """Logits [B, classes] for class numbers `targets` [B], with `share` of each margin applied."""
        cosines = self.cosines(embeddings)
        true = targets[:, None]
        hardened = widened(cosines.gather(1, true), share * self.margins[true])
        return self.scale * cosines.scatter(1, true, hardened)
