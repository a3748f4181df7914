"""Links on the pages of assets: their documentation, the recipe's tables and, on the web, their code.

The repository's URL is the one that the package's metadata publishes (`[project.urls]` in pyproject.toml, label
`Repository`). Without it documentation is a path of the checkout, and code opens in an editor alone.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any, Final

import dagster as dg

DISTRIBUTION: Final = "glr-assets"
BRANCH: Final = "main"
#: The checkout, or the folder that the package is installed in.
ROOT: Final = Path(__file__).resolve().parents[2]
_FLOW: Final = "docs/architecture.md#the-flow-of-data-is-the-order-of-the-packages"
_CHOICES: Final = "docs/architecture.md#choices-that-decide-results"
#: The section of the documentation about a group of assets.
DOCS: Final[Mapping[str, str]] = {
    "source": "docs/architecture.md#shards",
    "recipes": "docs/architecture.md#settings-recipe-launchpad",
    "metadata": _FLOW,
    "planning": _CHOICES,
    "images": "docs/architecture.md#pixels",
    "curation": _CHOICES,
    "verification": "docs/architecture.md#geometric-cleaning",
    "openimages": "docs/openimages.md#open-images",
    "filtering": "docs/openimages.md#the-filter-of-photographs-that-show-no-landmark",
    "ledger": "docs/tour.md#an-images-story",
    "training": "docs/architecture.md#training",
    "retrieval": _CHOICES,
    "evaluation": _CHOICES,
    "exports": "docs/architecture.md#exports",
}
#: The sections about assets that have one of their own.
ASSET_DOCS: Final[Mapping[str, str]] = {
    "openimages_annotations": "docs/openimages.md#openimages_annotations",
    "openimages_images": "docs/openimages.md#openimages_images",
    "openimages_classifier_dataset": "docs/openimages.md#openimages_classifier_dataset",
    "embedder": "docs/architecture.md#versions-of-models",
    "training_groups": "docs/architecture.md#groups-and-their-classifiers",
    "group_classifiers": "docs/architecture.md#groups-and-their-classifiers",
    "group_calibration": "docs/architecture.md#groups-and-their-classifiers",
}


@functools.cache
def repository_url() -> str | None:
    """The repository's URL by the package's metadata, without a slash at its end; None where it publishes none."""
    try:
        published = metadata(DISTRIBUTION).get_all("Project-URL") or []
    except PackageNotFoundError:
        return None
    urls = dict(entry.split(", ", 1) for entry in published if ", " in entry)
    return next((url.strip().rstrip("/") for label, url in urls.items() if label.lower() == "repository"), None)


def docs_metadata(group: str, asset: str = "") -> dict[str, dg.MetadataValue[Any]]:
    """The entry `docs` of an asset: a link where the repository's URL is known, else a path of the checkout."""
    section, url = ASSET_DOCS.get(asset, DOCS[group]), repository_url()
    found = dg.MetadataValue.path(section) if url is None else dg.MetadataValue.url(f"{url}/blob/{BRANCH}/{section}")
    return {"docs": found}


def recipe_metadata(recipe: Mapping[str, Collection[str]]) -> dict[str, dg.MetadataValue[Any]]:
    """One entry for each table of the recipe that an asset reads: a link to its node."""
    return {f"recipe [{table}]": dg.MetadataValue.asset(dg.AssetKey(f"recipe_{table}")) for table in recipe}


def with_code_references(assets: Iterable[Any]) -> Sequence[Any]:
    """The assets with the file and line of their code, to open in an editor and, where it is published, on the web."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        url, referenced = repository_url(), [*assets]
        if url is not None:
            referenced = [
                *dg.link_code_references_to_git(
                    dg.with_source_code_references(referenced),
                    git_url=url,
                    git_branch=BRANCH,
                    platform="gitlab" if "gitlab" in url else "github",
                    file_path_mapping=dg.AnchorBasedFilePathMapping(
                        local_file_anchor=Path(__file__), file_anchor_path_in_repository="glr_assets/defs/links.py"
                    ),
                )
            ]
        # What is there of links to the web is kept beside the files.
        return dg.with_source_code_references(referenced)
