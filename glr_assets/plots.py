"""Pictures for people: small PNG charts and JPEG galleries, the same bytes for the same input.

What belongs here: drawing from arrays. What is worth drawing is each stage's own choice.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageOps

from glr_assets.fonts import Lettering, chart_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_INK, _PAPER, _RIGHT, _WRONG = "#22303c", "#ffffff", "#1b7f4d", "#b3261e"
_COLOURS = ("#2166ac", "#d6604d", "#4dac26", "#7b3294")


def _chart(width: float = 7.0, height: float = 3.6) -> tuple[Any, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _legend(axes: Axes) -> None:
    """A legend above the chart, where it covers nothing, if something is drawn that has a name."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize="small")


def _png(figure: Any) -> bytes:
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def class_histogram(sizes: Mapping[str, npt.NDArray[np.int64]]) -> bytes:
    """PNG: classes by images a class, on a logarithmic scale, one outline a named set of class sizes."""
    figure, axes = _chart()
    largest = max((int(values.max(initial=1)) for values in sizes.values()), default=1)
    edges = np.unique(np.geomspace(1, largest + 1, 30).astype(int))
    edges = edges if len(edges) > 1 else np.array([1, 2])
    for (name, values), colour in zip(sizes.items(), _COLOURS, strict=False):
        label = f"{name}: {len(values):,} classes, {int(values.sum()):,} images"
        axes.hist(values, bins=edges.tolist(), histtype="step", linewidth=1.8, label=label, color=colour)
    axes.set(xscale="log", xlabel="images a class", ylabel="classes")
    _legend(axes)
    return _png(figure)


def fill_curves(
    thresholds: npt.NDArray[np.int64],
    potential: npt.NDArray[np.int64],
    supply: npt.NDArray[np.int64],
    marked: int,
) -> bytes:
    """PNG: images it takes to fill every class, and images there are for it, by threshold.

    The legend tells both at the `marked` threshold, where it is one of the thresholds.
    """
    figure, axes = _chart()
    at = np.flatnonzero(thresholds == marked)
    for values, colour, name in (
        (potential, _COLOURS[1], "to fill every class"),
        (supply, _COLOURS[0], "that the full dataset has"),
    ):
        told = f": {int(values[at[0]]):,}" if len(at) else ""
        axes.plot(thresholds, values, color=colour, label=name + told)
    axes.fill_between(thresholds, supply, potential, color=_COLOURS[1], alpha=0.12)
    axes.axvline(marked, color=_INK, linestyle="--", linewidth=1, label=f"this recipe: {marked}")
    axes.set(xlabel="fill threshold, images a class", ylabel="extra images", xlim=(0, int(thresholds.max(initial=1))))
    _legend(axes)
    return _png(figure)


def curves(
    series: Mapping[str, Sequence[float]],
    xlabel: str,
    ylabel: str,
    shares: Mapping[str, Sequence[float]] | None = None,
    shares_label: str = "share",
) -> bytes:
    """PNG: each named series against the numbers from 1; what is not a number is passed over.

    Args:
        series: on the left axis.
        xlabel: what the numbers count.
        ylabel: of the left axis.
        shares: on a right axis from 0 to 1; those without any number are left out.
        shares_label: of the right axis.
    """
    figure, axes = _chart()
    axes.set(xlabel=xlabel, ylabel=ylabel)
    drawn = [(axes, name, values) for name, values in series.items()]
    known = {name: values for name, values in (shares or {}).items() if not np.isnan(values).all()}
    if known:
        right = axes.twinx()
        right.set(ylabel=shares_label, ylim=(0, 1))
        right.spines["top"].set_visible(False)
        drawn += [(right, name, values) for name, values in known.items()]
    lines = []
    for (on, name, values), colour in zip(drawn, _COLOURS, strict=False):
        y = np.asarray(values, np.float64)
        at = np.flatnonzero(~np.isnan(y))
        # Points that stand alone, or far apart, would not be seen as a line.
        marker = "o" if len(at) <= 30 else ""
        lines += on.plot(at + 1, y[at], label=name, color=colour, marker=marker, markersize=3)
    if lines:
        axes.legend(
            handles=lines, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, frameon=False, fontsize="small"
        )
    return _png(figure)


def lines(
    series: Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]], xlabel: str, ylabel: str
) -> bytes:
    """PNG: named lines through points x [n], y [n], both axes from 0 to 1."""
    figure, axes = _chart()
    for (name, (x, y)), colour in zip(series.items(), _COLOURS, strict=False):
        axes.plot(x, y, label=name, color=colour)
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1.02))
    _legend(axes)
    return _png(figure)


def bars(values: Mapping[str, Mapping[str, float]], ylabel: str) -> bytes:
    """PNG: grouped bars, `{group: {bar: value}}`; a bar that a group lacks leaves its place empty."""
    figure, axes = _chart()
    names = list(dict.fromkeys(bar for group in values.values() for bar in group))
    width = 0.8 / max(len(names), 1)
    for number, name in enumerate(names):
        heights = [group.get(name, 0.0) for group in values.values()]
        places = np.arange(len(values)) + (number - (len(names) - 1) / 2) * width
        drawn = axes.bar(places, heights, width, label=name, color=_COLOURS[number % len(_COLOURS)])
        labels = [f"{group[name]:.3f}" if name in group else "" for group in values.values()]
        axes.bar_label(drawn, labels, fontsize=7)
    axes.set_xticks(np.arange(len(values)), list(values))
    axes.set_ylabel(ylabel)
    _legend(axes)
    return _png(figure)


def confusion(counts: npt.NDArray[np.int64], rows: Sequence[str], columns: Sequence[str]) -> bytes:
    """PNG: how often what a row shows was taken for what a column names; the darker, the larger its share of the row.

    Args:
        counts: [rows, columns].
        rows: what is shown.
        columns: what is answered; where it is named as the row, the answer is right.
    """
    figure, axes = _chart(3.0 + 0.48 * max(len(columns), 4), 1.9 + 0.3 * max(len(rows), 4))
    axes.grid(visible=False)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for row, name in enumerate(rows):
        for column, answer in enumerate(columns):
            if not counts[row, column]:
                continue
            right = name == answer
            box = (column - 0.5, row - 0.5)
            colour = _RIGHT if right else _WRONG
            share = float(shares[row, column])
            axes.add_patch(_rectangle(box, colour, 0.15 + 0.75 * share))
            ink = _PAPER if share > 0.45 else _INK
            axes.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=7, color=ink)
    axes.set_xticks(np.arange(len(columns)), [""] * len(columns), rotation=40, ha="right", fontsize=7)
    axes.set_yticks(np.arange(len(rows)), [""] * len(rows), fontsize=7)
    _name_ticks(axes.xaxis, columns)
    _name_ticks(axes.yaxis, rows)
    right_edge, below = max(len(columns), 1) - 0.5, max(len(rows), 1) - 0.5
    axes.set(xlabel="answered", ylabel="shown", xlim=(-0.5, right_edge), ylim=(below, -0.5))
    return _png(figure)


def _rectangle(corner: tuple[float, float], colour: str, alpha: float) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle(corner, 1, 1, facecolor=colour, alpha=alpha, linewidth=0)


def shares(values: Sequence[tuple[str, float, str]], xlabel: str) -> bytes:
    """PNG: lying bars from 0 to 1, one below the other.

    Args:
        values: of each its name, its share and what is told behind it.
        xlabel: what the share is of.
    """
    figure, axes = _chart(height=1.0 + 0.22 * max(len(values), 4))
    at = np.arange(len(values))
    drawn = axes.barh(at, [share for _, share, _ in values], color=_COLOURS[0])
    axes.bar_label(drawn, [told for *_, told in values], fontsize=7, padding=3)
    axes.set_yticks(at, [""] * len(values), fontsize=7)
    _name_ticks(axes.yaxis, [name for name, *_ in values])
    axes.set(xlabel=xlabel, xlim=(0, 1.25), ylim=(max(len(values), 1) - 0.5, -0.5))
    axes.set_xticks(np.linspace(0, 1, 6))
    return _png(figure)


def _name_ticks(axis: Any, names: Sequence[str]) -> None:
    """Name the ticks of an axis, which has one for each name, each by the fonts that have its letters."""
    texts, families = zip(*(chart_text(_shortened(name)) for name in names), strict=True) if names else ((), ())
    axis.set_ticklabels(texts)
    for label, family in zip(axis.get_ticklabels(), families, strict=True):
        label.set_fontfamily(family)


def _shortened(name: str, most: int = 28) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"


def groups_of_images(
    names: Sequence[str], landmarks: npt.NDArray[np.int64], images: Mapping[str, npt.NDArray[np.int64]]
) -> bytes:
    """PNG: landmarks a group above, and below its images by what they are for, one upon the other.

    Args:
        names: [groups] told under the bars.
        landmarks: [groups].
        images: [groups] by what they are for.
    """
    figure, _ = _chart(height=4.6)
    figure.clear()
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(1, 2))
    at = np.arange(len(names))
    above.bar_label(above.bar(at, landmarks, color=_INK), fontsize=7)
    above.set_ylabel("landmarks")
    bottom = np.zeros(len(names), np.int64)
    for (name, counts), colour in zip(images.items(), _COLOURS, strict=False):
        below.bar(at, counts, bottom=bottom, color=colour, label=f"{name}: {int(counts.sum()):,}")
        bottom = bottom + counts
    below.set_xticks(at, list(names), fontsize=7)
    below.set(xlabel="group, and its images a landmark", ylabel="images")
    for axes in (above, below):
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(below)
    return _png(figure)


def reliability(found: Mapping[str, tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]], bins: int = 10) -> bytes:
    """PNG: share of answers that are right by their confidence, the larger a point the more answers it stands for.

    Args:
        found: confidence in 0…1 and whether the answer is right, [n] each, by name.
        bins: equal ranges of confidence that answers are put together in.
    """
    figure, axes = _chart(height=4.2)
    axes.plot([0, 1], [0, 1], color=_INK, linestyle="--", linewidth=1, label="as sure as right")
    for (name, (confidence, right)), colour in zip(found.items(), _COLOURS, strict=False):
        number = np.minimum((confidence * bins).astype(np.int64), bins - 1)
        counts = np.bincount(number, minlength=bins)
        filled = counts > 0
        x, y = (np.bincount(number, values, bins)[filled] / counts[filled] for values in (confidence, right))
        axes.plot(x, y, color=colour, linewidth=1)
        axes.scatter(x, y, s=10 + 200 * counts[filled] / max(counts.sum(), 1), color=colour, alpha=0.6, label=name)
    axes.set(xlabel="confidence", ylabel="share right", xlim=(0, 1), ylim=(0, 1))
    _legend(axes)
    return _png(figure)


def steps_over_points(
    x: npt.NDArray[np.int64],
    y: npt.NDArray[np.int64],
    name: str,
    starts: npt.NDArray[np.int64],
    levels: Mapping[str, npt.NDArray[np.int64]],
    labels: tuple[str, str],
) -> bytes:
    """PNG: points, the more of them at a place the larger, and staircases of levels over them.

    Args:
        x: [n] whole numbers.
        y: [n] whole numbers.
        name: of the points.
        starts: [steps] where each step begins.
        levels: [steps] the height of each step, by the name of the staircase.
        labels: of the axes.
    """
    figure, axes = _chart()
    places, counts = np.unique(np.stack([x, y]), axis=1, return_counts=True)
    sizes = 6 + 8 * np.log10(counts)
    axes.scatter(places[0], places[1], s=sizes, color=_COLOURS[0], alpha=0.5, linewidths=0, label=name)
    right = max(int(x.max(initial=0)), int(starts.max(initial=0))) + 1
    for (staircase, heights), colour in zip(levels.items(), _COLOURS[1:], strict=False):
        axes.step([*starts, right], [*heights, *heights[-1:]], where="post", color=colour, label=staircase)
    axes.set(xlabel=labels[0], ylabel=labels[1], ylim=(0, None))
    _legend(axes)
    return _png(figure)


@dataclass(frozen=True, eq=False)
class Matched:
    """Two images side by side with lines between the places that match.

    Attributes:
        first: an encoded image.
        second: the other.
        places: [n, 4] x, y in the first image and x, y in the second, in their pixels.
        caption: told under them.
        right: whether it is marked right or wrong.
    """

    first: bytes
    second: bytes
    places: npt.NDArray[np.float32]
    caption: str
    right: bool | None = None


def matched_pairs(pairs: Sequence[Matched], height: int = 180, quality: int = 60) -> bytes:
    """JPEG: pairs of images below each other, `height` pixels each, with lines between the places that match."""
    strips = [_strip(pair, height, Lettering(10)) for pair in pairs]
    width = max((strip.width for strip in strips), default=height)
    sheet = Image.new("RGB", (width, max(sum(strip.height for strip in strips), 1)), _PAPER)
    top = 0
    for strip in strips:
        sheet.paste(strip, (0, top))
        top += strip.height
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def _strip(pair: Matched, height: int, lettering: Lettering) -> Image.Image:
    gap, caption_height = 6, 18
    images, scales = [], []
    for encoded in (pair.first, pair.second):
        with Image.open(io.BytesIO(encoded)) as image:
            scales.append(height / image.height)
            size = (max(round(image.width * scales[-1]), 1), height)
            images.append(image.convert("RGB").resize(size, Image.Resampling.BILINEAR))
    left = images[0].width + gap
    strip = Image.new("RGB", (left + images[1].width, height + caption_height), _PAPER)
    strip.paste(images[0], (0, 0))
    strip.paste(images[1], (left, 0))
    draw = ImageDraw.Draw(strip)
    colour = _INK if pair.right is None else _RIGHT if pair.right else _WRONG
    for x, y, other_x, other_y in pair.places.tolist():
        draw.line((x * scales[0], y * scales[0], left + other_x * scales[1], other_y * scales[1]), fill=colour, width=1)
    lettering.draw(draw, (2, height + 2), lettering.fitted(pair.caption, strip.width - 4), colour)
    return strip


@dataclass(frozen=True)
class Thumbnail:
    """One picture of a gallery: an encoded image, a caption, and whether it is marked right or wrong."""

    image: bytes
    caption: str
    right: bool | None = None


def gallery(rows: Sequence[Sequence[Thumbnail]], side: int = 96, quality: int = 60) -> bytes:
    """JPEG: rows of thumbnails, `side` pixels each, with captions under them."""
    lettering = Lettering(9)
    caption_height, gap = 24, 4
    columns = max((len(row) for row in rows), default=1)
    sheet = Image.new(
        "RGB",
        (columns * (side + gap) + gap, max(len(rows), 1) * (side + caption_height + gap) + gap),
        _PAPER,
    )
    draw = ImageDraw.Draw(sheet)
    for down, row in enumerate(rows):
        for across, item in enumerate(row):
            left, top = gap + across * (side + gap), gap + down * (side + caption_height + gap)
            with Image.open(io.BytesIO(item.image)) as image:
                small = ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BILINEAR)
            if item.right is not None:
                small = ImageOps.expand(small.crop((3, 3, side - 3, side - 3)), 3, _RIGHT if item.right else _WRONG)
            sheet.paste(small, (left, top))
            for line, text in enumerate(item.caption.split("\n")[:2]):
                lettering.draw(draw, (left, top + side + 1 + line * 11), lettering.fitted(text, side), _INK)
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()
