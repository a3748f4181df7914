"""What every table of a recipe has in common, and how to run."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from glr_assets.errors import SettingsError
from glr_assets.locations import expanded


def _expanded(value: str) -> str:
    try:
        return expanded(value)
    except SettingsError as error:
        raise ValueError(str(error)) from error


PathText = Annotated[str, AfterValidator(_expanded)]
"""A path of this machine, or a URL or hub id where the key says so; a leading `~` is the home folder."""


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
    force: bool = Field(
        False, description="make the asset, or these partitions of it, again though it is done; only of a run"
    )

    @property
    def threads(self) -> int:
        """`workers`, or one a core of this machine."""
        return self.workers or os.cpu_count() or 1
