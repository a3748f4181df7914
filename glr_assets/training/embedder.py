"""An embedder in use: run it, turn it into TorchScript, keep it, load it, or bring one in from outside.

Whatever an embedder came from, what is kept is one TorchScript module, [B, 3, H, W] normalised RGB to
[B, D], beside a configuration that says what it is and what it was made from. `embed` gives unit length.
"""

from __future__ import annotations

import importlib
import io
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# This module is imported only by functions that run a network.
import torch  # noqa: TID253
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from glr_assets.errors import EmbedderError, MissingInputError
from glr_assets.receipts import Writer
from glr_assets.recipes import Embedder
from glr_assets.store import Store
from glr_assets.training.backbones import quiet_transformers
from glr_assets.training.model import EmbeddingNetwork, architecture
from glr_assets.training.photographs import Picture, in_threads, normalised, squares, upright
from glr_assets.training.views import VIEWS_NAME, Views
from glr_assets.training.whitening import within_class_whitening

Floats = npt.NDArray[np.float32]

SCRIPT_NAME = "embedder.pt"
WEIGHTS_NAME = "network.safetensors"
CONFIG_NAME = "config.json"
FORMAT = 1

# What tracing may change of an embedding's numbers: float32 sums in another order.
EXPORT_TOLERANCE = 1e-5


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
    *,
    batch_size: int = 64,
    device: str = "auto",
    workers: int = 0,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Floats:
    """L2-normalised embeddings, float32 [n, D], in the order of `images`.

    A row depends on its image alone, up to float noise, whatever stands in its batch. Images are read as
    they are needed, so a generator never has more than a few batches in memory.

    Args:
        module: an `EmbeddingNetwork` in eval mode, or a TorchScript embedder; it is moved to `device`.
        images: encoded bytes, RGB uint8 [H, W, 3] or Pillow images.
        size: side in pixels of the square that each is squeezed to.
        batch_size: images a forward pass.
        device: auto, cpu or cuda.
        workers: threads that decode; 0 decodes between the forward passes.
        precision: of the network on a GPU; a CPU uses float32.

    Raises:
        EmbedderError: an image that cannot be decoded, or an embedder that gives no finite vectors.
    """
    outputs = module_outputs(
        module, images, size, batch_size=batch_size, device=device, workers=workers, precision=precision
    )
    rows = F.normalize(outputs)
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
    *,
    batch_size: int = 64,
    device: str = "auto",
    workers: int = 0,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Floats:
    """The mean over some views of each image's embeddings, brought to unit length; arguments as `embed`'s.

    Raises:
        EmbedderError: an image that cannot be decoded, or an embedder that gives no finite vectors.
    """

    def of_side(pictures: Iterable[Picture], side: int) -> Floats:
        return embed(module, pictures, side, batch_size=batch_size, device=device, workers=workers, precision=precision)

    if views.one:
        return of_side(images, views.sides[0])
    parts: list[Floats] = []
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
    *,
    batch_size: int = 64,
    device: str = "auto",
    workers: int = 0,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Tensor:
    """What `module` gives for each image, float32 [n, D] on the CPU, in the order of `images`; arguments as `embed`'s.

    Raises:
        EmbedderError: an image that cannot be decoded.
    """
    place = torch_device(device)
    module = module.to(place)
    half = place.type == "cuda" and precision == "bfloat16"
    found: list[Tensor] = []
    with torch.inference_mode(), torch.autocast(place.type, dtype=torch.bfloat16, enabled=half):
        for batch in squares(images, size, batch_size, workers):
            if place.type == "cuda":
                batch = batch.pin_memory().to(place, non_blocking=True)
            found.append(module(normalised(batch)).float().cpu())
        if not found:
            blank = torch.zeros(1, 3, size, size, device=place)
            return torch.zeros(0, module(blank).shape[1])
    return torch.cat(found)


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


def whitened(module: nn.Module, embeddings: Floats, landmark_ids: Sequence[int]) -> Whitened:
    """`module` with a projection behind it, learnt on its embeddings of training photographs.

    Args:
        module: the embedder that gave `embeddings`.
        embeddings: float32 [n, D] of unit length, from `embed`.
        landmark_ids: the landmark of each row.
    """
    mean, matrix = within_class_whitening(embeddings, landmark_ids)
    return Whitened(module, mean, matrix).eval()


def export(module: nn.Module, size: int) -> torch.jit.ScriptModule:
    """`module` as TorchScript, [B, 3, H, W] → [B, D] for any B, H and W, on the CPU.

    Raises:
        EmbedderError: the traced module's embeddings differ from the module's own.
    """
    module = module.to("cpu").eval()
    generator = torch.Generator().manual_seed(0)
    example = torch.randn(2, 3, size, size, generator=generator)
    with quiet_transformers(), _torchscript(), _names_counted_afresh(), torch.no_grad():
        script = torch.jit.trace(module, example, check_trace=False)  # type: ignore[no-untyped-call]
        # Another batch size and shape than the traced one: nothing of it may be baked in.
        for shape in ((3, 3, size, size), (1, 3, size + 32, size)):
            pixels = torch.randn(shape, generator=generator)
            expected = module(pixels)
            difference = float((script(pixels) - expected).abs().max())
            # Embeddings are within 1; logits may be larger, and float32 sums err by a share of them.
            if not difference <= EXPORT_TOLERANCE * max(1.0, float(expected.abs().max())):
                raise EmbedderError(
                    f"TorchScript export: embeddings differ from the network's by {difference:.2g}, expected at most "
                    f"{EXPORT_TOLERANCE:g}; check the network for steps that depend on its input's values"
                )
    return script


def script_bytes(script: torch.jit.ScriptModule) -> bytes:
    """A TorchScript file of `script` without what only tells where it was traced: source paths, an id of the file."""
    buffer = io.BytesIO()
    with _torchscript():
        torch.jit.save(script, buffer)
    bare = io.BytesIO()
    with zipfile.ZipFile(buffer) as full, zipfile.ZipFile(bare, "w", zipfile.ZIP_STORED) as kept:
        for member in full.infolist():
            if not member.filename.endswith((".debug_pkl", "/.data/serialization_id")):
                # A new record: torch pads its own, which would carry the paths' lengths along.
                kept.writestr(zipfile.ZipInfo(member.filename), full.read(member))
    return bare.getvalue()


def bring_in(path: str, image_size: int, section: str = "embedder") -> torch.jit.ScriptModule:
    """The TorchScript embedder at `path`, once it has shown that it is one, on the CPU.

    Args:
        path: a local file.
        image_size: side in pixels that it will be used with.
        section: of the recipe that names it, for what is told.

    Raises:
        EmbedderError: no such file, not TorchScript, or what it gives for two images is not one finite
            float vector each.
    """
    where = f"[{section}] torchscript = {path!r}"
    if not Path(path).is_file():
        raise EmbedderError(f"{where}: no such file; give the path of a TorchScript file")
    with _torchscript():
        try:
            script = load_script(path)
        except (RuntimeError, ValueError, OSError) as error:
            raise EmbedderError(
                f"{where}: not TorchScript ({_first_line(error)}); save the network with torch.jit.save"
            ) from error
    need_embeddings(script, (image_size,), where)
    return script


def need_embeddings(module: nn.Module, sides: Iterable[int], where: str) -> None:
    """See that a module gives one finite float vector each for two images of each of these sides.

    Args:
        module: [B, 3, H, W] to [B, D], on the CPU.
        sides: in pixels.
        where: how to name it.

    Raises:
        EmbedderError: it does not.
    """
    for side in sides:
        pixels = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))
        try:
            with _torchscript(), torch.inference_mode():
                output = module(pixels)
        except RuntimeError as error:
            raise EmbedderError(
                f"{where}: does not run on two images of {side}×{side} ({str(error).strip().splitlines()[-1]}); "
                "it must take [B, 3, H, W], or set image_size, and scales, to what it takes"
            ) from error
        wrong = _not_embeddings(output, len(pixels))
        if wrong:
            raise EmbedderError(f"{where}: expected finite floats [2, D] for two images, found {wrong}")


def _not_embeddings(output: Any, images: int) -> str:
    """What is wrong with `output` as one vector an image, in words; empty where nothing is."""
    if not isinstance(output, Tensor):
        return type(output).__name__
    if output.ndim != 2 or len(output) != images or not output.shape[1] or not output.is_floating_point():
        return f"{output.dtype} {list(output.shape)}"
    if not bool(torch.isfinite(output).all()):
        return "values that are not finite"
    return ""


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
    writer.write(f"{folder}/{SCRIPT_NAME}", script_bytes(script))
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
            f"{store.full_url(folder)}/{SCRIPT_NAME}: not TorchScript ({_first_line(error)}); "
            "materialise embedder again"
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
            f"{store.full_url(path)}: not the weights of its recipe ({_first_line(error)}); materialise embedder again"
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


@contextmanager
def _names_counted_afresh() -> Iterator[None]:
    """Trace into a register of classes of our own.

    Torch numbers the classes it traces through the life of a process; the numbers are part of the file, and
    the same network would leave other bytes the second time.
    """
    state: Any = importlib.import_module("torch.jit._state")
    usual = state._python_cu
    state._python_cu = torch._C.CompilationUnit()
    try:
        yield
    finally:
        state._python_cu = usual


def load_script(file: str | io.BytesIO) -> torch.jit.ScriptModule:
    """The TorchScript module in a file, on the CPU; errors are torch's own, RuntimeError and ValueError."""
    with _torchscript():
        return torch.jit.load(file, map_location="cpu").eval()  # type: ignore[no-untyped-call]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _torchscript() -> Iterator[None]:
    """TorchScript is the format this platform exchanges embedders in; torch's hints to leave it are known."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*trace might")
        yield
