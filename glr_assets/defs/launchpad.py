"""The launchpad of an asset: how to run, and the values of the recipe that decide its bytes, with their limits.

It opens with the values of the recipe as they were when the code location was loaded. A value that stands in the
config of a run is used by that run in place of the recipe's; a run without config uses the recipe as it is then.

Types, choices and unknown keys are refused while the config is edited. Ranges, and values that contradict each other,
are refused when the run is launched, before there is a run: Dagster's config types have no ranges, so the code location
checks the config by the recipe's own rules as Dagster asks it for the run's plan.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Any, Final, Literal, get_args, get_origin

import dagster as dg
from dagster._config.config_type import ConfigType, ConfigTypeKind
from dagster._config.errors import PostProcessingError
from dagster._config.field_utils import _ConfigHasFields
from pydantic.fields import FieldInfo

from glr_assets.defs.provenance import INPUT_EVENT_TAG
from glr_assets.defs.recipes import node_name, shown_key, shown_value
from glr_assets.errors import GlrError, RecipeError
from glr_assets.locations import is_local
from glr_assets.recipes import Execution, Recipe, Section
from glr_assets.recipes.describe import SEED, keys_of, limits_of, sections, values_of
from glr_assets.settings import Settings

EXECUTION: Final = "execution"
#: Points before every event of an instance. Dagster takes 0 for no event at all.
BEFORE_ALL: Final = "-2"
_SCALARS: Final[Mapping[Any, Any]] = {int: int, float: float, bool: bool, str: str}


class LaunchpadShape(_ConfigHasFields):
    """The config of an asset, checked as a whole by the rules of the recipe.

    Args:
        name: of the asset, by which the type is known.
        fields: the seed, the tables and `execution`.
        recipe: whose values the config stands in for; None checks nothing here.
    """

    def __init__(self, name: str, fields: Mapping[str, dg.Field], recipe: Recipe | None) -> None:
        super().__init__(  # type: ignore[no-untyped-call]
            key=f"launchpad.{name}",
            kind=ConfigTypeKind.STRICT_SHAPE,
            fields=dict(fields),
            description=f"Launchpad of {name}",
        )
        #: Dagster asks for it of every type of this kind.
        self.field_aliases: dict[str, str] = {}
        self._recipe = recipe

    def post_process(self, value: Any) -> Any:
        """The config as it is.

        Raises:
            PostProcessingError: the recipe refuses it.
        """
        if self._recipe is not None:
            try:
                overridden(self._recipe, value)
            except RecipeError as error:
                # The UI shows every cause with its stack, and the text says all of it.
                raise PostProcessingError(str(error)) from None
        return value


def launchpad(name: str, recipe: Mapping[str, Collection[str]]) -> dg.Field:
    """The config schema of an asset.

    Args:
        name: of the asset.
        recipe: by table the keys of the recipe that decide its bytes; of `seed` no key is named.
    """
    opened_with = recipe_when_loaded()
    fields: dict[str, dg.Field] = {}
    for table, keys in recipe.items():
        values = values_of(opened_with, table) if opened_with is not None else {}
        if table == SEED:
            (key,) = keys_of(SEED)
            fields[SEED] = _field(Recipe.model_fields[SEED], values.get(SEED), key.description)
        else:
            section = sections()[table]
            fields[table] = _table(section, keys, values, f"[{table}] {(section.__doc__ or '').splitlines()[0]}")
    values = values_of(opened_with, EXECUTION) if opened_with is not None else {}
    fields[EXECUTION] = _table(Execution, Execution.model_fields, values, "How to run; it decides no bytes")
    shape = LaunchpadShape(name, fields, opened_with)
    return dg.Field(shape, is_required=False, default_value={})


def overridden(recipe: Recipe, config: Mapping[str, Any]) -> Recipe:
    """A recipe with the values of a launchpad's config in place of its own.

    Raises:
        RecipeError: a value is refused.
    """
    tables = {name: values for name, values in config.items() if name != SEED and values is not None}
    return recipe.overridden(tables, config.get(SEED))


def given_in_run() -> dict[str, Any]:
    """The config that the run of the current step gives for its asset; empty outside of an asset's step.

    What Dagster fills in for a run without config is no part of it: such a run uses the recipe as it is.
    """
    try:
        context = dg.AssetExecutionContext.get()
    except dg.DagsterInvariantViolationError:
        return {}
    ops: dict[str, Any] = dict(context.run.run_config).get("ops") or {}  # type: ignore[assignment]
    return dict((ops.get(context.op_execution_context.op_handle.name) or {}).get("config") or {})


def overrides() -> dict[str, dict[str, str]]:
    """By node of the recipe's tables the keys that the run of the current step overrides, as `12 in place of 25`.

    Values that are the recipe's own are none. Outside of an asset's step it is empty.
    """
    given = given_in_run()
    given.pop(EXECUTION, None)
    if not given:
        return {}
    own = dg.AssetExecutionContext.get().resources.platform.settings().load_recipe()
    run = overridden(own, given)
    found: dict[str, dict[str, str]] = {}
    for table in given:
        before, after = values_of(own, table), values_of(run, table)
        for key, value in after.items():
            if value != before[key]:
                shown = f"{shown_value(value)} in place of {shown_value(before[key])}"
                found.setdefault(node_name(table), {})[shown_key(table, key)] = shown
    return found


def override_tags() -> dict[str, str]:
    """The provenance tags by which what is made by overridden values is stale: it is not what the recipe asks for.

    Dagster compares the versions of a table's keys before and after the event that the tag points to.
    """
    return {f"{INPUT_EVENT_TAG}/{node}": BEFORE_ALL for node in overrides()}


def override_metadata() -> dict[str, dg.MetadataValue[Any]]:
    """The entry `overrides` of a materialization, where the run overrides values of the recipe."""
    found = {key: shown for keys in overrides().values() for key, shown in keys.items()}
    return {"overrides": dg.MetadataValue.json(found)} if found else {}


@functools.cache
def recipe_when_loaded() -> Recipe | None:
    """The recipe of the environment; None where it cannot be told without a network, or is refused."""
    try:
        settings = Settings.from_environment()
        return settings.load_recipe() if settings.recipe or is_local(settings.store) else None
    except GlrError:
        return None


def _table(section: type[Section], keys: Collection[str], values: Mapping[str, Any], description: str) -> dg.Field:
    fields = {
        key: _field(field, values.get(key), field.description or "")
        for key, field in section.model_fields.items()
        if key in keys
    }
    shape = dg.Shape(fields)  # type: ignore[no-untyped-call]
    # Without a default of its own a table would not be shown.
    opened_with = {key: field.default_value for key, field in fields.items() if field.default_provided}
    return dg.Field(shape, is_required=False, default_value=opened_with, description=description)


def _field(field: FieldInfo, value: Any, description: str) -> dg.Field:
    """A key; it has a default where the recipe sets a value, which the launchpad opens with."""
    kind = _config_type(field.annotation)
    if type(None) in get_args(field.annotation):
        kind = dg.Noneable(kind)
    told = f"{description} ({limits_of(field)})"
    if value is None:
        return dg.Field(kind, is_required=False, description=told)
    return dg.Field(kind, is_required=False, default_value=value, description=told)


def _config_type(annotation: Any) -> Any:
    """The type by which Dagster's config takes a value of a recipe."""
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    arguments = [part for part in get_args(annotation) if part not in {type(None), ...}]
    if get_origin(annotation) is tuple:
        return dg.Array(_config_type(arguments[0]))
    if get_origin(annotation) is Literal:
        return _choice(tuple(arguments))
    return _config_type(arguments[0])


@functools.cache
def _choice(choices: tuple[str, ...]) -> ConfigType:
    return dg.Enum(f"one of {', '.join(choices)}", [dg.EnumValue(choice) for choice in choices])
