import pytest
from pydantic import ValidationError

from glr_assets.recipes import Recipe, load_recipe
from glr_assets.recipes.describe import keys_of, sections, values_of


def test_every_table_but_execution_is_described_with_every_key() -> None:
    tables = sections()
    assert list(tables) == [name for name in Recipe.model_fields if name not in ("name", "seed", "execution")]
    for table, section in tables.items():
        keys = keys_of(table)
        assert [key.name for key in keys] == list(section.model_fields)
        assert all(key.limits and key.description for key in keys)
        # A table of defaults is a valid table, so each default is a value that its key takes.
        assert section.model_validate({key.name: key.default for key in keys}) == section()


@pytest.mark.parametrize(
    ("table", "key", "default", "limits"),
    [
        ("dedupe", "keep", 25, "a whole number, 1 to 100000"),
        ("dedupe", "method", "max_min", "one of max_min, farthest_pairs, random"),
        ("dedupe", "collapse", True, "true or false"),
        ("images", "max_member_bytes", 67108864, "a whole number, 1024 or more"),
        ("verification", "residual", 8.0, "a number, more than 0, at most 50"),
        ("verification", "min_cosine", None, "a number, 0 to 1; or unset"),
        ("verification", "module", None, "text; or unset"),
        ("embedder", "averaging", 0.0, "a number, 0 or more, less than 1"),
        ("embedder", "scales", [1.0], "a list, each a number, of 1 to 8"),
        ("openimages", "sources", [], "a list, each text"),
        ("groups", "bounds", None, "a list, each a whole number; or unset"),
        ("seed", "seed", 0, "a whole number, 0 to 2147483647"),
    ],
)
def test_limits_are_those_of_the_sections(table: str, key: str, default: object, limits: str) -> None:
    (found,) = (found for found in keys_of(table) if found.name == key)
    assert (found.default, found.limits) == (default, limits)


def test_ranges_in_words_are_where_a_section_refuses() -> None:
    """Of every whole number with a range `low to high`, one below and one above are refused and both ends taken."""
    checked = 0
    for table, section in sections().items():
        for key in keys_of(table):
            kind, _, bounds = key.limits.removesuffix("; or unset").partition(", ")
            low, _, high = bounds.partition(" to ")
            if kind != "a whole number" or not high:
                continue
            checked += 1
            for value, good in ((int(low), True), (int(high), True), (int(low) - 1, False), (int(high) + 1, False)):
                refused = _errors_of(section, key.name, value)
                assert (key.name not in refused) == good, (table, key.name, value)
    assert checked > 40


def _errors_of(section: type, key: str, value: int) -> set[str]:
    """The keys that are refused by themselves; a contradiction with another key names none."""
    try:
        section.model_validate({key: value})
    except ValidationError as error:
        return {str(part) for problem in error.errors() for part in problem["loc"]}
    return set()


def test_values_are_those_of_the_recipe() -> None:
    small = load_recipe("small")
    assert values_of(small, "training") == {"manifest": "train_manifest", "validation": 0.1}
    assert values_of(small, "seed") == {"seed": 0}
    assert values_of(small.overridden({}, seed=7), "seed") == {"seed": 7}
