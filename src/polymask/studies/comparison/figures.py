"""Figures of a comparison, written as PNG like those of `polymask.reporting.figures`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from polymask.reporting.figures import COLOURS, empty_figure, plain_text, write_figure
from polymask.studies.comparison.statistics import MetricComparison, RunMetric

_NAME_LETTERS = 40
_LINE_HEIGHT = 0.27  # of one metric, in inches
_ROUNDING = 1e-9  # of a difference that is zero
_RUN_HEIGHT = 0.15  # of one run of a metric, in inches
_MARKERS = "osD^vP"  # with the seven colours 42 differ
_ROOM = 0.75  # for the axis below a panel, in inches


def plot_comparison(results: Sequence[MetricComparison], name_a: str, name_b: str, path: Path) -> None:
    """Plot the difference of each metric with its interval as a forest plot.

    Metrics between 0 and 1 share one panel, all others the next one. Those without a value are left out.

    Args:
        results: One per metric.
        name_a: Name of run A.
        name_b: Name of run B.
        path: The PNG file to write.
    """
    write_figure(_comparison_figure(results, name_a, name_b), path)


def _comparison_figure(results: Sequence[MetricComparison], name_a: str, name_b: str) -> Figure:
    defined = [result for result in results if not np.isnan(result.difference)]
    scores = [result for result in defined if _is_score(result)]
    panels = [panel for panel in (scores, [r for r in defined if not _is_score(r)]) if panel]
    if not panels:
        return empty_figure("No metric has a value.")
    heights = [_ROOM + _LINE_HEIGHT * len(panel) for panel in panels]
    figure = Figure(figsize=(10, 0.7 + sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, panel in zip(grid[:, 0], panels, strict=True):
        _draw_panel(axes, panel)
    names = [plain_text(name, _NAME_LETTERS) for name in (name_a, name_b)]
    figure.suptitle(
        f"A: {names[0]}    B: {names[1]}\n"
        f"Difference B \N{MINUS SIGN} A with 95 % interval (filled: the interval does not hold zero)",
        size=11,
    )
    return figure


def _is_score(result: MetricComparison) -> bool:
    return all(0 <= value <= 1 for value in (result.value_a, result.value_b))


def _draw_panel(axes: Axes, results: Sequence[MetricComparison]) -> None:
    axes.axvline(0, color="grey", linewidth=1)
    places = np.arange(len(results))
    ends = np.array([(result.difference, result.low, result.high) for result in results])
    # Shape and colour say the same, for those who do not see the one or the other.
    clear = _is_clear(ends)
    for chosen, colour in ((~clear, COLOURS[0]), (clear, COLOURS[1])):
        style = {"color": colour, "marker": "o", "markersize": 6}
        _draw_intervals(axes, places[chosen], ends[chosen], style, filled=clear[chosen])
    texts = [f"{result.difference:+z.3f}   p {result.p_value:.4f}" for result in results]
    for place, text in enumerate(texts):
        note = axes.annotate(text, (1.01, place), xycoords=("axes fraction", "data"), va="center", size=9)
        note.set_in_layout(text == max(texts, key=len))  # one tells the room that all need
    axes.set_yticks(range(len(results)), [plain_text(result.name, _NAME_LETTERS) for result in results])
    axes.set_ylim(len(results) - 0.4, -0.6)  # the first metric on top
    low, high = min(0.0, np.nanmin(ends)), max(0.0, np.nanmax(ends))
    room = 0.05 * (high - low) or 0.1
    axes.set_xlim(low - room, high + room)
    axes.set_xlabel("A larger  \N{LEFTWARDS ARROW}  B \N{MINUS SIGN} A  \N{RIGHTWARDS ARROW}  B larger")
    axes.grid(alpha=0.3, axis="x")


def plot_runs(lines: Sequence[RunMetric], path: Path) -> None:
    """Plot each metric of several runs: values on the left, differences to the first run on the right.

    Metrics between 0 and 1 share one row of panels, all others the next one. Those without a value are left
    out.

    Args:
        lines: One per metric and run, the runs of each metric in the same order.
        path: The PNG file to write.
    """
    write_figure(_runs_figure(lines), path)


def _runs_figure(lines: Sequence[RunMetric]) -> Figure:
    styles: dict[str, dict[str, Any]] = {
        run: {"color": COLOURS[number % len(COLOURS)], "marker": _MARKERS[number % len(_MARKERS)]}
        for number, run in enumerate(dict.fromkeys(line.run for line in lines))
    }
    defined: dict[str, list[RunMetric]] = {}
    for line in lines:
        if not np.isnan(line.value):
            defined.setdefault(line.metric, []).append(line)
    scores = {name: found for name, found in defined.items() if all(0 <= line.value <= 1 for line in found)}
    rest = {name: found for name, found in defined.items() if name not in scores}
    panels = [panel for panel in (scores, rest) if panel]
    if not panels:
        return empty_figure("No metric has a value.")
    heights = [_ROOM + (0.1 + _RUN_HEIGHT * len(styles)) * len(panel) for panel in panels]
    figure = Figure(figsize=(12, 0.9 + 0.2 * len(styles) + sum(heights)), layout="constrained")
    grid = figure.subplots(len(panels), 2, squeeze=False, sharey="row", height_ratios=heights)
    for row, panel in zip(grid, panels, strict=True):
        _draw_runs(row, panel, styles)
    grid[0, 0].set_title("Value with 95 % interval", size=11)
    grid[0, 1].set_title("Difference to A with 95 % interval\n(filled: it does not hold zero)", size=11)
    _add_legend(figure, styles)
    return figure


def _add_legend(figure: Figure, styles: Mapping[str, dict[str, Any]]) -> None:
    labels = [plain_text(run, _NAME_LETTERS) for run in styles]
    labels[0] = f"A: {labels[0]}"
    handles = [
        Line2D([], [], label=label, **style) for label, style in zip(labels, styles.values(), strict=True)
    ]
    columns = int(figure.get_figwidth() / (0.7 + 0.1 * max(map(len, labels))))  # the room of one, in inches
    figure.legend(handles=handles, loc="outside upper center", ncols=min(columns, len(labels)), frameon=False)


def _draw_runs(
    axes: Sequence[Axes], panel: Mapping[str, Sequence[RunMetric]], styles: Mapping[str, dict[str, Any]]
) -> None:
    """Draw values into the first and differences into the second of two axes."""
    values, differences = axes
    differences.axvline(0, color="grey", linewidth=1)
    places = dict(zip(styles, np.linspace(-0.3, 0.3, len(styles)), strict=True))
    for run, style in styles.items():
        lines = {at: line for at, found in enumerate(panel.values()) for line in found if line.run == run}
        heights = np.array([*lines]) + places[run]
        of_values = np.array([(line.value, line.low, line.high) for line in lines.values()])
        of_differences = np.array(
            [(line.difference, line.difference_low, line.difference_high) for line in lines.values()]
        )
        if lines:
            style = {"markersize": 4.5, **style}
            _draw_intervals(values, heights, of_values, style, filled=np.ones(len(lines), bool))
            _draw_intervals(differences, heights, of_differences, style, filled=_is_clear(of_differences))
    values.set_yticks(range(len(panel)), [plain_text(name, _NAME_LETTERS) for name in panel])
    values.set_ylim(len(panel) - 0.5, -0.5)  # the first metric on top
    differences.set_xlabel(
        "A larger  \N{LEFTWARDS ARROW}  run \N{MINUS SIGN} A  \N{RIGHTWARDS ARROW}  run larger"
    )
    for each in axes:
        each.grid(alpha=0.3, axis="x")
        edges = np.arange(len(panel) - 1) + 0.5  # between metrics
        across = each.get_yaxis_transform()
        each.hlines(edges, 0, 1, transform=across, color="grey", linewidth=0.4, alpha=0.6)


def _is_clear(ends: np.ndarray) -> np.ndarray:
    """Return whether intervals, (N, 3) as in `_draw_intervals`, do not hold zero."""
    return (ends[:, 1] > _ROUNDING) | (ends[:, 2] < -_ROUNDING)


def _draw_intervals(
    axes: Axes, heights: np.ndarray, ends: np.ndarray, style: Mapping[str, Any], *, filled: np.ndarray
) -> None:
    """Draw values with their intervals, nothing where they are NaN; few artists, since each takes its time.

    Args:
        axes: Where to draw.
        heights: (N,) of each.
        ends: (N, 3) value, lower and upper end.
        style: Colour and marker.
        filled: (N,) whether the marker is.
    """
    axes.hlines(heights, ends[:, 1], ends[:, 2], color=style["color"], linewidth=1.5)
    for chosen, face in ((filled, style["color"]), (~filled, "white")):
        axes.plot(ends[chosen, 0], heights[chosen], linestyle="none", markerfacecolor=face, **style)
