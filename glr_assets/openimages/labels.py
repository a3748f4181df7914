"""Display names to the labels that boxes are published under."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from glr_assets.errors import RecipeError, TableError
from glr_assets.openimages.layout import CLASS_COLUMNS, CLASS_DESCRIPTIONS
from glr_assets.openimages.root import OpenImagesRoot

_SUGGESTED = 5


@dataclass(frozen=True)
class Labels:
    """What the wanted categories are published as.

    Attributes:
        categories: display name of each label that is wanted.
        shared: display names that several labels have; all of them are taken.
    """

    categories: Mapping[str, str]
    shared: tuple[str, ...]


def read_descriptions(root: OpenImagesRoot) -> dict[str, str]:
    """Display name by label, of all that the class descriptions list, with or without a header.

    Raises:
        TableError: a row is not `LabelName,DisplayName`, or a label has two names.
    """
    name = root.find(CLASS_DESCRIPTIONS)
    found: dict[str, str] = {}
    with root.open_table(name) as file, io.TextIOWrapper(file, "utf-8-sig", newline="") as text:
        try:
            rows = list(csv.reader(text))
        except (csv.Error, UnicodeDecodeError) as error:
            raise TableError(f"{root.table_url(name)}: not a CSV in UTF-8: {error}; download it again") from error
    for number, row in enumerate(rows, 1):
        if not row or (number == 1 and tuple(row) == CLASS_COLUMNS):
            continue
        if len(row) != len(CLASS_COLUMNS):
            raise TableError(
                f"{root.table_url(name)}: line {number} has {len(row)} columns, expected {','.join(CLASS_COLUMNS)}; "
                "download it again"
            )
        label, display = row
        if found.setdefault(label, display) != display:
            raise TableError(
                f"{root.table_url(name)}: {label} is named {found[label]!r} and {display!r}; download it again"
            )
    return found


def wanted_labels(root: OpenImagesRoot, categories: Sequence[str]) -> Labels:
    """The labels of these display names; where several have one name, all of them.

    Raises:
        RecipeError: a name is not in the class descriptions; the nearest ones are named.
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
    return Labels(
        {label: category for category in categories for label in sorted(labels[category])},
        tuple(category for category in categories if len(labels[category]) > 1),
    )


def _nearest(name: str, known: Sequence[str]) -> list[str]:
    """Known names like `name`, whatever their case, the likest first."""
    by_folded = {display.casefold(): display for display in sorted(known, reverse=True)}
    return [by_folded[match] for match in get_close_matches(name.casefold(), by_folded, _SUGGESTED, 0.5)]
