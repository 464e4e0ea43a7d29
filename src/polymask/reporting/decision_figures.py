"""Figures that help to decide by probabilities: reliability, decision curves, risk at a coverage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from polymask.metrics.bootstrap import ratio
from polymask.metrics.calibration import Bins, calibration_error
from polymask.reporting.figures import COLOURS, empty_figure, plain_text, write_figure

_MOST_PANELS = 24
_TICKS = (0, 0.25, 0.5, 0.75, 1)
_STYLES = ({"color": "#777777", "marker": "o", "mfc": "white"}, {"color": COLOURS[0], "marker": "o"})


class Band(NamedTuple):
    """A curve (T,) with the ends of its 95 % interval at each place."""

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


def band(values: np.ndarray, replicates: np.ndarray) -> Band:
    """Return a curve with the interval of its (R, T) replicates; NaN where no replicate is defined."""
    low, high = np.full((2, len(values)), np.nan)
    defined = ~np.isnan(replicates).all(axis=0)
    if defined.any():
        low[defined], high[defined] = np.nanquantile(replicates[:, defined], [0.025, 0.975], axis=0)
    return Band(values, low, high)


class Reliability(NamedTuple):
    """How often events came, by bins of the probability that was predicted.

    Attributes:
        label: What was done to the probabilities.
        confidence: (B,) mean probability of each bin, NaN where it is empty.
        frequency: How often the event came, with its interval.
        share: (B,) share of the samples in the bin.
        error: Expected calibration error.
    """

    label: str
    confidence: np.ndarray
    frequency: Band
    share: np.ndarray
    error: float


def reliability(label: str, bins: Bins, replicates: Bins) -> Reliability:
    """Return the reliability of the bins of one replicate, with the intervals that others give."""
    confidence, frequency = (ratio(values, bins.weight)[0] for values in (bins.confidence, bins.events))
    return Reliability(
        label=label,
        confidence=confidence,
        frequency=band(frequency, ratio(replicates.events, replicates.weight)),
        share=bins.weight[0] / max(1.0, bins.weight[0].sum()),
        error=float(calibration_error(bins)[0]),
    )


def _panels(number: int, side: float = 3.0) -> tuple[Figure, list[Axes]]:
    columns = min(4, number)
    rows = -(-number // columns)
    figure = Figure(figsize=(max(side * columns, 5.0) + 0.4, side * rows + 0.9), layout="constrained")
    grid = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axes in grid[number:]:
        axes.remove()
    return figure, grid[:number]


def _draw_reliability(axes: Axes, curve: Reliability, style: Mapping[str, Any]) -> None:
    there = curve.share > 0
    x, (y, low, high) = curve.confidence[there], (values[there] for values in curve.frequency)
    # Over few samples an interval may lie beside its own estimate.
    lengths = np.nan_to_num(np.stack([y - low, high - y])).clip(0)
    axes.errorbar(x, y, yerr=lengths, linewidth=1, elinewidth=0.8, markersize=4, label=curve.label, **style)


def _reliability_figure(panels: Mapping[str, Sequence[Reliability]], title: str) -> Figure:
    shown = dict(list(panels.items())[:_MOST_PANELS])
    if not shown:
        return empty_figure("No probabilities with a known truth.")
    figure, grid = _panels(len(shown))
    for axes, (name, curves) in zip(grid, shown.items(), strict=True):
        axes.plot([0, 1], [0, 1], color="grey", linestyle=":", linewidth=1)
        for curve, style in zip(curves, _STYLES, strict=False):
            _draw_reliability(axes, curve, style)
        # Lines of a bar's width: all are one artist, and each artist takes its time.
        axes.vlines(curves[0].confidence, 0, curves[0].share, color="#DDDDDD", linewidth=7, zorder=0)
        errors = " \N{RIGHTWARDS ARROW} ".join(f"{curve.error:.3f}" for curve in curves)
        axes.set_title(f"{plain_text(name, 24)}\ncalibration error {errors}", size=9)
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xticks=_TICKS, yticks=_TICKS)
        axes.grid(alpha=0.3)
    grid[0].legend(fontsize=7, loc="upper left")
    left_out = len(panels) - len(shown)
    figure.suptitle(title + (f" (first {_MOST_PANELS}, {left_out} more)" if left_out else ""))
    figure.supxlabel("Mean predicted probability (grey bars: share of the samples)", size=9)
    figure.supylabel("How often it was so", size=9)
    return figure


def plot_reliability(panels: Mapping[str, Sequence[Reliability]], path: Path, title: str) -> None:
    """Plot a reliability diagram per panel, after DeGroot and Fienberg, The Statistician 32, 1983.

    Args:
        panels: Name to one curve, or two: before and after calibration.
        path: The PNG file to write.
        title: Stands above.
    """
    write_figure(_reliability_figure(panels, title), path)


class DecisionCurve(NamedTuple):
    """Net benefit by threshold (T,), in (0, 1), and of calling every sample positive."""

    thresholds: np.ndarray
    benefit: Band
    everybody: np.ndarray


def _decision_figure(curves: Mapping[str, DecisionCurve]) -> Figure:
    figure, grid = _panels(len(curves), side=3.6)
    for axes, (name, curve) in zip(grid, curves.items(), strict=True):
        axes.plot(curve.thresholds, curve.benefit.values, color=COLOURS[0], label="by probability")
        axes.fill_between(
            curve.thresholds, curve.benefit.low, curve.benefit.high, color=COLOURS[0], alpha=0.15, linewidth=0
        )
        axes.plot(curve.thresholds, curve.everybody, color=COLOURS[1], linestyle="--", label="call all")
        axes.axhline(0, color="black", linewidth=1, label="call none")
        best = np.nanmax([*curve.benefit.values, *curve.everybody, 0.01])
        axes.set(xlim=(0, 1), ylim=(-0.25 * best, 1.1 * best))
        axes.set_title(plain_text(name, 32), size=10)
        axes.grid(alpha=0.3)
    grid[0].legend(fontsize=8)
    figure.suptitle("Decision curves")
    figure.supxlabel("Threshold probability", size=9)
    figure.supylabel("Net benefit per sample", size=9)
    return figure


def plot_decision_curves(curves: Mapping[str, DecisionCurve], path: Path) -> None:
    """Plot net benefit against threshold, a panel for each class or group, to a PNG file."""
    write_figure(_decision_figure(curves), path)


def _risk_coverage_figure(coverage: np.ndarray, risk: Band, area: float) -> Figure:
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(coverage, risk.values, color=COLOURS[0])
    axes.fill_between(coverage, risk.low, risk.high, color=COLOURS[0], alpha=0.15, linewidth=0)
    axes.set_title(f"Risk and coverage, area {area:.3f}")
    axes.set(
        xlim=(0, 1),
        xlabel="Share of the samples that is decided, most confident first",
        ylabel="Share of these that is wrong",
    )
    axes.set_ylim(bottom=0)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)
    return figure


def plot_risk_coverage(coverage: np.ndarray, risk: Band, area: float, path: Path) -> None:
    """Plot the share of wrong decisions against the share of samples that are decided.

    Args:
        coverage: (T,) from 0 to 1.
        risk: At each of them.
        area: Below the curve.
        path: The PNG file to write.
    """
    write_figure(_risk_coverage_figure(coverage, risk, area), path)
