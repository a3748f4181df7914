"""What a store remembers of the run that wrote to it last: source, Open Images and recipe, so that its name suffices.

Options and credentials are never written.
"""

from __future__ import annotations

from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, ValidationError

from glr_assets.errors import StoreError
from glr_assets.store import Store

#: Below runs/, with what else tells of the last run and has no part in what was made.
PATH = "runs/settings.json"


class StoreSettings(BaseModel):
    """Root URLs, None for the built-in sample's, and the recipe: a name, or the absolute path of a file."""

    model_config = ConfigDict(frozen=True)

    source: str | None
    openimages: str | None
    recipe: str


def read_store_settings(store: Store) -> StoreSettings | None:
    """What the store remembers; None where nothing was made in it yet.

    Raises:
        StoreError: the file is of another form.
    """
    try:
        return StoreSettings.model_validate(store.read_json(PATH))
    except FileNotFoundError:
        return None
    except (ValidationError, ValueError) as error:
        raise StoreError(
            f"{store.full_url(PATH)}: expected JSON with source, openimages and recipe; remove it, and give "
            "--source and --recipe once more"
        ) from error


def write_store_settings(store: Store, settings: StoreSettings) -> bool:
    """Remember these, if they are not remembered already; returns whether they were written."""
    kept = settings.model_copy(
        update={name: without_credentials(getattr(settings, name)) for name in ("source", "openimages")}
    )
    if _readable(store) == kept:
        return False
    store.write(PATH, kept.model_dump_json(indent=2).encode() + b"\n")
    return True


def _readable(store: Store) -> StoreSettings | None:
    try:
        return read_store_settings(store)
    except StoreError:
        return None


def without_credentials(url: str | None) -> str | None:
    """A URL without user, password and query."""
    if url is None or "://" not in url:
        return url
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
