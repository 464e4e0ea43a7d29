"""Figure of a comparison, written as PNG like those of `polymask.reporting.figures`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from polymask.reporting.figures import COLOURS, empty_figure, plain_text, write_figure
from polymask.studies.comparison.statistics import MetricComparison

_NAME_LETTERS = 40
_LINE_HEIGHT = 0.27  # of one metric, in inches
_ROUNDING = 1e-9  # of a difference that is zero
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
    for position, result in enumerate(results):
        # Shape and colour say the same, for those who do not see the one or the other.
        clear = result.low > _ROUNDING or result.high < -_ROUNDING
        colour, face = (COLOURS[1], COLOURS[1]) if clear else (COLOURS[0], "white")
        axes.plot(
            [result.low, result.high], [position] * 2, color=colour, linewidth=1.8, solid_capstyle="butt"
        )
        axes.plot(result.difference, position, "o", color=colour, markerfacecolor=face, markersize=6)
        text = f"{result.difference:+z.3f}   p {result.p_value:.4f}"
        axes.annotate(text, (1.01, position), xycoords=("axes fraction", "data"), va="center", size=9)
    axes.set_yticks(range(len(results)), [plain_text(result.name, _NAME_LETTERS) for result in results])
    axes.set_ylim(len(results) - 0.4, -0.6)  # the first metric on top
    ends = np.array([(0.0, r.difference, r.low, r.high) for r in results])
    low, high = np.nanmin(ends), np.nanmax(ends)
    room = 0.05 * (high - low) or 0.1
    axes.set_xlim(low - room, high + room)
    axes.set_xlabel("A larger  \N{LEFTWARDS ARROW}  B \N{MINUS SIGN} A  \N{RIGHTWARDS ARROW}  B larger")
    axes.grid(alpha=0.3, axis="x")
