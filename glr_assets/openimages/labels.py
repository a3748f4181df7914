"""Display names to the labels that boxes are published under, with those below them in the hierarchy if wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import BaseModel, ValidationError

from glr_assets.csv_structure import holds_line_break, strict_rows
from glr_assets.errors import RecipeError, TableError
from glr_assets.openimages.layout import CLASS_COLUMNS, CLASS_DESCRIPTIONS, HIERARCHY
from glr_assets.openimages.root import OpenImagesRoot

_SUGGESTED = 5


@dataclass(frozen=True)
class Labels:
    """What the wanted categories are published as.

    Attributes:
        categories: display name of the category that each wanted label counts as.
        shared: display names that several labels have; all of them are taken.
        below: labels that are wanted for what they lie below.
    """

    categories: Mapping[str, str]
    shared: tuple[str, ...]
    below: tuple[str, ...] = ()


class _Node(BaseModel):
    """A category of the published hierarchy. What it says of parts, as of a wheel and a car, is not read."""

    LabelName: str
    Subcategory: tuple[_Node, ...] = ()


def read_descriptions(root: OpenImagesRoot) -> dict[str, str]:
    """Display name by label, of all that the class descriptions list, with or without a header.

    Raises:
        TableError: a row is not `LabelName,DisplayName`, or a label has two names.
    """
    name = root.find(CLASS_DESCRIPTIONS)
    found: dict[str, str] = {}
    with root.open_table(name) as file:
        rows = list(strict_rows(file, root.table_url(name)))
    for number, (line, row) in enumerate(rows):
        if not number and tuple(row) == CLASS_COLUMNS:
            continue
        where = f"{root.table_url(name)}: line {line}"
        if len(row) != len(CLASS_COLUMNS):
            raise TableError(f"{where}: {len(row)} values, expected {','.join(CLASS_COLUMNS)}; download it again")
        label, display = row
        if holds_line_break(display):
            raise TableError(f"{where}: the name of {label} holds a line break; download it again")
        if found.setdefault(label, display) != display:
            raise TableError(
                f"{root.table_url(name)}: {label} is named {found[label]!r} and {display!r}; download it again"
            )
    return found


def read_hierarchy(root: OpenImagesRoot) -> dict[str, tuple[str, ...]]:
    """The labels directly below each label, sorted; a label may be below several.

    Raises:
        SourceError: the published file is not there.
        TableError: it is of another form.
    """
    name = root.find(HIERARCHY)
    with root.open_table(name) as file:
        try:
            top = _Node.model_validate_json(file.read())
        except ValidationError as error:
            first = error.errors()[0]
            at = ".".join(map(str, first["loc"])) or "document"
            raise TableError(
                f"{root.table_url(name)}: {at}: {first['msg']}; expected LabelName and Subcategory of each category as "
                "published; download it again"
            ) from error
    below: dict[str, set[str]] = {}
    nodes = [top]
    while nodes:
        node = nodes.pop()
        below.setdefault(node.LabelName, set()).update(child.LabelName for child in node.Subcategory)
        nodes += node.Subcategory
    return {label: tuple(sorted(children)) for label, children in below.items()}


def wanted_labels(root: OpenImagesRoot, categories: Sequence[str], *, subcategories: bool = False) -> Labels:
    """The labels of these display names; where several have one name, all of them.

    With `subcategories` all labels below them in the hierarchy too, each as the nearest wanted category above it, the
    first in the order of `categories` of several as near.

    Raises:
        RecipeError: a name is not in the class descriptions; the nearest ones are named.
        SourceError: the hierarchy is wanted and not there.
        TableError: a published file is of another form.
    """
    descriptions = read_descriptions(root)
    labels: dict[str, list[str]] = {}
    for label, display in descriptions.items():
        labels.setdefault(display, []).append(label)
    unknown = [category for category in categories if category not in labels]
    if unknown:
        told = "; ".join(f"{name!r} (nearest: {', '.join(_nearest(name, list(labels))) or 'none'})" for name in unknown)
        raise RecipeError(
            f"[openimages] categories: not in {root.table_url(root.find(CLASS_DESCRIPTIONS))}: {told}; "
            "name categories as that file does"
        )
    wanted = {label: category for category in categories for label in sorted(labels[category])}
    shared = tuple(category for category in categories if len(labels[category]) > 1)
    if not subcategories:
        return Labels(wanted, shared)
    children, found, level = read_hierarchy(root), dict(wanted), list(wanted)
    while level:
        reached = [(child, found[label]) for label in level for child in children.get(label, ())]
        level = []
        for child, category in reached:
            if child not in found:
                found[child] = category
                level.append(child)
    return Labels(found, shared, tuple(label for label in found if label not in wanted))


def _nearest(name: str, known: Sequence[str]) -> list[str]:
    """Known names like `name`, whatever their case, the likest first."""
    by_folded = {display.casefold(): display for display in sorted(known, reverse=True)}
    return [by_folded[match] for match in get_close_matches(name.casefold(), by_folded, _SUGGESTED, 0.5)]
