"""From stored shards to manifests and to the index, once a backfill is complete and not once a shard.

Work stands in stages, in the order of the lineage. A stage is due where its receipts are outdated by those of what it
reads, and is asked for once for each state of these: what fails is retried by Dagster's run retries, and is asked for
again when something upstream changes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property

import dagster as dg
from pydantic import BaseModel, Field

from glr_assets.defs.automation.jobs import CURATED, TABLES_FIRST
from glr_assets.defs.automation.requests import batches, range_run, repository_of, whole_run
from glr_assets.defs.automation.under_way import UnderWay, under_way
from glr_assets.defs.platform import Platform
from glr_assets.defs.shards import counted_parts
from glr_assets.errors import DamagedSourceError
from glr_assets.images.retry import split_state
from glr_assets.receipts import digest_of, find_receipt
from glr_assets.recipes import Recipe
from glr_assets.source import Source
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS
from glr_assets.staleness import Stored, read_stored
from glr_assets.store import Store


def _always(recipe: Recipe) -> bool:
    return True


def _filters(recipe: Recipe) -> bool:
    return "non_landmark_filter" in {recipe.training.manifest, recipe.retrieval.manifest}


def _cleans(recipe: Recipe) -> bool:
    used = {recipe.training.manifest, recipe.retrieval.manifest}
    return "cleaned_manifest" in used or (_filters(recipe) and recipe.filter.manifest == "cleaned_manifest")


@dataclass(frozen=True)
class Stage:
    """Assets that are made together: in one run, or, with partitions, in one run a range of these.

    Attributes:
        name: in reasons and cursors.
        assets: all without partitions, or all of one partition set.
        opaque: whether receipts do not name all that these assets read, so that a change upstream makes them due
            whether or not it concerns them; a run then finds out.
        when: whether a recipe wants them.
    """

    name: str
    assets: tuple[str, ...]
    opaque: bool = False
    when: Callable[[Recipe], bool] = field(default=_always)


IMAGES = tuple(f"{split}_images" for split in SPLITS)
CURATE = Stage("curate", CURATED)
#: In the order in which one needs the other.
INDEX_STAGES = (
    Stage("local features", ("local_features",), opaque=True),
    Stage("calibration", ("verification_calibration",), when=_cleans),
    Stage("pairs", ("verified_pairs",), opaque=True, when=_cleans),
    Stage("clean", ("cleaned_manifest",), when=_cleans),
    Stage("non-landmark scores", ("non_landmark_scores",), when=_filters),
    Stage("filter", ("non_landmark_filter",), when=_filters),
    Stage("search features", ("search_features",), opaque=True),
    Stage("train embeddings", ("train_embeddings",)),
    Stage("index embeddings", ("index_embeddings",)),
    Stage("test embeddings", ("test_embeddings", "test_features")),
    Stage(
        "index",
        ("non_landmark_embeddings", "faiss_index", "recognition_model", "submission", "retrieval_submission"),
    ),
)


INDEXED = tuple(name for stage in INDEX_STAGES for name in stage.assets)


class Asked(BaseModel):
    """The cursor of a refreshing sensor, which may be reset at any time.

    Attributes:
        quiet: what listings told when there was nothing to do; while they tell the same there is nothing to look at.
        stages: by stage the state of what it reads for which it was asked.
    """

    quiet: str = ""
    stages: dict[str, str] = Field(default_factory=dict)


def stored_assets(repository: dg.RepositoryDefinition, source: Source, store: Store, recipe: Recipe) -> Stored:
    """The receipts of every asset, of the shards that the source has and the parts that the recipe counts."""
    keys = {f"{split}_shards": source.shards(split) for split in SPLITS}
    keys |= {str(partitions.name): parts for partitions, parts in counted_parts(recipe)}
    partitions = {
        node.key.to_user_string(): (
            keys[node.partitions_def.name or ""]
            if isinstance(node.partitions_def, dg.DynamicPartitionsDefinition)
            else None
        )
        for node in repository.asset_graph.asset_nodes
    }
    return read_stored(store, partitions, code_versions(repository))


def code_versions(repository: dg.RepositoryDefinition) -> dict[str, str]:
    """The code version of each asset that has one."""
    return {
        node.key.to_user_string(): node.code_version
        for node in repository.asset_graph.asset_nodes
        if node.code_version is not None
    }


class Look:
    """One tick's look at store, source and instance."""

    def __init__(self, context: dg.SensorEvaluationContext, platform: Platform) -> None:
        self.instance = context.instance
        self.store: Store = platform.open_store()
        self.source: Source = platform.open_source()
        self.recipe = platform.load_recipe()
        self.repository = repository_of(context)
        self.graph = self.repository.asset_graph
        self.asked = Asked.model_validate_json(context.cursor or "{}")

    @cached_property
    def at(self) -> UnderWay:
        """What runs and backfills are at."""
        return under_way(self.instance, self.repository)

    def busy(self, assets: Iterable[str]) -> str:
        """Who is at one of these assets, in words; empty where nobody is."""
        return next((f"{name} is being made by {self.at.by[name]}" for name in assets if name in self.at.by), "")

    @cached_property
    def stored(self) -> Stored:
        """The receipts of every asset, of the partitions that there are to be."""
        return stored_assets(self.repository, self.source, self.store, self.recipe)

    @cached_property
    def listings(self) -> str:
        """SHA-256 over what listings tell of the source's shards and of all receipts, and the versions of the code."""
        folders = ["receipts", *(f"receipts/{name}" for name in self.store.folders("receipts"))]
        receipts = {folder: self.store.stamps(folder) for folder in folders}
        shards = {split: self.source.shard_stamps(split) for split in SPLITS}
        return digest_of([receipts, shards, code_versions(self.repository)])

    def unfinished_shards(self) -> str:
        """Why the shards' images are not complete, in words.

        Shards that failed do not hold the others up, nor those whose MD5 is not published: `what_is_broken` names them.
        """
        for split in SPLITS:
            untried = [
                key for key in split_state(self.source, self.store, split).untried if self._verifiable(split, key)
            ]
            if untried:
                return f"{len(untried)} {split} shards were never tried, {untried[0]} the first"
        return ""

    def _verifiable(self, split: Split, key: str) -> bool:
        try:
            self.source.shard_digest(split, key, require_md5=self.recipe.images.require_md5)
        except DamagedSourceError:
            return False
        return True

    def reads(self, stage: Stage) -> str:
        """SHA-256 over what a stage is made by: receipts of all its assets depend on, its partitions, its code."""
        parents = {
            parent.to_user_string() for name in stage.assets for parent in self.graph.get(dg.AssetKey(name)).parent_keys
        }
        names = [name for asset in stage.assets for name in self.stored.names(asset)]
        code = [self.stored.code_versions.get(asset) for asset in stage.assets]
        return digest_of([self.stored.digest(sorted(parents - set(stage.assets))), names, code])

    def outdated(self, stage: Stage) -> dict[str, str]:
        """The receipts of a stage that are to be made anew, each with the reason."""
        found = {name: why for asset in stage.assets for name, why in self.stored.outdated(asset).items()}
        if stage.opaque and self.asked.stages.get(stage.name) != self.reads(stage):
            told = "what it reads has changed"
            found = {name: told for asset in stage.assets for name in self.stored.names(asset)} | found
        # What has no images of its own yet cannot be made of them.
        return {name: why for name, why in found.items() if self._has_parents(name)}

    def _has_parents(self, name: str) -> bool:
        asset, _, key = name.partition("/")
        node = self.graph.get(dg.AssetKey(asset))
        same = [
            parent.to_user_string()
            for parent in node.parent_keys
            if key and self.graph.get(parent).partitions_def == node.partitions_def
        ]
        return all(f"{parent}/{key}" in self.stored.receipts for parent in same)

    def requests(self, stage: Stage, outdated: dict[str, str], asked_by: str) -> list[dg.RunRequest]:
        """The runs that make a stage's outdated receipts anew, and what follows of them within the stage."""
        partitions = self.graph.get(dg.AssetKey(stage.assets[0])).partitions_def
        if partitions is None:
            assets: set[str] = set()
            for name in stage.assets:  # they stand in the order of the lineage
                parents = {parent.to_user_string() for parent in self.graph.get(dg.AssetKey(name)).parent_keys}
                if name in outdated or parents & assets:
                    assets.add(name)
            return [whole_run(assets, asked_by, self.repository)]
        registered = list(partitions.get_partition_keys(dynamic_partitions_store=self.instance))
        wanted = {name.partition("/")[2] for name in outdated}
        return [range_run(stage.assets, keys, asked_by) for keys in batches(registered, wanted)]

    def ask(self, stage: Stage, asked_by: str) -> dg.SensorResult | str | None:
        """Runs for a stage; None where it is as it should be; or why nothing is asked though it is not, in words."""
        outdated = self.outdated(stage)
        if not outdated:
            return None
        state = self.reads(stage)
        first, why = next(iter(outdated.items()))
        if self.asked.stages.get(stage.name) == state:
            return f"{stage.name} was asked for and did not become whole: {first}: {why}; see its last run"
        self.asked.stages[stage.name] = state
        requests = self.requests(stage, outdated, asked_by)
        if not requests:
            return f"{stage.name}: {first} is no registered partition yet"
        return dg.SensorResult(requests, cursor=self.asked.model_dump_json())

    def nothing(self, reason: str, *, quiet: bool = False) -> dg.SensorResult:
        """A tick that asks for nothing; a quiet one is followed by such ticks until a listing changes."""
        self.asked.quiet = self.listings if quiet else ""
        return dg.SensorResult(skip_reason=reason, cursor=self.asked.model_dump_json())

    def walk(self, stages: Iterable[Stage], asked_by: str) -> dg.SensorResult:
        """Runs for the first stage that is due."""
        for stage in stages:
            asked = self.ask(stage, asked_by)
            if isinstance(asked, dg.SensorResult):
                return asked
            if asked is not None:
                return self.nothing(asked, quiet=True)
        return self.nothing("all is made from what is stored", quiet=True)


@dg.sensor(
    asset_selection=dg.AssetSelection.assets(*CURATED),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Makes catalog, manifests and ledger anew once all shards are done, where anything they read is new.",
)
def refresh_manifests(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """One run when no shard is under way or untried; none where receipts tell that nothing has changed."""
    look = Look(context, platform)
    busy = look.busy((*TABLES_FIRST, *IMAGES, *CURATED))
    if busy:
        return look.nothing(f"waits: {busy}")
    if look.listings == look.asked.quiet:
        return look.nothing("nothing has changed", quiet=True)
    unfinished = look.unfinished_shards()
    if unfinished:
        return look.nothing(f"waits: {unfinished}")
    return look.walk([CURATE], "refresh_manifests")


@dg.sensor(
    asset_selection=dg.AssetSelection.assets(*INDEXED),
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.STOPPED,
    description="Embeds new shards by the embedder there is, and makes index, model of answers and submissions anew.",
)
def refresh_index(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """The first stage that is due, when nothing before it is under way; a tick a stage."""
    look = Look(context, platform)
    busy = look.busy((*TABLES_FIRST, *IMAGES, *CURATED, *INDEXED, "embedder"))
    if busy:
        return look.nothing(f"waits: {busy}")
    if look.listings == look.asked.quiet:
        return look.nothing("nothing has changed", quiet=True)
    if find_receipt(look.store, "embedder") is None:
        return look.nothing("there is no embedder yet: run the job `train`", quiet=True)
    unfinished = look.unfinished_shards() or ", ".join(look.outdated(CURATE))
    if unfinished:
        return look.nothing(f"waits for what comes before it: {unfinished}")
    return look.walk((stage for stage in INDEX_STAGES if stage.when(look.recipe)), "refresh_index")
