"""The environment's settings, read when something runs; the recipe's also when definitions load, for the launchpad.

What belongs here: the names of the settings, their checks, and the source, store and recipe they open. A value is
resolved in this order: an override (a command's option, the resource of a run), the environment, what the store
remembers of the run that wrote to it last, the default.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict
from pydantic_settings.exceptions import SettingsError as UnreadableSetting

from glr_assets.errors import GlrError, SettingsError, StoreError
from glr_assets.locations import local_path, location, same_place
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.openimages.sample import embedded_openimages
from glr_assets.recipes import NAMED_RECIPES, Recipe, load_recipe
from glr_assets.redaction import has_credentials, register
from glr_assets.source import Source, open_source
from glr_assets.source.bucket_writer import made_by
from glr_assets.source.embedded import embedded_sample
from glr_assets.store import Store
from glr_assets.store_settings import PATH as REMEMBERED
from glr_assets.store_settings import StoreSettings, read_store_settings, without_credentials

PUBLIC_BUCKET = "s3://google-landmark"
#: The store's folder where none is given, beside DAGSTER_HOME or in the working folder.
DATA = "data"


def _default_store() -> str:
    """The store of the instance, so that it is one store whatever folder a process starts in.

    It is the store that DAGSTER_HOME lies in, as `glr demo` and `glr dev` make it, else `data` beside DAGSTER_HOME,
    else `data` in the working folder.
    """
    home = os.environ.get("DAGSTER_HOME", "").strip()
    if not home:
        return f"./{DATA}"
    beside = local_path(home).parent
    return str(beside if (beside / REMEMBERED).is_file() else beside / DATA)


class AlertSettings(BaseSettings):
    """Where alerts go. They are read alone, so that a wrong setting of the source is alerted on too."""

    model_config = SettingsConfigDict(
        env_prefix="GLR_", extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    alert_webhook: str | None = Field(
        None, repr=False, description="URL that alerts are posted to as JSON; unset: only logged"
    )
    dagster_url: str | None = Field(
        None, description="root URL of the Dagster webserver, for links in alerts; unset: links are paths"
    )

    @field_validator("alert_webhook", "dagster_url", mode="before")
    @classmethod
    def _no_url_is_unset(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value


class Settings(AlertSettings):
    """Where photographs come from, where everything is written, and by which recipe."""

    source: str | None = Field(None, description="root URL of the source bucket; unset: the embedded sample")
    source_options: dict[str, Any] = Field(default_factory=dict, repr=False, description="fsspec options of the source")
    store: str = Field(
        default_factory=_default_store,
        validate_default=True,
        description="root URL of everything written; unset: that of DAGSTER_HOME, else data in the working folder",
    )
    store_options: dict[str, Any] = Field(default_factory=dict, repr=False, description="fsspec options of the store")
    openimages: str | None = Field(None, description="root URL of Open Images; unset: the sample's")
    openimages_options: dict[str, Any] = Field(
        default_factory=dict, repr=False, description="fsspec options of Open Images"
    )
    recipe: str | None = Field(
        None,
        description="recipe name or path; unset: small for the sample, own_photos for a bucket of glr pack, else full",
    )

    @field_validator("source", "openimages", "recipe", mode="before")
    @classmethod
    def _blank_is_unset(cls, value: object) -> object:
        return None if isinstance(value, str) and not value.strip() else value

    @field_validator("store", mode="before")
    @classmethod
    def _blank_is_default(cls, value: object) -> object:
        return _default_store() if isinstance(value, str) and not value.strip() else value

    @field_validator("source", "store", "openimages")
    @classmethod
    def _as_location(cls, value: str | None, info: ValidationInfo) -> str | None:
        """A folder of this machine becomes absolute: it is the same wherever a run's process starts."""
        name = f"GLR_{str(info.field_name).upper()}"
        if value is None:
            return None
        if has_credentials(value):
            raise SettingsError(
                f"{name}: {value} holds a user name or password, which runs and logs would show; "
                f'give it in {name}_OPTIONS instead, as {{"username": …, "password": …}}'
            )
        try:
            return location(value)
        except SettingsError as error:
            raise SettingsError(f"{name}: {error}") from None

    @field_validator("source_options", "store_options", "openimages_options")
    @classmethod
    def _options_are_secret(cls, value: dict[str, Any]) -> dict[str, Any]:
        register(value)
        return value

    @classmethod
    def from_environment(cls, **overrides: Any) -> Settings:
        """The settings of the environment, with the overrides that are not None in their place.

        Raises:
            SettingsError: a value that cannot be used, named as in the environment. Values of options are not shown.
        """
        given = {name: value for name, value in overrides.items() if value is not None}
        try:
            return cls(**given)
        except UnreadableSetting as error:
            name = str(error).split('"')[1] if '"' in str(error) else "options"
            # The error before this one quotes the value.
            raise SettingsError(f'GLR_{name.upper()}: expected JSON such as {{"anon": true}}, found no JSON') from None
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False)[0]
            name = "_".join(str(part) for part in first["loc"][:1]).upper()
            expected = ' of names and values, as {"anon": true}' if name.endswith("_OPTIONS") else ""
            raise SettingsError(f"GLR_{name}: {first['msg']}{expected}") from None

    def open_store(self) -> Store:
        """The store that everything is written to."""
        return Store(self.store, self.store_options)

    @cached_property
    def remembered(self) -> StoreSettings | None:
        """What the store remembers; None for a store that nothing was made in.

        Raises:
            StoreError: the store cannot be read, or what it remembers is damaged.
        """
        return read_store_settings(self.open_store())

    @cached_property
    def resolved(self) -> StoreSettings:
        """Source, Open Images and recipe as they hold: given, else remembered by the store, else the default.

        A remembered recipe holds for the remembered source alone. By default the built-in sample takes `small`, a
        bucket of `glr pack` `own_photos`, any other bucket `full`.

        Raises:
            StoreError: the store cannot be read.
        """
        kept = None if self.source and self.recipe and self.openimages else self.remembered
        source = self.source or (kept.source if kept else None)
        recipe = self.recipe
        if recipe is None:
            same_source = kept is not None and kept.source == without_credentials(source)
            recipe = kept.recipe if kept and same_source else self._default_recipe(source)
        elif recipe not in NAMED_RECIPES:
            recipe = str(local_path(recipe))
        openimages = self.openimages or (kept.openimages if kept else None)
        return StoreSettings(source=source, openimages=openimages, recipe=recipe)

    def conflicts(self) -> list[str]:
        """What is given otherwise than the store remembers it, a sentence each."""
        kept = self.remembered
        if kept is None:
            return []
        now = self.resolved
        told = []
        for name, given, before, after in (
            ("source", self.source, kept.source or "the built-in sample", without_credentials(now.source)),
            (
                "Open Images root",
                self.openimages,
                kept.openimages or "the sample's",
                without_credentials(now.openimages),
            ),
            ("recipe", self.recipe or self.source, kept.recipe, now.recipe),
        ):
            if given is not None and before != after:
                told.append(
                    f"store {self.store}: made with {name} {before}, now {after}; what depends on it is made again. "
                    "Use another --store to keep both"
                )
        return told

    @property
    def default_recipe(self) -> str | None:
        """The recipe by default; None where one is given or remembered for the source."""
        kept = self.remembered
        if self.recipe or (kept is not None and kept.source == without_credentials(self.resolved.source)):
            return None
        return self.resolved.recipe

    def _default_recipe(self, source: str | None) -> str:
        if source is None:
            return "small"
        if source.startswith("kaggle://") or source.rstrip("/") == PUBLIC_BUCKET:
            return "full"
        try:
            return "own_photos" if made_by(Store(source, self.source_options)) == "glr pack" else "full"
        except StoreError:
            return "full"  # nothing can be made of a source that is out of reach; what opens it tells why

    def open_source(self) -> Source:
        """The source bucket; the embedded sample, generated in the store on first use, where none is set.

        Raises:
            SourceError: it is missing, unreachable or of no known layout.
            SettingsError: it is the store, whose files would lie among its own.
        """
        source = self.source or (self.remembered.source if self.remembered else None)
        if source is None:
            return embedded_sample(self.open_store())
        if same_place(source, self.store):
            raise SettingsError(f"{self.store}: both source and store; give the store (--store) a place of its own")
        options = self.source_options
        if not options and source.rstrip("/") == PUBLIC_BUCKET:
            options = {"anon": True}
        return open_source(source, options)

    def packed_bucket(self) -> Store | None:
        """The source as a store, to look up what `glr pack` left out.

        None of the sample, of a Kaggle folder, and of a source that cannot be opened: no file was packed into these.
        """
        source = self.source or (self.remembered.source if self.remembered else None)
        if source is None or source.startswith("kaggle://"):
            return None
        try:
            return Store(source, self.source_options)
        except GlrError:
            return None

    def open_openimages(self) -> OpenImagesRoot:
        """The root of Open Images; the rendered one, generated in the store on first use, where none is set.

        Raises:
            SourceError: it is missing, unreachable or holds nothing of Open Images.
        """
        openimages = self.openimages_url
        if openimages is None:
            return embedded_openimages(self.open_store())
        return OpenImagesRoot(openimages, self.openimages_options)

    @property
    def openimages_url(self) -> str | None:
        """The root of Open Images, given or remembered by the store; None where the rendered one stands in for it.

        Raises:
            StoreError: the store cannot be read.
        """
        return self.openimages or (self.remembered.openimages if self.remembered else None)

    def load_recipe(self) -> Recipe:
        """The recipe of this run.

        Raises:
            RecipeError: no such recipe, an unknown key or a value out of range.
        """
        return load_recipe(self.recipe or self.resolved.recipe)
