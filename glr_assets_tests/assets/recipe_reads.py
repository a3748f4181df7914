"""Which keys of the recipe change what a run of an asset would find, by the asset's own code over a finished store."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Final, get_args, get_origin

import dagster as dg

from glr_assets.defs.build import ASSETS
from glr_assets.defs.plan import DryPlatform, partition_keys
from glr_assets.dry_run import Verdict, dry_run
from glr_assets.recipes import Recipe
from glr_assets.recipes.describe import SEED, keys_of, sections
from glr_assets.retrieval.recognition_model import COMPARED_BY
from glr_assets.settings import Settings

Key = tuple[str, str]
#: Other values that are valid together with all other values of this table and of the quick recipe.
OTHER: Final[dict[Key, Any]] = {
    ("dedupe", "near_duplicate_bits"): 4,
    ("embedder", "image_size"): 96,
    ("embedder", "scales"): (1.0, 1.5),
    ("embedder", "start_size"): 32,
    ("embedder", "stages"): 2,
    ("fill", "threshold"): 21,
    ("filter", "image_size"): 96,
    ("filter", "start_size"): 32,
    ("groups", "image_size"): 96,
    ("groups", "per_landmark"): 3,
    ("groups", "start_size"): 32,
    ("openimages", "categories"): ("Person", "Tree"),
    ("openimages", "fetch_hosts"): ("example.org",),
    ("openimages", "placeholders"): ("0" * 32,),
    ("openimages", "sources"): ("xclick",),
    ("openimages", "subsets"): ("validation",),
    ("retrieval", "non_landmark_usage"): ("Public", "Ignored"),
    ("retrieval", "rerank"): 0,
    ("retrieval", "retrieved"): 99,
}
#: These need what is not here, or files that are, so a run would fail before it could tell.
UNTRIED: Final[set[Key]] = {
    *((table, key) for table in ("embedder", "filter") for key in ("torchscript", "weights")),
    ("embedder", "pooling"),
    ("groups", "weights"),
    ("groups", "bounds"),
    ("verification", "extractor"),
    ("verification", "module"),
}
#: By asset keys by which a run would ask for an asset before it: they decide that asset's bytes.
WAITS: Final[dict[str, set[Key]]] = {"evaluation": {("verification", key) for key in COMPARED_BY}}
#: By asset the keys that it declares and that may decide nothing. They count in other stores and by other recipes.
IDLE: Final[dict[str, set[Key]]] = {
    # No landmark has more images than are compared, so none are drawn. Every searched image is compared.
    "local_features": {("verification", "cap"), (SEED, SEED)},
    "verified_pairs": {("verification", "cap"), ("verification", "geometry"), (SEED, SEED)},
    "search_features": {
        ("retrieval", "per_landmark"),
        ("retrieval", "rerank"),
        ("verification", "cap"),
        (SEED, SEED),
    },
    # RootSIFT is oriented, so that is what `auto` is. No shard is left without an image that is compared.
    "verification_calibration": {("verification", "geometry"), ("verification", "min_class")},
    # Boxes are drawn where a category may have so many and no more.
    "openimages_annotations": {(SEED, SEED)},
    # It has the seed of the recognition model that is there.
    "submission": {(SEED, SEED)},
}


def declared_keys(asset: dg.AssetsDefinition) -> set[Key]:
    """The keys that the asset's dependencies name."""
    found = set()
    (spec,) = asset.specs
    for dep in spec.deps:
        table = dep.asset_key.to_user_string().removeprefix("recipe_")
        if dep.asset_key.to_user_string() != table:
            mapping = dep.partition_mapping
            assert isinstance(mapping, dg.SpecificPartitionsPartitionMapping)
            found |= {(table, key) for key in mapping.partition_keys}
    return found


def every_key() -> set[Key]:
    """Every key of every table that decides bytes, and the seed."""
    return {(key.table, key.name) for table in (*sections(), SEED) for key in keys_of(table)}


class Reader:
    """Asks assets, by dry runs over one finished store, what a run by another recipe would find."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.recipe = settings.load_recipe()
        self._first = DryPlatform.of(settings, self.recipe)
        self._keys = partition_keys(self._first)

    def verdicts(self, asset: dg.AssetsDefinition, recipe: Recipe) -> dict[str, Verdict]:
        """By name, the asset's, or its partitions', verdicts by a recipe."""
        platform = DryPlatform.of(self.settings, recipe)
        platform._store = self._first.open_store()
        function = asset.op.compute_fn.decorated_fn  # type: ignore[union-attr]
        name = asset.key.to_user_string()
        partitions = asset.partitions_def
        with dry_run() as run:
            keys: list[str] = []
            if isinstance(partitions, dg.DynamicPartitionsDefinition):
                keys = list(self._keys[str(partitions.name)])
            context = SimpleNamespace(log=logging.getLogger(name), asset_key=asset.key, partition_keys=keys)
            given = {"context": context, "platform": platform}
            arguments = {parameter: given[parameter] for parameter in inspect.signature(function).parameters}
            if partitions is None:
                run.ask(name, lambda: function(**arguments))
            else:
                try:
                    list(function(**arguments))
                except Exception as error:  # noqa: BLE001 - a real run would fail by it
                    run.verdicts[name] = Verdict(name, error=str(error))
        return run.verdicts

    def with_others(self, *keys: Key) -> Recipe:
        """The recipe with another value at each of these keys."""
        tables: dict[str, dict[str, Any]] = {}
        seed = None
        for table, key in keys:
            if table == SEED:
                seed = self.recipe.seed + 1
            else:
                other = OTHER[table, key] if (table, key) in OTHER else self._other(table, key)
                tables.setdefault(table, {})[key] = other
        return self.recipe.overridden(tables, seed)

    def _other(self, table: str, key: str) -> Any:
        section = getattr(self.recipe, table)
        value = getattr(section, key)
        annotation = type(section).model_fields[key].annotation
        choices = [choice for part in (annotation, *get_args(annotation)) for choice in _choices(part)]
        if choices:
            return next(choice for choice in choices if choice != value)
        if isinstance(value, bool):
            return not value
        if isinstance(value, int):
            return value + 1
        if isinstance(value, float):
            return value * 0.75 + 0.0625
        assert value is None, (table, key, value)
        return 0.5


def _choices(annotation: Any) -> Iterator[Any]:
    if str(get_origin(annotation)) == "typing.Literal":
        yield from get_args(annotation)


def undeclared(reader: Reader) -> list[str]:
    """The assets whose verdict changes with keys that they do not declare."""
    found = []
    for asset in ASSETS:
        others = every_key() - declared_keys(asset) - WAITS.get(asset.key.to_user_string(), set()) - UNTRIED
        if reader.verdicts(asset, reader.with_others(*others)) != reader.verdicts(asset, reader.recipe):
            found.append(asset.key.to_user_string())
    return found


def idle(reader: Reader) -> dict[str, set[Key]]:
    """By asset the keys that it declares and that change nothing of its verdict here."""
    found: dict[str, set[Key]] = {}
    for asset in ASSETS:
        now = reader.verdicts(asset, reader.recipe)
        for key in sorted(declared_keys(asset) - UNTRIED):
            if reader.verdicts(asset, reader.with_others(key)) == now:
                found.setdefault(asset.key.to_user_string(), set()).add(key)
    return found
