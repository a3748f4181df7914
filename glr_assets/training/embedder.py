"""An embedder as it is kept: one TorchScript module beside a configuration that says what it is and comes from.

Whatever an embedder came from, trained here, brought in or untrained, it is kept and loaded the same way.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

# This module is imported only by functions that run a network.
import torch  # noqa: TID253
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from glr_assets.errors import EmbedderError, MissingInputError
from glr_assets.receipts import Writer
from glr_assets.recipes import Embedder
from glr_assets.store import Store
from glr_assets.training.embedding import Floats, embed_views
from glr_assets.training.model import EmbeddingNetwork, architecture
from glr_assets.training.photographs import Picture
from glr_assets.training.torchscript import export, first_line, load_script, script_bytes
from glr_assets.training.views import VIEWS_NAME, Views
from glr_assets.training.whitening import WithinClassScatter

SCRIPT_NAME = "embedder.pt"
WEIGHTS_NAME = "network.safetensors"
CONFIG_NAME = "config.json"
FORMAT = 1


class EmbedderConfig(BaseModel):
    """What a kept embedder is and what it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    origin: Literal["trained", "brought in", "untrained"]
    recipe: Embedder
    image_size: int
    dimensions: int
    whitened: bool
    seed: int
    landmark_ids: tuple[int, ...]
    """the classes it was trained or whitened on, ascending"""
    data_versions: dict[str, str]
    """digest of each thing it was made from"""


@dataclass(frozen=True)
class LoadedEmbedder:
    """An embedder ready to run.

    Attributes:
        module: [B, 3, H, W] normalised RGB to [B, D].
        config: what it is.
        views: of each photograph, of which it takes the mean.
    """

    module: torch.jit.ScriptModule
    config: EmbedderConfig
    views: Views

    def embed(self, images: Iterable[Picture], *, device: str = "auto", workers: int = 0) -> Floats:
        """Embeddings float32 [n, D] of unit length, as `embed`'s, over the views.

        Raises:
            EmbedderError: an image that cannot be decoded, or an embedder that gives no finite vectors.
        """
        return embed_views(
            self.module, images, self.views, device=device, workers=workers, precision=self.config.recipe.precision
        )


class Whitened(nn.Module):
    """An embedder followed by centring, a projection and unit length.

    Embeddings are brought to unit length before they are centred, as the projection was learnt on such.
    """

    mean: Tensor
    matrix: Tensor

    def __init__(self, inner: nn.Module, mean: Floats, matrix: Floats) -> None:
        super().__init__()
        self.inner = inner
        self.register_buffer("mean", torch.from_numpy(mean))
        self.register_buffer("matrix", torch.from_numpy(matrix))

    def forward(self, pixels: Tensor) -> Tensor:
        """L2-normalised float32 [B, D]."""
        unit = F.normalize(self.inner(pixels).float())
        return F.normalize((unit - self.mean) @ self.matrix)


def whitened(module: nn.Module, embedded: Iterable[tuple[Floats, Sequence[int]]]) -> Whitened:
    """`module` with a projection behind it, learnt on its embeddings of training photographs.

    Args:
        module: the embedder that gave them.
        embedded: embeddings float32 [n, D] of unit length, from `embed`, and the landmark of each; the photographs of
            a landmark come one after another.
    """
    scatter = WithinClassScatter()
    for embeddings, landmark_ids in embedded:
        scatter.add(embeddings, landmark_ids)
    return Whitened(module, *scatter.whitening()).eval()


def save_embedder(
    writer: Writer,
    folder: str,
    module: nn.Module,
    config: EmbedderConfig,
) -> torch.jit.ScriptModule:
    """Keep an embedder under `folder`: TorchScript, configuration, and the weights where they are our own.

    The same embedder leaves the same bytes.

    Args:
        writer: writes the files whole or not at all.
        folder: `models/embedder/<version>`.
        module: an `EmbeddingNetwork`, a TorchScript embedder, or either behind `Whitened`.
        config: what it is; `image_size` is what the export is checked at.

    Returns:
        The kept TorchScript module.

    Raises:
        EmbedderError: the export's embeddings differ from the module's.
    """
    from safetensors.torch import save

    script = export(module, config.image_size)
    inner = module.inner if isinstance(module, Whitened) else module
    if isinstance(inner, EmbeddingNetwork):
        tensors = {name: tensor.contiguous() for name, tensor in inner.state_dict().items()}
        writer.write(f"{folder}/{WEIGHTS_NAME}", save(tensors))
    writer.write(f"{folder}/{SCRIPT_NAME}", script_bytes(script, config.image_size))
    writer.json(f"{folder}/{CONFIG_NAME}", config.model_dump(mode="json"))
    return script


def load_embedder(store: Store, folder: str) -> LoadedEmbedder:
    """The embedder kept under `folder`, on the CPU.

    Raises:
        MissingInputError: there is none.
        EmbedderError: its files cannot be read.
    """
    config = load_config(store, folder)
    data = _read(store, f"{folder}/{SCRIPT_NAME}")
    try:
        module = load_script(io.BytesIO(data))
    except (RuntimeError, ValueError) as error:
        raise EmbedderError(
            f"{store.full_url(folder)}/{SCRIPT_NAME}: not TorchScript ({first_line(error)}); materialise embedder again"
        ) from error
    try:
        views = Views.model_validate_json(store.read(f"{folder}/{VIEWS_NAME}"))
    except FileNotFoundError:
        views = Views(sides=(config.image_size,))
    return LoadedEmbedder(module, config, views)


def load_config(store: Store, folder: str) -> EmbedderConfig:
    """The configuration kept under `folder`.

    Raises:
        MissingInputError: there is none.
        EmbedderError: it is of another form.
    """
    data = _read(store, f"{folder}/{CONFIG_NAME}")
    try:
        return EmbedderConfig.model_validate_json(data)
    except ValidationError as error:
        raise EmbedderError(
            f"{store.full_url(folder)}/{CONFIG_NAME}: not an embedder's configuration "
            f"({error.error_count()} values are wrong); materialise embedder again"
        ) from error


def load_network(store: Store, folder: str) -> EmbeddingNetwork:
    """The trained network kept under `folder`, without the projection behind it, to go on working with.

    Raises:
        MissingInputError: there is none, or it was brought in as TorchScript.
        EmbedderError: its files cannot be read, or do not fit its recipe.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    network = architecture(load_config(store, folder).recipe)
    path = f"{folder}/{WEIGHTS_NAME}"
    data = _read(store, path)
    try:
        network.load_state_dict(load(data))
    except (SafetensorError, RuntimeError) as error:
        raise EmbedderError(
            f"{store.full_url(path)}: not the weights of its recipe ({first_line(error)}); materialise embedder again"
        ) from error
    return network.eval()


def config_of(
    module: nn.Module,
    recipe: Embedder,
    *,
    origin: Literal["trained", "brought in", "untrained"],
    seed: int,
    landmark_ids: Iterable[int],
    data_versions: Mapping[str, str],
) -> EmbedderConfig:
    """The configuration of `module`, its dimensions found by running it once."""
    with torch.inference_mode():
        output = module.to("cpu")(torch.zeros(1, 3, recipe.image_size, recipe.image_size))
    return EmbedderConfig(
        origin=origin,
        recipe=recipe,
        image_size=recipe.image_size,
        dimensions=output.shape[1],
        whitened=isinstance(module, Whitened),
        seed=seed,
        landmark_ids=tuple(sorted(set(landmark_ids))),
        data_versions=dict(sorted(data_versions.items())),
    )


def _read(store: Store, path: str) -> bytes:
    try:
        return store.read(path)
    except FileNotFoundError as error:
        raise MissingInputError(f"{store.full_url(path)} is missing: materialise embedder first") from error
