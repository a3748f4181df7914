"""The tables of a recipe that say which images are stored, and which of them train."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, model_validator

from glr_assets.recipes.base import PathText, Section


class Images(Section):
    """What is stored of a source image (defaults: the published 384 px and quality 70)."""

    min_side: int = Field(384, ge=32, le=4096, description="smaller side in pixels; never enlarged")
    jpeg_quality: int = Field(70, ge=1, le=100, description="JPEG quality of what is stored")
    keep: Literal["wanted", "all"] = Field(
        "wanted", description="train images stored: the competition set and the fill plan, or all"
    )
    require_md5: bool = Field(True, description="refuse a shard whose MD5 is not published")
    max_pixels: int = Field(
        64_000_000, ge=1, le=178_956_970, description="larger images are refused: decoding takes up to 22 bytes a pixel"
    )
    max_side: int = Field(
        4096, ge=64, le=65_500, description="longer side as stored, at most; a longer picture is shrunk further"
    )
    max_stored_pixels: int = Field(
        1_200_000, ge=4096, le=178_956_970, description="pixels as stored, at most; more are shrunk further"
    )
    max_member_bytes: int = Field(64 * 2**20, ge=1024, description="larger members are refused unread")

    @model_validator(mode="after")
    def _ordinary_pictures_are_whole(self) -> Images:
        least = 2 * self.min_side**2
        if self.max_side < 2 * self.min_side or self.max_stored_pixels < least:
            raise ValueError(
                f"min_side = {self.min_side}: expected max_side of at least {2 * self.min_side} and max_stored_pixels "
                f"of at least {least}, so that pictures of 2:1 keep that side; found {self.max_side} and "
                f"{self.max_stored_pixels}"
            )
        return self


class Fill(Section):
    """Extras from the full dataset for small classes."""

    threshold: int = Field(20, ge=0, le=10_000, description="classes with fewer images are filled up to it")
    reserves: int = Field(5, ge=0, le=1000, description="images a class planned beyond the need, for corrupt ones")
    variety: bool = Field(
        True, description="pass over near-duplicates ([dedupe] near_duplicate_bits) of images of the class that train"
    )


class Dedupe(Section):
    """One of each group of near-duplicates, and the most diverse subset of large classes."""

    keep: int = Field(25, ge=1, le=100_000, description="images a class keeps; smaller classes stay whole")
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
    module: PathText | None = Field(
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
        0.01,
        gt=0,
        le=1,
        description="share of images that belong to another landmark, or to none, of which one may stay in a class, "
        "whatever the class's size, with a confidence of 95 %",
    )
    calibration_pairs: int = Field(20_000, ge=100, le=10_000_000, description="pairs of different landmarks compared")
    calibrate: bool = Field(True, description="raise thresholds by what pairs of different landmarks reach")
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
    subcategories: bool = Field(
        False,
        description="boxes of what lies below a category in the published hierarchy count as that category, the "
        "nearest above that is wanted: those of Man and Woman as Person",
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
