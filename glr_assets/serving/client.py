"""A client of the service: photographs in, its documents out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
from pydantic import ValidationError

from glr_assets.serving.limits import RefusedError
from glr_assets.serving.schemas import Answer, BatchAnswer, Failure, Ready
from glr_assets.serving.uploads import FIELD

Photo = str | Path | bytes


class Client:
    """Asks a running `glr serve`; usable as a context manager, and from several threads.

    >>> with Client("http://127.0.0.1:8000") as glr:  # doctest: +SKIP
    ...     answer = glr.recognize("gate.jpg")
    ...     print(answer.landmarks[0].name if answer.is_landmark else "no landmark")
    """

    def __init__(self, url: str = "http://127.0.0.1:8000", token: str | None = None, timeout: float = 60.0) -> None:
        """Connect to nothing yet.

        Args:
            url: of the service.
            token: its `GLR_SERVE_TOKEN`, where it has one.
            timeout: seconds that a step of a request may take.
        """
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close its connections."""
        self._http.close()

    def recognize(self, photo: Photo, top: int = 5, *, matches: bool = False) -> Answer:
        """What a photograph shows.

        Args:
            photo: a file or its bytes.
            top: landmarks and look-alikes at most.
            matches: also compare local features with the look-alikes, and draw what agrees.

        Raises:
            RefusedError: the service refuses it; it says why, and in `retry_after` when to come back.
            httpx.TransportError: it cannot be reached.
            OSError: the file cannot be read.
        """
        fields = {"top": str(top), "matches": str(matches).lower()}
        return Answer.model_validate_json(self._post("/recognize", [photo], fields))

    def recognize_many(self, photos: Sequence[Photo], top: int = 5) -> BatchAnswer:
        """What each of a few photographs shows, or why it is refused; errors are those of `recognize`."""
        return BatchAnswer.model_validate_json(self._post("/recognize/batch", photos, {"top": str(top)}))

    def matches(self, photo: Photo, image_id: str) -> bytes:
        """JPEG: a photograph beside a look-alike, with lines between what agrees; errors are those of `recognize`."""
        return self._post("/matches", [photo], {"id": image_id})

    def ready(self) -> Ready:
        """What is searched.

        Raises:
            RefusedError: 503, nothing yet.
        """
        return Ready.model_validate_json(_checked(self._http.get("/ready")))

    def _post(self, path: str, photos: Sequence[Photo], fields: dict[str, str]) -> bytes:
        files: list[Any] = [(FIELD, _file(photo)) for photo in photos]
        return _checked(self._http.post(path, files=files, data=fields))


def _file(photo: Photo) -> tuple[str, bytes]:
    return ("photograph", photo) if isinstance(photo, bytes) else (Path(photo).name, Path(photo).read_bytes())


def _checked(response: httpx.Response) -> bytes:
    if response.is_success:
        return response.content
    try:
        found = Failure.model_validate_json(response.content).error
    except ValidationError as error:  # of something between here and the service
        raise RefusedError(response.status_code, "unknown", response.reason_phrase) from error
    after = response.headers.get("retry-after", "")
    raise RefusedError(found.status, found.code, found.reason, int(after) if after.isdecimal() else None)
