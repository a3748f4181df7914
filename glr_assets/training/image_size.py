"""The image size of an external TorchScript embedder: declared by its file, else found on training photographs.

A network is worth much less at another size than it was trained for: a SqueezeNet of 384 pixels at 128 lost a tenth of
its GAP. So the size belongs to the network. A file declares it as an extra file `image_size` of the archive
(`torch.jit.save(script, path, _extra_files={"image_size": "384"})`) or as an integer attribute `image_size`. Where it
declares none and the recipe sets none, the size is chosen by the mean average precision of training photographs that
search each other. Held-out photographs take no part, so figures on them stay honest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from glr_assets.errors import EmbedderError
from glr_assets.seeded import derived_seed

if TYPE_CHECKING:
    from glr_assets.training.embedding import Running
    from glr_assets.training.photographs import TrainingSet

Floats = npt.NDArray[np.float32]
#: Sides in pixels that are tried. 224 and 448 are multiples of 14 and 16, the patches of vision transformers.
SIDES: Final = (128, 160, 224, 288, 384, 448)
#: Training photographs that are embedded at each side, at most.
MOST_PHOTOGRAPHS: Final = 256
#: Of sides whose precision is this near to the best the smallest is taken: it costs least, and noise decides nothing.
MARGIN: Final = 0.005
#: Archive member, below `extra/`, and attribute that declare a size.
DECLARATION: Final = "image_size"
LEAST, MOST = 28, 1024

Source = Literal["recipe", "declared", "searched"]
#: Embeds encoded images at a side: float32 [n, D] of unit length.
EmbedAt = Callable[[Iterable[bytes], int], Floats]


@dataclass(frozen=True)
class ImageSize:
    """The side in pixels at which a network sees photographs.

    Attributes:
        side: in pixels.
        source: where it comes from: the recipe, the file's declaration, or a search over training photographs.
        warning: how the recipe contradicts the declaration; empty where it does not.
        tried: mean average precision by side, where it was searched.
    """

    side: int
    source: Source
    warning: str = ""
    tried: Mapping[int, float] = field(default_factory=dict)


def declared_size(module: Any, extra: str, where: str) -> int | None:
    """The size that a TorchScript file declares; None where it declares none.

    Args:
        module: the TorchScript module.
        extra: text of the archive's member `extra/image_size`; empty where there is none.
        where: how to name the file.

    Raises:
        EmbedderError: the declaration is not a whole number of pixels from 28 to 1024.
    """
    found: Any = extra.strip() or getattr(module, DECLARATION, None)
    if found is None:
        return None
    try:
        side = int(found)
    except (TypeError, ValueError, RuntimeError):
        side = 0
    if not LEAST <= side <= MOST:
        raise EmbedderError(
            f"{where}: declares image_size {found!r}, expected a whole number of pixels from {LEAST} to {MOST}; "
            "save it with another declaration, or set image_size"
        )
    return side


def need_agreement(asked: int, declared: int | None, section: str) -> str:
    """What to warn of where a recipe's size is not the declared one; empty where all is well."""
    if not asked or declared is None or asked == declared:
        return ""
    return (
        f"[{section}] image_size = {asked}, but the TorchScript file declares {declared}: the network is used at "
        f"another size than it was made for; leave image_size out to use {declared}"
    )


def choose_size(asked: int, declared: int | None, section: str, search: Callable[[], Mapping[int, float]]) -> ImageSize:
    """The recipe's size, else the declared one, else the best of a search.

    Args:
        asked: the recipe's `image_size`; 0 where it sets none.
        declared: by the file.
        section: of the recipe, for the warning.
        search: called where neither is there; mean average precision by side.

    Raises:
        EmbedderError: the search found no side that the network takes.
    """
    if asked:
        return ImageSize(asked, "recipe", need_agreement(asked, declared, section))
    if declared is not None:
        return ImageSize(declared, "declared")
    tried = search()
    if not tried:
        raise EmbedderError(
            f"[{section}] torchscript: it takes none of the sides {', '.join(map(str, SIDES))}; set image_size to what "
            "it takes"
        )
    best = max(tried.values())
    return ImageSize(min(side for side, found in tried.items() if found >= best - MARGIN), "searched", "", tried)


def searched_precisions(embed: EmbedAt, training: TrainingSet, sides: Sequence[int]) -> dict[int, float]:
    """Mean average precision, by side, of training photographs that search each other for their landmark.

    Args:
        embed: the network, at any of `sides`.
        training: photographs that train; at most `MOST_PHOTOGRAPHS` are drawn, landmark by landmark.
        sides: that the network takes.
    """
    ids, landmarks = drawn_photographs(training)
    if not ids:
        return dict.fromkeys(sides, 0.0)
    drawn = training.of(ids, landmarks.tolist())
    return {side: mean_average_precision(embed(drawn.images(), side), landmarks) for side in sides}


def drawn_photographs(training: TrainingSet) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Photographs of landmarks that have two or more, a landmark whole before the next, in an order by their ids."""
    members: dict[int, list[str]] = {}
    for image_id, landmark in zip(training.ids, training.landmark_ids, strict=True):
        members.setdefault(landmark, []).append(image_id)
    several = {landmark: ids for landmark, ids in members.items() if len(ids) > 1}
    # Of many landmarks few photographs each: what tells them apart is asked, not what one looks like.
    each = max(2, MOST_PHOTOGRAPHS // max(1, len(several)))
    chosen: list[tuple[str, int]] = []
    for landmark in sorted(several, key=lambda name: (derived_seed("image size", name), name)):
        ids = sorted(several[landmark], key=lambda name: (derived_seed("image size", name), name))[:each]
        if len(chosen) + len(ids) > MOST_PHOTOGRAPHS:
            break
        chosen += [(image_id, landmark) for image_id in ids]
    return [image_id for image_id, _ in chosen], np.array([landmark for _, landmark in chosen], np.int64)


def mean_average_precision(vectors: Floats, landmarks: npt.NDArray[np.int64]) -> float:
    """Mean average precision of a leave-one-out search by the cosine of centered vectors, to four decimals.

    Args:
        vectors: float [n, D].
        landmarks: [n], each two times or more.
    """
    centered = vectors.astype(np.float64) - vectors.mean(axis=0)
    centered /= np.maximum(np.linalg.norm(centered, axis=1, keepdims=True), 1e-12)
    cosines = np.round(centered @ centered.T, 4)
    found = []
    for row, landmark in enumerate(landmarks):
        others = np.delete(np.arange(len(landmarks)), row)
        order = others[np.argsort(-cosines[row, others], kind="stable")]
        right = landmarks[order] == landmark
        ranks = np.flatnonzero(right) + 1
        found.append(float((np.arange(1, len(ranks) + 1) / ranks).mean()))
    return round(float(np.mean(found)), 4)


def open_external(
    path: str,
    asked: int,
    section: str,
    training: TrainingSet,
    running: Running,
) -> tuple[Any, ImageSize]:
    """The external TorchScript embedder at `path`, on the CPU, and the size at which it sees photographs.

    Args:
        path: a local file.
        asked: the recipe's `image_size`; 0 where it sets none.
        section: of the recipe, for messages.
        training: photographs that train, among which a size is searched where none is given.
        running: how to run it, as `embedding.embed` takes it.

    Raises:
        EmbedderError: no such file, not TorchScript, a declaration that is no size, or an output for two images of the
            size that is not one finite float vector each.
    """
    from glr_assets.training.embedding import embed
    from glr_assets.training.torchscript import load_external, need_embeddings

    where = f"[{section}] torchscript = {path!r}"
    module, extra = load_external(path, where)

    def search() -> dict[int, float]:
        taken, refusals = [], []
        for side in SIDES:
            try:
                need_embeddings(module, (side,), where)
                taken.append(side)
            except EmbedderError as error:
                refusals.append(error)
        if not taken:
            raise refusals[0]

        def embedded(images: Iterable[bytes], side: int) -> Floats:
            return embed(module, images, side, **running)

        return searched_precisions(embedded, training, taken)

    chosen = choose_size(asked, declared_size(module, extra, where), section, search)
    need_embeddings(module.cpu(), (chosen.side,), where)
    return module, chosen
