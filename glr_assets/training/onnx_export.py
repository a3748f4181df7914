"""ONNX beside TorchScript: the same network for runtimes without torch, checked on photographs.

The file takes `pixels`, float32 [B, 3, S, S] normalised RGB for any B and the S it was made for, and gives `output`,
float32 [B, D]. What is exported is the TorchScript module that is kept, so a module that was brought in goes the same
way as one that was trained here. Torch's newer exporter takes no TorchScript.
"""

from __future__ import annotations

import io
import itertools
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

# This module is imported only by functions that export a network.
import torch  # noqa: TID253
from torch import Tensor  # noqa: TID253

from glr_assets.errors import EmbedderError
from glr_assets.training.photographs import normalised, squares
from glr_assets.training.torchscript import load_script

INPUT, OUTPUT = "pixels", "output"
#: Of ONNX's operators; 17 is the first with layer normalisation, and onnxruntime reads it since 1.12 of 2022.
OPSET: Final = 17
#: What another runtime may change of outputs, as a share of the largest and at least of 1: float32 sums in another
#: order. A SqueezeNet's differ by 2e-5 where its largest is 20, those of unit length by 2e-7.
TOLERANCE: Final = 1e-4
#: Photographs that are shown to both.
CHECKED_ON: Final = 4


@dataclass(frozen=True)
class Onnx:
    """An exported module, or why there is none.

    Attributes:
        data: the file; empty where the module cannot be exported.
        reason: why not, in a line; empty where it was.
    """

    data: bytes
    reason: str = ""


def onnx_of(script: torch.jit.ScriptModule, size: int, images: Iterable[bytes]) -> Onnx:
    """`script` as an ONNX file, whose outputs for photographs are `script`'s; the same module gives the same bytes.

    A module with a step that ONNX has no operator for is not exported, and the reason is told.

    Args:
        script: the module that is kept, on the CPU.
        size: side in pixels of the square that it takes.
        images: encoded photographs, the first of which it is checked on; noise where there are none.

    Raises:
        EmbedderError: its outputs differ from the module's by more than `TOLERANCE`, or a package is missing.
    """
    _needed()
    pixels = _pixels(size, images)
    file = io.BytesIO()
    try:
        with _quiet():
            torch.onnx.export(
                _copy(script),
                (pixels[:1].expand(2, -1, -1, -1).contiguous(),),
                # The exporter of TorchScript takes a file in memory as well as a path.
                file,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: {0: "batch"}, OUTPUT: {0: "batch"}},
            )
    except (torch.onnx.OnnxExporterError, RuntimeError, TypeError, ValueError) as error:
        return Onnx(b"", f"torch cannot export it to ONNX: {_first_sentence(error)}")
    data = file.getvalue()
    _check(data, script, pixels)
    return Onnx(data)


def _copy(script: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The module as it is read from a file: torch's exporter marks what it is given, and names it otherwise then."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        torch.jit.save(script, file)
    file.seek(0)
    return load_script(file)


def _pixels(size: int, images: Iterable[bytes]) -> Tensor:
    batches = [normalised(batch) for batch in squares(itertools.islice(images, CHECKED_ON), size, CHECKED_ON, 0)]
    if batches:
        return batches[0].contiguous()
    return torch.randn(CHECKED_ON, 3, size, size, generator=torch.Generator().manual_seed(0))


def _check(data: bytes, script: torch.jit.ScriptModule, pixels: Tensor) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    # All at once and one by itself: neither batch is of the size that was traced.
    for batch in (torch.cat([pixels, pixels[:1], pixels[:1]]), pixels[-1:]):
        with torch.no_grad():
            expected = script(batch)
        found = torch.from_numpy(session.run([OUTPUT], {INPUT: batch.numpy()})[0])
        allowed = TOLERANCE * max(1.0, float(expected.abs().max()))
        difference = float((found - expected).abs().max()) if found.shape == expected.shape else float("nan")
        if not difference <= allowed:
            raise EmbedderError(
                f"ONNX export: outputs {list(found.shape)} differ from the network's {list(expected.shape)} by "
                f"{difference:.2g}, expected at most {allowed:.2g}; set onnx = false in the recipe to do without"
            )


def _needed() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise EmbedderError(
            f"ONNX export: the package {error.name} is missing; install onnx and onnxruntime, or set onnx = false "
            "in the recipe"
        ) from error


def _first_sentence(error: BaseException) -> str:
    line = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return line.split(". ")[0].split("  ")[0].strip().rstrip(".")


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch advises its newer exporter, and prints the graph that it cannot export, whatever it is told of logging."""
    usual = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch._C._jit_onnx_log = usual
