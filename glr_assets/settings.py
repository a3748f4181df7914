"""The environment's settings, read when something runs and never when definitions load.

What belongs here: the names of the settings, their checks, and the source, store and recipe they open.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableSetting

from glr_assets.errors import SettingsError
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.openimages.sample import embedded_openimages
from glr_assets.recipes import Recipe, load_recipe
from glr_assets.source import Source, open_source
from glr_assets.source.embedded import embedded_sample
from glr_assets.store import Store

PUBLIC_BUCKET = "s3://google-landmark"


class Settings(BaseSettings):
    """Where photographs come from, where everything is written, and by which recipe."""

    model_config = SettingsConfigDict(env_prefix="GLR_", extra="ignore", frozen=True, env_ignore_empty=True)

    source: str | None = Field(None, description="root URL of the source bucket; unset: the embedded sample")
    source_options: dict[str, Any] = Field(default_factory=dict, description="fsspec options of the source")
    store: str = Field("./data", description="root URL of everything written")
    store_options: dict[str, Any] = Field(default_factory=dict, description="fsspec options of the store")
    openimages: str | None = Field(None, description="root URL of Open Images; unset: the sample's")
    openimages_options: dict[str, Any] = Field(default_factory=dict, description="fsspec options of Open Images")
    recipe: str | None = Field(None, description="recipe name or path; unset: small for the sample, else full")
    alert_webhook: str | None = Field(
        None, description="URL that failed runs are posted to as JSON; unset: only logged"
    )

    @field_validator("source", "openimages", "recipe", "alert_webhook", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("store", mode="before")
    @classmethod
    def _blank_is_default(cls, value: object) -> object:
        return "./data" if isinstance(value, str) and not value.strip() else value

    @field_validator("source", "store", "openimages")
    @classmethod
    def _folder_as_absolute(cls, value: str | None) -> str | None:
        """A folder given without a scheme is one of this machine, wherever a run's process starts."""
        return str(Path(value).absolute()) if value is not None and "://" not in value else value

    @classmethod
    def from_environment(cls, **overrides: Any) -> Settings:
        """The settings of the environment, with the overrides that are not None in their place.

        Raises:
            SettingsError: a value that cannot be used, named as in the environment.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(**given)
        except UnreadableSetting as error:
            name = str(error).split('"')[1] if '"' in str(error) else "options"
            raise SettingsError(f'GLR_{name.upper()}: expected JSON such as {{"anon": true}}, found no JSON') from error
        except ValidationError as error:
            first = error.errors()[0]
            name = "_".join(str(part) for part in first["loc"][:1]).upper()
            raise SettingsError(f"GLR_{name} = {json.dumps(first['input'], default=str)}: {first['msg']}") from error

    def open_store(self) -> Store:
        """The store that everything is written to."""
        return Store(self.store, self.store_options)

    def open_source(self) -> Source:
        """The source bucket; the embedded sample, generated in the store on first use, where none is set.

        Raises:
            SourceError: it is missing, unreachable or of no known layout.
        """
        if self.source is None:
            return embedded_sample(self.open_store())
        options = self.source_options
        if not options and self.source.rstrip("/") == PUBLIC_BUCKET:
            options = {"anon": True}
        return open_source(self.source, options)

    def open_openimages(self) -> OpenImagesRoot:
        """The root of Open Images; the rendered one, generated in the store on first use, where none is set.

        Raises:
            SourceError: it is missing, unreachable or holds nothing of Open Images.
        """
        if self.openimages is None:
            return embedded_openimages(self.open_store())
        return OpenImagesRoot(self.openimages, self.openimages_options)

    def load_recipe(self) -> Recipe:
        """The recipe of this run.

        Raises:
            RecipeError: no such recipe, an unknown key or a value out of range.
        """
        return load_recipe(self.recipe or ("small" if self.source is None else "full"))
