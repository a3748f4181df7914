"""Recipes: the published values, overrides over bases, and every mistake named in one line."""

from __future__ import annotations

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from glr_assets.errors import RecipeError
from glr_assets.recipes import NAMED_RECIPES, Embedder, Recipe, Section, load_recipe


@pytest.fixture
def recipe(tmp_path: Path) -> Any:
    """Writes a recipe of that text and loads it."""

    def load(text: str, name: str = "mine.toml") -> Recipe:
        (tmp_path / name).write_text(text)
        return load_recipe(str(tmp_path / name))

    return load


def test_full_holds_the_published_values() -> None:
    full = load_recipe("full")
    assert full.name == "full"
    assert (full.images.min_side, full.images.jpeg_quality, full.images.keep) == (384, 70, "wanted")
    assert (full.dedupe.keep, full.dedupe.sample) == (25, 1000)
    assert (full.dedupe.method, full.dedupe.collapse, full.dedupe.remove_leaks) == ("max_min", True, False)
    assert (full.dedupe.near_duplicate_bits, full.fill.variety) == (3, True)
    assert full.fill.threshold == 20
    assert (full.embedder.image_size, full.embedder.dimensions, full.embedder.sub_centers) == (384, 512, 3)
    assert (full.embedder.scale, full.embedder.margin_size, full.embedder.margin_base) == (45, 0.45, 0.05)
    assert full.retrieval.per_landmark == 5
    assert full.retrieval.train_penalty_top == 5
    assert full.retrieval.query_penalty_top == 10
    assert full.retrieval.neighbours == 5
    assert full.retrieval.retrieved == 100
    assert full.images.require_md5


def test_small_has_the_published_curation_and_a_small_network() -> None:
    small, full = load_recipe("small"), load_recipe("full")
    assert small.name == "small"
    for stage in ("images", "fill", "dedupe"):
        assert getattr(small, stage) == getattr(full, stage)
    assert small.embedder.image_size < full.embedder.image_size
    assert small.embedder.dimensions < full.embedder.dimensions


@pytest.mark.parametrize("name", NAMED_RECIPES)
def test_named_recipes_hold_only_what_is_known_and_survive_a_round_trip(name: str) -> None:
    document = tomllib.loads((resources.files("glr_assets.recipes") / f"{name}.toml").read_text())
    document.pop("base", None)
    loaded = load_recipe(name)
    for section, values in document.items():
        told = getattr(loaded, section)
        if isinstance(values, dict):
            told = told.model_dump(mode="json", include=set(values))
        assert told == values
    assert Recipe.model_validate(loaded.model_dump(mode="json")) == loaded
    assert loaded.overridden({}) == loaded


def test_every_value_says_what_it_is() -> None:
    sections = [field.annotation for name, field in Recipe.model_fields.items() if name not in {"name", "seed"}]
    assert sections
    for section in sections:
        assert isinstance(section, type)
        assert issubclass(section, Section)
        assert all(field.description for field in section.model_fields.values())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[images]\nmin_sid = 3", ["unknown key [images] min_sid", "min_side", "jpeg_quality"]),
        ("[imagez]\nmin_side = 384", ["unknown key imagez", "images", "dedupe"]),
        ("sede = 1", ["unknown key sede", "seed"]),
        ("[images]\njpeg_quality = 101", ["[images] jpeg_quality = 101", "100"]),
        ("[images]\njpeg_quality = 0", ["[images] jpeg_quality = 0", "1"]),
        ("[images]\nmin_side = 'big'", ["[images] min_side = 'big'", "integer"]),
        ("[images]\nmin_side = 384.5", ["[images] min_side = 384.5", "integer"]),
        ("[images]\nmin_side = '384'", ["[images] min_side = '384'", "integer"]),
        ("[images]\njpeg_quality = true", ["[images] jpeg_quality = True", "integer"]),
        ("[images]\nrequire_md5 = 1", ["[images] require_md5 = 1", "boolean"]),
        ("[images]\nkeep = 'some'", ["[images] keep = 'some'", "wanted", "all"]),
        ("[images]\nrequire_md5 = 'perhaps'", ["[images] require_md5 = 'perhaps'"]),
        ("images = 3", ["images = 3"]),
        ("seed = -1", ["seed = -1"]),
        ("[fill]\nthreshold = -1", ["[fill] threshold = -1"]),
        ("[dedupe]\nkeep = 0", ["[dedupe] keep = 0"]),
        ("[dedupe]\nsample = 10", ["[dedupe]", "sample = 10", "keep = 25"]),
        ("[dedupe]\nnear_duplicate_bits = 9", ["[dedupe] near_duplicate_bits = 9", "8"]),
        ("[dedupe]\nnear_duplicate_bits = -1", ["[dedupe] near_duplicate_bits = -1", "0"]),
        ("[dedupe]\nmethod = 'best'", ["[dedupe] method = 'best'", "max_min", "farthest_pairs", "random"]),
        ("[dedupe]\nremove_leaks = 1", ["[dedupe] remove_leaks = 1", "boolean"]),
        ("[fill]\nvariety = 'much'", ["[fill] variety = 'much'", "boolean"]),
        ("[fill]\nthreshold = 30", ["[fill] threshold = 30", "[dedupe] keep = 25"]),
        ("[training]\nmanifest = 'other'", ["[training] manifest = 'other'", "train_manifest"]),
        ("[retrieval]\nneighbours = 0", ["[retrieval] neighbours = 0"]),
        ("[retrieval]\nnon_landmark_usage = ['Secret']", ["[retrieval] non_landmark_usage", "'Secret'", "Public"]),
        ("[execution]\ndevice = 'tpu'", ["[execution] device = 'tpu'", "cuda"]),
        ("[images]\nmin_side = 1\njpeg_quality = 0", ["[images] min_side = 1", "[images] jpeg_quality = 0"]),
        ("[images]\nmin_side = [1,", ["not TOML"]),
        ("[images]\n[images]\n", ["not TOML"]),
        ("base = 3", ["base = 3"]),
        ("base = 'nowhere.toml'", ["nowhere.toml", "small, full"]),
    ],
)
def test_each_mistake_is_one_line_that_names_it(recipe: Any, text: str, told: list[str]) -> None:
    with pytest.raises(RecipeError) as error:
        recipe(text)
    message = str(error.value)
    assert "\n" not in message
    assert "mine.toml" in message or "nowhere.toml" in message
    assert [word for word in told if word not in message] == []


def test_a_file_that_is_not_there_or_no_text(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    for name in ("Full", "", str(tmp_path / "absent.toml"), str(tmp_path), str(tmp_path / "bytes.toml")):
        with pytest.raises(RecipeError) as error:
            load_recipe(name)
        assert "small, full" in str(error.value)
        assert "GLR_RECIPE" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_base_is_overridden_value_by_value(recipe: Any) -> None:
    small = load_recipe("small")
    mine = recipe('base = "small"\nseed = 7\n[images]\nmin_side = 128\n[embedder]\nepochs = 3\n')
    assert mine == small.model_copy(
        update={
            "name": "mine",
            "seed": 7,
            "images": small.images.model_copy(update={"min_side": 128}),
            "embedder": small.embedder.model_copy(update={"epochs": 3}),
        }
    )


def test_without_a_base_the_rest_is_the_published_default(recipe: Any) -> None:
    assert recipe("[images]\nmin_side = 128").dedupe == load_recipe("full").dedupe


def test_bases_chain_and_lie_beside_the_recipe(recipe: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "deeper").mkdir()
    (tmp_path / "team.toml").write_text('base = "deeper/lab.toml"\n[images]\nmin_side = 200\n')
    (tmp_path / "deeper" / "lab.toml").write_text(
        'base = "small"\n[images]\nmin_side = 100\njpeg_quality = 50\n[fill]\nreserves = 1\n'
    )
    mine = recipe('base = "team.toml"\n[images]\nkeep = "all"\n')
    assert mine.images.model_dump(include={"min_side", "jpeg_quality", "keep"}) == {
        "min_side": 200,
        "jpeg_quality": 50,
        "keep": "all",
    }
    assert mine.fill.reserves == 1
    assert mine.embedder == load_recipe("small").embedder
    assert mine.name == "mine"
    monkeypatch.chdir(tmp_path)
    assert load_recipe("mine.toml") == mine
    (tmp_path / "absolute.toml").write_text(f"base = '{tmp_path}/team.toml'\n")
    assert load_recipe("absolute.toml").images.min_side == 200


@pytest.mark.parametrize("bases", [["a"], ["b", "a"], ["b", "c", "a"], ["b", "b"], ["../{folder}/a"]])
def test_bases_in_a_circle(tmp_path: Path, bases: list[str]) -> None:
    names = ["a", "b", "c"]
    for name, base in zip(names, bases, strict=False):
        (tmp_path / f"{name}.toml").write_text(f'base = "{base.format(folder=tmp_path.name)}.toml"\n')
    with pytest.raises(RecipeError, match="circle") as error:
        load_recipe(str(tmp_path / "a.toml"))
    assert "\n" not in str(error.value)


def test_a_recipe_of_a_named_recipes_name_is_found_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "small").write_text("seed = 5\n")
    assert load_recipe(str(tmp_path / "small")).seed == 5
    assert load_recipe("small").seed == 0


def test_overrides_of_a_run() -> None:
    small = load_recipe("small")
    run = small.overridden({"images": {"jpeg_quality": 80}, "retrieval": {"neighbours": 3}}, seed=9)
    assert run.images == small.images.model_copy(update={"jpeg_quality": 80})
    assert run.retrieval.neighbours == 3
    assert run.seed == 9
    assert small.images.jpeg_quality == 70
    assert run.embedder == small.embedder


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"images": {"jpeg_quality": 800}}, "[images] jpeg_quality = 800"),
        ({"images": {"quality": 80}}, "unknown key [images] quality"),
        ({"imagez": {"jpeg_quality": 80}}, "unknown key imagez"),
        ({"fill": {"threshold": 26}}, "[dedupe] keep = 25"),
        ({"seed": {"value": 1}}, "seed"),
    ],
)
def test_overrides_are_checked_as_the_recipe_is(overrides: Any, told: str) -> None:
    with pytest.raises(RecipeError) as error:
        load_recipe("small").overridden(overrides)
    assert "overrides of recipe small" in str(error.value)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@given(keep=st.integers(-2, 40), sample=st.integers(-2, 40), threshold=st.integers(-2, 40))
def test_fill_dedupe_and_their_limits(keep: int, sample: int, threshold: int) -> None:
    good = 1 <= keep <= sample and 0 <= threshold <= keep
    overrides = {"dedupe": {"keep": keep, "sample": sample}, "fill": {"threshold": threshold}}
    try:
        load_recipe("full").overridden(overrides)
    except RecipeError:
        assert not good
    else:
        assert good


def test_recipes_do_not_change() -> None:
    with pytest.raises(ValueError, match="frozen"):
        load_recipe("small").seed = 3  # type: ignore[misc]


def test_sides_are_whole_steps_and_differ() -> None:
    assert Embedder(image_size=100, backbone="resnet-18", scales=(1.0, 0.5, 2.0)).sides == (100, 64, 192)
    assert Embedder(image_size=98, backbone="dinov2-small", scales=(1.0, 1.4)).sides == (98, 140)
    with pytest.raises(ValidationError, match="one stands twice"):
        Embedder(image_size=128, scales=(1.0, 1.01))
    with pytest.raises(ValidationError, match=r"scales: 5, expected"):
        Embedder(image_size=128, scales=(5.0,))
