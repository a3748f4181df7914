"""Backbones by name, built with transformers: their architectures, what they make of pictures, their weights."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

# This module is imported only by functions that train or run a network.
import transformers  # noqa: TID253
from safetensors import SafetensorError  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from glr_assets.errors import EmbedderError
from glr_assets.recipes import DINOV2_PATCH, BackboneName
from glr_assets.training.outside import hub_id

Family = Literal["resnet", "convnext", "dinov2"]

#: Configuration and model of each family; the names are transformers' own `model_type`.
FAMILIES: Final[dict[Family, tuple[Any, Any]]] = {
    "resnet": (transformers.ResNetConfig, transformers.ResNetModel),
    "convnext": (transformers.ConvNextConfig, transformers.ConvNextModel),
    "dinov2": (transformers.Dinov2Config, transformers.Dinov2Model),
}


@dataclass(frozen=True)
class Architecture:
    """What tells one backbone of a family from another."""

    family: Family
    values: dict[str, Any]
    """of the family's configuration"""

    def built(self) -> nn.Module:
        """The backbone, its parameters drawn from torch's generator as it stands."""
        config, model = FAMILIES[self.family]
        with quiet_transformers():
            return model(config(**self.values))


def _resnet(layer: str, stem: int, widths: list[int], depths: list[int]) -> Architecture:
    return Architecture(
        "resnet", {"embedding_size": stem, "hidden_sizes": widths, "depths": depths, "layer_type": layer}
    )


def _convnext(widths: list[int], depths: list[int]) -> Architecture:
    return Architecture("convnext", {"hidden_sizes": widths, "depths": depths})


def _dinov2(width: int, layers: int, heads: int, positions: int) -> Architecture:
    """`positions` is the side in pixels that the position embeddings are made for; others are interpolated."""
    return Architecture(
        "dinov2",
        {
            "hidden_size": width,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "patch_size": DINOV2_PATCH,
            "image_size": positions,
            "use_swiglu_ffn": False,
        },
    )


# Layers and widths of He et al. 2016 (arXiv 1512.03385), table 1; Liu et al. 2022 (arXiv 2201.03545), section 3; and
# Oquab et al. 2023 (arXiv 2304.07193), table 16, whose published weights have position embeddings for 518 pixels.
# resnet-tiny is ResNet-10 at half width, the two minis are what trains on a processor within seconds.
BACKBONES: Final[dict[BackboneName, Architecture]] = {
    "resnet-tiny": _resnet("basic", 32, [32, 64, 128, 256], [1, 1, 1, 1]),
    "resnet-18": _resnet("basic", 64, [64, 128, 256, 512], [2, 2, 2, 2]),
    "resnet-34": _resnet("basic", 64, [64, 128, 256, 512], [3, 4, 6, 3]),
    "resnet-50": _resnet("bottleneck", 64, [256, 512, 1024, 2048], [3, 4, 6, 3]),
    "convnext-mini": _convnext([24, 48, 96, 192], [1, 1, 2, 1]),
    "convnext-tiny": _convnext([96, 192, 384, 768], [3, 3, 9, 3]),
    "convnext-small": _convnext([96, 192, 384, 768], [3, 3, 27, 3]),
    "convnext-base": _convnext([128, 256, 512, 1024], [3, 3, 27, 3]),
    "dinov2-mini": _dinov2(96, 3, 3, 112),
    "dinov2-small": _dinov2(384, 12, 6, 518),
    "dinov2-base": _dinov2(768, 12, 12, 518),
}


def widths(backbone: Any, stages: int = 1) -> list[int]:
    """Channels of what `maps` gives."""
    if backbone.config.model_type == "dinov2":
        return [backbone.config.hidden_size]
    return list(backbone.config.hidden_sizes)[-stages:]


def set_aside(backbone: Any) -> None:
    """Keep from learning what neither maps nor a class token depend on, which would have no gradient."""
    if backbone.config.model_type == "convnext":
        backbone.layernorm.requires_grad_(False)
    elif backbone.config.model_type == "dinov2":
        backbone.embeddings.mask_token.requires_grad_(False)


def maps(backbone: Any, pixels: Tensor, stages: int = 1) -> list[Tensor]:
    """The maps [B, C, h, w] of the last `stages` stages for normalised RGB [B, 3, H, W].

    A ResNet's and a ConvNeXt's last map is a 32nd of the pixels' sides. A DINOv2 has one, of its patches.
    """
    if backbone.config.model_type == "dinov2":
        patches = _tokens(backbone, pixels)[:, 1:]
        height, width = (side // DINOV2_PATCH for side in pixels.shape[2:])
        return [patches.transpose(1, 2).reshape(patches.shape[0], -1, height, width)]
    if backbone.config.model_type == "resnet":
        stem = backbone.embedder
        # The stem's own forward compares a traced size with a number, which tracing warns of.
        features = stem.pooler(stem.embedder(pixels))
    else:
        features = backbone.embeddings.layernorm(backbone.embeddings.patch_embeddings(pixels))
    found = []
    for stage in backbone.encoder.stages:
        features = stage(features)
        found.append(features)
    return found[-stages:]


def class_token(backbone: Any, pixels: Tensor) -> Tensor:
    """A DINOv2's class token [B, C] for normalised RGB [B, 3, H, W]."""
    return _tokens(backbone, pixels)[:, 0]


def pooled(backbone: Any, pixels: Tensor) -> Tensor:
    """One vector [B, C] a picture as the family's own classifiers take it (transformers' `pooler_output`).

    The mean of a ResNet's last map, that of a ConvNeXt's normalised, a DINOv2's class token.
    """
    if backbone.config.model_type == "dinov2":
        return class_token(backbone, pixels)
    means = maps(backbone, pixels)[0].mean(dim=(2, 3))
    return backbone.layernorm(means) if backbone.config.model_type == "convnext" else means


def _tokens(backbone: Any, pixels: Tensor) -> Tensor:
    """A DINOv2's class token and patches [B, 1 + patches, C], row by row of the picture."""
    # Step by step: the model's own forward builds a mask by what it is given, which tracing warns of.
    tokens = backbone.embeddings(pixels)
    for layer in backbone.encoder.layer:
        tokens = layer(tokens)
    return backbone.layernorm(tokens)


def pretrained_backbone(weights: str, name: BackboneName, section: str) -> nn.Module:
    """A backbone in transformers' own format, from a folder or the hub.

    Args:
        weights: the folder or hub id, with `@revision` where it is to be of one.
        name: which backbone it must be.
        section: the recipe's table that asks for it.

    Raises:
        EmbedderError: the weights cannot be had, or are not of that backbone.
    """
    expected = BACKBONES[name]
    where = f"[{section}] weights = {weights!r}"
    config_type, model_type = FAMILIES[expected.family]
    try:
        folder = Path(weights)
        source, revision = (weights, None) if folder.is_dir() else hub_id(weights)
        if folder.is_dir() and not (folder / "config.json").is_file():
            # transformers would take the defaults of its own for such a folder.
            raise FileNotFoundError("the folder has no config.json")
        with quiet_transformers():
            config = config_type.from_pretrained(source, revision=revision)
            found = {key: getattr(config, key) for key in expected.values}
            fits = config.model_type == expected.family and found == expected.values
            if fits and hasattr(config, "drop_path_rate"):
                # Whole layers dropped by torch's generator: a resumed training would drop others.
                config.drop_path_rate = 0.0
            # With a configuration of another network the weights are not worth fetching.
            loaded: Any = (
                model_type.from_pretrained(source, revision=revision, config=config, output_loading_info=True)
                if fits
                else None
            )
    except pickle.UnpicklingError as error:
        raise EmbedderError(
            f"{where}: cannot be had (its file is not one of tensors alone); save it with save_pretrained"
        ) from error
    # A file that is cut or garbled is told by safetensors' own error, or by whichever step first trips over it.
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise EmbedderError(
            f"{where}: cannot be had ({reason}); give a folder in transformers' format, a hub id and a network, "
            "or leave it out to start from random weights"
        ) from error
    if loaded is None:
        raise EmbedderError(
            f"{where}: expected a {name} {expected.values}, found {config.model_type} {found}; "
            f"set [{section}] backbone to match"
        )
    backbone, report = loaded
    for what in ("missing_keys", "mismatched_keys"):
        wrong = sorted(str(key) for key in report.get(what) or ())
        if wrong:
            raise EmbedderError(
                f"{where}: lacks {len(wrong)} tensors, the first {wrong[0]}; "
                "save the whole backbone with save_pretrained"
            )
    return backbone


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """No progress bars or notes of left-out classifier weights on the terminal."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
