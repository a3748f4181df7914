"""Recipes: one TOML file a set of choices, one table a stage, every value checked by name.

`full` holds the published values, `small` makes the whole lineage run on two CPU cores in minutes. A file
with `base = "small"` overrides some values of another recipe.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from glr_assets.errors import RecipeError

NAMED_RECIPES = ("small", "full")

ManifestName = Literal["train_manifest", "deduped_manifest", "cleaned_manifest"]
ExportOrder = Literal["shuffled", "balanced", "id"]
BackboneName = Literal[
    "resnet-tiny",
    "resnet-18",
    "resnet-34",
    "resnet-50",
    "convnext-mini",
    "convnext-tiny",
    "convnext-small",
    "convnext-base",
    "dinov2-mini",
    "dinov2-small",
    "dinov2-base",
]
#: Side in pixels of the patches of every DINOv2 (Oquab et al. 2023, arXiv 2304.07193).
DINOV2_PATCH = 14


class Section(BaseModel):
    """A table of a recipe: unknown keys, values out of range and of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Execution(Section):
    """How to run, which never changes what comes out and so is no part of an asset's version."""

    workers: int = Field(0, ge=0, le=256, description="threads that decode images; 0 = one a core")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="where networks run; auto = a GPU if any")
    processes: int = Field(
        1, ge=1, le=64, description="processes of this machine that train the embedder together; on GPUs one GPU each"
    )
    retry_failed: bool = Field(False, description="read and decode once more the images of a shard that failed before")

    @property
    def threads(self) -> int:
        """`workers`, or one a core of this machine."""
        return self.workers or os.cpu_count() or 1


class Images(Section):
    """What is stored of a source image (defaults: the published 384 px and quality 70)."""

    min_side: int = Field(384, ge=32, le=4096, description="smaller side in pixels; never enlarged")
    jpeg_quality: int = Field(70, ge=1, le=100, description="JPEG quality of what is stored")
    keep: Literal["wanted", "all"] = Field(
        "wanted", description="train images stored: the competition set and the fill plan, or all"
    )
    require_md5: bool = Field(True, description="refuse a shard whose MD5 is not published")
    max_pixels: int = Field(
        64_000_000, ge=1, le=178_956_970, description="larger images are refused, so that one fits in 600 MB"
    )
    max_member_bytes: int = Field(64 * 2**20, ge=1024, description="larger members are refused unread")


class Fill(Section):
    """Extras from the full dataset for small classes."""

    threshold: int = Field(20, ge=0, le=10_000, description="classes with fewer images are filled up to it")
    reserves: int = Field(5, ge=0, le=1000, description="images a class planned beyond the need, for corrupt ones")
    variety: bool = Field(
        True, description="pass over near-duplicates ([dedupe] near_duplicate_bits) of images of the class that train"
    )


class Dedupe(Section):
    """One of each group of near-duplicates, and the most diverse subset of large classes."""

    keep: int = Field(25, ge=1, le=10_000, description="images a class keeps; smaller classes stay whole")
    sample: int = Field(1000, ge=1, le=100_000, description="images of a class that are compared")
    method: Literal["max_min", "farthest_pairs", "random"] = Field(
        "max_min", description="how they are chosen; farthest_pairs is the earlier system's way, for comparison"
    )
    collapse: bool = Field(
        True, description="keep one of each group of near-duplicates of a class, the largest, sharpest"
    )
    near_duplicate_bits: int = Field(
        3, ge=0, le=8, description="two images are near-duplicates within so many bits of dhash; everywhere"
    )
    remove_leaks: bool = Field(
        False, description="train on no near-duplicate of a test image; they are told either way"
    )

    @model_validator(mode="after")
    def _sample_holds_keep(self) -> Dedupe:
        if self.sample < self.keep:
            raise ValueError(f"sample = {self.sample} is less than keep = {self.keep}")
        return self


class Verification(Section):
    """Which images show what other images of their landmark show, by the geometry of their local features."""

    manifest: Literal["train_manifest", "deduped_manifest", "stored"] = Field(
        "train_manifest", description="the set that is cleaned: a curated one, or every stored image of a landmark"
    )
    extractor: Literal["rootsift", "delf", "superpoint"] = Field(
        "rootsift", description="local features: rootsift needs no weights, delf wants TensorFlow, superpoint a GPU"
    )
    module: str | None = Field(
        None, description="URL or folder of DeLF's module, folder or hub id of SuperPoint's weights"
    )
    max_features: int = Field(500, ge=50, le=2048, description="strongest features of an image that are kept")
    min_cosine: float | None = Field(
        None, ge=0.0, le=1.0, description="descriptors that match have at least this cosine; unset: the extractor's"
    )
    residual: float = Field(8.0, gt=0, le=50, description="pixels a matched place may lie from where the model says")
    geometry: Literal["auto", "oriented", "magsac"] = Field(
        "auto", description="oriented: by the scale and angle of features, where an extractor tells them; else MAGSAC"
    )
    min_class: int = Field(6, ge=2, le=1000, description="landmarks with fewer images are dropped unseen")
    cap: int = Field(500, ge=2, le=100_000, description="images of a landmark that are compared")
    keep: int = Field(100, ge=1, le=100_000, description="images a landmark keeps, the best connected")
    connections: int = Field(
        10, ge=1, le=1000, description="likely partners of an image that are tried to tell how well it is connected"
    )
    min_inliers: int = Field(11, ge=4, le=1000, description="the threshold of inliers is never under this")
    max_false_rate: float = Field(
        0.001, gt=0, le=1, description="share of pairs of different landmarks that the threshold may accept"
    )
    calibration_pairs: int = Field(20_000, ge=100, le=10_000_000, description="pairs of different landmarks compared")
    calibrate: bool = Field(True, description="raise the threshold by what pairs of different landmarks reach")
    refuse_traps: bool = Field(
        True, description="refuse pairs that agree only in a strip, a border or a layout (watermarks, time stamps)"
    )
    exhaustive: bool = Field(False, description="try all pairs of a landmark; the decisions are the same")
    component: Literal["all", "exact", "largest"] = Field(
        "all",
        description="groups of connected images: as the pairs tried tell them; exact, by further pairs; or exact, and "
        "the largest of a landmark alone stays",
    )
    buckets: int = Field(4, ge=1, le=10_000, description="parts that landmarks are verified in, each in memory at once")

    @model_validator(mode="after")
    def _keeps_what_it_compares(self) -> Verification:
        if self.keep > self.cap:
            raise ValueError(f"keep = {self.keep} is more than cap = {self.cap}, the images compared")
        return self


class OpenImages(Section):
    """Labelled crops of Open Images: which boxes, where their images come from, how they are cut out."""

    categories: tuple[str, ...] = Field(
        ("Sandwich", "Hot dog", "Hamburger"),
        strict=False,
        min_length=1,
        description="display names of the categories, each a class of the dataset in this order",
    )
    subsets: tuple[Literal["train", "validation", "test"], ...] = Field(
        ("train", "validation", "test"), strict=False, min_length=1, description="published subsets that are read"
    )
    sources: tuple[str, ...] = Field(
        (), strict=False, description="ways of drawing boxes that are taken, as xclick or activemil; none = any"
    )
    min_confidence: float = Field(0.0, ge=0, le=1, description="boxes of less published confidence are refused")
    most_boxes: int = Field(0, ge=0, description="boxes of a category at most, drawn by image; 0 = all")
    fetch: bool = Field(False, description="fetch images that the root lacks by their OriginalURL, over https alone")
    fetch_hosts: tuple[str, ...] = Field(
        ("staticflickr.com", "flickr.com"),
        strict=False,
        description="hosts that are asked for images, with all below them",
    )
    fetch_seconds: float = Field(60.0, gt=0, le=3600, description="seconds that one image may take to arrive")
    max_bytes: int = Field(64 * 2**20, ge=1024, description="larger images are refused")
    max_pixels: int = Field(64_000_000, ge=1, le=178_956_970, description="larger images are refused undecoded")
    check_md5: Literal["originals", "all", "none"] = Field(
        "originals",
        description="images whose MD5 must be the published one: those fetched and those of the published size (a "
        "mirror may hold smaller copies, which have another); all; or none",
    )
    placeholders: tuple[str, ...] = Field(
        (), strict=False, description="MD5 sums, in hexadecimal digits, of pictures that stand in for lost images"
    )
    placeholder_repeats: int = Field(
        3, ge=0, description="bytes that so many images share, none of them as published, are a placeholder; 0 = never"
    )
    parts: int = Field(2, ge=1, le=10_000, description="parts that images are obtained in, each a partition")
    size: int = Field(128, ge=8, le=1024, description="side in pixels of a crop")
    aspect: Literal["squeeze", "pad"] = Field(
        "squeeze", description="squeeze: a box becomes a square; pad: it keeps its shape, with grey beside it"
    )
    margin: float = Field(0.0, ge=0, le=2, description="added on each side of a box, as a share of its own side")
    min_pixels: int = Field(1, ge=1, le=1024, description="boxes whose smaller side has fewer pixels are dropped")
    colours: Literal["convert", "drop"] = Field("convert", description="what becomes of grey and CMYK images")
    upright: bool = Field(True, description="turn crops by the published rotation of their image")
    held_out: float = Field(0.2, ge=0, le=0.9, description="share of the images whose crops are held out")
    boxes_per_file: int = Field(4096, ge=1, le=1_000_000, description="crops a file, at most")
    csv_of_pixels: bool = Field(False, description="also write pixels as CSV, as the earlier system did")

    @model_validator(mode="after")
    def _named_once(self) -> OpenImages:
        for key in ("categories", "subsets"):
            values = getattr(self, key)
            if len(set(values)) < len(values):
                raise ValueError(f"{key} = {list(values)}, expected each once")
        wrong = [value for value in self.placeholders if not re.fullmatch("[0-9a-f]{32}", value)]
        if wrong:
            raise ValueError(f"placeholders holds {wrong[0]!r}, expected 32 hexadecimal digits in lower case")
        return self


class Training(Section):
    """Which images train, and how many of them are held out."""

    manifest: ManifestName = Field("train_manifest", description="the curated set that trains")
    validation: float = Field(
        0.1, ge=0.0, le=0.5, description="share held out of training, to watch it and to calibrate confidences"
    )


class Learning(Section):
    """How a network learns: what the sections of all that is trained have in common."""

    weights: str | None = Field(None, description="folder or hub id of backbone weights to start from")
    backbone: BackboneName = Field("resnet-34", description="architecture, built with transformers")
    image_size: int = Field(384, ge=28, le=1024, description="side in pixels of the square a network sees")
    start_size: int | None = Field(
        None,
        ge=28,
        le=1024,
        description="side in pixels of the first epochs' pictures, from which they grow to image_size in steps of the "
        "same number of epochs; unset: image_size throughout",
    )
    epochs: int = Field(10, ge=1, le=1000, description="passes over the training images")
    batch_size: int = Field(64, ge=2, le=8192, description="images a batch")
    accumulate: int = Field(1, ge=1, le=1024, description="batches whose gradients make one step")
    sampling: Literal["shuffled", "balanced"] = Field(
        "shuffled",
        description="shuffled: every image once an epoch; balanced: as many batches, of per_landmark images of each of "
        "several landmarks, every landmark as often",
    )
    per_landmark: int = Field(4, ge=1, le=1024, description="images of a landmark in a balanced batch")
    learning_rate: float = Field(1e-3, gt=0, le=10, description="peak of the one-cycle schedule")
    warm_up: float = Field(0.15, gt=0, lt=1, description="share of the steps over which the learning rate rises")
    weight_decay: float = Field(1e-4, ge=0, le=1, description="decoupled weight decay")
    clip: float = Field(0.0, ge=0, le=1e6, description="greatest norm of a step's gradient; 0 = any")
    averaging: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="decay of the moving average of the weights, which is what is kept; 0 = the last weights are kept",
    )
    precision: Literal["float32", "bfloat16"] = Field("float32", description="precision on a GPU; a CPU uses float32")
    onnx: bool = Field(True, description="keep an ONNX file beside the TorchScript, checked to give the same")

    @property
    def size_step(self) -> int:
        """Pixels by which the pictures of a training may grow: what the backbone divides sides by, in all."""
        return DINOV2_PATCH if self.backbone.startswith("dinov2") else 32

    def size_of(self, epoch: int) -> int:
        """Side in pixels of the pictures of an epoch, counted from 0; the last epoch's is `image_size`."""
        if self.start_size is None:
            return self.image_size
        sizes = range(self.start_size, self.image_size + 1, self.size_step)
        return sizes[((epoch + 1) * len(sizes) - 1) // self.epochs]

    @model_validator(mode="after")
    def _learnable(self) -> Self:
        for key in ("image_size", "start_size"):
            size = getattr(self, key)
            # A patch that is cut off is not seen; convolutions take any side, and grow by whole steps alone.
            counts = self.backbone.startswith("dinov2") or self.start_size is not None
            if size is not None and counts and size % self.size_step:
                raise ValueError(f"{key} = {size}, expected a multiple of {self.size_step} for a {self.backbone}")
        if self.start_size is not None and self.start_size > self.image_size:
            raise ValueError(f"start_size = {self.start_size} is more than image_size = {self.image_size}")
        if self.sampling == "balanced" and self.per_landmark > self.batch_size // 2:
            raise ValueError(
                f"per_landmark = {self.per_landmark}, expected at most half of batch_size = {self.batch_size}: "
                "a batch needs two landmarks to tell apart"
            )
        return self


class Embedder(Learning):
    """The network that turns a photograph into a vector, and how it learns."""

    torchscript: str | None = Field(
        None, description="path of a TorchScript embedder ([B,3,H,W] normalised RGB to [B,D]) used as it is"
    )
    whitening: bool = Field(
        True, description="centre and whiten a brought-in embedder, learnt on the training photographs"
    )
    dimensions: int = Field(512, ge=8, le=4096, description="length of an embedding")
    pooling: Literal["gem", "class_token"] = Field(
        "gem", description="what of the backbone is embedded: its map, by generalised means, or its class token"
    )
    stages: int = Field(1, ge=1, le=4, description="last stages of the backbone whose pooled features are joined")
    gem_power: float = Field(3.0, ge=1.0, le=10.0, description="first value of the learnt exponent of GeM pooling")
    sub_centers: int = Field(3, ge=1, le=10, description="centres a class of the sub-centre ArcFace head")
    scale: float = Field(45.0, gt=0, le=200, description="s of the margin head")
    margin_base: float = Field(0.05, ge=0, le=1, description="margin = margin_size * n^(-1/4) + margin_base")
    margin_size: float = Field(0.45, ge=0, le=1, description="margin added for the smallest classes")
    margin_ramp: float = Field(0.3, ge=0, le=1, description="share of the epochs over which margins grow to full")
    flip: bool = Field(False, description="embed a photograph and its mirror image, and keep their mean")
    scales: tuple[float, ...] = Field(
        (1.0,),
        strict=False,
        min_length=1,
        max_length=8,
        description="shares of image_size at which a photograph is embedded; of several the mean is kept",
    )
    warm_start_epochs: int = Field(
        0, ge=0, le=1000, description="passes over the training images, without labels, before the training; 0 = none"
    )
    warm_start_learning_rate: float = Field(
        1e-3, gt=0, le=10, description="peak of the warm start's one-cycle schedule"
    )

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides in pixels at which a photograph is embedded: whole steps, but for `image_size` itself."""
        step = self.size_step
        return tuple(
            self.image_size if scale == 1 else max(step, round(scale * self.image_size / step) * step)
            for scale in self.scales
        )

    @model_validator(mode="after")
    def _scales_differ(self) -> Self:
        for scale in self.scales:
            if not 0.25 <= scale <= 4:
                raise ValueError(f"scales: {scale:g}, expected shares of image_size from 0.25 to 4")
        if len(set(self.sides)) < len(self.sides):
            raise ValueError(f"scales = {list(self.scales)} are sides of {list(self.sides)} pixels: one stands twice")
        return self

    @model_validator(mode="after")
    def _pools_what_there_is(self) -> Self:
        vision_transformer = self.backbone.startswith("dinov2")
        if self.pooling == "class_token" and not vision_transformer:
            raise ValueError(f"pooling = 'class_token': a {self.backbone} has no class token; set 'gem', or a dinov2")
        if vision_transformer and self.stages > 1:
            raise ValueError(f"stages = {self.stages}: a {self.backbone} has no stages to join; set 1")
        return self


class Groups(Learning):
    """Landmarks grouped by their number of images, and the classifier of each group."""

    count: int = Field(11, ge=1, le=1000, description="groups, each a partition with a classifier of its own")
    smallest: int = Field(6, ge=2, le=10_000, description="landmarks with fewer images are in no group")
    first: int = Field(10, ge=2, le=10_000, description="images a landmark up to which the first group goes")
    largest: int = Field(100, ge=2, le=100_000, description="images a landmark that are used; more are left out")
    bounds: tuple[int, ...] | None = Field(
        None,
        strict=False,
        description="fewest images a landmark of each group; unset: groups of about equally many images",
    )
    validation_first: float = Field(0.4, gt=0, le=0.9, description="share of the first group's images held out")
    validation_last: float = Field(0.2, gt=0, le=0.9, description="share of the last group's; evenly between")
    backbone: BackboneName = Field("resnet-50", description="architecture, built with transformers")
    image_size: int = Field(224, ge=28, le=1024, description="side in pixels of the square a network sees")
    dropout: float = Field(0.5, ge=0, lt=1, description="share of the pooled features dropped while training")
    augmentation: float = Field(1.0, ge=0, le=1, description="how far training pictures vary, of the embedder's range")
    outsiders: float = Field(
        1.0,
        ge=0,
        le=10,
        description="images of other groups that train as none of the group's, as a multiple of its own",
    )
    epochs: int = Field(30, ge=1, le=1000, description="passes over a group's training images")
    weight_decay: float = Field(1e-2, ge=0, le=1, description="decoupled weight decay")
    calibrating: int = Field(
        20_000,
        ge=1,
        le=10_000_000,
        description="held-out images that every group's model sees, at most, and as many to report",
    )
    min_probability: float = Field(
        0.5, ge=0, le=1, description="an answer less probable is rejected: the image is of no group's landmark"
    )

    @model_validator(mode="after")
    def _sizes_rise(self) -> Groups:
        if not self.smallest <= self.first <= self.largest:
            raise ValueError(
                f"smallest = {self.smallest}, first = {self.first}, largest = {self.largest}, expected in rising order"
            )
        if self.bounds is None:
            return self
        if len(self.bounds) != self.count or list(self.bounds) != sorted(set(self.bounds)):
            raise ValueError(f"bounds = {list(self.bounds)}, expected {self.count} rising numbers, one a group (count)")
        if not self.smallest <= self.bounds[0] <= self.bounds[-1] <= self.largest:
            raise ValueError(f"bounds = {list(self.bounds)}, expected from smallest to largest")
        return self


class Retrieval(Section):
    """Neighbours and the non-landmark penalty."""

    manifest: ManifestName = Field("train_manifest", description="the curated set that is searched")
    per_landmark: int = Field(5, ge=0, description="images a landmark that are searched; 0 = all")
    index: Literal["auto", "flat", "ivf", "hnsw", "pq"] = Field(
        "auto", description="how they are searched: flat compares with all; auto chooses by number and memory"
    )
    index_memory: int = Field(8192, ge=1, le=2**20, description="MiB of memory that the index may take")
    index_recall: float = Field(
        0.99, gt=0, le=1, description="share of the five nearest that an index other than flat shall find"
    )
    train_penalty_top: int = Field(5, ge=1, description="B: mean of a train image's best cosines to non-landmarks")
    query_penalty_top: int = Field(10, ge=1, description="C: mean of a query's best cosines to non-landmarks")
    neighbours: int = Field(5, ge=1, le=1000, description="train images whose scores are summed by landmark")
    top_per_landmark: int = Field(
        0, ge=0, le=1000, description="neighbours of a landmark that are summed, the best of them; 0 = all"
    )
    clip: bool = Field(False, description="count cosines under 0 as 0, as the winner of 2020 did")
    expansion: int = Field(
        0, ge=0, le=100, description="images that a query finds first and then asks again together with; 0 = none"
    )
    expansion_power: float = Field(
        3.0, ge=0, le=20, description="weight of such an image is its cosine to this power, the query's is 1"
    )
    non_landmark_usage: tuple[Literal["Public", "Private", "Ignored"], ...] = Field(
        ("Ignored",),
        strict=False,
        description="Usage of the test images without landmark that the penalties compare with",
    )
    rerank: int = Field(
        100, ge=0, le=1000, description="nearest train images that a query's local features are compared with; 0 = none"
    )
    calibrating: int = Field(
        5000, ge=1, le=10_000_000, description="held-out train images that confidence is learnt from, at most"
    )
    retrieved: int = Field(100, ge=1, le=100, description="index images answered to a retrieval query")


class Evaluation(Section):
    """What the submission is measured beside."""

    controls: bool = Field(True, description="also score an untrained embedder and dhash neighbours")
    vote: bool = Field(
        False, description="also score a vote of RootSIFT of every query with every train image: milliseconds a pair"
    )


class Exports(Section):
    """Packages of a manifest's images."""

    order: ExportOrder = Field(
        "shuffled", description="of the images: shuffled, balanced (each landmark spread over the whole) or id"
    )
    images_per_shard: int = Field(4096, ge=1, le=1_000_000, description="images a file, at most; files are of one size")


class Recipe(Section):
    """The choices of one experiment."""

    name: str = Field(description="the recipe's name, from its file")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seeds every random choice")
    execution: Execution = Execution()
    images: Images = Images()
    fill: Fill = Fill()
    dedupe: Dedupe = Dedupe()
    verification: Verification = Verification()
    openimages: OpenImages = OpenImages()
    training: Training = Training()
    embedder: Embedder = Embedder()
    groups: Groups = Groups()
    retrieval: Retrieval = Retrieval()
    evaluation: Evaluation = Evaluation()
    exports: Exports = Exports()

    @model_validator(mode="after")
    def _filled_classes_stay_whole(self) -> Recipe:
        if self.fill.threshold > self.dedupe.keep:
            raise ValueError(
                f"[fill] threshold = {self.fill.threshold} is more than [dedupe] keep = {self.dedupe.keep}: "
                "classes would be cut and filled again"
            )
        return self

    def overridden(self, overrides: Mapping[str, Mapping[str, Any]], seed: int | None = None) -> Recipe:
        """The recipe with some values replaced: `{"images": {"jpeg_quality": 80}}`.

        Raises:
            RecipeError: an unknown key or a value out of range.
        """
        document = self.model_dump(mode="json")
        for section, values in overrides.items():
            known = document.get(section)
            document[section] = (known if isinstance(known, dict) else {}) | dict(values)
        if seed is not None:
            document["seed"] = seed
        return _validated(document, f"overrides of recipe {self.name}")


def load_recipe(name_or_path: str) -> Recipe:
    """The recipe of that name, or in the TOML file of that path.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown key or a value out of range.
    """
    return _validated(_document(name_or_path, seen=()), name_or_path)


def _document(name_or_path: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name_or_path in seen:
        raise RecipeError(f"recipe {name_or_path}: its bases go in a circle: {' -> '.join(seen)}")
    if name_or_path in NAMED_RECIPES:
        text, name = (resources.files("glr_assets.recipes") / f"{name_or_path}.toml").read_text(), name_or_path
    else:
        path = Path(name_or_path)
        try:
            text, name = path.read_text(), path.stem
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"recipe {name_or_path}: neither one of {', '.join(NAMED_RECIPES)} nor a readable TOML file "
                f"({type(error).__name__}); set GLR_RECIPE or --recipe to one of these"
            ) from error
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name_or_path}: not TOML: {error}") from error
    base = document.pop("base", None)
    merged: dict[str, Any] = {}
    if base is not None:
        if not isinstance(base, str):
            raise RecipeError(f"recipe {name_or_path}: base = {base!r}, expected a recipe's name or path")
        # A base that is a file lies beside the recipe that names it, wherever a run's process starts.
        at = base if base in NAMED_RECIPES else str((Path(name_or_path).parent / base).resolve())
        merged = _document(at, (*seen, name_or_path))
    for key, value in document.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merged[key] | value if both_tables else value
    merged["name"] = name
    return merged


def _validated(document: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise RecipeError(f"recipe {where}: {'; '.join(_in_words(e) for e in error.errors())}") from error


def _in_words(error: Any) -> str:
    at = [str(part) for part in error["loc"]]
    key = f"[{at[0]}] {'.'.join(at[1:])}" if len(at) > 1 else ".".join(at)
    if error["type"] == "extra_forbidden":
        known = Recipe.model_fields if len(at) == 1 else _section_keys(at[0])
        return f"unknown key {key}; known are {', '.join(known)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"[{at[0]}] {message}" if at else message
    return f"{key} = {error['input']!r}: {message}"


def _section_keys(section: str) -> list[str]:
    kind = Recipe.model_fields[section].annotation
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Section) else []
