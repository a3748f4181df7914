"""The plan of a change: what runs would make again, why, what follows from it, what is fetched and how long it takes.

Nothing is run or written. Verdicts are those of dry runs, bytes those of listings, times those of past runs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Final, cast

import dagster as dg
from pydantic import BaseModel, ConfigDict, Field

from glr_assets import markdown
from glr_assets.defs.dry_runs import DryPlatform, dry_verdicts, partition_keys
from glr_assets.defs.recipes import node_name, shown_key
from glr_assets.dry_run import Change, Verdict, dry_run
from glr_assets.images.fetch_estimate import fetch_estimate
from glr_assets.images.shard_runs import find_run
from glr_assets.ranges import ordered
from glr_assets.receipts import find_receipt, receipt_names
from glr_assets.recipes.describe import SEED, sections
from glr_assets.settings import Settings
from glr_assets.snapshot import REQUESTS, SnapshotStore
from glr_assets.source.base import Split
from glr_assets.source.layout import SPLITS

#: Partitions that are named one by one in tables for people; the JSON document names all.
NAMED: Final = 6
#: Run records of shards that are read, of all that there are.
PAST_RECORDS: Final = 50
#: Materializations of an asset that are looked through for one that was made and not found done.
PAST_EVENTS: Final = 200
#: Rows of a table in the UI, whose event log keeps them.
MOST_ROWS: Final = 100
UNKNOWN: Final = "unknown"
_NEVER_MADE: Final = Change("never made").text
_IMAGES: Final[Mapping[str, Split]] = {f"{split}_images": split for split in SPLITS}


class Reason(BaseModel):
    """Why partitions of an asset would be made, or could not be.

    Attributes:
        why: the causes in words.
        partitions: the keys that it concerns, sorted; empty of an asset without partitions.
    """

    model_config = ConfigDict(frozen=True)

    why: list[str]
    partitions: list[str]


class PlannedAsset(BaseModel):
    """What runs would do about one asset.

    Attributes:
        asset: its name.
        group: its group in the lineage.
        partitions: how many partitions it is to have; None of an asset that has none.
        made: what a run would make now, by reason.
        blocked: what a run would fail at, by its error; nothing upstream is to be made first.
        follows: what may be made after what it is made from has been made, by the upstream assets; where those end on
            the same bytes, it is found done.
        bytes: that runs would fetch from the source for `made`; None where that is not known of all of it.
        seconds: that `made` would take, at the pace of past runs; None where there is no past run.
        seconds_following: the same for `follows`.
        seconds_from: which past runs tell the pace; empty where none does.
    """

    model_config = ConfigDict(frozen=True)

    asset: str
    group: str
    partitions: int | None
    made: list[Reason] = Field(default_factory=list)
    blocked: list[Reason] = Field(default_factory=list)
    follows: list[Reason] = Field(default_factory=list)
    bytes: int | None = 0
    seconds: float | None = None
    seconds_following: float | None = None
    seconds_from: str = ""


class Plan(BaseModel):
    """What runs would make by a recipe, from a source, in a store.

    Attributes:
        store: URL of the store.
        source: URL of the source.
        recipe: its name or path.
        done: how many receipts hold: a run would find that work done.
        assets: those that runs would concern, in the order of the lineage.
        gone: what was made of shards that the source has no more, as `asset/partition`, sorted.
        bytes: that runs would fetch from the source; None where that is not known of all.
        seconds: that they would take one after the other, what follows left out; None where no past run tells.
        seconds_following: that what follows would take beside, at most; None where no past run tells.
        seconds_unknown: assets whose time is not in `seconds`.
        checked_bytes: whether small files of finished work were hashed, or sizes alone compared.
    """

    model_config = ConfigDict(frozen=True)

    store: str
    source: str
    recipe: str
    done: int
    assets: list[PlannedAsset]
    gone: list[str]
    bytes: int | None
    seconds: float | None
    seconds_following: float | None
    seconds_unknown: list[str]
    checked_bytes: bool


def plan_changes(settings: Settings, instance: dg.DagsterInstance | None = None, *, check_bytes: bool = False) -> Plan:
    """What runs by these settings would make again.

    Args:
        settings: source, store and recipe.
        instance: whose past runs tell how long assets take; without one only the store's run records do.
        check_bytes: hash small files of finished work as a real run does.

    Raises:
        GlrError: store, source or recipe cannot be opened.
    """
    from glr_assets.defs.build import build_definitions  # it assembles the job of this module too

    platform = DryPlatform.of(settings)
    store, recipe = platform.open_store(), platform.load_recipe()
    found = dry_verdicts(platform, check_bytes=check_bytes)
    graph = build_definitions(platform).resolve_asset_graph()
    source = platform.find_source()
    keys = partition_keys(platform)
    nodes = {name: graph.get(dg.AssetKey(name)) for name in found}
    following = _Following({name: _parents(node, graph) for name, node in nodes.items()})
    assets = []
    for name, verdicts in found.items():
        direct, blocked = _sorted_out(store, verdicts.values())
        follows = following.of(name, verdicts.values(), {verdict.name for verdict in direct})
        blocked = [verdict for verdict in blocked if verdict.name not in follows]
        if not direct and not blocked and not follows:
            continue
        words = _Words(name, _recipe_keys(nodes[name]))
        fetched: int | None = 0
        if direct and name in _IMAGES and source is not None:
            with dry_run():
                estimate = fetch_estimate(source, store, _IMAGES[name], direct, recipe.images)
            fetched = None if estimate.unknown else estimate.bytes
        pace = _Pace.past(name, store, instance)
        assets.append(
            PlannedAsset(
                asset=name,
                group=nodes[name].group_name or "",
                partitions=None if nodes[name].partitions_def is None else len(verdicts),
                made=_reasons((verdict.name, words.of(verdict)) for verdict in direct),
                blocked=_reasons((verdict.name, [verdict.error]) for verdict in blocked),
                follows=_reasons(follows.items()),
                bytes=fetched,
                seconds=pace.of(len(direct)),
                seconds_following=pace.of(len(follows)),
                seconds_from=pace.told_by,
            )
        )
    known = {f"{name}/{key}" for name, node in nodes.items() if node.partitions_def for key in keys[_set_of(node)]}
    partitioned = {name for name, node in nodes.items() if node.partitions_def}
    there = (name for name in receipt_names(store) if name.partition("/")[0] in partitioned)
    return Plan(
        store=store.url,
        source="the built-in sample, not written yet" if source is None else source.url,
        recipe=recipe.name,
        done=sum(verdict.is_done for verdicts in found.values() for verdict in verdicts.values()),
        assets=assets,
        gone=sorted(name for name in there if name not in known),
        bytes=None if source is None else _sum(one.bytes for one in assets),
        seconds=_seconds(one.seconds for one in assets),
        seconds_following=_seconds(one.seconds_following for one in assets),
        seconds_unknown=[one.asset for one in assets if one.made and one.seconds is None],
        checked_bytes=check_bytes,
    )


def _name(key: dg.AssetKey) -> str:
    return key.to_user_string()


def _key(name: str) -> str:
    """The partition in the name of a receipt; empty of an asset without partitions."""
    return name.partition("/")[2]


def _set_of(node: Any) -> str:
    return str(cast(dg.DynamicPartitionsDefinition, node.partitions_def).name)


def _sum(values: Iterable[int | None]) -> int | None:
    found = list(values)
    return None if None in found else sum(value or 0 for value in found)


def _seconds(values: Iterable[float | None]) -> float | None:
    found = [value for value in values if value is not None]
    return round(sum(found), 1) if found else None


def _sorted_out(store: SnapshotStore, verdicts: Iterable[Verdict]) -> tuple[list[Verdict], list[Verdict]]:
    """What runs would make, and what they would fail at. What was never made counts as to be made in any case."""
    made, blocked = [], []
    for verdict in verdicts:
        if verdict.changes:
            made.append(verdict)
        elif verdict.error and find_receipt(store, verdict.name) is None:
            made.append(Verdict(verdict.name, (Change("never made"),)))
        elif verdict.error:
            blocked.append(verdict)
    return made, blocked


def _parents(node: Any, graph: Any) -> dict[str, bool]:
    """The materializable parents of an asset, and whether a partition depends on the parent's of the same key alone."""
    found: dict[str, bool] = {}
    for key in node.parent_keys:
        parent = graph.get(key)
        if parent.is_materializable:
            same = node.partitions_def is not None and parent.partitions_def == node.partitions_def
            whole = isinstance(node.partition_mappings.get(key), dg.AllPartitionMapping)
            found[_name(key)] = same and not whole
    return found


class _Following:
    """What may be made after what it is made from, found asset by asset in the order of the lineage."""

    #: Inputs that are files, and no assets.
    _FILES: Final = ("source:", "openimages:", "file:", "hub:")

    def __init__(self, parents: Mapping[str, Mapping[str, bool]]) -> None:
        self._parents = parents
        self._touched: dict[str, set[str]] = defaultdict(set)

    def of(self, asset: str, verdicts: Iterable[Verdict], made: Collection[str]) -> dict[str, list[str]]:
        """By name what follows of an asset, with the assets upstream that it follows from; `made` does not."""
        follows = {}
        for verdict in verdicts:
            upstream = [] if verdict.name in made else self._upstream(asset, verdict)
            if upstream:
                follows[verdict.name] = upstream
            if upstream or verdict.name in made:
                self._touched[asset].add(_key(verdict.name))
        return follows

    def _upstream(self, asset: str, verdict: Verdict) -> list[str]:
        parents = self._parents[asset]
        named: dict[str, set[str]] = defaultdict(set)
        opaque = bool(verdict.error)
        for name in verdict.inputs:
            if name.startswith(self._FILES):
                continue
            parent, _, key = name.partition("/")
            if parent in self._parents:
                named[parent].add(key)
            else:
                opaque = True  # the digest of a part of what several assets say
        found = {parent for parent, keys in named.items() if keys & self._touched[parent]}
        if opaque:
            for parent in parents.keys() - named.keys():
                keys = self._touched[parent]
                if (_key(verdict.name) in keys) if parents[parent] else keys:
                    found.add(parent)
        return sorted(found)


def _recipe_keys(node: Any) -> dict[str, str]:
    """By key the tables of the recipe that an asset depends on, as people read them: `{"keep": "[dedupe] keep"}`."""
    tables = {node_name(table): table for table in (*sections(), SEED)}
    found: dict[str, str] = {}
    for parent, mapping in node.partition_mappings.items():
        table = tables.get(parent.to_user_string())
        if table is not None and isinstance(mapping, dg.SpecificPartitionsPartitionMapping):
            found |= {key: shown_key(table, key) for key in mapping.partition_keys}
    return found


class _Words:
    """Causes in words, alike for all partitions that they are alike for."""

    def __init__(self, asset: str, recipe_keys: Mapping[str, str]) -> None:
        self._asset, self._recipe_keys = asset, recipe_keys

    def of(self, verdict: Verdict) -> list[str]:
        """Why something would be made: inputs of one asset together, then parameters, then the rest."""
        own = _key(verdict.name)
        inputs: dict[tuple[str, str], list[str]] = defaultdict(list)
        others = []
        for change in verdict.changes:
            if change.kind == "input":
                asset, key = self._input(change.name, own)
                inputs[asset, change.text.removeprefix(change.name).strip()].append(key)
            elif change.kind == "parameter":
                others.append(change.text.replace(change.name, self._parameter(change.name), 1))
            else:
                others.append(change.text)
        told = [f"{asset} {what}" + (f": {named(keys)}" if any(keys) else "") for (asset, what), keys in inputs.items()]
        return told + others

    def _input(self, name: str, own: str) -> tuple[str, str]:
        """The asset and the partition of an input; no partition where it is that of the very one that is made."""
        if name == f"wanted:{own}":
            return "the selection of its images", ""
        if name == "features":
            return "the features of its images", ""
        asset, _, key = name.partition("/")
        if asset.startswith("source:"):
            asset = f"source_{asset.removeprefix('source:')}" + ("_shards" if key else "")
        return asset, "" if key == own else key

    def _parameter(self, name: str) -> str:
        table, _, key = name.partition(".")
        if key and table in sections():
            return shown_key(table, key)
        return self._recipe_keys.get(name, name)


def named(keys: Sequence[str], most: int = NAMED) -> str:
    """Partitions in words, the first of many and how many there are."""
    shown = ", ".join(keys[:most])
    return shown if len(keys) <= most else f"{shown} and {len(keys) - most} more"


def _reasons(of_names: Iterable[tuple[str, list[str]]]) -> list[Reason]:
    """Names with the same reasons together, the first one first."""
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, why in of_names:
        found[tuple(why)].append(_key(name))
    return [Reason(why=list(why), partitions=sorted(filter(None, keys))) for why, keys in found.items()]


class _Pace:
    """How long past runs took for one partition, or for an asset without partitions."""

    def __init__(self, seconds: float | None = None, told_by: str = "") -> None:
        self._seconds, self.told_by = seconds, told_by

    def of(self, count: int) -> float | None:
        """Seconds for so many; None for none, or where no past run tells."""
        return None if self._seconds is None or not count else round(self._seconds * count, 1)

    @classmethod
    def past(cls, asset: str, store: SnapshotStore, instance: dg.DagsterInstance | None) -> _Pace:
        """Of image shards by the run records in the store, of other assets by the latest run that made one."""
        if asset in _IMAGES:
            return cls._by_records(_IMAGES[asset], store)
        return cls() if instance is None else cls._by_runs(asset, instance)

    @classmethod
    def _by_records(cls, split: Split, store: SnapshotStore) -> _Pace:
        shards = [name.removesuffix(".json") for name in store.names(f"runs/{split}_images")]
        shards = shards[:: max(len(shards) // PAST_RECORDS, 1)]
        runs = ordered(lambda shard: find_run(store, split, shard), shards, workers=REQUESTS)
        seconds = [run.seconds for run in runs if run is not None and run.outcome == "ingested"]
        if not seconds:
            return cls()
        return cls(sum(seconds) / len(seconds), f"run records of {len(seconds)} shards")

    @classmethod
    def _by_runs(cls, asset: str, instance: dg.DagsterInstance) -> _Pace:
        events: dict[str, list[bool]] = defaultdict(list)
        for record in instance.fetch_materializations(dg.AssetKey(asset), limit=PAST_EVENTS).records:
            event = record.asset_materialization
            done_before = event.metadata.get("done_before") if event is not None else None
            events[record.run_id].append(done_before is None or bool(done_before.value))
        for run_id, reused in events.items():
            if all(reused):
                continue
            for step in instance.get_run_step_stats(run_id, [asset]):
                if step.start_time is not None and step.end_time is not None:
                    return cls((step.end_time - step.start_time) / len(reused), f"run {run_id[:8]}")
        return cls()


def shown_seconds(seconds: float | None) -> str:
    """A time for people: `0.4 s`, `5 min`, `3.2 h`; `unknown` of None."""
    if seconds is None:
        return UNKNOWN
    if seconds < 0.05:
        return "under 0.1 s"
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def shown_bytes(size: int | None) -> str:
    """Bytes for people, by powers of 1000: `2.1 GB`; `unknown` of None."""
    if size is None:
        return UNKNOWN
    value, units = float(size), ["B", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value, units = value / 1000, units[1:]
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"


#: What a row of a plan's tables tells.
COLUMNS: Final = ("asset", "partitions", "why", "fetch", "time")


def plan_rows(plan: Plan) -> dict[str, list[tuple[str, ...]]]:
    """The rows of a plan's tables, in `COLUMNS`, by what would happen: made, blocked, follows."""
    rows: dict[str, list[tuple[str, ...]]] = {"made": [], "blocked": [], "follows": []}
    for one in plan.assets:

        def where(reason: Reason, of: int | None = one.partitions) -> str:
            if of is None:
                return ""
            return f"all {of}" if len(reason.partitions) == of else f"{named(reason.partitions)} (of {of})"

        for number, reason in enumerate(one.made):
            fetch = "" if number or one.asset not in _IMAGES else shown_bytes(one.bytes)
            took = "" if number else shown_seconds(one.seconds)
            rows["made"].append((one.asset, where(reason), "; ".join(reason.why), fetch, took))
        for reason in one.blocked:
            rows["blocked"].append((one.asset, where(reason), "; ".join(reason.why), "", ""))
        for number, reason in enumerate(one.follows):
            took = "" if number else shown_seconds(one.seconds_following)
            rows["follows"].append((one.asset, where(reason), f"after {named(reason.why, 3)}", "", took))
    return rows


_TITLES: Final = {
    "made": "would be made",
    "blocked": "would fail",
    "follows": "may be made after these, where they end on other bytes",
}


def plan_summary(plan: Plan) -> list[str]:
    """What a plan comes to, a sentence each."""
    made = sum(len(reason.partitions) or 1 for one in plan.assets for reason in one.made)
    if not made:
        told = [f"Nothing would be made: {plan.done} of {plan.done} are done."] if not plan.assets else []
    else:
        unknown = f", and of {named(plan.seconds_unknown, 3)} unknown" if plan.seconds_unknown else ""
        told = [
            f"{made} would be made, {plan.done} are done. Fetched from the source: {shown_bytes(plan.bytes)}. "
            f"Time by past runs: {shown_seconds(plan.seconds)}{unknown}."
        ]
        if plan.seconds_following is not None:
            told.append(f"What follows would take {shown_seconds(plan.seconds_following)} more at most.")
    if plan.gone:
        told.append(f"The source has no more the shards of {named(plan.gone)}.")
    return told


def plan_text(plan: Plan) -> str:
    """A plan for a terminal."""
    lines = [f"store   {plan.store}", f"source  {plan.source}   recipe {plan.recipe}", ""]
    tables = plan_rows(plan)
    every = [COLUMNS, *(row for rows in tables.values() for row in rows)]
    # The causes come last: they may be long.
    order = [COLUMNS.index(name) for name in ("asset", "partitions", "fetch", "time", "why")]
    widths = [max((len(row[column]) for row in every), default=0) for column in order[:-1]]
    for kind, rows in tables.items():
        if rows:
            lines.append(f"{_TITLES[kind]}:")
            for row in (COLUMNS, *rows):
                cells = [row[column].ljust(width) for column, width in zip(order[:-1], widths, strict=True) if width]
                lines.append("  " + "  ".join([*cells, row[COLUMNS.index("why")]]))
            lines.append("")
    return "\n".join([*lines, *plan_summary(plan)])


def plan_markdown(plan: Plan) -> str:
    """A plan for the UI."""
    parts: list[str] = [markdown.escape(text) for text in plan_summary(plan)]
    for kind, rows in plan_rows(plan).items():
        if rows:
            shown = markdown.table(COLUMNS, rows[:MOST_ROWS])
            more = f"\n\n{len(rows) - MOST_ROWS} more rows" if len(rows) > MOST_ROWS else ""
            parts.append(f"**{_TITLES[kind].capitalize()}**\n\n{shown}{more}")
    return "\n\n".join(parts)
