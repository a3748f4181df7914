"""`glr demo`: the whole lineage in one process, and a report of what came out."""

from __future__ import annotations

import time
from collections.abc import Collection
from typing import Any

from pydantic import BaseModel
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from glr_assets.defs.lineage import Progress as LineageProgress
from glr_assets.defs.lineage import Step, materialise_lineage, open_instance
from glr_assets.defs.process_locks import fail_lost_runs
from glr_assets.dev import dagster_home, prepared_home
from glr_assets.evaluation.report import REPORT
from glr_assets.images.schemas import IMAGE_CATALOG
from glr_assets.ledger.account import account_lines, image_account
from glr_assets.packing.pack import read_summary, summary_lines
from glr_assets.receipts import need_receipt
from glr_assets.retrieval.submission import RETRIEVAL_SUBMISSION, SUBMISSION
from glr_assets.settings import Settings
from glr_assets.source.layout import SPLITS
from glr_assets.store import Store


class ImageCounts(BaseModel):
    """Images at each stage: those that dedupe, filling and cleaning keep, and those that train."""

    seen: int
    stored: int
    corrupt: int
    deduped: int
    extra: int
    cleaned: int
    train: int
    index: int
    test: int


class Control(BaseModel):
    """What a control scores on the same queries."""

    gap: float
    gap_landmarks_only: float
    top1: float
    map100: float | None


class DemoReport(BaseModel):
    """What a demo made: scores (None where no query can be scored), images, seconds.

    `seconds` are of each asset that was run; an asset that was up to date has none. `took` is the whole of it, with
    what Dagster and the comparison of finished work took.

    `with_picture` are the scores of the queries whose picture is stored, where some are not: the others count as
    answered wrong. `unscored` says why there are no scores, or which Usage of the queries is left out of them; empty
    where all count.
    `account` tells what became of every image of train and test, `packed` what `glr pack` made of the files it saw, and
    `held_out` how many of the photographs that train a validation split holds out meanwhile.
    """

    unscored: str
    gap: float | None
    gap_landmarks_only: float | None
    map100: float | None
    top1: float | None
    controls: dict[str, Control]
    with_picture: dict[str, float | None] | None
    images: ImageCounts
    account: dict[str, dict[str, int]]
    packed: dict[str, Any] | None
    held_out: int
    seconds: dict[str, float]
    took: float
    source: str
    store: str
    recipe: str


def run_demo(settings: Settings, console: Console, force: Collection[str] = ()) -> DemoReport:
    """Materialise the whole lineage with progress on `console`, and report.

    Args:
        settings: source, store and recipe.
        console: told of the work.
        force: assets that are made again though they are done.

    Raises:
        GlrError: a setting, the source or an asset stands in the way; the text says which and what to do.
    """
    recipe, store = settings.load_recipe(), settings.open_store()
    source = settings.open_source()
    home = dagster_home(settings)
    with (
        open_instance(prepared_home(home) if home else None) as instance,
        Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
        ) as bar,
    ):
        task = bar.add_task("lineage", total=None)

        def begins(step: Step) -> None:
            shards = f" ({step.partitions} shards)" if step.partitions else ""
            bar.update(task, description=f"{step.asset}{shards}", completed=step.number - 1, total=step.of)

        def ends(step: Step, seconds: float, warnings: list[str]) -> None:
            console.print(f"{seconds:8.1f} s  {step.asset}", markup=False)
            for warning in warnings:
                console.print(f"{'':12}{warning}", markup=False)

        def skipped(assets: list[str]) -> None:
            count = "1 asset is" if len(assets) == 1 else f"{len(assets)} assets are"
            console.print(f"{count} up to date", markup=False)

        lost = fail_lost_runs(instance)
        if lost:
            runs = f"{len(lost)} unfinished run{'s' if len(lost) > 1 else ''}"
            console.print(f"marked as failed: {runs} of a killed process", markup=False)
        began = time.monotonic()
        progress = LineageProgress(begins, ends, skipped)
        seconds = materialise_lineage(settings, instance, progress, force=force, asked_by="glr demo")
        took = time.monotonic() - began
    packed = read_summary(Store(source.url, settings.source_options)) if "://" not in source.url else None
    return _report(store, seconds, round(took, 3), source.url, recipe.name, packed)


def _report(
    store: Store, seconds: dict[str, float], took: float, source: str, recipe: str, packed: dict[str, Any] | None
) -> DemoReport:
    scores = store.read_json(REPORT)
    catalog, deduped, extra, train, cleaned = (
        need_receipt(store, name).summary
        for name in ("image_catalog", "deduped_manifest", "train_extra", "train_manifest", "cleaned_manifest")
    )

    def total(status: str) -> int:
        return sum(int(catalog[f"{split}_{status}"] or 0) for split in SPLITS)

    images = ImageCounts(
        seen=int(catalog["rows"] or 0),
        stored=total("stored"),
        corrupt=total("failed"),
        deduped=int(deduped["kept"] or 0),
        extra=int(extra["kept"] or 0),
        cleaned=int(cleaned["kept"] or 0),
        train=int(train["rows"] or 0),
        index=int(catalog["index_stored"] or 0),
        test=int(catalog["test_stored"] or 0),
    )
    left_out = need_receipt(store, "evaluation").summary
    return DemoReport(
        unscored=str(left_out.get("reason") or left_out.get("left_out") or ""),
        **{key: scores.get(key) for key in ("gap", "gap_landmarks_only", "map100", "top1")},
        controls=scores.get("controls", {}),
        with_picture=scores.get("with_picture"),
        images=images,
        account=image_account(store),
        packed=packed,
        held_out=int(need_receipt(store, "embedder").summary.get("held_out") or 0),
        seconds=seconds,
        took=took,
        source=source,
        store=store.url,
        recipe=recipe,
    )


def shown(report: DemoReport) -> str:
    """The report for a terminal."""
    images = report.images
    lines = [
        "",
        f"source   {report.source}   recipe {report.recipe}",
        f"images   {images.seen} seen, {images.stored} stored, {images.corrupt} corrupt",
        *([f"         corrupt: status `failed` in {IMAGE_CATALOG.path}; `glr why ID`"] if images.corrupt else ()),
        f"train    {images.deduped} of the competition's set kept + {images.extra} extras = {images.train}",
        f"cleaned  {images.cleaned} of them verified by another photograph of their landmark",
        f"search   {images.index} index images, {images.test} test images",
        "",
        *(summary_lines(report.packed) if report.packed else ()),
        *account_lines(report.account, report.held_out),
        "",
    ]
    if report.gap is None:
        lines.append(f"scores   none: {report.unscored}")
    else:
        lines.append(f"{'':20}{'GAP':>8}{'GAP landmarks':>16}{'top-1':>8}{'mAP@100':>10}")
        figures = ("gap", "gap_landmarks_only", "top1", "map100")
        rows: dict[str, tuple[float | None, ...]] = {"embedder": tuple(getattr(report, name) for name in figures)}
        if report.with_picture:
            rows["  with a picture"] = tuple(report.with_picture[name] for name in figures)
        rows |= {
            name: (control.gap, control.gap_landmarks_only, control.top1, control.map100)
            for name, control in report.controls.items()
        }
        for name, (gap, landmarks, top1, map100) in rows.items():
            cells = [f"{value:.3f}" if value is not None else "-" for value in (gap, landmarks, top1, map100)]
            lines.append(f"{name:20}{cells[0]:>8}{cells[1]:>16}{cells[2]:>8}{cells[3]:>10}")
        if report.unscored:
            lines += ["", report.unscored]
    lines += [
        "",
        f"took     {report.took:.0f} s",
        f"store    {report.store}",
        f"         {SUBMISSION}, {RETRIEVAL_SUBMISSION}, {REPORT}",
        "         manifests/train_manifest.parquet, models/, index/, pictures in reports/",
        "",
    ]
    return "\n".join(lines)
