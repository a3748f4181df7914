"""What a run would make again, before anything runs: every asset's own code in a dry run."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import MappingProxyType, SimpleNamespace
from typing import Any

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from pydantic import PrivateAttr

from glr_assets.defs.platform import Platform, platform_of
from glr_assets.defs.shards import SHARDS, counted_parts
from glr_assets.dry_run import DryRun, Verdict, dry_run
from glr_assets.errors import GlrError, MissingInputError, describe
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.receipts import fetch_receipts
from glr_assets.recipes import Recipe
from glr_assets.settings import Settings
from glr_assets.snapshot import SnapshotStore
from glr_assets.source import Source

log = logging.getLogger(__name__)


class DryPlatform(Platform):
    """The resource of a dry run: one view of the store, read only, and one source and recipe for all assets."""

    _settings: Settings = PrivateAttr()
    _store: SnapshotStore = PrivateAttr()
    _source: Source | None = PrivateAttr(None)
    _openimages: OpenImagesRoot | None = PrivateAttr(None)
    _recipe: Recipe = PrivateAttr()

    @classmethod
    def of(cls, settings: Settings, recipe: Recipe | None = None) -> DryPlatform:
        """The resource for these settings, with another recipe in place of theirs where one is given.

        Raises:
            GlrError: the store or the recipe cannot be opened.
        """
        platform = cls(**platform_of(settings).model_dump())
        platform._settings = settings
        platform._store = SnapshotStore(settings.open_store())
        platform._recipe = recipe if recipe is not None else settings.load_recipe()
        return platform

    def settings(self) -> Settings:
        """The settings that the plan is for."""
        return self._settings

    def open_store(self) -> SnapshotStore:
        """The view of the store, the same each time."""
        return self._store

    def open_source(self) -> Source:
        """The source, the same each time; it must be opened within a dry run."""
        if self._source is None:
            self._source = self._settings.open_source()
        return self._source

    def find_source(self) -> Source | None:
        """The source; None of a built-in sample that is not written yet, or would be written again."""
        try:
            with dry_run():  # so that the sample is not written
                return self.open_source()
        except MissingInputError:
            return None

    def open_openimages(self) -> OpenImagesRoot:
        """The root of Open Images, the same each time; it must be opened within a dry run."""
        if self._openimages is None:
            self._openimages = self._settings.open_openimages()
        return self._openimages

    def load_recipe(self, overrides: dg.Config | None = None) -> Recipe:
        """The recipe that the plan is for."""
        return self._recipe


def dry_verdicts(
    platform: DryPlatform,
    names: Iterable[str] | None = None,
    *,
    partitions: Mapping[str, Collection[str]] = MappingProxyType({}),
    check_bytes: bool = False,
    graph: BaseAssetGraph[Any] | None = None,
) -> dict[str, dict[str, Verdict]]:
    """What a run of each asset would find, `{asset: {asset or asset/partition: verdict}}`, in the order of the lineage.

    Nothing is written, no lock is taken. Partitions are those of the source and of the recipe, registered or not.

    Args:
        platform: source, store and recipe.
        names: of the assets; all that are made where not given.
        partitions: by asset the partitions that are requested; of other assets all.
        check_bytes: hash small files of finished work as a real run does, in place of comparing sizes alone.
        graph: of the code location's assets, where the caller has it already.

    Raises:
        GlrError: the source cannot be opened, or the store cannot be listed.
    """
    from glr_assets.defs.build import ASSETS, build_definitions  # it assembles the job of this module too

    graph = build_definitions(platform).resolve_asset_graph() if graph is None else graph
    wanted = None if names is None else set(names)
    order = [key.to_user_string() for level in graph.toposorted_asset_keys_by_level for key in sorted(level, key=_name)]
    functions = {_name(key): asset for asset in ASSETS for key in asset.keys}
    keys = partition_keys(platform)
    fetch_receipts(platform.open_store())
    found: dict[str, dict[str, Verdict]] = {}
    for name in order:
        node = graph.get(dg.AssetKey(name))
        if not node.is_materializable or (wanted is not None and name not in wanted):
            continue
        asked = keys[_partitions_name(node.partitions_def)] if node.partitions_def is not None else None
        if asked is not None and name in partitions:
            asked = [key for key in asked if key in partitions[name]]
        with dry_run(check_bytes=check_bytes) as run:
            _ask(run, name, _function_of(functions[name]), asked, platform)
        found[name] = run.verdicts
    return found


def partition_keys(platform: DryPlatform) -> dict[str, list[str]]:
    """The keys of each partition set as the source and the recipe have them, by the name of the set.

    A built-in sample that is not written yet has no shards.

    Raises:
        GlrError: the source cannot be opened or listed.
    """
    source = platform.find_source()
    keys: dict[str, list[str]] = {
        f"{split}_shards": [] if source is None else sorted(source.shards(split)) for split in SHARDS
    }
    return keys | {_partitions_name(partitions): parts for partitions, parts in counted_parts(platform.load_recipe())}


def _partitions_name(partitions: dg.PartitionsDefinition) -> str:
    name = partitions.name if isinstance(partitions, dg.DynamicPartitionsDefinition) else None
    if name is None:
        raise GlrError(f"{partitions}: expected a named set of dynamic partitions; report this as a fault")
    return name


def _name(key: dg.AssetKey) -> str:
    return key.to_user_string()


def _function_of(asset: dg.AssetsDefinition) -> Callable[..., Any]:
    """The function that `dg.asset` decorated."""
    function: Callable[..., Any] = asset.op.compute_fn.decorated_fn  # type: ignore[union-attr]
    return function


def _ask(
    run: DryRun, name: str, function: Callable[..., Any], keys: Sequence[str] | None, platform: DryPlatform
) -> None:
    """Run an asset's function until it has answered for itself or for each of its partitions."""
    context = SimpleNamespace(log=log, asset_key=dg.AssetKey(name), partition_keys=list(keys or ()))
    given: Mapping[str, Any] = {"context": context, "config": None, "platform": platform}
    arguments = {parameter: given[parameter] for parameter in inspect.signature(function).parameters}
    if keys is None:
        run.ask(name, lambda: function(**arguments))
    elif keys:
        try:
            for _ in function(**arguments):
                pass
        except Exception as error:  # noqa: BLE001 - whatever it is, a real run would fail by it for all partitions
            run.verdicts |= {f"{name}/{key}": Verdict(f"{name}/{key}", error=describe(error)) for key in keys}
