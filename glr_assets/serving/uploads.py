"""Photographs out of a request's body, bounded while it arrives."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import FormData, UploadFile
from starlette.requests import ClientDisconnect, Request

from glr_assets.serving.limits import FORM_BYTES, Limits, RefusedError, Slots

FIELD: Final = "image"
_MOST_FIELDS: Final = 8
_FIELD_BYTES: Final = 1024
_NAME_LENGTH: Final = 120


@dataclass(frozen=True)
class Upload:
    """One file of a form: its name, of no meaning, and its bytes."""

    name: str
    data: bytes


@dataclass(frozen=True)
class Form:
    """A form's photographs in their order, and its other fields."""

    photos: tuple[Upload, ...]
    fields: Mapping[str, str]


async def read_form(request: Request, limits: Limits, arriving: Slots, most: int = 1) -> Form:
    """The photographs of a request, at least one.

    Args:
        request: `multipart/form-data` with files in the field `image`.
        limits: bytes and seconds.
        arriving: bodies that are read at once.
        most: photographs.

    Raises:
        RefusedError: no such form, no or too many photographs, more bytes than there may be, or too slow.
        HTTPException: 400, the form is damaged.
    """
    if request.headers.get("content-type", "").split(";")[0].strip().lower() != "multipart/form-data":
        raise RefusedError(415, "wrong_type", f"expected multipart/form-data with a photograph in the field {FIELD}")
    most_bytes = FORM_BYTES + (limits.max_bytes if most == 1 else limits.max_batch_bytes)
    body = _Counted(request, most_bytes)
    with arriving.one():
        try:
            async with asyncio.timeout(limits.upload_seconds):
                body.check(int(length) if (length := request.headers.get("content-length", "")).isdecimal() else 0)
                counted = Request(request.scope, body.receive)
                parts = {"max_files": most + 2, "max_fields": _MOST_FIELDS, "max_part_size": _FIELD_BYTES}
                async with counted.form(**parts) as form:
                    return await _sorted(form, most)
        except TimeoutError as error:
            reason = f"too slow: the photograph did not arrive within {limits.upload_seconds:g} seconds"
            raise RefusedError(408, "too_slow", reason) from error
        except ClientDisconnect as error:
            raise RefusedError(400, "cut_off", "the photograph was cut off on its way") from error


async def _sorted(form: FormData, most: int) -> Form:
    photos: list[Upload] = []
    fields: dict[str, str] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            # A browser sends a file input that was left empty as a file without name and bytes.
            if name == FIELD and (value.filename or value.size):
                photos.append(Upload(_shown(value.filename or ""), await value.read()))
        else:
            fields[name] = value
    if FIELD in fields and not photos:
        raise RefusedError(422, "missing", f"{FIELD}: expected a file, found text")
    if not photos:
        raise RefusedError(422, "missing", f"no photograph: expected a file in the field {FIELD}")
    if len(photos) > most:
        raise RefusedError(422, "too_many", f"{len(photos)} photographs, at most {most} are taken at once")
    return Form(tuple(photos), fields)


def _shown(name: str) -> str:
    """A file's name for its sender alone: its last part, printable."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    return "".join(letter for letter in last if letter.isprintable())[:_NAME_LENGTH]


class _Counted:
    """The body of a request, refused once more than `most` bytes of it have come, or are announced."""

    def __init__(self, request: Request, most: int) -> None:
        self._receive, self._most = request.receive, most
        self._seen = 0

    async def receive(self) -> MutableMapping[str, Any]:
        message = await self._receive()
        self._seen += len(message.get("body", b""))
        self.check(self._seen)
        return message

    def check(self, size: int) -> None:
        """Refuse a body of so many bytes."""
        if size > self._most:
            raise RefusedError(413, "too_large", f"too large: a body of more than {self._most} bytes")
