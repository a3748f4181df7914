"""What can go wrong that a user can mend: each error is one line naming what, where and the mend."""

from __future__ import annotations

import traceback

from glr_assets.redaction import redact


class GlrError(Exception):
    """Base of every error whose text is meant for the user; commands print it and exit with 1.

    Secrets in its text are replaced as it is made, so whatever shows it may show it whole.
    """

    def __init__(self, *parts: object) -> None:
        super().__init__(*(redact(part) if isinstance(part, str) else part for part in parts))


class SettingsError(GlrError):
    """An environment setting has a value that cannot be used."""


class RecipeError(GlrError):
    """A recipe or an override of it holds an unknown key or a value out of range."""


class SourceError(GlrError):
    """The source bucket, or something in it, is missing, unreachable or not as published."""


class DamagedSourceError(SourceError):
    """What the source holds is not what it publishes: to read it again gives the same, mending the source helps."""


class TableError(GlrError):
    """A table lacks a column, or holds what its schema forbids."""


class StoreError(GlrError):
    """The store cannot be read or written."""


class DamagedFileError(StoreError):
    """Stored files are not as they were written.

    Attributes:
        paths: the files, relative to the store's root.
    """

    def __init__(self, text: str, *paths: str) -> None:
        super().__init__(text)
        self.paths = paths


class DamagedTableError(TableError, DamagedFileError):
    """A stored table is not as it was written."""


class MirrorError(GlrError):
    """What a receipt names cannot be copied as it says."""


class MissingInputError(GlrError):
    """Something upstream has not been made yet."""


class ExtractorError(GlrError):
    """An extractor of local features, its module or its weights cannot be used."""


class EmbedderError(GlrError):
    """An embedder, its weights or its configuration cannot be used."""


class ClassifierError(GlrError):
    """A group's classifier, its weights or its configuration cannot be used."""


class MetricError(GlrError):
    """A submission or solution breaks the rules of the official metrics."""


def about(what: str, error: GlrError) -> GlrError:
    """The same error with what it is about before its text."""
    found = type(error)(f"{what}: {error}")
    found.__dict__.update(error.__dict__)
    return found


def describe(error: BaseException) -> str:
    """An error as one line: its text where it is meant for the user, else with the name of its class before it."""
    text = " ".join(redact(str(error)).split())
    if isinstance(error, GlrError):
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def trace(error: BaseException) -> str:
    """The traceback of an error that nobody foresaw, with its causes; empty where its text is meant for the user."""
    return "" if isinstance(error, GlrError) else redact("".join(traceback.format_exception(error)))
