"""Test metrics with their intervals, in the form that every report writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from polymask.metrics.bootstrap import bootstrap_weights, percentile_interval
from polymask.utils.files import REPORT_NAME, write_text
from polymask.utils.numbers import none_for_nan

_REPLICATES = 1000


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What a test measured.

    Attributes:
        values: Value of each metric.
        intervals: Ends of its 95 % interval.
    """

    values: Mapping[str, float]
    intervals: Mapping[str, tuple[float, float]]

    def lines(self, names: Sequence[str]) -> list[str]:
        """Return a line for each of the metrics `names` that was measured."""
        lines = []
        for name in names:
            if name in self.values:
                low, high = self.intervals[name]
                value = self.values[name]
                lines.append(f"test/{name} {value:.4f}  (95 % interval {low:.4f} to {high:.4f})")
        return lines


def write_metrics(
    folder: Path,
    metrics: Callable[[np.ndarray | None], Mapping[str, np.ndarray]],
    groups: Sequence[str],
    *,
    losses: Mapping[str, float],
    details: Mapping[str, Any],
) -> Measured:
    """Compute metrics and their intervals and write them to `metrics.json`.

    Args:
        folder: Where to write.
        metrics: Returns metric name to (R,) values for (R, N) sample weights, or R = 1 for None.
        groups: (N,) group of each sample; whole groups are drawn.
        losses: Mean losses.
        details: What else the file shall say of the test.

    Returns:
        The values and their intervals.
    """
    values = {name: float(value[0]) for name, value in metrics(None).items()}
    replicates = metrics(bootstrap_weights(groups, _REPLICATES, seed=0))
    intervals = {name: percentile_interval(replicates[name]) for name in values}
    content = {
        "num_samples": len(groups),
        "num_groups": len(set(groups)),
        **details,
        "intervals": f"95 % percentile bootstrap, {_REPLICATES} replicates, resampled by group",
        "losses": {name: none_for_nan(value) for name, value in losses.items()},
        "metrics": {
            name: {"value": none_for_nan(value), "low": none_for_nan(low), "high": none_for_nan(high)}
            for (name, value), (low, high) in zip(values.items(), intervals.values(), strict=True)
        },
    }
    write_text(folder / REPORT_NAME, json.dumps(content, indent=2) + "\n")
    return Measured(values=values, intervals=intervals)
