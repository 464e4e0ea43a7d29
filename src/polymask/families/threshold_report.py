"""What reports of found objects share: score thresholds side by side, and how far scores can be believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from polymask.families.thresholds import DEFAULT
from polymask.metrics.bootstrap import bootstrap_weights, percentile_interval
from polymask.metrics.detection_calibration import detection_bins
from polymask.metrics.object_threshold import RULES, best_threshold, metrics_at
from polymask.reporting.decision_figures import plot_reliability, reliability
from polymask.structures.samples import Rows
from polymask.utils.files import write_text

_REPLICATES = 1000


def write_thresholds(
    folder: Path,
    counted: Rows,
    groups: Sequence[str],
    validation: Rows,
    used: float,
    *,
    best: Callable[[Rows, str], float] = best_threshold,
    measure: Callable[..., dict[str, np.ndarray]] = metrics_at,
) -> None:
    """Write `score_thresholds.csv`: what each way to choose gives on validation and test samples.

    Args:
        folder: Folder of the test report.
        counted: What a test keeps of its samples for thresholds, as `validation`.
        groups: (N,) group of each sample, for intervals.
        validation: What was kept of the validation samples; nothing is written for {}.
        used: The threshold of this test.
        best: As in `chosen_threshold`.
        measure: Returns metrics (R,) by name of what was kept, a threshold and weights (R, N).
    """
    if not validation:
        return
    weights = bootstrap_weights(groups, _REPLICATES, seed=0)
    thresholds = {"used": used, "default": DEFAULT}
    lines = []
    for rule, threshold in (thresholds | {rule: best(validation, rule) for rule in RULES}).items():
        line = {"rule": rule, "threshold": threshold}
        line |= {f"val_{name}": values[0] for name, values in measure(validation, threshold).items()}
        drawn = measure(counted, threshold, weights)
        for name, values in measure(counted, threshold).items():
            low, high = percentile_interval(drawn[name])
            line |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
        lines.append(line)
    table = pd.DataFrame(lines).to_csv(index=False, float_format="%.6g")
    write_text(folder / "score_thresholds.csv", table)


def plot_calibration(folder: Path, counted: Rows, groups: Sequence[str], what: str) -> None:
    """Draw `calibration_objects.png`: how many of the found objects are there, by their score.

    Args:
        folder: Folder of the test report.
        counted: What a test keeps of its samples for thresholds.
        groups: (N,) group of each sample, for intervals.
        what: What was found, a word.
    """
    weights = bootstrap_weights(groups, _REPLICATES, seed=0)
    curve = reliability("by score", detection_bins(counted), detection_bins(counted, weights))
    title = f"Found {what}: score and precision at IoU 0.5"
    plot_reliability({what: [curve]}, folder / "calibration_objects.png", title)
