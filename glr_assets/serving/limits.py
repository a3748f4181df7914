"""What the service takes: bytes, types, dimensions, and how many at once; a refusal has a status and a reason."""

from __future__ import annotations

import math
import os
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from glr_assets.codecs.decode import FORMATS
from glr_assets.codecs.formats import format_of
from glr_assets.errors import GlrError, SettingsError
from glr_assets.images.pixels import Refused, StoredImage, downsize
from glr_assets.recipes import Images

MOST_LISTED: Final = 50
"""Landmarks and look-alikes that one answer lists at most."""

Network = IPv4Network | IPv6Network
#: How ingest's reasons begin, and what they are over HTTP.
_STATUS_OF: Final = {
    "too large": (413, "too_large"),
    "no image that can be opened": (415, "wrong_type"),
    "unsupported format": (415, "wrong_type"),
}


class RefusedError(GlrError):
    """A request that is not answered: an HTTP status, a short name and a reason fit for strangers."""

    def __init__(self, status: int, code: str, reason: str, retry_after: int | None = None) -> None:
        super().__init__(reason)
        self.status, self.code, self.reason, self.retry_after = status, code, reason, retry_after


class Limits(BaseModel):
    """Bounds of what is taken; each is a setting of its name in capitals after `GLR_SERVE_`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_bytes: int = Field(16 * 2**20, gt=0, description="bytes of one photograph")
    max_batch: int = Field(8, gt=0, le=64, description="photographs of a batch")
    max_batch_bytes: int = Field(48 * 2**20, gt=0, description="bytes of all photographs of a batch")
    max_pixels: int = Field(
        64_000_000, gt=0, description="pixels of one photograph, read from its header; never more than the recipe's"
    )
    decode_seconds: float = Field(
        10.0, gt=0, description="CPU seconds of decoding one photograph; three times as long by the clock"
    )
    decode_memory: int = Field(
        768 * 2**20,
        ge=64 * 2**20,
        description="bytes of memory of decoding one photograph; half of it for those of up to 4.2 million pixels, of "
        "which several are decoded at once",
    )
    request_seconds: float = Field(
        20.0, gt=0, description="seconds after which no further photograph of a batch is begun"
    )
    computing: int = Field(default_factory=lambda: os.cpu_count() or 1, gt=0, description="requests computed at once")
    waiting: int = Field(32, ge=0, description="requests that wait for their turn; one more gets 503")
    wait_seconds: float = Field(30.0, gt=0, description="seconds after which a waiting request gets 503")
    uploads: int = Field(512, gt=0, description="requests whose bodies arrive, wait or are computed")
    uploads_per_client: int = Field(128, gt=0, description="the same of one client; one more gets 429")
    upload_bytes: int = Field(2**30, gt=0, description="bytes of all of them in temporary files")
    upload_seconds: float = Field(60.0, gt=0, description="seconds after which a body has arrived, or gets 408")
    upload_rate: float = Field(
        4096.0, ge=0, description="bytes a second that a body comes in at after 10 seconds, or gets 408"
    )
    header_seconds: float = Field(10.0, gt=0, description="seconds after which a request's header has arrived")
    idle_seconds: int = Field(5, gt=0, description="seconds that a connection is kept for a next request")
    connections: int = Field(1024, gt=0, description="open connections; fewer where the process may open fewer files")
    connections_per_client: int = Field(256, gt=0, description="the same of one client")
    unread_bytes: int = Field(64 * 2**20, gt=0, description="bytes of answers that clients have not read yet")
    rate: float = Field(0.0, ge=0, description="photographs or batches a minute that a client may send; 0 for no limit")
    trusted_proxies: Annotated[tuple[Network, ...], NoDecode] = Field(
        (), description="addresses or networks, separated by commas, whose X-Forwarded-For names the client"
    )

    @field_validator("trusted_proxies", mode="before")
    @classmethod
    def _separated(cls, value: object) -> object:
        return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value

    @classmethod
    def from_environment(cls) -> Limits:
        """The limits of the environment, with defaults for what is not set.

        Raises:
            SettingsError: a value that cannot be used, named as in the environment.
        """
        try:
            found = _Environment()
        except ValidationError as error:
            first = error.errors()[0]
            name = str(first["loc"][0]).upper()
            raise SettingsError(
                f"GLR_SERVE_{name} = {os.environ.get(f'GLR_SERVE_{name}')!r}: {first['msg']}"
            ) from error
        return cls.model_validate(found.model_dump())


class _Environment(BaseSettings, Limits):
    """Other names that begin so are left alone: Kubernetes sets some for a service called `glr-serve`."""

    model_config = SettingsConfigDict(env_prefix="GLR_SERVE_", extra="ignore", frozen=True, env_ignore_empty=True)


def kind_of(data: bytes) -> str | None:
    """The format that a file's first bytes tell, whatever its name or declared type; None where they tell none."""
    found = format_of(data)
    return None if found is None else found.name


def photograph(data: bytes, recipe: Images, limits: Limits) -> StoredImage:
    """A photograph as ingest would store it: the same pixels, or the same refusal before its pixels are decoded.

    Args:
        data: the bytes of one upload.
        recipe: of the images that are searched.
        limits: bytes and pixels.

    Raises:
        RefusedError: 413 where it is too large, 415 where it is no photograph, 422 where it is damaged.
    """
    check_size(len(data), limits)
    if not data:
        raise RefusedError(422, "empty", "empty: zero bytes; choose a photograph")
    if kind_of(data) is None:
        raise RefusedError(415, "wrong_type", f"no photograph: expected {', '.join(FORMATS)} by its first bytes")
    bounded = recipe.model_copy(update={"max_pixels": min(recipe.max_pixels, limits.max_pixels)})
    found = downsize(data, bounded)
    if isinstance(found, Refused):
        status, code = _STATUS_OF.get(found.reason.split(":")[0], (422, "undecodable"))
        raise RefusedError(status, code, found.reason)
    return found


def check_size(size: int, limits: Limits) -> None:
    """Refuse a photograph by its bytes.

    Raises:
        RefusedError: 413.
    """
    if size > limits.max_bytes:
        raise RefusedError(413, "too_large", f"too large: more than {limits.max_bytes} bytes")


def listed(value: str | None, default: int) -> int:
    """How many landmarks and look-alikes a request asks for.

    Raises:
        RefusedError: 422, it is no whole number from 1 to `MOST_LISTED`.
    """
    if value is None or not value.strip():
        return default
    number = int(value) if value.isascii() and value.isdecimal() and len(value) < 9 else math.nan
    if not 1 <= number <= MOST_LISTED:
        raise RefusedError(422, "wrong_top", f"top: expected a whole number from 1 to {MOST_LISTED}")
    return int(number)
