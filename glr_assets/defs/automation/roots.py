"""The roots of the lineage are observed: shards of the source are registered, changes of its files are reported.

A tick looks at listings. Files and receipts are read where a listing has changed, and only what changed is reported.
What was reported last is read back from the instance's own observations, so the cursor is no more than a digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain, groupby
from typing import Final

import dagster as dg
from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph
from pydantic import BaseModel, Field, ValidationError

from glr_assets.defs.lost_results import check_holds, lost_and_found, results_stamp
from glr_assets.defs.observations import Reported
from glr_assets.defs.platform import Platform
from glr_assets.defs.provenance import DATA_VERSION_TAG
from glr_assets.defs.recipes import changed_observations, recipe_versions
from glr_assets.defs.reconfirmation import JOB, Seen, request_of_job
from glr_assets.defs.shards import SHARDS, PartitionsRequest, carry_out, new_shards, partitions_requests
from glr_assets.defs.source import (
    STORED_SHARDS,
    Root,
    keys_of_partitions,
    openimages_roots,
    reports_of,
    shard_roots,
    shards_node,
    stored_roots,
    table_roots,
)
from glr_assets.errors import GlrError, describe
from glr_assets.ranges import ordered
from glr_assets.receipts import RECEIPTS, digest_of
from glr_assets.recipes import Recipe
from glr_assets.redaction import safe_cause
from glr_assets.settings import Settings
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS

#: Looks in a row that must miss a shard before its partition is dropped.
LOOKS: Final = 5
#: Observations reported in a tick: SQLite takes some 10 ms for each, and other sensors wait meanwhile.
MAX_EVENTS: Final = 500
#: Shards named in a tick's reason.
_NAMED = 10
#: Small requests at once; a remote source answers each in tens of milliseconds.
_REQUESTS = 16


@dataclass(frozen=True)
class Look:
    """One look at the roots of the lineage.

    Attributes:
        recipe: its values are roots as well.
        roots: CSVs, shards, and what the store holds of sharded assets; those that could be listed.
        shards: the source's shards by split; only of splits that could be listed.
        gone: registered shards that the source no longer has, by split.
        problems: why roots could not be listed.
        url: of the source.
        listing: SHA-256 over everything listed.
    """

    recipe: Recipe
    roots: list[Root]
    shards: dict[Split, list[str]]
    gone: dict[Split, list[str]]
    problems: list[str]
    url: str
    listing: str


def look_at_roots(settings: Settings, instance: dg.DagsterInstance) -> Look:
    """List source, Open Images and store.

    An empty listing of a split whose shards are registered counts as an outage: nothing is said of its shards.

    Raises:
        GlrError: the recipe is refused, or the store cannot be listed.
    """
    recipe, store = settings.load_recipe(), settings.open_store()
    registered = {split: list(instance.get_dynamic_partitions(str(SHARDS[split].name))) for split in SPLITS}
    roots: list[Root] = []
    shards: dict[Split, list[str]] = {}
    problems: list[str] = []
    url = ""
    try:
        source = settings.open_source()
        url = source.url
        stamps = {split: source.shard_stamps(split) for split in SPLITS}
        roots += table_roots(source)
        for split, listed in stamps.items():
            if registered[split] and not listed:
                problems.append(
                    f"{source.url} lists no {split} shard, though {len(registered[split])} are registered: taken for "
                    "an outage; put them back, or delete the partitions in the UI"
                )
                continue
            shards[split] = sorted(listed)
            require_md5 = recipe.images.require_md5
            roots += shard_roots(source, store, split, listed, registered[split], require_md5=require_md5)
        roots += stored_roots(store, keys_of_partitions(registered | shards, recipe))
    except GlrError as error:
        problems.append(describe(error))
    try:
        roots += openimages_roots(settings, store, recipe)
    except GlrError as error:
        problems.append(describe(error))
    gone = {split: sorted(set(registered[split]) - set(found)) for split, found in shards.items()}
    listing = digest_of(
        [
            [(root.asset, root.partition, root.stamp) for root in roots],
            recipe.model_dump(mode="json"),
            recipe_versions(recipe),
            store.folder_stamp(RECEIPTS),
        ]
    )
    return Look(recipe, roots, shards, gone, problems, url, listing)


def changed_roots(instance: dg.DagsterInstance, look: Look) -> Iterator[dg.AssetObservation | str]:
    """The observations that the instance does not have yet; or, of a root that cannot be looked up, why."""
    yield from changed_observations(instance, look.recipe)
    for asset, found in groupby(look.roots, lambda root: root.asset):
        roots = list(found)
        reported = reports_of(instance, asset, roots)
        due = [root for root in roots if not root.keeps_stamp or _last_stamp(reported, root) != root.stamp]

        def observed(
            root: Root, reported: Mapping[str | None, Reported] = reported
        ) -> dg.AssetObservation | str | None:
            last = reported.get(root.partition)
            try:
                version = root.version(last)
            except GlrError as error:
                return describe(error)
            same = version is None or (last is not None and last.version == version.version)
            return None if version is None or (same and not root.keeps_stamp) else root.observation(version)

        for observation in ordered(observed, due, workers=_REQUESTS):
            if observation is not None:
                yield observation


def _last_stamp(reported: Mapping[str | None, Reported], root: Root) -> str | None:
    last = reported.get(root.partition)
    return None if last is None else last.stamp


@dataclass(frozen=True)
class Synced:
    """What `sync_roots` did.

    Attributes:
        added: the shards that were registered, by split.
        observations: how many were reported.
        problems: why roots could not be looked up.
    """

    added: dict[Split, list[str]]
    observations: int
    problems: list[str]


def sync_roots(settings: Settings, instance: dg.DagsterInstance) -> Synced:
    """Do at once what ticks of `observe_roots` do: register partitions and report what has changed; drop nothing.

    Raises:
        GlrError: the recipe is refused, or the store cannot be listed.
    """
    look = look_at_roots(settings, instance)
    requests = partitions_requests(instance, look.shards, look.recipe)
    carry_out(instance, requests)
    added = {
        split: [
            key
            for request in requests
            if isinstance(request, dg.AddDynamicPartitionsRequest) and request.partitions_def_name == SHARDS[split].name
            for key in request.partition_keys
        ]
        for split in SPLITS
    }
    observations, problems = 0, list(look.problems)
    for found in changed_roots(instance, look):
        if isinstance(found, str):
            problems.append(found)
        else:
            instance.report_runless_asset_event(found)
            observations += 1
    return Synced(added, observations, problems)


class Cursor(BaseModel):
    """The cursor of `observe_roots`, which may be reset at any time.

    Attributes:
        listing: `Look.listing` of the last tick that left nothing to report; empty where one did.
        looks: ticks in a row that saw the same listing.
        inputs: what `request_of_job` has looked at.
        results: `results_stamp` of the last tick that compared results with the store.
    """

    listing: str = ""
    looks: int = 0
    inputs: Seen = Field(default_factory=Seen)
    results: str = ""

    @classmethod
    def parse(cls, text: str | None) -> Cursor:
        """The cursor of the last tick; a fresh one where there is none or it is of another release."""
        try:
            return cls.model_validate_json(text or "{}")
        except ValidationError:
            return cls()


@dg.sensor(
    name="observe_roots",
    job_name=JOB,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Registers shards of the source as partitions, and the recipe's buckets, groups and parts; reports "
    "changed CSVs, shards and recipe values, so that what depends on them is unsynced. It makes nothing. Requests "
    "`confirm_unchanged` where assets may be unsynced by what they do not read.",
)
def observe_roots(context: dg.SensorEvaluationContext, platform: Platform) -> dg.SensorResult:
    """One look; a tick that can look at nothing fails and changes nothing."""
    try:
        return _tick(platform.settings(), context.instance, Cursor.parse(context.cursor), context.repository_def)
    except GlrError as error:
        raise dg.Failure(describe(error)) from safe_cause(error)


def _tick(
    settings: Settings, instance: dg.DagsterInstance, cursor: Cursor, repository: dg.RepositoryDefinition | None
) -> dg.SensorResult:
    look = look_at_roots(settings, instance)
    graph = None if repository is None else repository.asset_graph
    if graph is not None:
        look = _without_store(settings, instance, graph, look)
    same = look.listing == cursor.listing and not look.problems
    results = results_stamp(settings.open_store())
    reports: list[Iterator[dg.AssetObservation | dg.AssetMaterialization | str]] = []
    if not same:
        reports.append(changed_roots(instance, look))
    if graph is not None and look.listing and not (same and results and results == cursor.results):
        reports.append(changed_results(settings, instance, graph))
    looks = min(cursor.looks + 1, LOOKS) if same else 1
    following = Cursor(listing=look.listing, looks=looks, results=results)
    observations: list[dg.AssetObservation | dg.AssetMaterialization] = []
    problems = list(look.problems)
    more = False
    for found in chain(*reports):
        if isinstance(found, str):
            problems.append(found)
        elif len(observations) == MAX_EVENTS:
            more = True
            break
        else:
            observations.append(found)
    known = registrable(instance, look, observations)
    requests = partitions_requests(instance, known, look.recipe)
    if same and following.looks >= LOOKS:
        requests += dropped(look.gone)
    if problems and not observations and not requests:
        raise dg.Failure("; ".join(problems))
    if problems or more:
        following = Cursor(looks=1)
    request = None
    following.inputs = cursor.inputs
    if repository is not None and not observations:  # they are changes that are not stored yet
        following.inputs, request = request_of_job(instance, repository, cursor.inputs)
    reason = f"{len(observations)} changes reported" if observations else "nothing has changed"
    reason += f" in {_counted(look)}" + (", more in the next tick" if more else "")
    waiting = [f"{split} {key}" for split, keys in look.shards.items() for key in sorted(set(keys) - set(known[split]))]
    if waiting and not more:
        reason += f"; {', '.join(waiting[:_NAMED])}: no MD5 is published yet"
    return dg.SensorResult(
        run_requests=[] if request is None else [request],
        skip_reason="; ".join([reason, *problems]) if request is None else None,
        asset_events=observations,
        dynamic_partitions_requests=requests,
        cursor=following.model_dump_json(),
    )


def changed_results(
    settings: Settings, instance: dg.DagsterInstance, graph: BaseAssetGraph
) -> Iterator[dg.AssetMaterialization | str]:
    """Results that the store has lost, and those that are back in it; or the error that hides them."""
    try:
        yield from lost_and_found(instance, graph, settings.open_store())
    except GlrError as error:
        yield describe(error)


def _without_store(settings: Settings, instance: dg.DagsterInstance, graph: BaseAssetGraph, look: Look) -> Look:
    """The look; of a store that is away nothing is said but that."""
    try:
        check_holds(instance, graph, settings.open_store())
    except GlrError as error:
        roots = [root for root in look.roots if root.asset != STORED_SHARDS]
        return replace(look, roots=roots, problems=[*look.problems, describe(error)], listing="")
    return look


def registrable(
    instance: dg.DagsterInstance, look: Look, observations: Iterable[dg.AssetObservation | dg.AssetMaterialization]
) -> dict[Split, list[str]]:
    """The shards that are partitions or are to be: those observed before or now. Others cannot be verified yet."""
    now = {(observation.asset_key.to_user_string(), observation.partition) for observation in observations}
    added = new_shards(instance, look.shards)
    found: dict[Split, list[str]] = {}
    for split, keys in look.shards.items():
        unseen = [key for key in added[split] if (shards_node(split), key) not in now]
        if unseen:
            reported = instance.event_log_storage.get_latest_tags_by_partition(
                dg.AssetKey(shards_node(split)), dg.DagsterEventType.ASSET_OBSERVATION, [DATA_VERSION_TAG], unseen
            )
            unseen = [key for key in unseen if key not in reported]
        found[split] = sorted(set(keys) - set(unseen))
    return found


def dropped(gone: Mapping[Split, Iterable[str]]) -> list[PartitionsRequest]:
    """What drops the partitions of shards that the source no longer has."""
    return [SHARDS[split].build_delete_request(list(keys)) for split, keys in gone.items() if keys]


def _counted(look: Look) -> str:
    shards = ", ".join(f"{len(keys)} {split} shards" for split, keys in look.shards.items())
    return f"{len(look.roots)} roots, {shards or 'no shard'} of {look.url or 'the source'}"
