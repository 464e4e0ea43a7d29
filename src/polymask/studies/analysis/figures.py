"""Figures of a data set, written as PNG files like those of `polymask.reporting.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, PercentFormatter, StrMethodFormatter

from polymask.reporting.figures import COLOURS, empty_figure, plain_text, write_figure

_MOST_BARS = 60  # more names than this are no longer read
_NAME_LETTERS = 40
_NUM_BINS = 41  # odd, so that a single value stands in the middle
_NAMED_SIZES = 5


def _draw_histogram(axes: Axes, values: np.ndarray, bins: np.ndarray, form: str) -> None:
    """Draw `values` and their median, which the legend names as `form` says."""
    # Rounding must not leave the largest value outside of the last bin.
    axes.hist(
        values.clip(bins[0], bins[-1]), bins=bins.tolist(), color=COLOURS[0], edgecolor="white", linewidth=0.4
    )
    median = float(np.median(values))
    axes.axvline(median, color=COLOURS[1], linestyle="--", label=f"median {median:{form}}")
    axes.yaxis.set_major_locator(_whole_numbers())
    axes.set(xlim=(bins[0], bins[-1]), ylabel="Images")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _whole_numbers() -> MaxNLocator:
    return MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])


def _whole_bins(values: np.ndarray) -> np.ndarray:
    """Return the edges of bins that all hold equally many whole numbers; their middle is that of `values`."""
    spread = int(values.max() - values.min()) + 1
    step = -(-spread // _NUM_BINS)
    start = int(values.min()) - (_NUM_BINS * step - spread) // 2 - 0.5
    return start + step * np.arange(_NUM_BINS + 1)


def _bins(values: np.ndarray) -> np.ndarray:
    """Return the edges of equal bins over `values`, or around them when they are all the same."""
    low, high = float(values.min()), float(values.max())
    room = 0.0 if high > low else 0.1
    return np.linspace(low - room, high + room, _NUM_BINS + 1)


def _draw_sizes(axes: Axes, sizes: np.ndarray, counts: np.ndarray) -> None:
    """Draw a dot for each of the (N, 2) different sizes and name the most frequent ones."""
    areas = 8 + 500 * counts / counts.sum()
    axes.scatter(sizes[:, 0], sizes[:, 1], s=areas, color=COLOURS[0], alpha=0.5, linewidths=0)
    limit = 1.12 * sizes.max()
    axes.plot([0, limit], [0, limit], color="grey", linestyle=":", linewidth=1, label="square")
    frequent = np.argsort(-counts, kind="stable")[:_NAMED_SIZES].tolist()
    for index in frequent:
        width, height = sizes[index].tolist()
        axes.plot([], [], " ", label=f"{width} x {height}: {counts[index]:,}")
    if len(frequent) < len(sizes):
        axes.plot([], [], " ", label=f"{len(sizes) - len(frequent):,} more sizes")
    axes.set(xlabel="Width in pixels", ylabel="Height in pixels", aspect="equal")
    axes.set(xlim=(0, limit), ylim=(0, limit), title="Area of a dot: number of images")
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", fontsize=8)


def _image_sizes_figure(widths: np.ndarray, heights: np.ndarray) -> Figure:
    sizes, counts = np.unique(np.stack([widths, heights], axis=1), axis=0, return_counts=True)
    figure = Figure(figsize=(13, 6.5), layout="constrained")
    grid = figure.add_gridspec(3, 2, width_ratios=(1.1, 1))
    _draw_sizes(figure.add_subplot(grid[:, 0]), sizes, counts)
    ratios = widths / heights
    measures = {
        "Width in pixels": (widths, _whole_bins(widths), ",g"),
        "Height in pixels": (heights, _whole_bins(heights), ",g"),
        "Width / height": (ratios, _bins(ratios), ".3f"),
    }
    for row, (label, (values, bins, form)) in enumerate(measures.items()):
        axes = figure.add_subplot(grid[row, 1])
        _draw_histogram(axes, values, bins, form)
        axes.set_xlabel(label)
    different = "one size" if len(sizes) == 1 else f"{len(sizes):,} different sizes"
    figure.suptitle(f"Image sizes ({len(widths):,} images, {different})")
    return figure


def plot_image_sizes(widths: np.ndarray, heights: np.ndarray, path: Path) -> None:
    """Plot how often each size occurs, and the distributions of width, height and aspect ratio.

    Args:
        widths: (N,) int, at least one.
        heights: (N,) int.
        path: The PNG file to write.
    """
    write_figure(_image_sizes_figure(widths, heights), path)


def _class_counts_figure(counts: Mapping[str, Mapping[str, int]], subsets: Sequence[str]) -> Figure:
    if not counts:
        return empty_figure("No classes.")
    totals = {name: sum(row.values()) for name, row in counts.items()}
    # The largest ones of too many, still in the order of the classes.
    kept = set(sorted(totals, key=lambda name: -totals[name])[:_MOST_BARS])
    names = [name for name in counts if name in kept]
    figure = Figure(figsize=(11, 1.8 + 0.32 * len(names)), layout="constrained")
    axes = figure.subplots()
    start = np.zeros(len(names))
    for index, subset in enumerate(subsets):
        values = np.array([counts[name].get(subset, 0) for name in names])
        axes.barh(range(len(names)), values, left=start, color=COLOURS[index % 7], label=subset or "unused")
        start += values
    whole = max(sum(totals.values()), 1)
    for position, name in enumerate(names):
        text = f" {totals[name]:,} ({totals[name] / whole:.1%})"
        axes.text(start[position], position, text, va="center", size=9)
    axes.set_yticks(range(len(names)), [plain_text(name, _NAME_LETTERS) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)  # the first class on top
    axes.set_xlim(0, 1.2 * max(start.max(), 1))  # room for the numbers
    axes.xaxis.set(major_locator=_whole_numbers(), major_formatter=StrMethodFormatter("{x:,.0f}"))
    left_out = f", the {len(names)} most frequent of {len(counts)}" if len(names) < len(counts) else ""
    axes.set(xlabel="Labels", title=f"Classes ({sum(totals.values()):,} labels{left_out})")
    axes.grid(alpha=0.3, axis="x")
    if subsets != [""]:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8)
    return figure


def plot_class_counts(counts: Mapping[str, Mapping[str, int]], subsets: Sequence[str], path: Path) -> None:
    """Plot the number of labels per class as bars, made up of the subsets.

    Args:
        counts: {class: {subset: number of labels}}. Of more than 60 classes the most frequent are shown.
        subsets: Subsets in the order of drawing; "" is what no subset uses.
        path: The PNG file to write.
    """
    write_figure(_class_counts_figure(counts, subsets), path)


def _draw_logarithms(axes: Axes, areas: np.ndarray) -> None:
    # Areas differ by powers of ten: equal steps of the logarithm show small masks beside large ones.
    _draw_histogram(axes, areas, 10 ** _bins(np.log10(areas)), ",.0f")
    steps = (1, 2, 5) if areas.max() < 1000 * areas.min() else (1,)
    axes.set_xscale("log")
    axes.xaxis.set(
        major_locator=LogLocator(subs=steps),
        major_formatter=StrMethodFormatter("{x:,.0f}"),
        minor_locator=NullLocator(),
    )
    axes.set_xlabel("Area of the mask in pixels (log scale, without empty masks)")


def _mask_areas_figure(shares: np.ndarray, areas: np.ndarray) -> Figure:
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw_histogram(left, shares, np.linspace(0, 1, 51), ".1%")
    left.xaxis.set_major_formatter(PercentFormatter(1))
    left.set(xlabel="Share of the image that the mask covers")
    filled = areas[areas > 0]
    if len(filled):
        _draw_logarithms(right, filled)
    else:
        right.set_axis_off()
    figure.suptitle(f"Mask areas ({len(areas):,} masks, {len(areas) - len(filled):,} of them empty)")
    return figure


def plot_mask_areas(shares: np.ndarray, areas: np.ndarray, path: Path) -> None:
    """Plot the distribution of the masks' areas, as shares of their images and in pixels.

    Args:
        shares: (N,) float from 0 to 1, at least one.
        areas: (N,) int, pixels.
        path: The PNG file to write.
    """
    write_figure(_mask_areas_figure(shares, areas), path)


def _mask_coverage_figure(coverage: np.ndarray, num_masks: int, aspect_ratio: float) -> Figure:
    figure = Figure(figsize=(8.5, 6.5), layout="compressed")
    axes = figure.subplots()
    top = float(coverage.max()) or 1.0
    picture = axes.imshow(coverage, cmap="magma", vmin=0, vmax=top, extent=(0, 1, 1, 0), interpolation="none")
    axes.set_aspect(1 / aspect_ratio)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.set(xlabel="Position from the left", ylabel="Position from the top")
    axes.set_title(f"Where masks lie ({num_masks:,} masks, each stretched to the same frame)")
    bar = figure.colorbar(picture, ax=axes, label="Share of the masks that cover the place")
    bar.ax.yaxis.set_major_formatter(PercentFormatter(1))
    return figure


def plot_mask_coverage(coverage: np.ndarray, num_masks: int, aspect_ratio: float, path: Path) -> None:
    """Plot how many of the masks cover each place of the image.

    Args:
        coverage: (H, W) float from 0 to 1.
        num_masks: Number of masks behind it.
        aspect_ratio: Width / height of the frame that is drawn.
        path: The PNG file to write.
    """
    write_figure(_mask_coverage_figure(coverage, num_masks, aspect_ratio), path)
