"""The page of each asset leads to its documentation, its recipe's tables and its code."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from dagster import LocalFileCodeReference, UrlCodeReference

from glr_assets.defs import links
from glr_assets.defs.build import ASSETS, build_definitions
from glr_assets.defs.recipes import node_name

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "https://git.example.org/team/glr_assets"


@pytest.fixture(scope="module")
def specs() -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in build_definitions().resolve_all_asset_specs()}


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package whose metadata names a repository."""

    class Metadata:
        def get_all(self, name: str) -> list[str]:
            assert name == "Project-URL"
            return ["Homepage, https://example.org", f"Repository, {REPOSITORY}/"]

    monkeypatch.setattr(links, "metadata", lambda name: Metadata())
    links.repository_url.cache_clear()
    yield
    links.repository_url.cache_clear()


def anchors(page: Path) -> set[str]:
    """Of each heading the anchor that code forges give it (GitHub: lower case, punctuation out, blanks are hyphens)."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_asset_leads_to_a_section_of_the_documentation_that_is_there(specs: dict[str, dg.AssetSpec]) -> None:
    for name, spec in specs.items():
        section = str(spec.metadata["docs"].value)
        path, _, anchor = section.rpartition("docs/")[2].partition("#")
        assert anchor in anchors(ROOT / "docs" / path), (name, section)


def test_every_asset_leads_to_the_tables_of_the_recipe_that_it_depends_on(specs: dict[str, dg.AssetSpec]) -> None:
    linked = 0
    for name, spec in specs.items():
        tables = {
            str(value.value.to_user_string()) for key, value in spec.metadata.items() if key.startswith("recipe [")
        }
        parents = {dep.asset_key.to_user_string() for dep in spec.deps}
        assert tables == {parent for parent in parents if parent.startswith(node_name(""))}, name
        assert tables <= specs.keys(), name
        linked += len(tables)
    assert linked > 20


def test_documentation_is_on_the_web_where_the_repository_is_known(published: None) -> None:
    found = links.docs_metadata("training", "embedder")["docs"]
    assert isinstance(found, dg.UrlMetadataValue)
    assert found.value == f"{REPOSITORY}/blob/main/docs/architecture.md#versions-of-models"


def test_without_a_published_repository_documentation_is_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise links.PackageNotFoundError(name)

    monkeypatch.setattr(links, "metadata", absent)
    links.repository_url.cache_clear()
    try:
        assert links.docs_metadata("exports")["docs"] == dg.MetadataValue.path("docs/architecture.md#exports")
    finally:
        links.repository_url.cache_clear()


def test_code_opens_in_an_editor_and_on_the_web_at_the_line_of_the_asset(published: None) -> None:
    bare = [asset.map_asset_specs(lambda spec: spec.replace_attributes(metadata={})) for asset in ASSETS]
    for asset in links.with_code_references(bare):
        references = asset.metadata_by_key[asset.key]["dagster/code_references"].code_references
        (local,) = (one for one in references if isinstance(one, LocalFileCodeReference))
        (web,) = (one for one in references if isinstance(one, UrlCodeReference))
        path = Path(local.file_path).relative_to(ROOT)
        assert web.url == f"{REPOSITORY}/tree/main/{path}#L{local.line_number}"
        functions = {
            line
            for node in ast.walk(ast.parse((ROOT / path).read_text()))
            if isinstance(node, ast.FunctionDef)
            for line in (node.lineno, *(decorator.lineno for decorator in node.decorator_list))
        }
        assert local.line_number in functions, asset.key
