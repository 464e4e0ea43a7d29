"""Test metrics with their intervals, in the form that every report writes."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymask.metrics.bootstrap import bootstrap_weights, percentile_interval
from polymask.utils.files import REPORT_NAME, write_text

_REPLICATES = 1000

Intervals = dict[str, tuple[float, float]]


def write_metrics(
    folder: Path,
    metrics: Callable[[np.ndarray | None], Mapping[str, np.ndarray]],
    groups: Sequence[str],
    *,
    losses: Mapping[str, float],
    details: Mapping[str, Any],
) -> Intervals:
    """Compute metrics and their intervals and write them to `metrics.json`.

    Args:
        folder: Where to write.
        metrics: Returns metric name to (R,) values for (R, N) sample weights, or R = 1 for None.
        groups: (N,) group of each sample; whole groups are drawn.
        losses: Mean losses.
        details: What else the file shall say of the test.

    Returns:
        Ends of the 95 % interval of each metric.
    """
    values = {name: float(value[0]) for name, value in metrics(None).items()}
    replicates = metrics(bootstrap_weights(groups, _REPLICATES, seed=0))
    intervals = {name: percentile_interval(replicates[name]) for name in values}
    content = {
        "num_samples": len(groups),
        "num_groups": len(set(groups)),
        **details,
        "intervals": f"95 % percentile bootstrap, {_REPLICATES} replicates, resampled by group",
        "losses": {name: _number(value) for name, value in losses.items()},
        "metrics": {
            name: {"value": _number(value), "low": _number(low), "high": _number(high)}
            for (name, value), (low, high) in zip(values.items(), intervals.values(), strict=True)
        },
    }
    write_text(folder / REPORT_NAME, json.dumps(content, indent=2) + "\n")
    return intervals


def summary_lines(names: Sequence[str], metrics: Mapping[str, float], intervals: Intervals) -> list[str]:
    """Return a line for each of the metrics `names` that has an interval."""
    lines = []
    for name in names:
        if name in intervals:
            low, high = intervals[name]
            lines.append(f"test/{name} {metrics[name]:.4f}  (95 % interval {low:.4f} to {high:.4f})")
    return lines


def _number(value: float) -> float | None:
    """Return None for NaN: JSON has no word for it."""
    return None if math.isnan(value) else value
