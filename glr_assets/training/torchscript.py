"""TorchScript, the form that networks are kept and brought in as: [B, 3, H, W] normalised RGB to [B, D]."""

from __future__ import annotations

import importlib
import io
import warnings
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# This module is imported only by functions that run a network.
import torch  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253

from glr_assets.errors import EmbedderError
from glr_assets.training.backbones import quiet_transformers
from glr_assets.training.image_size import DECLARATION

# What tracing may change of an embedding's numbers: float32 sums in another order.
EXPORT_TOLERANCE = 1e-5


def export(module: nn.Module, size: int) -> torch.jit.ScriptModule:
    """`module` as TorchScript, [B, 3, H, W] → [B, D] for any B, H and W that the module takes, on the CPU.

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
            try:
                expected = module(pixels)
            except RuntimeError:  # a network of one shape alone, as a vision transformer of fixed positions
                continue
            difference = float((script(pixels) - expected).abs().max())
            # Embeddings are within 1; logits may be larger, and float32 sums err by a share of them.
            if not difference <= EXPORT_TOLERANCE * max(1.0, float(expected.abs().max())):
                raise EmbedderError(
                    f"TorchScript export: embeddings differ from the network's by {difference:.2g}, expected at most "
                    f"{EXPORT_TOLERANCE:g}; check the network for steps that depend on its input's values"
                )
    return script


def script_bytes(script: torch.jit.ScriptModule, image_size: int | None = None) -> bytes:
    """A TorchScript file of `script` without what only tells where it was traced: source paths, an id of the file.

    Args:
        script: the module.
        image_size: that the file declares (`image_size.DECLARATION`); None declares none.
    """
    buffer = io.BytesIO()
    extra = {} if image_size is None else {DECLARATION: str(image_size)}
    with _torchscript():
        torch.jit.save(script, buffer, _extra_files=extra)
    bare = io.BytesIO()
    with zipfile.ZipFile(buffer) as full, zipfile.ZipFile(bare, "w", zipfile.ZIP_STORED) as kept:
        for member in full.infolist():
            if not member.filename.endswith((".debug_pkl", "/.data/serialization_id")):
                # A new record: torch pads its own, which would carry the paths' lengths along.
                kept.writestr(zipfile.ZipInfo(member.filename), full.read(member))
    return bare.getvalue()


def load_script(file: str | io.BytesIO) -> torch.jit.ScriptModule:
    """The TorchScript module in a file, on the CPU; errors are torch's own, RuntimeError and ValueError."""
    with _torchscript():
        return torch.jit.load(file, map_location="cpu").eval()  # type: ignore[no-untyped-call]


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
    script, _ = load_external(path, where)
    need_embeddings(script, (image_size,), where)
    return script


def load_external(path: str, where: str) -> tuple[torch.jit.ScriptModule, str]:
    """The TorchScript module in a file, on the CPU, and the text of its extra file `image_size`, empty without one.

    Raises:
        EmbedderError: no such file, or not TorchScript.
    """
    if not Path(path).is_file():
        raise EmbedderError(f"{where}: no such file; give the path of a TorchScript file")
    extra = {DECLARATION: b""}
    with _torchscript():
        try:
            script = torch.jit.load(path, map_location="cpu", _extra_files=extra).eval()  # type: ignore[no-untyped-call]
        except (RuntimeError, ValueError, OSError) as error:
            raise EmbedderError(
                f"{where}: not TorchScript ({first_line(error)}); save the network with torch.jit.save"
            ) from error
    return script, bytes(extra[DECLARATION]).decode("utf-8", "replace")


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


def first_line(error: BaseException) -> str:
    """What torch says of an error, without what it adds about its own code."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _torchscript() -> Iterator[None]:
    """TorchScript is the format this platform exchanges embedders in; torch's hints to leave it are known."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", message=".*trace might")
        yield
