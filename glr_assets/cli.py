"""The `glr` command: what Dagster's own commands do not do."""

from __future__ import annotations

import errno
import json
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn

import typer
from rich.console import Console

from glr_assets.errors import GlrError, StoreError, describe, trace
from glr_assets.interrupts import Interrupted, raising_interrupts
from glr_assets.locations import local_path
from glr_assets.standard_output import OutputError, telling_output_errors

if TYPE_CHECKING:
    from rich.progress import Progress

    from glr_assets.images.retry import SplitState
    from glr_assets.integrity import Progress as HashingProgress
    from glr_assets.receipts import Made
    from glr_assets.source.base import Split

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
shards = typer.Typer(help="The source's shards as partitions of the Dagster instance.", no_args_is_help=True)
app.add_typer(shards, name="shards")
out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)

SourceOption = Annotated[str | None, typer.Option(help="Source bucket, in place of GLR_SOURCE.")]
StoreOption = Annotated[str | None, typer.Option(help="Root of everything written, in place of GLR_STORE.")]
#: Seconds between two lines on work that goes on, where no bar can be shown.
_LINE_SECONDS = 10.0
JsonFileOption = Annotated[
    Path | None,
    typer.Option("--json", parser=local_path, metavar="FILE", help="Also write the result to this file as JSON."),
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        out.print(f"glr {version('glr-assets')}", markup=False)
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """From a bucket of landmark photographs to a recogniser. Assets: `dagster dev`; settings: GLR_… variables."""


@app.command()
def demo(
    source: SourceOption = None,
    store: StoreOption = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="Recipe name or path, in place of GLR_RECIPE. A demo without one is small: full wants a GPU."
        ),
    ] = None,
    force: Annotated[
        list[str] | None, typer.Option(help="Make this asset again though it is done; may be given several times.")
    ] = None,
    json_file: JsonFileOption = None,
) -> None:
    """Materialise the whole lineage in this process, then say what was made, how good it is and where it lies."""
    from glr_assets.demo import run_demo, shown
    from glr_assets.settings import Settings

    # Read when torch is loaded. Threads that spin while they wait train 10 % faster on idle cores, and take
    # half as long again where another process wants one of two.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    settings = Settings.from_environment(source=source, store=store, recipe=recipe)
    if source is not None and settings.default_recipe == "full":
        settings = settings.model_copy(update={"recipe": "small"})
    _warn(settings.conflicts())
    if json_file is not None:
        _writable(json_file)
    report = run_demo(settings, err, force or ())
    out.print(shown(report), end="")
    if json_file is not None:
        _write_json(json_file, report.model_dump_json(indent=2))


def _warn(texts: Sequence[str]) -> None:
    for text in texts:
        err.print(f"warning: {text}", markup=False)


@app.command()
def dev(
    store: StoreOption = None,
    source: SourceOption = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe name or path, in place of GLR_RECIPE.")] = None,
    host: Annotated[str, typer.Option(help="Where the UI listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port.")] = 3000,
) -> None:
    """Open the Dagster UI over a store, with the runs that made it and the source and recipe that it remembers."""
    from glr_assets.defs.process_locks import fail_lost_runs_of
    from glr_assets.dev import dagster_home, dev_command, dev_environment, prepared_home
    from glr_assets.settings import Settings

    settings = Settings.from_environment(source=source, store=store, recipe=recipe)
    _warn(settings.conflicts())
    now = settings.resolved
    home = dagster_home(settings)
    if home is None:
        raise GlrError(f"DAGSTER_HOME is not set: {settings.store} is remote; set it to a folder of this machine")
    command = dev_command(prepared_home(home), host, port)
    fail_lost_runs_of(home)
    err.print(
        f"store   {settings.store}\nsource  {now.source or 'the built-in sample'}   recipe {now.recipe}", markup=False
    )
    err.print(f"runs    {home}\n\nhttp://{host}:{port}", markup=False)
    os.execve(command[0], command, dev_environment(settings, home))


@app.command()
def sample(
    bucket: Annotated[str, typer.Argument(help="Folder or URL to write the bucket to.")],
    seed: Annotated[int, typer.Option(help="Another seed renders other landmarks.")] = 0,
) -> None:
    """Write the embedded sample: rendered landmarks in GLDv2's shape, and in its openimages/ labelled boxes."""
    from dataclasses import asdict

    from glr_assets.openimages.sample import write_openimages_sample
    from glr_assets.source.bucket_writer import BESIDE
    from glr_assets.source.sample import write_sample
    from glr_assets.store import Store

    target = Store(bucket)
    beside = Store(f"{target.url}/{BESIDE}")
    with target.synced_at_end(), beside.synced_at_end():
        summary = write_sample(target, seed=seed)
        write_openimages_sample(beside, seed=seed)
    for name, value in asdict(summary).items():
        shown = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
        out.print(f"{name.replace('_', ' '):>15}  {shown}", markup=False)
    out.print(f"\nglr demo --source {shlex.quote(bucket)}", markup=False)


@app.command()
def pack(
    photos: Annotated[
        Path,
        typer.Argument(parser=local_path, metavar="PHOTOS", help="Folder with one folder of photographs a landmark."),
    ],
    bucket: Annotated[str, typer.Argument(help="Folder or URL to write the bucket to.")],
    non_landmarks: Annotated[
        Path | None,
        typer.Option(parser=local_path, metavar="FOLDER", help="Folder of photographs that show no landmark."),
    ] = None,
    credits: Annotated[
        Path | None,
        typer.Option(
            parser=local_path,
            metavar="CSV",
            help="CSV of rights: path (of a photograph or folder), author, license, title, url.",
        ),
    ] = None,
    shards: Annotated[int, typer.Option(min=1, max=1000, help="Shards a split.")] = 4,
    test_fraction: Annotated[float, typer.Option(help="Chance of a photograph to be a test query.")] = 0.3,
    clean_fraction: Annotated[
        float, typer.Option(help="Share of the train photographs in the competition's set; the rest is for filling.")
    ] = 1.0,
    index_fraction: Annotated[
        float, typer.Option(help="Share of the train photographs held out for the index; 0: the index repeats them.")
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Another seed splits otherwise.")] = 0,
) -> None:
    """Turn folders of photographs into a bucket of GLDv2's shape, a source like any other."""
    from dataclasses import asdict

    from glr_assets.packing.pack import FILES, summary_lines
    from glr_assets.packing.pack import pack as pack_photos
    from glr_assets.store import Store

    with _bar() as bar:
        task = bar.add_task("looking at files", total=None)
        summary = pack_photos(
            photos,
            Store(bucket),
            non_landmarks=non_landmarks,
            credits_file=credits,
            shards=shards,
            test_fraction=test_fraction,
            clean_fraction=clean_fraction,
            index_fraction=index_fraction,
            seed=seed,
            warn=lambda text: err.print(f"warning: {text}", markup=False),
            progress=lambda done, of: bar.update(task, completed=done, total=of),
        )
    for line in summary_lines(asdict(summary)):
        out.print(line, markup=False)
    out.print(f"\n{bucket.rstrip('/')}/{FILES} has a row for every file\n", markup=False)
    out.print(f"glr demo --source {shlex.quote(bucket)}", markup=False)


@app.command()
def plan(
    recipe: Annotated[str | None, typer.Option(help="Recipe name or path, in place of GLR_RECIPE.")] = None,
    source: SourceOption = None,
    store: StoreOption = None,
    check_bytes: Annotated[
        bool, typer.Option("--check-bytes", help="Hash small files of finished work as a run does, not only sizes.")
    ] = False,
    json_file: JsonFileOption = None,
) -> None:
    """Say what runs would make again by a recipe or from a source: causes, bytes to fetch, time of past runs.

    Nothing is run or written. Times come from the runs of the instance of DAGSTER_HOME, or else of the store's, and
    from the run records in the store.
    """
    from contextlib import nullcontext

    from glr_assets.defs.lineage import open_instance
    from glr_assets.defs.plan import plan_changes, plan_text
    from glr_assets.dev import CONFIG, dagster_home
    from glr_assets.settings import Settings

    settings = Settings.from_environment(source=source, store=store, recipe=recipe)
    if json_file is not None:
        _writable(json_file)
    home = dagster_home(settings)
    there = home is not None and (home / CONFIG).is_file()
    with open_instance(home) if there else nullcontext() as instance:
        found = plan_changes(settings, instance, check_bytes=check_bytes)
    out.print(plan_text(found), markup=False)
    if json_file is not None:
        _write_json(json_file, found.model_dump_json(indent=2))


@shards.command("sync")
def shards_sync(source: SourceOption = None, store: StoreOption = None) -> None:
    """List the source and register its shards, the recipe's class buckets and groups, as partitions.

    Changed files of the source and changed values of the recipe are reported, so that the UI shows what they concern.
    All this is in the instance of DAGSTER_HOME, or else in that of the store.
    """
    from glr_assets.defs.automation.roots import sync_roots
    from glr_assets.defs.lineage import open_instance
    from glr_assets.defs.shards import counted_parts
    from glr_assets.dev import dagster_home, prepared_home
    from glr_assets.settings import Settings

    settings = Settings.from_environment(source=source, store=store)
    home = dagster_home(settings)
    if home is None:
        raise GlrError(
            "DAGSTER_HOME is not set: partitions would be registered nowhere; set it to the instance's folder"
        )
    recipe = settings.load_recipe()
    settings.open_source()
    with open_instance(prepared_home(home)) as instance:
        synced = sync_roots(settings, instance)
        for split, keys in synced.added.items():
            total = len(instance.get_dynamic_partitions(f"{split}_shards"))
            out.print(f"{split}: {len(keys)} added, {total} registered", markup=False)
        for partitions, parts in counted_parts(recipe):
            out.print(f"{str(partitions.name).replace('_', ' ')}: {len(parts)} registered", markup=False)
        out.print(f"{synced.observations} changes reported", markup=False)
        for problem in synced.problems:
            err.print(f"warning: {problem}", markup=False)


@shards.command("retry")
def shards_retry(
    split: Annotated[Literal["train", "index", "test"] | None, typer.Option(help="Only this split.")] = None,
    source: SourceOption = None,
    store: StoreOption = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe name or path, in place of GLR_RECIPE.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be tried again.")] = False,
) -> None:
    """Try again what failed: shards that could not be ingested, and single images of those that were.

    Images are read by their byte ranges; nothing that is well is read or written again. The runs are seen in
    `glr dev`.
    """
    from glr_assets.defs.lineage import open_instance, retry_shards
    from glr_assets.dev import dagster_home, prepared_home
    from glr_assets.images.held import absent_images
    from glr_assets.images.retry import split_state
    from glr_assets.settings import Settings
    from glr_assets.source.layout import SPLITS

    def show(name: Split, title: str) -> SplitState:
        state = split_state(opened, written, name)
        _print_state(title, state)
        if not state.reconciled.missing:
            absent = absent_images(written, name, state.reconciled.ingested, images)
            if absent is not None and absent.count:
                out.print(f"  {absent}", markup=False)
        return state

    settings = Settings.from_environment(source=source, store=store, recipe=recipe)
    _warn(settings.conflicts())
    images = settings.load_recipe().images  # refused now, not when the first shard is tried
    opened, written = settings.open_source(), settings.open_store()
    wrong: list[str] = []
    for name in SPLITS if split is None else (split,):
        state = show(name, name)
        if dry_run or not state.to_retry:
            continue
        home = dagster_home(settings)
        with open_instance(prepared_home(home) if home else None) as instance:
            wrong += retry_shards(settings, instance, name, state.to_retry)
        show(name, f"{name} now")
    if wrong:
        raise GlrError("; ".join(wrong))


def _print_state(name: str, state: SplitState) -> None:
    of = state.reconciled
    out.print(
        f"{name}: {len(of.ingested)} of {len(of.shards)} shards ingested, {len(state.failed)} failed, "
        f"{len(state.untried)} never tried; members: seen {of.seen} = stored {of.stored} + skipped {of.skipped} + "
        f"failed {of.failed}",
        markup=False,
    )
    for shard, reason in sorted(state.failed.items()):
        out.print(f"  shard {shard}: {reason}", markup=False)
    for shard, count in sorted(of.behind_end_mark.items()):
        out.print(f"  shard {shard}: {count} members or other bytes behind its end mark, not stored", markup=False)
    if state.outdated:
        out.print(
            f"  ingested by another version of the code, due again: {', '.join(state.outdated)}; what has not changed "
            "is carried over",
            markup=False,
        )
    if state.with_failed_images:
        out.print(f"  failed images in {', '.join(state.with_failed_images)}", markup=False)


@app.command()
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Assets, or asset/partition; all of the store where none is given.")
    ] = None,
    store: StoreOption = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Remove what is damaged or left over, so that it is made again.")
    ] = False,
    json_file: JsonFileOption = None,
) -> None:
    """Hash every file that a receipt names, and say what is damaged, missing or left over; exit 0 if all is whole.

    What results were made from and what is gone, as after a repair, is named too, with exit 1 until a run makes it.

    A store may be written meanwhile. A repair leaves what a running job holds; the next run makes again what is gone.
    """
    from glr_assets.integrity import verify as verify_store
    from glr_assets.settings import Settings

    if json_file is not None:
        _writable(json_file)
    opened = Settings.from_environment(store=store).open_store()
    with _hashing_progress() as told:
        report = verify_store(opened, names or (), repair=repair, told=told)
    if not report.receipts and not report.problems:
        raise StoreError(f"{opened.url}: nothing has been made there; check --store or GLR_STORE")
    for problem in report.problems:
        out.print(problem.told(), markup=False)
    unmade = sorted({*report.unfinished, *report.needed})
    if unmade:
        out.print(f"not made: {', '.join(unmade)}", markup=False)
    rate = report.bytes / 1e6 / report.seconds if report.seconds else 0.0
    seen = f"{report.files:,} files of {report.receipts:,} receipts, {report.bytes / 1e6:,.1f} MB"
    if not report.whole:
        state = f"{len(report.problems)} not whole"
    elif report.needed:
        state = f"nothing damaged, {len(report.needed)} to be made again by a run"
    else:
        state = "whole"
    out.print(f"{state}: {seen} in {report.seconds:.1f} s ({rate:,.0f} MB/s)", markup=False)
    if json_file is not None:
        _write_json(json_file, report.model_dump_json(indent=2))
    if not report.whole or report.needed:
        raise typer.Exit(1)


@contextmanager
def _hashing_progress() -> Iterator[Callable[[HashingProgress], None]]:
    """Shows how far hashing is: a bar with rate and time left on a terminal, elsewhere a line now and then."""
    if not err.is_terminal:
        last = time.monotonic()

        def line(now: HashingProgress) -> None:
            nonlocal last
            if time.monotonic() - last >= _LINE_SECONDS:
                last = time.monotonic()
                of = f"{now.bytes / 1e6:,.0f} of {now.of_bytes / 1e6:,.0f} MB"
                err.print(f"{now.files:,} of {now.of_files:,} files, {of}", markup=False)

        yield line
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=err, transient=True) as bar:
        task = bar.add_task("hashing", total=None)
        yield lambda now: bar.update(
            task, completed=now.bytes, total=now.of_bytes, description=f"{now.files:,} of {now.of_files:,} files"
        )


@app.command()
def why(
    image: Annotated[str | None, typer.Argument(help="An image's id, file name, path, title or URL.")] = None,
    store: StoreOption = None,
    all_dropped: Annotated[
        bool, typer.Option("--dropped", help="List the images that were planned to train and do not, and why.")
    ] = False,
    landmark: Annotated[
        str | None, typer.Option(help="With --dropped: only of this landmark, its id or a part of its name.")
    ] = None,
    reason: Annotated[str | None, typer.Option(help="With --dropped: only for reasons with these words.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Everything known of one image: where it comes from, each decision with its reason, the sets it ended in."""
    from glr_assets.explain.stories import explain, explanation_lines
    from glr_assets.ledger.why import dropped, dropped_lines
    from glr_assets.packing.left_out import reason_left_out
    from glr_assets.settings import Settings

    settings = Settings.from_environment(store=store)
    opened = settings.open_store()
    if all_dropped == (image is not None):
        raise GlrError("expected an image or --dropped, and not both; for example `glr why IMG_001.jpg`")
    if image is not None and (landmark is not None or reason is not None):
        raise GlrError("--landmark and --reason choose among the images of --dropped; leave them out, or the image")
    if image is None:
        found = dropped(opened, landmark, reason)
        if as_json:
            out.print(json.dumps([one.model_dump() for one in found], indent=2), markup=False)
        else:
            out.print(dropped_lines(found), end="", markup=False)
        return
    try:
        explained = explain(opened, image)
    except GlrError as error:
        reason = reason_left_out(settings.packed_bucket(), image)
        raise GlrError(f"image {image!r}: {reason}") if reason is not None else error from None
    if as_json:
        documents = [one.story.model_dump() | one.model_dump(exclude={"story", "nearest"}) for one in explained]
        out.print(json.dumps(documents, indent=2), markup=False)
    else:
        out.print("\n".join(map(explanation_lines, explained)), end="", markup=False)


@app.command()
def models(
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The embedder's versions in the store, the best first: in what they differ and how good they are."""
    from rich.table import Table

    from glr_assets.evaluation.comparison import FIGURES, compared, label, versions_of
    from glr_assets.settings import Settings

    rows = compared(versions_of(Settings.from_environment(store=store).open_store()))
    if as_json:
        out.print(json.dumps(rows, indent=2), markup=False)
        return
    shown = Table("version", *FIGURES.values(), "images", "differs in", box=None)
    for row in rows:
        figures = ["-" if row[name] is None else f"{row[name]:.3f}" for name in FIGURES]
        differs = "\n".join(f"{key} = {value}" for key, value in json.loads(row["differences"]).items())
        shown.add_row(label(row), *figures, f"{row['training_images']:,}", differs)
    Console(highlight=False).print(shown)


@app.command()
def score(
    task: Annotated[Literal["recognition", "retrieval"], typer.Argument(help="Which metric: GAP or mAP@100.")],
    submission: Annotated[Path, typer.Option(parser=local_path, metavar="CSV", help="The submission's CSV.")],
    solution: Annotated[Path, typer.Option(parser=local_path, metavar="CSV", help="The solution's CSV.")],
    json_file: JsonFileOption = None,
) -> None:
    """Score a submission by the official metrics; of a store's own, without queries that fits have seen."""
    from dataclasses import asdict

    from glr_assets.evaluation.score import score_retrieval
    from glr_assets.evaluation.scored import score_file

    if json_file is not None:
        _writable(json_file)
    scores: dict[str, Any]
    if task == "recognition":
        found, unscored = score_file(submission, solution)
        scores = asdict(found)
        for part in unscored:
            out.print(part.reason, markup=False)
    else:
        scores, unscored = asdict(score_retrieval(submission, solution)), []
    for name, value in scores.items():
        shown = "-" if value is None else f"{value:.6f}" if isinstance(value, float) else value
        out.print(f"{name:>20}  {shown}", markup=False)
    if json_file is not None:
        left_out = {"left_out": [part.as_json() for part in unscored]} if unscored else {}
        _write_json(json_file, json.dumps(scores | left_out, indent=2))


@app.command()
def export(
    kind: Annotated[Literal["tfrecord", "webdataset", "zip"], typer.Argument(help="What the package is read by.")],
    manifest: Annotated[str, typer.Option(help="Which set: the asset that writes it.")] = "train_manifest",
    to: Annotated[
        str | None, typer.Option(help="Folder or URL of its own; by default in the store's exports/.")
    ] = None,
    order: Annotated[
        Literal["shuffled", "balanced", "id"] | None,
        typer.Option(help="Of the images; balanced spreads each landmark over the whole. By default the recipe's."),
    ] = None,
    images_per_shard: Annotated[
        int | None, typer.Option(help="Images a file, at most. By default the recipe's.")
    ] = None,
    store: StoreOption = None,
    recipe: Annotated[str | None, typer.Option(help="Recipe name or path, in place of GLR_RECIPE.")] = None,
) -> None:
    """Package a manifest's images with landmark, author and licence: TFRecords, webdataset's TARs, or zips.

    A package that was broken off is gone on with; finished files are not written again.
    """
    from glr_assets.exports.export import Progress as ExportProgress
    from glr_assets.exports.export import make_export
    from glr_assets.settings import Settings

    settings = Settings.from_environment(store=store, recipe=recipe)
    given = {"order": order, "images_per_shard": images_per_shard}
    chosen = settings.load_recipe().overridden(
        {"exports": {name: value for name, value in given.items() if value is not None}}
    )
    with _bar() as bar:
        task = bar.add_task(kind, total=None)
        progress = ExportProgress(
            begins=lambda images, files: bar.update(task, total=images, description=f"{kind}: {files} files"),
            through=lambda images: bar.advance(task, images),
        )
        made = make_export(
            settings.open_store(), kind, chosen.exports, chosen.seed, manifest=manifest, to=to, progress=progress
        )
    _print_export(made, to or settings.open_store().full_url(f"exports/{made.receipt.name}"))


@app.command()
def serve(
    host: Annotated[
        str, typer.Option(help="Where to listen; any but this machine's own address needs GLR_SERVE_TOKEN.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port.")] = 8000,
    store: StoreOption = None,
) -> None:
    """Recognise photographs: a page to drop them on, and a JSON API. A new index is taken up while it runs."""
    from glr_assets.serving.security import TOKEN_SETTING
    from glr_assets.serving.server import serve as serve_store
    from glr_assets.settings import Settings

    # As for a demo: threads that spin while they wait take the cores that other requests want.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    settings = Settings.from_environment(store=store)
    try:
        serve_store(settings.open_store(), host, port, os.environ.get(TOKEN_SETTING))
    except Interrupted as stopped:  # its end as it is meant: there is nothing to resume
        err.print(f"stopped by {stopped}", markup=False)
        raise typer.Exit(stopped.exit_status) from None


def _bar() -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=err, transient=True)


def _print_export(made: Made, where: str) -> None:
    of, run = made.receipt.summary, made.run
    told: dict[str, object] = {
        "package": made.receipt.name,
        "images": of["rows"],
        "landmarks": f"{of['landmarks']}, of {of['fewest_images_of_a_landmark']} to "
        f"{of['most_images_of_a_landmark']} images, half of at most {of['median_images_of_a_landmark']}",
        "files": f"{of['files_of_images']}, {int(of['bytes'] or 0) / 1e6:,.1f} MB",
        "no rights known": of["without_author_or_licence"],
        "this run": "done before, nothing to do"
        if made.reused
        else f"{run['files_written']} files of {run['images_written']} images written in {run['seconds']} s, "
        f"{run['files_done_before']} done before",
        "lies in": where,
    }
    for name, value in told.items():
        out.print(f"{name:>15}  {value}", markup=False)


def _writable(path: Path) -> None:
    """Know before the work that its result can be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if path.exists() and not path.is_file() and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if not path.exists() or path.is_file():
            with tempfile.TemporaryFile(dir=path.parent):
                pass
    except OSError as error:
        raise _not_writable(path, error) from error


def _not_writable(path: Path, error: OSError) -> GlrError:
    return GlrError(f"--json {path}: cannot write the output: {_reason(error)}; name another file")


def _reason(error: OSError) -> str:
    text = error.strerror or str(error)
    return text[:1].lower() + text[1:]


def _write_json(path: Path, text: str) -> None:
    """Write the file whole or not at all."""
    from glr_assets.store import Store

    _writable(path)
    if path.exists() and not path.is_file():  # as /dev/stdout
        try:
            path.write_text(f"{text}\n", encoding="utf-8")
        except OSError as error:
            raise _not_writable(path, error) from error
    else:
        Store(str(path.parent)).write(path.name, f"{text}\n".encode())


def main() -> None:
    """Run the command. An error that the user can fix is one line on stderr and exit status 1; a signal, 130 or 143."""
    with raising_interrupts():
        try:
            with telling_output_errors():
                app()
        except GlrError as error:
            _fail(str(error))
        except OutputError as error:
            _fail(f"cannot write the output: {_reason(error)}; make room there, or write it elsewhere")
        except Interrupted as stopped:
            err.print(f"\ninterrupted by {stopped}; run the same command again to resume", markup=False)
            sys.exit(stopped.exit_status)
        except Exception as error:  # noqa: BLE001 - shown without secrets
            err.print(trace(error), markup=False)
            _fail(f"unforeseen: {describe(error)}; this is a fault of glr_assets: please report the lines above")


def _fail(text: str) -> NoReturn:
    err.print(f"error: {text}", markup=False)
    sys.exit(1)
