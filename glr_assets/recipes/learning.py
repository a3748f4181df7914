"""The tables of a recipe that say what is trained, and how."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from glr_assets.recipes.base import PathText, Section

ManifestName = Literal["train_manifest", "deduped_manifest", "cleaned_manifest", "non_landmark_filter"]
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


class Training(Section):
    """Which images train, and how many of them are held out."""

    manifest: ManifestName = Field("train_manifest", description="the curated set that trains")
    validation: float = Field(
        0.1, ge=0.0, le=0.5, description="share held out of training, to watch it and to calibrate confidences"
    )


#: Pixels a side at the least.
LEAST_SIDE = 28
_IMAGE_SIZE = (
    "side in pixels of the square the network sees. With torchscript, a recipe that does not set it beside torchscript "
    "uses the size that the file declares, else the one at which training photographs are told apart best; 0 = this"
)


class Learning(Section):
    """How a network learns: what the sections of all that is trained have in common."""

    weights: PathText | None = Field(
        None,
        description="folder or hub id of backbone weights to start from; owner/name@revision is of one commit, without "
        "a revision it is the newest, and another commit trains another version",
    )
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


def _of_its_own_size(values: Any) -> Any:
    """A section whose TorchScript file decides the image size, unless the section sets one: 0 stands for that."""
    if isinstance(values, dict) and values.get("torchscript") is not None and "image_size" not in values:
        return values | {"image_size": 0}
    return values


def _need_image_size(section: Embedder | Filter) -> None:
    least = 0 if section.torchscript is not None else LEAST_SIDE
    if section.image_size < least or 0 < section.image_size < LEAST_SIDE:
        raise ValueError(
            f"image_size = {section.image_size}, expected {LEAST_SIDE} or more; 0 stands for the size of the "
            "TorchScript file, where torchscript names one"
        )


class Classifying(Learning):
    """How a classifier learns."""

    dropout: float = Field(0.5, ge=0, lt=1, description="share of the pooled features dropped while training")
    augmentation: float = Field(1.0, ge=0, le=1, description="how far training pictures vary, of the embedder's range")


class Embedder(Learning):
    """The network that turns a photograph into a vector, and how it learns."""

    torchscript: PathText | None = Field(
        None, description="path of a TorchScript embedder ([B,3,H,W] normalised RGB to [B,D]) used as it is"
    )
    image_size: int = Field(384, ge=0, le=1024, description=_IMAGE_SIZE)
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

    @model_validator(mode="before")
    @classmethod
    def _size_of_the_file(cls, values: Any) -> Any:
        return _of_its_own_size(values)

    @model_validator(mode="after")
    def _has_image_size(self) -> Self:
        _need_image_size(self)
        return self

    @model_validator(mode="after")
    def _scales_differ(self) -> Self:
        for scale in self.scales:
            if not 0.25 <= scale <= 4:
                raise ValueError(f"scales: {scale:g}, expected shares of image_size from 0.25 to 4")
        if self.image_size and len(set(self.sides)) < len(self.sides):
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


class Groups(Classifying):
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


class Filter(Classifying):
    """The classifier of photographs that show no landmark, and what becomes of them."""

    manifest: Literal["train_manifest", "deduped_manifest", "cleaned_manifest"] = Field(
        "train_manifest", description="the curated set that is filtered"
    )
    torchscript: PathText | None = Field(
        None,
        description="path of a TorchScript embedder ([B,3,H,W] normalised RGB to [B,D]) whose vectors are told "
        "apart, in place of training a network",
    )
    backbone: BackboneName = Field("resnet-50", description="architecture, built with transformers")
    image_size: int = Field(128, ge=0, le=1024, description=_IMAGE_SIZE)
    landmarks: float = Field(
        4.0, gt=0, le=100, description="landmark photographs that it learns from, as a multiple of the crops"
    )
    validation: float = Field(
        0.2, gt=0, lt=1, description="share of these photographs that are held out, to set the threshold"
    )
    max_false_rate: float = Field(
        0.01, ge=0, le=1, description="share of held-out landmark photographs that the threshold may give up"
    )
    threshold: float | None = Field(
        None, gt=0, le=1, description="least score of a photograph without landmark; unset: by max_false_rate"
    )
    spare_verified: bool = Field(
        True, description="keep photographs that others of their landmark verify by geometry, whatever their score"
    )

    @model_validator(mode="before")
    @classmethod
    def _size_of_the_file(cls, values: Any) -> Any:
        return _of_its_own_size(values)

    @model_validator(mode="after")
    def _has_image_size(self) -> Self:
        _need_image_size(self)
        return self
