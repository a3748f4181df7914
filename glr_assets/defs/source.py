"""Group `source`: the source's files as roots of the lineage, so that a changed one makes its dependents unsynced.

Each CSV and each split's shards are observable source assets. The data version of a file is what identifies it in the
receipts of the assets that read it, so Dagster's staleness and the receipts agree. `stored_shards` stands for all
shards of an asset at once, because Dagster does not compare a dependency on 100 or more partitions.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final

import dagster as dg

from glr_assets.defs.links import docs_metadata
from glr_assets.defs.observations import STAMP, Reported, last_reports
from glr_assets.defs.provenance import DATA_VERSION_TAG
from glr_assets.defs.shards import OPENIMAGES_PARTS, RUN_ENDS, SHARDED, SHARDS, counted_parts
from glr_assets.errors import DamagedSourceError, GlrError, MissingInputError, describe
from glr_assets.images.shard_runs import find_run
from glr_assets.openimages.images import ASSET as OPENIMAGES_ASSET
from glr_assets.openimages.images import sizes_digest
from glr_assets.openimages.layout import BOXES, CLASS_DESCRIPTIONS, HIERARCHY, IMAGES, SUBSETS
from glr_assets.openimages.parts import part_keys, requests
from glr_assets.openimages.root import OpenImagesRoot
from glr_assets.openimages.sample import SAMPLE_VERSION
from glr_assets.ranges import ordered
from glr_assets.receipts import RECEIPTS, DamagedReceiptError, Unfinished, digest_of, find_receipt, read_receipt
from glr_assets.recipes import Recipe
from glr_assets.settings import Settings
from glr_assets.source import Source
from glr_assets.source.base import Split, TableName
from glr_assets.source.layout import SPLITS, TABLE_COLUMNS, TABLE_PATHS
from glr_assets.store import Store

GROUP: Final = "source"
#: Data version of an optional CSV that the source does not have, as in receipts.
ABSENT: Final = "absent"
#: Data version of a shard that the source no longer has.
REMOVED: Final = "removed"
#: Data version of a shard whose MD5 is no longer published, or is no MD5, where one is required.
UNVERIFIABLE: Final = "unverifiable"
#: Data version of a file of Open Images that the recipe does not read.
NOT_READ: Final = "not read by the recipe"
#: The root whose partitions are the sharded assets: its data versions cover the receipts of all shards of each.
STORED_SHARDS: Final = "stored_shards"
OPENIMAGES_FILES: Final = f"{GROUP}_openimages_images"
#: The image assets: `image_catalog` also counts the shards of the source that they lack.
_COUNTED_WHEN_MISSING: Final = frozenset(f"{split}_images" for split in SPLITS)
_MD5: Final = re.compile("[0-9a-f]{32}")
_SAMPLE: Final = f"rendered sample {SAMPLE_VERSION}"
#: Receipts read at once. A remote store answers each in tens of milliseconds, and a tick must end within a minute,
#: though it reads 25,000 of them after a restart.
_REQUESTS, _REMOTE_REQUESTS = 16, 64


def table_node(name: TableName) -> str:
    """The asset of a CSV of the source: `source_train`."""
    return f"{GROUP}_{name}"


def source_tables(*names: TableName) -> list[str]:
    """The dependencies of an asset that reads these CSVs of the source."""
    return [table_node(name) for name in names]


def shards_node(split: Split) -> str:
    """The asset of a split's shards, partitioned as they are: `source_train_shards`."""
    return f"{GROUP}_{split}_shards"


def openimages_tables() -> dict[str, tuple[str, ...]]:
    """The assets of the CSVs of Open Images, each with the names that its file may have."""
    found = {f"{GROUP}_openimages_class_descriptions": CLASS_DESCRIPTIONS, f"{GROUP}_openimages_hierarchy": HIERARCHY}
    for subset in SUBSETS:
        found[f"{GROUP}_openimages_{subset}_boxes"] = BOXES[subset]
        found[f"{GROUP}_openimages_{subset}_image_list"] = IMAGES[subset]
    return found


def with_stored_shards(
    deps: Iterable[str | dg.AssetDep], partitions: dg.PartitionsDefinition | None
) -> list[str | dg.AssetDep]:
    """The dependencies of an asset, and `stored_shards` of those parents of which it reads more shards than its own.

    Args:
        deps: declared dependencies.
        partitions: of the asset.
    """
    deps = list(deps)
    names = {dep if isinstance(dep, str) else dep.asset_key.to_user_string() for dep in deps}
    whole = sorted(name for name in names & SHARDED.keys() if SHARDED[name] != partitions)
    if not whole:
        return deps
    return [*deps, dg.AssetDep(STORED_SHARDS, partition_mapping=dg.SpecificPartitionsPartitionMapping(whole))]


@dataclass(frozen=True)
class Version:
    """What is to be observed of a root, or of one partition of it.

    Attributes:
        version: the data version.
        metadata: for people.
        description: what has been found, in words.
    """

    version: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    description: str | None = None


@dataclass(frozen=True)
class Root:
    """A root of the lineage, or one partition of it, as a listing shows it.

    Attributes:
        asset: its name.
        partition: its key; None of a root without partitions.
        stamp: tells from listings whether it may have changed.
        version: looks it up, which may read files; takes the last report. None where nothing can be said yet.
        keeps_stamp: whether a new stamp is reported though the data version is the same.
    """

    asset: str
    partition: str | None
    stamp: str
    version: Callable[[Reported | None], Version | None]
    keeps_stamp: bool = True

    def observation(self, version: Version) -> dg.AssetObservation:
        """The event that reports a data version of it."""
        return dg.AssetObservation(
            self.asset,
            description=version.description,
            partition=self.partition,
            tags={DATA_VERSION_TAG: version.version},
            metadata={STAMP: self.stamp, **version.metadata},
        )


def table_roots(source: Source) -> list[Root]:
    """The CSVs of a source; one that it does not have is `absent`."""
    stamps = source.table_stamps()

    def root(name: TableName) -> Root:
        return Root(
            table_node(name),
            None,
            stamps.get(name, ABSENT),
            lambda _: Version(source.table_digest(name), {"url": source.table_url(name)}),
        )

    return [root(name) for name in TABLE_PATHS]


def shard_roots(
    source: Source,
    store: Store,
    split: Split,
    stamps: Mapping[str, str],
    registered: Collection[str],
    require_md5: bool,
) -> list[Root]:
    """The shards of a split: those of the source's listing, and the registered ones that it no longer has.

    A shard that failed and whose file has changed since has another data version though its published MD5 is the same,
    so that it is tried once more.

    Args:
        source: has the shards.
        store: has the records of their runs.
        split: train, index or test.
        stamps: the source's listing.
        registered: the keys of the partitions.
        require_md5: of the recipe.
    """

    def root(key: str) -> Root:
        stamp = stamps[key]

        def version(last: Reported | None) -> Version | None:
            try:
                digest = source.shard_digest(split, key, require_md5=require_md5)
            except DamagedSourceError as error:
                # As while it is being uploaded: the MD5 may come after the TAR.
                return None if last is None else Version(UNVERIFIABLE, {"error": str(error)}, str(error))
            content = f"{'MD5' if _MD5.fullmatch(digest) else 'content'} {digest}"
            if last is None or last.version.partition("+")[0] != digest:
                return Version(digest, description=content)
            if last.stamp != stamp and _has_failed(store, split, key):
                again = f"{content} as before; its file is another and its last run failed, so it is tried once more"
                return Version(f"{digest}+{digest_of(stamp)[:8]}", description=again)
            return Version(last.version, description=f"{content} as before; its file or MD5 file was written again")

        return Root(shards_node(split), key, stamp, version)

    gone = sorted(set(registered) - stamps.keys())
    return [
        *(root(key) for key in stamps),
        *(fixed_root(shards_node(split), key, REMOVED, "removed from the source") for key in gone),
    ]


def _has_failed(store: Store, split: Split, key: str) -> bool:
    run = find_run(store, split, key)
    return run is not None and run.outcome != "ingested"


def openimages_roots(settings: Settings, store: Store, recipe: Recipe) -> list[Root]:
    """The CSVs of Open Images that the recipe reads, and the images of each part of it.

    The rendered sample, where it stands in for Open Images, is known by its version and is not rendered for a look.

    Raises:
        SourceError: the root cannot be reached.
    """
    root = None if settings.openimages_url is None else settings.open_openimages()
    section = recipe.openimages
    unread = {f"{GROUP}_openimages_hierarchy"} if not section.subcategories else set()
    for subset in SUBSETS:
        if subset not in section.subsets:
            unread |= {f"{GROUP}_openimages_{subset}_{kind}" for kind in ("boxes", "image_list")}
    stamps = {} if root is None else root.files.stamps("")
    found = [
        fixed_root(asset, None, NOT_READ) if asset in unread else openimages_table_root(root, asset, names, stamps)
        for asset, names in openimages_tables().items()
    ]
    annotations = find_receipt(store, "openimages_annotations")
    if annotations is None:
        return found
    keys = part_keys(section.parts)
    if root is None or not root.is_local:
        known = _SAMPLE if root is None else "of a remote root, whose images are not looked at"
        return [*found, *(fixed_root(OPENIMAGES_FILES, key, known) for key in keys)]
    stamp = digest_of([annotations.digest, {subset: root.files.folder_stamp(subset) for subset in SUBSETS}])
    return [*found, *(openimages_part_root(root, store, recipe, key, stamp) for key in keys)]


def openimages_table_root(
    root: OpenImagesRoot | None, asset: str, names: Sequence[str], stamps: Mapping[str, str]
) -> Root:
    """A CSV of Open Images.

    Args:
        root: where it lies; None for the rendered sample.
        asset: its node.
        names: names that the file may have, the first that is there counts.
        stamps: the listing of the root.
    """
    if root is None:
        return fixed_root(asset, None, _SAMPLE)
    name = next((name for name in names if name in stamps), None)
    if name is None:
        return fixed_root(asset, None, ABSENT)
    return Root(
        asset,
        None,
        f"{name} {stamps[name]}",
        lambda _: Version(f"{name} {root.table_digest(name)}", {"url": root.table_url(name)}),
    )


def openimages_part_root(root: OpenImagesRoot, store: Store, recipe: Recipe, key: str, stamp: str) -> Root:
    """The images of a local root that a part of Open Images asks for, by their sizes as in the part's receipt."""
    parts = recipe.openimages.parts

    def version(_: Reported | None) -> Version | None:
        try:
            wanted = requests(store, part_keys(parts).index(key), parts).to_pylist()
        except MissingInputError:
            return None
        return Version(sizes_digest(root, wanted), {"images": len(wanted)})

    return Root(OPENIMAGES_FILES, key, stamp, version, keeps_stamp=False)


def fixed_root(asset: str, partition: str | None, version: str, description: str | None = None) -> Root:
    """A root whose data version is known without a look."""
    return Root(asset, partition, version, lambda _: Version(version, description=description))


def keys_of_partitions(shards: Mapping[Split, Iterable[str]], recipe: Recipe) -> dict[str, list[str]]:
    """The partitions that sharded assets are to have, by name of the set: the source's shards, the recipe's parts."""
    keys = {str(SHARDS[split].name): sorted(found) for split, found in shards.items()}
    return keys | {str(partitions.name): parts for partitions, parts in counted_parts(recipe)}


def stored_roots(store: Store, keys: Mapping[str, Sequence[str]], assets: Iterable[str] = SHARDED) -> list[Root]:
    """`stored_shards` of sharded assets: what the store holds of the partitions that each is to have.

    Args:
        store: has the receipts.
        keys: by name of the partition set its keys, of `keys_of_partitions`.
        assets: names of sharded assets.
    """

    def root(asset: str) -> Root:
        wanted = keys[str(SHARDED[asset].name)]
        stamp = digest_of([store.folder_stamp(f"{RECEIPTS}/{asset}"), list(wanted)])

        def version(_: Reported | None) -> Version:
            known = _stored_versions.get((store.url, asset))
            if known is None or known[0] != stamp:
                known = _stored_versions[store.url, asset] = stamp, _stored_version(store, asset, wanted)
            return known[1]

        return Root(STORED_SHARDS, asset, stamp, version, keeps_stamp=False)

    return [root(asset) for asset in assets]


#: By URL of a store and sharded asset the last stamp and its version: a change elsewhere compares no receipts of it.
_stored_versions: dict[tuple[str, str], tuple[str, Version]] = {}


def _stored_version(store: Store, asset: str, keys: Sequence[str]) -> Version:
    digests = _receipt_digests(store, asset, keys)
    missing = len(keys) - len(digests)
    counted = missing if asset in _COUNTED_WHEN_MISSING else None
    return Version(digest_of([digests, counted]), {"shards": len(digests), "missing": missing})


@dataclass(frozen=True)
class Stored:
    """What lies in the store under the name of a receipt.

    Attributes:
        digest: of what was made; None where that does not count: it is being made, or was lost.
        lost: why what was made does not count any more; empty of a receipt that holds, and of work that is unfinished.
        files: the bytes of its files by path.
    """

    digest: str | None
    lost: str = ""
    files: Mapping[str, int] = field(default_factory=dict)


#: What receipts say by URL of their store and name, each with the stamp of its file: a daemon looks every minute, and
#: reads those alone that have changed.
_read: dict[tuple[str, str], tuple[str, Stored]] = {}


def stored_results(store: Store, names: Sequence[str], folder: str = "") -> dict[str, Stored]:
    """What the store has of these assets, or of these partitions of one; what it has no receipt of is left out.

    Args:
        store: has the receipts.
        names: of assets without partitions; or partitions of one.
        folder: name of the asset whose partitions they are.
    """
    stamps = store.stamps(f"{RECEIPTS}/{folder}" if folder else RECEIPTS)
    there = {
        name: (f"{folder}/{name}" if folder else name, stamps[f"{name}.json"])
        for name in names
        if f"{name}.json" in stamps
    }

    def read(item: tuple[str, str]) -> Stored:
        return _stored(store, item[0])

    new = [item for item in there.values() if _read.get((store.url, item[0]), ("", None))[0] != item[1]]
    workers = _REQUESTS if store.is_local else _REMOTE_REQUESTS
    for (name, stamp), found in zip(new, ordered(read, new, workers=workers), strict=True):
        _read[store.url, name] = stamp, found
    return {short: _read[store.url, name][1] for short, (name, _) in there.items()}


def _stored(store: Store, name: str) -> Stored:
    try:
        found = read_receipt(store, name)
    except DamagedReceiptError as error:
        return Stored(None, str(error))
    if found is None:  # it was removed a moment ago: the next look sees that
        return Stored(None)
    if isinstance(found, Unfinished):
        return Stored(None, found.reason)
    return Stored(found.digest, files={path: written.size for path, written in found.outputs.items()})


def _receipt_digests(store: Store, asset: str, keys: Sequence[str]) -> dict[str, str]:
    """The digests of an asset's receipts by partition; a partition without a receipt is left out."""
    found = stored_results(store, keys, asset)
    return {key: stored.digest for key, stored in found.items() if stored.digest is not None}


def stored_observation(asset: str, source: Source, store: Store, recipe: Recipe) -> dg.AssetObservation:
    """The observation of `stored_shards` for one sharded asset, as the store stands now."""
    shards = {split: source.shards(split) for split in SPLITS}
    (root,) = stored_roots(store, keys_of_partitions(shards, recipe), [asset])
    version = root.version(None)
    assert version is not None
    return root.observation(version)


def log_stored_shards(context: dg.AssetExecutionContext) -> None:
    """Log `stored_shards` of the asset of a run that has ended, so that what is made of it next counts as of now.

    Where it cannot be told now, the sensor `observe_roots` tells it later.
    """
    asset = context.asset_key.to_user_string()
    if asset not in SHARDED:
        return
    platform = context.resources.platform
    try:
        observation = stored_observation(asset, platform.open_source(), platform.open_store(), platform.load_recipe())
    except GlrError as error:
        context.log.warning(f"stored_shards of {asset}: {describe(error)}")
        return
    context.log_event(observation)


RUN_ENDS.append(log_stored_shards)


def reports_of(instance: dg.DagsterInstance, asset: str, roots: Sequence[Root]) -> dict[str | None, Reported]:
    """The last observation of each of these roots of one asset, by partition."""
    partitions = [root.partition for root in roots if root.partition is not None]
    return last_reports(instance, asset, partitions, with_stamps=any(root.keeps_stamp for root in roots))


def _observed(
    roots: Iterable[Root], reported: Mapping[str | None, Reported] = MappingProxyType({})
) -> Iterator[dg.AssetObservation]:
    for root in roots:
        version = root.version(reported.get(root.partition))
        if version is not None:
            yield root.observation(version)


def asked_images(settings: Settings, store: Store, recipe: Recipe) -> Iterator[dg.AssetObservation]:
    """The observations of the images of Open Images that each part asks for, as the annotations stand now."""
    return _observed(found for found in openimages_roots(settings, store, recipe) if found.asset == OPENIMAGES_FILES)


def _node(
    name: str,
    description: str,
    kind: str,
    roots: Callable[[Any, dg.DagsterInstance], Iterable[Root]],
    partitions: dg.PartitionsDefinition | None = None,
) -> Any:
    """An observable source asset; `roots` gives what there is of its platform, this asset's among others."""

    @dg.observable_source_asset(
        name=name,
        group_name=GROUP,
        description=f"{description}\n\nThe sensor `observe_roots` reports its data versions.",
        partitions_def=partitions,
        tags={f"dagster/kind/{kind}": ""},
        metadata=docs_metadata(GROUP),
        required_resource_keys={"platform"},
    )
    def observe(context: dg.OpExecutionContext) -> Any:
        mine = [root for root in roots(context.resources.platform, context.instance) if root.asset == name]
        if partitions is None:
            (root,) = mine
            version = root.version(None)
            assert version is not None
            return dg.ObserveResult(
                data_version=dg.DataVersion(version.version), metadata={STAMP: root.stamp, **version.metadata}
            )
        for observation in _observed(mine, reports_of(context.instance, name, mine)):
            context.log_event(observation)
        # Logged above with metadata, which versions alone do not carry.
        return dg.DataVersionsByPartition({})

    return observe


def _tables_there(platform: Any, _: dg.DagsterInstance) -> list[Root]:
    return table_roots(platform.open_source())


def _shards_there(split: Split) -> Callable[[Any, dg.DagsterInstance], list[Root]]:
    def there(platform: Any, instance: dg.DagsterInstance) -> list[Root]:
        source = platform.open_source()
        registered = instance.get_dynamic_partitions(str(SHARDS[split].name))
        stamps = source.shard_stamps(split)
        require_md5 = platform.load_recipe().images.require_md5
        return shard_roots(source, platform.open_store(), split, stamps, registered, require_md5)

    return there


def _openimages_there(platform: Any, _: dg.DagsterInstance) -> list[Root]:
    return openimages_roots(platform.settings(), platform.open_store(), platform.load_recipe())


def _stored_there(platform: Any, _: dg.DagsterInstance) -> list[Root]:
    source = platform.open_source()
    shards = {split: source.shards(split) for split in SPLITS}
    return stored_roots(platform.open_store(), keys_of_partitions(shards, platform.load_recipe()))


def _nodes() -> Iterator[Any]:
    for name, path in TABLE_PATHS.items():
        text = f"`{path}` of the source, with the columns {', '.join(TABLE_COLUMNS[name])}."
        yield _node(table_node(name), text, "csv", _tables_there)
    for split, partitions in SHARDS.items():
        text = f"The {split} shards of the source, each by its published MD5."
        yield _node(shards_node(split), text, "tar", _shards_there(split), partitions)
    for asset, files in openimages_tables().items():
        text = f"A file of Open Images: {' or '.join(f'`{file}`' for file in files)}."
        yield _node(asset, text, "csv", _openimages_there)
    yield _node(
        OPENIMAGES_FILES,
        f"The images of Open Images that each part of `{OPENIMAGES_ASSET}` asks for, by their sizes in a local root.",
        "jpeg",
        _openimages_there,
        OPENIMAGES_PARTS,
    )
    yield _node(
        STORED_SHARDS,
        "For each sharded asset the receipts of all its shards, so that what reads them all is unsynced by any change.",
        "file",
        _stored_there,
        dg.StaticPartitionsDefinition(sorted(SHARDED)),
    )


with warnings.catch_warnings():
    # Observable source assets are in beta; tests characterize what is used of them.
    warnings.simplefilter("ignore", dg.BetaWarning)
    #: The roots of the lineage that stand for files of the source, of Open Images and of the store.
    NODES: Final = list(_nodes())
