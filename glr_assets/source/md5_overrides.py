"""Published MD5 sums that are known to be wrong: a list under review, `md5_overrides.toml` beside this file."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from glr_assets.errors import SourceError
from glr_assets.source.base import Split

FILE: Final = "md5_overrides.toml"

Md5 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class Md5Override(BaseModel):
    """One sum that is published wrong.

    Attributes:
        split: the shard's split.
        shard: its key, `000`.
        published: what its md5 file says; another sum there makes the entry void.
        actual: the MD5 of its bytes.
        evidence: how it is known that the bytes are right and the sum is not.
        reviewed: the day it was reviewed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    split: Split
    shard: Annotated[str, StringConstraints(pattern=r"^\w+$")]
    published: Md5
    actual: Md5
    evidence: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    reviewed: date

    @model_validator(mode="after")
    def _corrects(self) -> Self:
        if self.published == self.actual:
            raise ValueError("published and actual are the same sum: nothing to correct")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    override: list[Md5Override] = Field(default_factory=list)


@cache
def packaged_overrides() -> tuple[Md5Override, ...]:
    """The project's own list."""
    return load_overrides(Path(__file__).with_name(FILE))


def load_overrides(path: Path) -> tuple[Md5Override, ...]:
    """The overrides of a TOML file of `[[override]]` tables.

    Raises:
        SourceError: it cannot be read, an entry is not as it must be, or two are for the same published sum.
    """
    try:
        entries = _File.model_validate(tomllib.loads(path.read_text(encoding="utf-8"))).override
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise SourceError(f"{path}: cannot be read as TOML: {error}; mend it") from error
    except ValidationError as error:
        found = "; ".join(f"{_place(problem['loc'])}: {problem['msg']}" for problem in error.errors())
        raise SourceError(f"{path}: {found}; mend the entry, as the comment in {FILE} says") from error
    seen: set[tuple[str, str, str]] = set()
    for number, entry in enumerate(entries):
        key = (entry.split, entry.shard, entry.published)
        if key in seen:
            raise SourceError(
                f"{path}: override {number + 1} is for {entry.split}/{entry.shard} and {entry.published}, "
                "as one before it; keep one of them"
            )
        seen.add(key)
    return tuple(entries)


def actual_md5(overrides: Sequence[Md5Override], split: Split, shard: str, published: str) -> str:
    """The MD5 that a shard's bytes must have where its md5 file says `published`."""
    for entry in overrides:
        if (entry.split, entry.shard, entry.published) == (split, shard, published):
            return entry.actual
    return published


def _place(location: tuple[int | str, ...]) -> str:
    """Where in the file a problem is: `override 2 actual`."""
    return " ".join(str(part + 1) if isinstance(part, int) else part for part in location)
