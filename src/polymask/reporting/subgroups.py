"""The subgroups of a test: two tables and a forest plot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from polymask.metrics.permutation import Metrics
from polymask.metrics.subgroups import ROWS_PREFIX, Gap, SubgroupMetric, measure_subgroups
from polymask.reporting.figures import COLOURS, plain_text, write_figure
from polymask.structures.samples import Rows
from polymask.utils.files import write_text
from polymask.utils.numbers import none_for_nan
from polymask.utils.tables import csv_text

TABLE, GAPS, FIGURE = "subgroups.csv", "subgroup_gaps.csv", "subgroups.png"
ALL_METRICS = "subgroup_metrics.csv"
_COMPARED = ("difference", "difference_low", "difference_high", "p_value", "p_value_holm")
_TITLE = "Value with 95 % interval (dotted: all samples; filled: it differs from the other samples,"
_LEVEL = 0.05
_NAME_LETTERS = 36
_HEIGHT, _WIDTH = 0.27, 2.7  # of a subgroup and of a metric, in inches


def write_subgroups(
    folder: Path, rows: Rows, groups: Sequence[str], metrics: Metrics, names: Sequence[str], *, smallest: int
) -> None:
    """Write `subgroups.csv`, `subgroup_gaps.csv`, `subgroup_metrics.csv` and a figure.

    Nothing is written where rows have no subgroups.

    Args:
        folder: Where to write.
        rows: N samples, see `polymask.metrics.subgroups.measure_subgroups`, as for all that follows.
        groups: (N,) group of each sample.
        metrics: Computes the metrics.
        names: Which of them to compare with the other samples; `subgroup_metrics.csv` has all, uncompared.
        smallest: Of subgroups with fewer groups only the counts are shown.
    """
    if not any(key.startswith(ROWS_PREFIX) for key in rows):
        return
    every, gaps = measure_subgroups(rows, groups, metrics, names, smallest=smallest)
    lines = [line for line in every if line.metric in names]
    columns = [field.name for field in fields(SubgroupMetric)]
    values = [name for name in columns if name not in _COMPARED]
    for file, shown, entries in (
        (TABLE, columns, lines),
        (ALL_METRICS, values, every),
        (GAPS, [field.name for field in fields(Gap)], gaps),
    ):
        cells = [[none_for_nan(getattr(entry, name)) for name in shown] for entry in entries]
        write_text(folder / file, csv_text(shown, cells))
    of_all = {name: float(values[0]) for name, values in metrics(rows, None).items()}
    plot_subgroups(lines, of_all, folder / FIGURE)


def plot_subgroups(
    lines: Sequence[SubgroupMetric], reference: Mapping[str, float], path: Path, *, title: str = _TITLE
) -> None:
    """Plot each metric of each subgroup with its interval, a panel per metric.

    Args:
        lines: One per subgroup and metric.
        reference: A dotted line in the panel of each metric, such as the value of all samples.
        path: The PNG file to write.
        title: What is shown; it goes on with what p-values decide.
    """
    write_figure(_subgroups_figure(lines, reference, title), path)


def _subgroups_figure(lines: Sequence[SubgroupMetric], reference: Mapping[str, float], title: str) -> Figure:
    metrics = list(dict.fromkeys(line.metric for line in lines))
    places = _places(lines)
    figure = Figure(figsize=(2.6 + _WIDTH * len(metrics), 1.4 + _HEIGHT * len(places)), layout="constrained")
    grid = figure.subplots(1, max(1, len(metrics)), squeeze=False, sharey=True)[0]
    for axes, metric in zip(grid, metrics, strict=False):
        own = [line for line in lines if line.metric == metric]
        _draw_panel(axes, own, places, reference[metric])
        axes.set_title(plain_text(metric, _NAME_LETTERS), size=10)
    labels = [_label(name, line) for name, line in zip(places, _firsts(lines, places), strict=True)]
    grid[0].set_yticks(list(places.values()), labels)
    grid[0].set_ylim(max(places.values(), default=0) + 0.7, -0.7)  # the first one on top
    figure.suptitle(f"{title}\np < {_LEVEL} after Holm's correction for the number of tests)", size=10)
    return figure


def _places(lines: Sequence[SubgroupMetric]) -> dict[tuple[str, str], float]:
    """Return the height of each subgroup, with a little more room between columns."""
    names = dict.fromkeys((line.column, line.subgroup) for line in lines)
    columns = list(dict.fromkeys(column for column, _ in names))
    return {name: number + 0.6 * columns.index(name[0]) for number, name in enumerate(names)}


def _firsts(lines: Sequence[SubgroupMetric], places: Mapping[tuple[str, str], float]) -> list[SubgroupMetric]:
    firsts: dict[tuple[str, str], SubgroupMetric] = {}
    for line in lines:
        firsts.setdefault((line.column, line.subgroup), line)
    return [firsts[name] for name in places]


def _label(name: tuple[str, str], line: SubgroupMetric) -> str:
    count = f"{line.num_samples}"
    if line.num_groups < line.num_samples:
        count += f" of {line.num_groups} groups"
    return f"{plain_text(': '.join(name), _NAME_LETTERS)}  ({count})"


def _draw_panel(
    axes: Axes,
    lines: Sequence[SubgroupMetric],
    places: Mapping[tuple[str, str], float],
    reference: float,
) -> None:
    if not np.isnan(reference):
        axes.axvline(reference, color="grey", linestyle=":", linewidth=1.5)
    for line in lines:
        place = places[line.column, line.subgroup]
        # Shape and colour say the same, for those who do not see the one or the other.
        clear = line.p_value_holm < _LEVEL
        colour, face = (COLOURS[1], COLOURS[1]) if clear else (COLOURS[0], "white")
        axes.plot([line.low, line.high], [place] * 2, color=colour, linewidth=1.8, solid_capstyle="butt")
        axes.plot(line.value, place, "D" if clear else "o", color=colour, markerfacecolor=face, markersize=6)
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.grid(alpha=0.3, axis="x")
