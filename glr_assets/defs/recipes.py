"""Group `recipes`: the recipe's tables as roots of the lineage, so that a changed value makes its dependents unsynced.

Each table is an observable source asset whose partitions are the table's keys. An asset depends on the keys that decide
its bytes and on no others (`recipe_values`). `[execution]` decides no bytes and has no node.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Collection, Iterable, Mapping
from typing import Any, Final

import dagster as dg

from glr_assets.defs.links import docs_metadata
from glr_assets.defs.provenance import DATA_VERSION_TAG
from glr_assets.markdown import code
from glr_assets.markdown import table as markdown_table
from glr_assets.receipts import digest_of
from glr_assets.recipes import Recipe
from glr_assets.recipes.describe import SEED, Key, keys_of, sections, values_of
from glr_assets.training.outside import local_files

#: Every table with a node, the recipe's seed last.
TABLES: Final = (*sections(), SEED)
#: Keys whose value may be the path of a file or a folder, which another file can take the place of.
_FILES: Final = frozenset({"torchscript", "weights"})
#: Name of the key of the node `recipe_seed`.
SEED_KEY: Final = SEED


def node_name(table: str) -> str:
    """The asset of a recipe's table: `recipe_dedupe`."""
    return f"recipe_{table}"


def recipe_values(table: str, *keys: str) -> dg.AssetDep:
    """The dependency of an asset on these keys of a recipe's table, or on the recipe's seed.

    Args:
        table: name of the table, as `dedupe`; or `seed`, which has no keys.
        keys: the keys that decide the asset's bytes.

    Raises:
        ValueError: the table has no such key, or no keys are named.
    """
    known = [key.name for key in keys_of(table)]
    wanted = [SEED_KEY] if table == SEED and not keys else sorted(set(keys), key=known.index)
    if not wanted:
        raise ValueError(f"recipe_values({table!r}): name the keys that decide the asset's bytes: {', '.join(known)}")
    return dg.AssetDep(node_name(table), partition_mapping=dg.SpecificPartitionsPartitionMapping(wanted))


def recipe_observations(recipe: Recipe) -> dict[str, dict[str, dg.AssetObservation]]:
    """An observation of every key of every table: by name of the node and key.

    The data version is the SHA-256 of the value as JSON, and of the files that it names on this machine. Metadata holds
    value, default, limits and description.
    """
    return {
        node_name(table): {
            key.name: _observation(recipe, key, value)
            for key, value in zip(keys_of(table), values_of(recipe, table).values(), strict=True)
        }
        for table in TABLES
    }


def recipe_versions(recipe: Recipe) -> dict[str, dict[str, str]]:
    """The data version of every key, by name of the node and key."""
    return {
        node: {key: found.tags[DATA_VERSION_TAG] for key, found in by_key.items()}
        for node, by_key in recipe_observations(recipe).items()
    }


def changed_observations(instance: dg.DagsterInstance, recipe: Recipe) -> list[dg.AssetObservation]:
    """The observations whose data version the instance does not hold as the latest of their key."""
    found = []
    for name, by_key in recipe_observations(recipe).items():
        latest = instance.event_log_storage.get_latest_tags_by_partition(
            dg.AssetKey(name), dg.DagsterEventType.ASSET_OBSERVATION, [DATA_VERSION_TAG], list(by_key)
        )
        found += [
            observation
            for key, observation in by_key.items()
            if latest.get(key, {}).get(DATA_VERSION_TAG) != observation.tags[DATA_VERSION_TAG]
        ]
    return found


def report_recipe(instance: dg.DagsterInstance, recipe: Recipe) -> list[str]:
    """Report the observations of keys whose value has changed; returns them as `[dedupe] keep`."""
    changed = changed_observations(instance, recipe)
    for observation in changed:
        instance.report_runless_asset_event(observation)
    return [str(observation.metadata["key"].value) for observation in changed]


def _observation(recipe: Recipe, key: Key, value: Any) -> dg.AssetObservation:
    return dg.AssetObservation(
        node_name(key.table),
        partition=key.name,
        description=f"{shown_key(key.table, key.name)} = {shown_value(value)}",
        tags={DATA_VERSION_TAG: _version(key, value)},
        metadata={
            "key": shown_key(key.table, key.name),
            "value": _metadata(value),
            "default": _metadata(key.default),
            "limits": key.limits,
            "description": key.description,
            "recipe": recipe.name,
        },
    )


def _version(key: Key, value: Any) -> str:
    files = local_files(value) if key.name in _FILES and isinstance(value, str) else {}
    return digest_of([value, files]) if files else digest_of(value)


def shown_key(table: str, key: str) -> str:
    """A key as the recipe's file shows it: `[dedupe] keep`, `seed`."""
    return key if table == SEED else f"[{table}] {key}"


def shown_keys(recipe: Mapping[str, Collection[str]]) -> list[str]:
    """These keys, by table, as the recipe's file shows them, each table's in its order."""
    return [
        shown_key(table, key.name)
        for table, keys in recipe.items()
        for key in keys_of(table)
        if table == SEED or key.name in keys
    ]


def shown_value(value: Any) -> str:
    """A value as people read it: JSON, or `unset`."""
    return "unset" if value is None else json.dumps(value, ensure_ascii=False)


def _metadata(value: Any) -> int | float | bool | str:
    """A value as metadata: numbers as such, so that the UI plots their history."""
    return value if isinstance(value, int | float | str) else shown_value(value)


def keys_table(keys: Iterable[Key]) -> str:
    """The keys of a table in Markdown, with defaults, limits and descriptions."""
    return markdown_table(
        ("key", "default", "limits", "description"),
        [(code(key.name), shown_value(key.default), key.limits, key.description) for key in keys],
    )


#: Where values are set, and where the UI has those that hold.
_WHERE: Final = "Set in the recipe's file, which `GLR_RECIPE` names. *Events* has the value in use: each key's last."


def _node(table: str) -> Any:
    keys = keys_of(table)
    title = "The recipe's seed." if table == SEED else f"Table `[{table}]` of the recipe: {_purpose(table)}"

    @dg.observable_source_asset(
        name=node_name(table),
        group_name="recipes",
        description=f"{title}\n\n{_WHERE}\n\n{keys_table(keys)}",
        partitions_def=dg.StaticPartitionsDefinition([key.name for key in keys]),
        tags={"dagster/kind/toml": ""},
        metadata=docs_metadata("recipes"),
        required_resource_keys={"platform"},
    )
    def observe(context: dg.OpExecutionContext) -> dg.DataVersionsByPartition:
        recipe = context.resources.platform.load_recipe()
        for observation in recipe_observations(recipe)[node_name(table)].values():
            context.log_event(observation)
        # Logged above with metadata, which versions alone do not carry.
        return dg.DataVersionsByPartition({})

    return observe


def _purpose(table: str) -> str:
    doc = sections()[table].__doc__ or ""
    return doc.splitlines()[0]


def _nodes() -> list[Any]:
    with warnings.catch_warnings():
        # Its behavior is characterized by tests.
        warnings.simplefilter("ignore", dg.BetaWarning)
        return [_node(table) for table in TABLES]


#: The roots of the lineage that say what the recipe's values are.
NODES: Final = _nodes()
