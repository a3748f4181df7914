"""Recipes: one TOML file a set of choices, one table a stage, every value checked by name.

`full` holds the published values, `small` makes the whole lineage run on two CPU cores in minutes, `own_photos` is
`small` for a collection whose photographs shall all train. A file with `base = "small"` overrides some values of
another recipe.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from pydantic import Field, ValidationError, model_validator

from glr_assets.errors import RecipeError
from glr_assets.locations import expanded, local_path
from glr_assets.recipes.answering import Evaluation, ExportOrder, Exports, Retrieval
from glr_assets.recipes.base import Execution, Section
from glr_assets.recipes.curating import Dedupe, Fill, Images, OpenImages, Verification
from glr_assets.recipes.learning import (
    DINOV2_PATCH,
    BackboneName,
    Classifying,
    Embedder,
    Filter,
    Groups,
    Learning,
    ManifestName,
    Training,
)

__all__ = [
    "DINOV2_PATCH",
    "NAMED_RECIPES",
    "BackboneName",
    "Classifying",
    "Dedupe",
    "Embedder",
    "Evaluation",
    "Execution",
    "ExportOrder",
    "Exports",
    "Fill",
    "Filter",
    "Groups",
    "Images",
    "Learning",
    "ManifestName",
    "OpenImages",
    "Recipe",
    "Retrieval",
    "Section",
    "Training",
    "Verification",
    "load_recipe",
]

NAMED_RECIPES = ("small", "full", "own_photos")


class Recipe(Section):
    """The choices of one experiment."""

    name: str = Field(description="the recipe's name, from its file")
    seed: int = Field(0, ge=0, le=2**31 - 1, description="seeds every random choice")
    execution: Execution = Execution()
    images: Images = Images()
    fill: Fill = Fill()
    dedupe: Dedupe = Dedupe()
    verification: Verification = Verification()
    openimages: OpenImages = OpenImages()
    training: Training = Training()
    embedder: Embedder = Embedder()
    groups: Groups = Groups()
    filter: Filter = Filter()
    retrieval: Retrieval = Retrieval()
    evaluation: Evaluation = Evaluation()
    exports: Exports = Exports()

    @model_validator(mode="after")
    def _filled_classes_stay_whole(self) -> Recipe:
        if self.fill.threshold > self.dedupe.keep:
            raise ValueError(
                f"[fill] threshold = {self.fill.threshold} is more than [dedupe] keep = {self.dedupe.keep}: "
                "classes would be cut and filled again"
            )
        return self

    def overridden(self, overrides: Mapping[str, Mapping[str, Any]], seed: int | None = None) -> Recipe:
        """The recipe with some values replaced: `{"images": {"jpeg_quality": 80}}`.

        Raises:
            RecipeError: an unknown key or a value out of range.
        """
        document = self.model_dump(mode="json")
        for section, values in overrides.items():
            known = document.get(section)
            document[section] = _merged(known if isinstance(known, dict) else {}, values)
        if seed is not None:
            document["seed"] = seed
        return _validated(document, f"overrides of recipe {self.name}")


def load_recipe(name_or_path: str) -> Recipe:
    """The recipe of that name, or in the TOML file of that path.

    Raises:
        RecipeError: no such recipe, not TOML, an unknown key, a value out of range, or `[execution] force`, which is
            asked for of a run and not of a recipe.
    """
    recipe = _validated(_document(name_or_path, seen=()), name_or_path)
    if recipe.execution.force:
        raise RecipeError(
            f"recipe {name_or_path}: [execution] force would make everything again in every run; set it in the "
            "launchpad of an asset, or use `glr demo --force ASSET`"
        )
    return recipe


def _document(name_or_path: str, seen: tuple[str, ...]) -> dict[str, Any]:
    if name_or_path in seen:
        raise RecipeError(f"recipe {name_or_path}: its bases go in a circle: {' -> '.join(seen)}")
    if name_or_path in NAMED_RECIPES:
        text, name = (resources.files("glr_assets.recipes") / f"{name_or_path}.toml").read_text(), name_or_path
    else:
        path = local_path(name_or_path)
        try:
            text, name = path.read_text(), path.stem
        except (OSError, UnicodeDecodeError) as error:
            raise RecipeError(
                f"recipe {name_or_path}: neither one of {', '.join(NAMED_RECIPES)} nor a readable TOML file "
                f"({type(error).__name__}); set GLR_RECIPE or --recipe to one of these"
            ) from None
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"recipe {name_or_path}: not TOML: {error}") from None
    base = document.pop("base", None)
    merged: dict[str, Any] = {}
    if base is not None:
        if not isinstance(base, str):
            raise RecipeError(f"recipe {name_or_path}: base = {base!r}, expected a recipe's name or path")
        # A base that is a file lies beside the recipe that names it, wherever a run's process starts.
        at = base if base in NAMED_RECIPES else str((local_path(name_or_path).parent / expanded(base)).resolve())
        merged = _document(at, (*seen, name_or_path))
    for key, value in document.items():
        both_tables = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both_tables else value
    merged["name"] = name
    return merged


def _merged(base: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A table with some values replaced. A size goes with its network: another file does not take over the base's."""
    kept = dict(base)
    if values.get("torchscript") is not None and values["torchscript"] != base.get("torchscript"):
        kept = {key: value for key, value in kept.items() if key not in ("image_size", "start_size")}
    return kept | dict(values)


def _validated(document: dict[str, Any], where: str) -> Recipe:
    try:
        return Recipe.model_validate(document)
    except ValidationError as error:
        raise RecipeError(f"recipe {where}: {'; '.join(_in_words(e) for e in error.errors())}") from None


def _in_words(error: Any) -> str:
    at = [str(part) for part in error["loc"]]
    key = f"[{at[0]}] {'.'.join(at[1:])}" if len(at) > 1 else ".".join(at)
    if error["type"] == "extra_forbidden":
        known = Recipe.model_fields if len(at) == 1 else _section_keys(at[0])
        return f"unknown key {key}; known are {', '.join(known)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"[{at[0]}] {message}" if at else message
    return f"{key} = {error['input']!r}: {message}"


def _section_keys(section: str) -> list[str]:
    kind = Recipe.model_fields[section].annotation
    return list(kind.model_fields) if isinstance(kind, type) and issubclass(kind, Section) else []
