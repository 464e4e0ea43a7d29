"""The figure of a summary: every fold of every study, with means and pooled values."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from polymask.reporting.figures import COLOURS, empty_figure, plain_text, write_figure
from polymask.studies.folds.gathering import Study, shared_metrics
from polymask.studies.folds.statistics import MetricSummary

_MOST_PANELS = 6
_NAME_LETTERS = 30  # of a line of a study's name, of which there are at most three
_FOLDS, _MEAN, _POOLED = -0.24, 0.02, 0.28  # heights within a study's row of 1, downwards from its middle
_POOLED_LABEL = "all test samples, 95 % bootstrap interval"


def plot_studies(studies: Sequence[Study], path: Path) -> None:
    """Plot the main metrics that all studies share, else the first that they share; a row per study.

    Args:
        studies: At least one.
        path: The PNG file to write.
    """
    write_figure(_studies_figure(studies), path)


def _studies_figure(studies: Sequence[Study]) -> Figure:
    shared = [name for name in shared_metrics(studies) if any(_is_defined(study, name) for study in studies)]
    headline = dict.fromkeys(name for study in studies for name in study.headline)
    metrics = ([name for name in headline if name in shared] or shared)[:_MOST_PANELS]
    if not metrics:
        return empty_figure("There is no metric that all studies have.")
    num_columns = 2 if len(metrics) in (2, 4) else min(3, len(metrics))
    num_rows = -(-len(metrics) // num_columns)
    height = num_rows * (0.8 + 0.66 * len(studies)) + 0.6
    figure = Figure(figsize=(2.6 + 4.2 * num_columns, max(height, 3)), layout="constrained")
    grid = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True)
    for axes, metric in zip(grid.flat, metrics, strict=False):
        _draw_panel(axes, metric, studies)
    for axes in grid.flat[len(metrics) :]:
        axes.remove()
    figure.legend(handles=_legend(), loc="outside lower center", ncols=3, fontsize=9, frameon=False)
    return figure


def _draw_panel(axes: Axes, metric: str, studies: Sequence[Study]) -> None:
    for row, study in enumerate(studies):
        if row % 2:
            axes.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", zorder=0)
        _draw_study(axes, row, study.metrics[metric], COLOURS[row % len(COLOURS)])
    axes.set_title(plain_text(metric, 40), size=11)
    axes.set_yticks(range(len(studies)), [_wrapped(study.name) for study in studies], size=9)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(studies) - 0.5, -0.5)  # the first study on top
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6))
    axes.margins(x=0.06)
    axes.grid(axis="x", alpha=0.3)


def _draw_study(axes: Axes, row: int, summary: MetricSummary, colour: str) -> None:
    pooled = float(row)
    if len(summary.values) > 1:
        # Spread a little, in the order of the folds, so that equal values do not hide each other.
        folds = row + _FOLDS + np.linspace(-0.09, 0.09, len(summary.values))
        axes.scatter(summary.values, folds, s=28, color=colour, alpha=0.6, linewidths=0, zorder=3)
        mean, pooled = row + _MEAN, row + _POOLED
        ends = [summary.mean - summary.std, summary.mean + summary.std]
        axes.plot(ends, [mean, mean], color=colour, linewidth=1.5)
        axes.plot(summary.mean, mean, "|", color=colour, markersize=12, markeredgewidth=3)
    axes.plot([summary.low, summary.high], [pooled, pooled], color=colour, linewidth=1.5)
    axes.plot(summary.pooled, pooled, "D", color=colour, markersize=6, markerfacecolor="white", zorder=4)


def _legend() -> list[Line2D]:
    grey = "#555555"
    return [
        Line2D([], [], linestyle="", marker="o", color=grey, alpha=0.6, label="a fold"),
        Line2D([], [], color=grey, marker="|", markersize=12, markeredgewidth=3, label="mean ± std of folds"),
        Line2D([], [], color=grey, marker="D", markerfacecolor="white", label=_POOLED_LABEL),
    ]


def _is_defined(study: Study, metric: str) -> bool:
    summary = study.metrics[metric]
    return bool(np.isfinite([*summary.values, summary.pooled]).any())


def _wrapped(name: str) -> str:
    lines = textwrap.wrap(name, _NAME_LETTERS)
    lines = [*lines[:2], " ".join(lines[2:])] if len(lines) > 3 else lines
    return "\n".join(plain_text(line, _NAME_LETTERS) for line in lines)
