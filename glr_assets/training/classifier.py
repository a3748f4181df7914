"""A group's classifier: its network, how it is trained, and the module that is kept of it.

What is kept is one TorchScript module, [B, 3, H, W] normalised RGB to logits [B, classes], beside a configuration
that says which landmark each class is.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

# This module is imported only by functions that run a network.
import torch  # noqa: TID253
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn  # noqa: TID253
from torch.nn import functional as F  # noqa: TID253

from glr_assets.errors import ClassifierError, MissingInputError
from glr_assets.receipts import Writer
from glr_assets.recipes import Classifying, Execution
from glr_assets.seeded import derived_seed
from glr_assets.store import Store
from glr_assets.training.backbones import BACKBONES, pooled, pretrained_backbone, widths
from glr_assets.training.embedder import CONFIG_NAME
from glr_assets.training.embedding import module_outputs, output_batches
from glr_assets.training.lesson import EpochReport, Lesson
from glr_assets.training.photographs import CACHE_BYTES, Augmentation, Pixels, TrainingSet, normalised
from glr_assets.training.torchscript import export, load_script, script_bytes
from glr_assets.training.trainer import Device, run_lesson
from glr_assets.training.training_state import CheckpointKeeper, fingerprint_of

Floats = npt.NDArray[np.float32]

SCRIPT_NAME = "classifier.pt"
WEIGHTS_NAME = "network.safetensors"
FORMAT = 1


class ClassifierNetwork(nn.Module):
    """[B, 3, H, W] normalised RGB → logits float32 [B, classes]: a backbone, its own pooling, dropout, one layer."""

    def __init__(self, backbone: nn.Module, *, classes: int, dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths(backbone)[0], classes)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits float32 [B, classes]."""
        return self.head(self.dropout(pooled(self.backbone, pixels))).float()


class ClassifierConfig(BaseModel):
    """What a kept classifier is and what it was made from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    group: str
    trained: bool
    """False where the group is empty, or has one landmark and nothing to tell it from"""
    reason: str
    """why it is not trained; empty where it is"""
    image_size: int
    """side in pixels of the square it was trained on"""
    precision: Literal["float32", "bfloat16"]
    """on a GPU; a CPU uses float32"""
    recipe: dict[str, Any]
    """the values of `[groups]` that decide on it"""
    seed: int
    landmark_ids: tuple[int, ...]
    """the group's landmarks, ascending; of a trained one the classes in order"""
    outside: bool
    """whether one class more, the last, is for images of none of them"""
    data_versions: dict[str, str]
    """digest of each thing it was made from"""

    @property
    def classes(self) -> int:
        """Numbers that a trained one gives an image."""
        return len(self.landmark_ids) + self.outside


@dataclass(frozen=True)
class FittedClassifier:
    """A trained network, on the CPU and ready to use, and how it got there."""

    network: ClassifierNetwork
    history: tuple[EpochReport, ...]
    resumed_after: int
    """epochs taken over from an earlier, killed run"""


def fit_classifier(
    training: TrainingSet,
    validation: TrainingSet | None,
    recipe: Classifying,
    *,
    section: str = "groups",
    classes: int = 0,
    outsiders: tuple[str, ...] = (),
    seed: int,
    device: Device = "auto",
    workers: int = 0,
    keeper: CheckpointKeeper | None = None,
    progress: Callable[[EpochReport], None] | None = None,
    data_version: str = "",
    cache_bytes: int = CACHE_BYTES,
) -> FittedClassifier:
    """Train a classifier of the landmarks of `training`, the class numbers in the order of their ids.

    With `classes` those ids are class numbers themselves, and a class of which there is no photograph has its place.

    Args:
        training: photographs of the group that train.
        validation: held-out photographs of the same landmarks, watched alone; None or empty where there are none.
        recipe: how it learns.
        section: the recipe's section that says so.
        classes: how many there are, where ids are class numbers; 0 where they are landmarks'.
        outsiders: ids, read as `training`'s are, of photographs of none of the landmarks; where there are some they
            are a class more, the last.
        seed: decides the first weights, the order of the photographs and their variations.
        device: where the network runs; auto takes a GPU if there is one.
        workers: threads that decode and vary photographs; 0 does it between the steps.
        keeper: given the whole state after each epoch, asked for it at the start.
        progress: told of each epoch, after its state is kept.
        data_version: the version of what `training.read` reads, where the same ids can come to differ.
        cache_bytes: most memory for decoded photographs.

    Raises:
        ClassifierError: fewer than two classes, a loss that is no longer finite, or memory that does not suffice.
        EmbedderError: a photograph that cannot be decoded, weights that cannot be had, or no such device.
    """
    present = tuple(sorted(set(training.landmark_ids)))
    if len(present) + bool(outsiders) < 2 or not present:
        raise ClassifierError(
            f"training: found {len(training)} photographs of {len(present)} classes and {len(outsiders)} others, "
            f"expected two classes or more; set other [{section}] bounds, or outsiders"
        )
    landmarks = tuple(range(classes)) if classes else present
    how = Augmentation().scaled(recipe.augmentation)
    number = {landmark: position for position, landmark in enumerate(landmarks)}
    numbers = [number[landmark] for landmark in training.landmark_ids] + [len(landmarks)] * len(outsiders)
    lesson = _Lesson(
        (*training.ids, *outsiders),
        numbers,
        training.read,
        recipe,
        seed=seed,
        workers=workers,
        cache_bytes=cache_bytes,
        augmentation=how,
        read_ahead=training.read_ahead,
    )
    lesson.network = _initial(recipe, section, len(landmarks) + bool(outsiders), seed)
    # Outsiders are of no landmark; no landmark has this number.
    others = training.of(outsiders, (-1,) * len(outsiders))
    parts = [training, others] if validation is None else [training, others, validation]

    def top1(network: ClassifierNetwork) -> float:
        assert validation is not None
        size, batch = recipe.image_size, recipe.batch_size
        # Of each batch the answers alone are kept: logits of all would be as many as photographs times landmarks.
        found = [
            logits[:, : len(landmarks)].argmax(dim=1).numpy()
            for logits in output_batches(
                network, validation.images(), size, batch_size=batch, device=device, workers=workers
            )
        ]
        best = np.array(landmarks)[np.concatenate(found)]
        return float(np.mean(best == np.array(validation.landmark_ids)))

    run = run_lesson(
        lesson,
        device=device,
        fingerprint=fingerprint_of(parts, recipe, seed, data_version, how),
        keeper=keeper,
        progress=progress,
        watched=top1 if validation is not None and len(validation) else None,
        error=ClassifierError,
        remedy=f"lower [{section}] learning_rate, or set clip",
        remedy_of_memory=f"lower [{section}] batch_size and raise accumulate as much, or lower image_size",
    )
    return FittedClassifier(run.network, run.history, run.resumed_after)


class _Lesson(Lesson[ClassifierNetwork]):
    """The network under cross-entropy."""

    def batch_loss(self, pixels: Tensor, numbers: Tensor, batch_idx: int) -> Tensor:
        # Dropout that depends on where a training stands, not on what was drawn before: a resumed one draws the same.
        with torch.random.fork_rng(devices=_devices(self.device)):
            torch.manual_seed(derived_seed("dropout", self.seed, self.current_epoch, batch_idx))
            logits = self.network(normalised(pixels))
        return F.cross_entropy(logits, numbers)


def _devices(device: torch.device) -> list[torch.device]:
    return [device] if device.type == "cuda" else []


def _initial(recipe: Classifying, section: str, classes: int, seed: int) -> ClassifierNetwork:
    """The network a training starts from: `weights` in the backbone where given, else random; the rest random."""
    backbone = pretrained_backbone(recipe.weights, recipe.backbone, section) if recipe.weights else None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone = backbone or BACKBONES[recipe.backbone].built()
        return ClassifierNetwork(backbone, classes=classes, dropout=recipe.dropout).train()


def save_classifier(writer: Writer, folder: str, network: ClassifierNetwork, size: int) -> torch.jit.ScriptModule:
    """Keep a classifier's weights and its TorchScript under `folder`; the same classifier leaves the same bytes.

    Raises:
        EmbedderError: the export's logits differ from the network's.
    """
    from safetensors.torch import save

    script = export(network, size)
    tensors = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    writer.write(f"{folder}/{WEIGHTS_NAME}", save(tensors))
    writer.write(f"{folder}/{SCRIPT_NAME}", script_bytes(script))
    return script


@dataclass(frozen=True)
class LoadedClassifier:
    """A classifier ready to run; `module` is absent where the group has none."""

    module: torch.jit.ScriptModule | None
    config: ClassifierConfig

    def logits(self, images: Iterable[bytes | Pixels], execution: Execution) -> Floats:
        """What it gives for encoded images, or RGB uint8 [H, W, 3]: float32 [n, classes].

        Of a group that has no classifier it is [n, 0].

        Raises:
            EmbedderError: an image that cannot be decoded.
            ClassifierError: logits that are not finite.
        """
        if self.module is None:
            return np.zeros((sum(1 for _ in images), 0), np.float32)
        found = module_outputs(
            self.module,
            images,
            self.config.image_size,
            device=execution.device,
            workers=execution.threads,
            precision=self.config.precision,
        )
        if not bool(torch.isfinite(found).all()):
            raise ClassifierError(
                f"group {self.config.group}: its classifier gives logits that are not finite; lower [groups] "
                "learning_rate and materialise group_classifiers again"
            )
        return np.asarray(found.numpy(), np.float32)


def load_classifier(store: Store, folder: str) -> LoadedClassifier:
    """The classifier kept under `folder`, on the CPU.

    Raises:
        MissingInputError: there is none.
        ClassifierError: its files cannot be read.
    """
    where = store.full_url(folder)
    try:
        config = ClassifierConfig.model_validate_json(store.read(f"{folder}/{CONFIG_NAME}"))
        data = store.read(f"{folder}/{SCRIPT_NAME}") if config.trained else None
    except FileNotFoundError as error:
        raise MissingInputError(f"{where} is incomplete: materialise group_classifiers first") from error
    except ValidationError as error:
        raise ClassifierError(
            f"{where}/{CONFIG_NAME}: not a classifier's configuration ({error.error_count()} values are wrong); "
            "materialise group_classifiers again"
        ) from error
    if data is None:
        return LoadedClassifier(None, config)
    try:
        return LoadedClassifier(load_script(io.BytesIO(data)), config)
    except (RuntimeError, ValueError) as error:
        raise ClassifierError(f"{where}/{SCRIPT_NAME}: not TorchScript; materialise group_classifiers again") from error
