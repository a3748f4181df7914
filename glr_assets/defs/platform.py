"""The resource through which assets reach the source, the store and the recipe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Self

import dagster as dg
from pydantic import Field

from glr_assets.defs import tags
from glr_assets.defs.launchpad import given_in_run, overridden
from glr_assets.defs.process_locks import run_lock
from glr_assets.defs.recipes import report_recipe
from glr_assets.errors import GlrError
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.receipts import force
from glr_assets.recipes import Recipe
from glr_assets.settings import Settings
from glr_assets.source import Source
from glr_assets.store import Store
from glr_assets.store_settings import write_store_settings


class Platform(dg.ConfigurableResource):
    """Source, store and recipe; what is not set here comes from the `GLR_…` settings when an asset runs."""

    source: str | None = Field(None, description="Root URL of the source bucket, in place of GLR_SOURCE")
    store: str | None = Field(None, description="Root URL of everything written, in place of GLR_STORE")
    openimages: str | None = Field(None, description="Root URL of Open Images, in place of GLR_OPENIMAGES")
    recipe: str | None = Field(None, description="Recipe name or path, in place of GLR_RECIPE")

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Self]:
        """Hold the lock by which run monitoring knows that the run's process is alive."""
        with run_lock(context.instance, context.run.run_id if context.run is not None else None):
            self.setup_for_execution(context)
            yield self

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Have assets made again whose config asks for it; and the store remember by what settings its assets are made.

        Changed values of the recipe are reported before the run's assets look up the versions of their inputs, so a run
        right after an edit is not taken for one of the old values.
        A run that only checks or reads changes nothing of the store.
        What a run forces is no other run's of the same process.
        """
        run = context.run
        force(*forced_in(run.run_config if run is not None else {}))
        if run is None or tags.READ_ONLY in run.tags or (run.asset_check_selection and not run.asset_selection):
            return
        settings = self.settings()
        try:
            for conflict in settings.conflicts():
                if context.log is not None:
                    context.log.warning(conflict)
            write_store_settings(settings.open_store(), settings.resolved)
            if context.instance is not None:
                report_recipe(context.instance, settings.load_recipe())
        except GlrError as error:
            # The asset stumbles over the same, and tells it as its own.
            if context.log is not None:
                context.log.debug(f"settings are not remembered: {error}")

    def settings(self) -> Settings:
        """The settings of the environment with this resource's values in their place."""
        return Settings.from_environment(
            source=self.source, store=self.store, openimages=self.openimages, recipe=self.recipe
        )

    def open_store(self) -> Store:
        """The store."""
        return self.settings().open_store()

    def open_source(self) -> Source:
        """The source; the embedded sample is generated when it is first asked for."""
        return self.settings().open_source()

    def open_openimages(self) -> OpenImagesRoot:
        """The root of Open Images; the sample's is generated when it is first asked for."""
        return self.settings().open_openimages()

    def load_recipe(self) -> Recipe:
        """The recipe, within an asset's step with the values given in the launchpad in place of its own."""
        return overridden(self.settings().load_recipe(), given_in_run())


def platform_of(settings: Settings) -> Platform:
    """The resource that gives what these settings name."""
    return Platform(
        source=settings.source, store=settings.store, openimages=settings.openimages, recipe=settings.recipe
    )


def forced_in(run_config: Mapping[str, Any]) -> list[str]:
    """The assets that a run's config asks to make again, by `execution: {force: true}` of their ops."""
    found = []
    for name, op in (run_config.get("ops") or {}).items():
        config = (op or {}).get("config") or {}
        if isinstance(config, Mapping) and ((config.get("execution") or {}).get("force")) is True:
            found.append(name)
    return found
