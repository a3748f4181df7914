"""The message of a serialized error of Dagster: the project's own error where the chain holds one."""

from __future__ import annotations

import re
from typing import Final, Protocol

from glr_assets import errors
from glr_assets.errors import GlrError

#: `dg.Failure` is raised here with the text of an own error.
_OWN: Final = {
    "Failure",
    *(name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, GlrError)),
}
#: A value of a launchpad that the recipe refuses. Dagster puts the error's stack into the message of its own error.
_REFUSED: Final = re.compile(r"PostProcessingError: (.*?)\n\nStack Trace:", re.DOTALL)


class SerializedError(Protocol):
    """The part of `dagster_shared.error.SerializableErrorInfo` that is read here."""

    @property
    def message(self) -> str:
        """The last line or lines of the traceback: class and text."""

    @property
    def cls_name(self) -> str | None:
        """The name of the error's class."""

    @property
    def cause(self) -> SerializedError | None:
        """The error that was raised from, or handled, before it."""


def error_message(error: SerializedError | None) -> str:
    """The message of an error in one line, without its traceback.

    An error of this project names the fix, so the outermost of these is taken, whatever library error caused it.
    Without one it is what the recipe refused of a launchpad's config, else the innermost cause with the name of its
    class.
    """
    chain: list[SerializedError] = []
    while error is not None:
        chain.append(error)
        error = error.cause
    own = next((link for link in chain if link.cls_name in _OWN), None)
    if own is not None:
        return " ".join(own.message.split()).split(f"{own.cls_name}: ", 1)[-1]
    refused = [found for link in chain for found in _REFUSED.findall(link.message)]
    if refused:
        return "; ".join(" ".join(found.split()) for found in dict.fromkeys(refused))
    return " ".join(chain[-1].message.split()) if chain else ""
