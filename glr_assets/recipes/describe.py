"""A recipe's keys described for people: table, default, limits and purpose, all taken from the pydantic sections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from glr_assets.recipes import Recipe, Section

#: Tables that decide no bytes of any asset.
DECIDES_NOTHING: Final = frozenset({"execution"})
#: The pseudo-table of the recipe's seed, which stands in no table of the file.
SEED: Final = "seed"
_KINDS: Final[Mapping[Any, str]] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


@dataclass(frozen=True)
class Key:
    """A key of a recipe's table.

    Attributes:
        table: name of the table, or `seed` for the recipe's seed.
        name: of the key in its table.
        default: value where no recipe sets it, as JSON.
        limits: type, range and choices in words: `a whole number, 1 to 100000`.
        description: purpose of the key.
    """

    table: str
    name: str
    default: Any
    limits: str
    description: str


def sections() -> dict[str, type[Section]]:
    """The tables of a recipe that decide bytes of assets, by name, in the order of the class `Recipe`."""
    found = {}
    for name, field in Recipe.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, Section) and name not in DECIDES_NOTHING:
            found[name] = kind
    return found


def keys_of(table: str) -> list[Key]:
    """The keys of a table, in the order of its class; of `seed` the seed alone."""
    fields = {SEED: Recipe.model_fields[SEED]} if table == SEED else sections()[table].model_fields
    return [
        Key(table, name, _as_json(field.default), limits_of(field), field.description or "")
        for name, field in fields.items()
    ]


def values_of(recipe: Recipe, table: str) -> dict[str, Any]:
    """The values of a table in a recipe, as JSON; of `seed` the seed alone."""
    document = recipe.model_dump(mode="json")
    return {SEED: document[SEED]} if table == SEED else document[table]


def limits_of(field: FieldInfo) -> str:
    """The type, range and choices of a key in words: `a whole number, 1 to 100000`; `one of a, b; or unset`."""
    kinds = [kind for kind in get_args(field.annotation) if kind is not type(None)]
    optional = type(None) in get_args(field.annotation)
    annotation = kinds[0] if optional else field.annotation
    text = _kind(annotation)
    bounds = _bounds(field)
    return text + (f", {bounds}" if bounds else "") + ("; or unset" if optional else "")


def _kind(annotation: Any) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return f"one of {', '.join(map(str, arguments))}"
    if origin is tuple:
        of = _kind(arguments[0])
        return f"a list, each {of}"
    # An annotated type is its first argument.
    return _KINDS.get(annotation) or _kind(arguments[0])


def _bounds(field: FieldInfo) -> str:
    """The range of a number, or the number of entries of a list."""
    given = {
        name: getattr(part, name)
        for part in field.metadata
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length")
        if getattr(part, name, None) is not None
    }
    entries = _range(given.get("min_length"), None, given.get("max_length"), None)
    numbers = _range(given.get("ge"), given.get("gt"), given.get("le"), given.get("lt"))
    return numbers or (f"of {entries}" if entries else "")


def _range(ge: float | None, gt: float | None, le: float | None, lt: float | None) -> str:
    if ge is not None and le is not None:
        return f"{ge:.15g} to {le:.15g}"
    low = f"{ge:.15g} or more" if ge is not None else f"more than {gt:.15g}" if gt is not None else ""
    high = f"at most {le:.15g}" if le is not None else f"less than {lt:.15g}" if lt is not None else ""
    return ", ".join(filter(None, (low, high)))


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
