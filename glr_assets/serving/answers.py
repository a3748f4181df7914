"""The one form of every refusal over HTTP."""

from __future__ import annotations

from starlette.responses import JSONResponse

from glr_assets.serving.limits import RefusedError
from glr_assets.serving.schemas import Failure, Problem


def problem(error: RefusedError) -> Problem:
    """A refusal as a document."""
    return Problem(code=error.code, reason=error.reason, status=error.status)


def failure(error: RefusedError) -> JSONResponse:
    """A refusal as an answer."""
    headers = {} if error.retry_after is None else {"Retry-After": str(error.retry_after)}
    return JSONResponse(Failure(error=problem(error)).model_dump(), error.status, headers)
