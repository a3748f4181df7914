"""The tables of a recipe that say how photographs are answered, how answers are judged, and what is packed."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from glr_assets.recipes.base import Section
from glr_assets.recipes.learning import ManifestName

ExportOrder = Literal["shuffled", "balanced", "id"]


class Retrieval(Section):
    """Neighbours and the non-landmark penalties."""

    manifest: ManifestName = Field("train_manifest", description="the curated set that is searched")
    per_landmark: int = Field(5, ge=0, description="images a landmark that are searched; 0 = all")
    index: Literal["auto", "flat", "ivf", "hnsw", "pq"] = Field(
        "auto", description="how they are searched: flat compares with all; auto chooses by number and memory"
    )
    index_memory: int = Field(8192, ge=1, le=2**20, description="MiB of memory that the index may take")
    index_recall: float = Field(
        0.99, gt=0, le=1, description="share of the five nearest that an index other than flat shall find"
    )
    penalties: Literal["learned", "fixed", "off"] = Field(
        "learned",
        description="learned: likeness to non-landmarks counts by weights that recognition_model fits, never negative "
        "and possibly 0, and changes no search; fixed: the search ranks by cosine - B and C is subtracted from every "
        "score, as in the published neighbor notebooks; off: it does not count",
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
    class_logits: bool = Field(
        True,
        description="count the cosine to the centre of a landmark in the head that the embedder was trained under "
        "beside its neighbours'; an embedder that was brought in has no head",
    )
    non_landmark_usage: tuple[Literal["Public", "Private", "Ignored"], ...] = Field(
        ("Ignored",),
        strict=False,
        description="Usage of the test images without landmark that penalties compare with and that confidence is "
        "fitted on; a Usage named here is not scored",
    )
    filtered_gallery: int = Field(
        0,
        ge=0,
        le=1_000_000,
        description="train images that non_landmark_filter dropped, the surest, which the penalties compare with too",
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

    controls: bool = Field(True, description="also score an untrained embedder, and neighbours by pixels and by dhash")
    vote: bool = Field(
        False, description="also score a vote of RootSIFT of every query with every train image: milliseconds a pair"
    )


class Exports(Section):
    """Packages of a manifest's images."""

    order: ExportOrder = Field(
        "shuffled", description="of the images: shuffled, balanced (each landmark spread over the whole) or id"
    )
    images_per_shard: int = Field(4096, ge=1, le=1_000_000, description="images a file, at most; files are of one size")
