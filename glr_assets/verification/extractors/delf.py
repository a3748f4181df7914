"""DeLF as its authors published it for TensorFlow Hub: attentive features of a network trained on landmarks.

The module is `google/delf/1` (Noh et al., ICCV 2017) or another of its signature: a photograph at several scales in,
places and 40 numbers each out, the best first.
"""

from __future__ import annotations

import functools
import importlib
import os
import tarfile
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from glr_assets.errors import ExtractorError
from glr_assets.store import first_line
from glr_assets.verification.extractors.base import Pixels, files_digest, unit_length, without_orientation
from glr_assets.verification.features import Features

PUBLISHED: Final = "https://tfhub.dev/google/delf/1"
SIGNATURE: Final = "default"
SCORE_THRESHOLD: Final = 100.0
IMAGE_SCALES: Final = (0.25, 0.3536, 0.5, 0.7071, 1.0, 1.4142, 2.0)
_INPUTS: Final = {"image", "score_threshold", "image_scales", "max_feature_num"}
_OUTPUTS: Final = {"locations", "descriptors"}
_LOADING = threading.Lock()


@dataclass(frozen=True)
class Delf:
    """A module and how it is asked.

    Attributes:
        module: URL or folder, as `tensorflow_hub.load` takes it.
        digest: of its files, where it is a folder.
        max_features: at most so many of an image.
        device: auto, cpu or cuda; auto is what TensorFlow takes.
    """

    module: str
    digest: str | None
    max_features: int
    device: str
    dimensions: ClassVar[int] = 40
    signed: ClassVar[bool] = True
    oriented: ClassVar[bool] = False
    #: The published matching takes unit vectors at a distance of .8 or less: 1 - .8² / 2.
    min_cosine: ClassVar[float] = 0.68
    batch: ClassVar[int] = 1

    @classmethod
    def opened(cls, module: str | None, max_features: int, device: str) -> Delf:
        """The module of a recipe, not loaded yet.

        Raises:
            ExtractorError: it is neither a URL nor a folder.
        """
        module = module or PUBLISHED
        if "://" in module:
            return cls(module, None, max_features, device)
        folder = Path(module)
        if not folder.is_dir():
            raise ExtractorError(
                f"{_where(module)}: no such folder; give the folder of a SavedModel with DeLF's signature, or a URL"
            )
        digest = files_digest(folder, (path for path in folder.rglob("*") if path.is_file()))
        return cls(module, digest, max_features, device)

    @property
    def version(self) -> str:
        """Name, version of this code, and the digest of the module's files or its URL."""
        return f"delf 1, {self.digest or self.module}"

    def extract(self, images: Sequence[Pixels]) -> list[Features]:
        """Their features, in the module's order; several threads may ask at once.

        Raises:
            ValueError: the module refuses one of them.
            ExtractorError: TensorFlow or the module cannot be had, or what it gives is not DeLF's.
        """
        with _LOADING:
            run = _loaded(self.module, self.digest, self.device)
        return [self._of(image, run) for image in images]

    def _of(self, image: Pixels, run: Callable[[Pixels, int], dict[str, Any]]) -> Features:
        found = run(image, self.max_features)
        locations, descriptors = (np.asarray(found[name]) for name in ("locations", "descriptors"))
        count = len(locations) if locations.ndim else 0
        shapes = (locations.shape, descriptors.shape)
        if shapes != ((count, 2), (count, self.dimensions)) or count > self.max_features:
            raise ExtractorError(
                f"{_where(self.module)}: expected at most {self.max_features} locations [N, 2] and descriptors "
                f"[N, {self.dimensions}], found {list(shapes[0])} and {list(shapes[1])}; give a module with DeLF's "
                "signature"
            )
        descriptors = unit_length(descriptors.astype(np.float32))
        return without_orientation(locations[:, ::-1].astype(np.float32), descriptors, image)


@functools.lru_cache(maxsize=1)
def _loaded(module: str, digest: str | None, device: str) -> Callable[[Pixels, int], dict[str, Any]]:
    """A module's signature as a function of an image and a number of features. `digest` tells apart what changed."""
    tf, hub = _libraries()
    if device == "cuda" and not tf.config.list_physical_devices("GPU"):
        raise ExtractorError('device "cuda": no GPU that TensorFlow can use was found; set [execution] device = "auto"')
    try:
        loaded = hub.load(module)
        signatures = loaded.signatures
    except (OSError, ValueError, RuntimeError, AttributeError, tarfile.TarError, tf.errors.OpError) as error:
        raise ExtractorError(
            f"{_where(module)}: cannot be loaded ({type(error).__name__}: {first_line(error)}); give the folder of a "
            "SavedModel with DeLF's signature, or a URL that this machine reaches"
        ) from error
    _check(module, signatures)
    # The signature lives only while its module does.
    return functools.partial(_run, tf, loaded, "/CPU:0" if device == "cpu" else None)


def _run(tf: Any, loaded: Any, place: str | None, image: Pixels, max_features: int) -> dict[str, Any]:
    try:
        with tf.device(place):
            found: dict[str, Any] = loaded.signatures[SIGNATURE](
                image=tf.constant(image.astype(np.float32) / np.float32(255)),
                score_threshold=tf.constant(SCORE_THRESHOLD),
                image_scales=tf.constant(IMAGE_SCALES),
                max_feature_num=tf.constant(max_features),
            )
            return found
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"DeLF's module refuses it: {first_line(error)}") from error


def _libraries() -> tuple[Any, Any]:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # else it tells of GPUs that a machine has not
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module("tensorflow"), importlib.import_module("tensorflow_hub")
    except ImportError as error:
        raise ExtractorError(
            f'[verification] extractor = "delf" needs TensorFlow and tensorflow-hub ({first_line(error)}): '
            "pip install 'glr-assets[delf]'"
        ) from error


def _check(module: str, signatures: Any) -> None:
    """Refuse what is not DeLF before it is given an image."""
    if SIGNATURE not in signatures:
        raise ExtractorError(
            f"{_where(module)}: has the signatures {sorted(signatures)}, expected one called {SIGNATURE!r} as "
            "google/delf/1 has; other exports of DeLF differ"
        )
    signature = signatures[SIGNATURE]
    inputs, outputs = set(signature.structured_input_signature[1]), set(signature.structured_outputs)
    if inputs != _INPUTS or not outputs >= _OUTPUTS:
        raise ExtractorError(
            f"{_where(module)}: its signature takes {sorted(inputs)} and gives {sorted(outputs)}, expected "
            f"{sorted(_INPUTS)} and {sorted(_OUTPUTS)} as google/delf/1 has"
        )


def _where(module: str) -> str:
    return f"[verification] module = {module!r}"
