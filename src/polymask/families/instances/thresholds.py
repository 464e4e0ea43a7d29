"""The least score of objects that count: a number, or a rule that chooses one on validation samples."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from polymask.errors import UserError, choose, number
from polymask.metrics.bootstrap import bootstrap_weights, percentile_interval
from polymask.metrics.object_threshold import RULES, best_threshold, counted_objects, metrics_at
from polymask.structures.samples import Rows
from polymask.utils.files import write_text

log = logging.getLogger(__name__)

DEFAULT = 0.5
"""Counts until a rule has chosen."""
_REPLICATES = 1000


def check_threshold(value: float | str) -> float | str:
    """Return a threshold or a rule.

    Raises:
        UserError: It is neither.
    """
    if isinstance(value, str):
        return choose("task.score_threshold", value, (*RULES, "a number from 0 to 1"))
    note = f"or a rule: {', '.join(RULES)}"
    return number("task.score_threshold", value, least=0, most=1, note=note)


def chosen_threshold(value: float | str, validation: Rows) -> float:
    """Return a threshold as a number.

    Args:
        value: The number, or a rule.
        validation: What `counted_objects` returned of the validation samples.

    Raises:
        UserError: It is a rule, and nothing is known of validation samples.
    """
    checked = check_threshold(value)
    if not isinstance(checked, str):
        return checked
    if not validation:
        raise UserError(
            f"task.score_threshold={checked} needs what the run's validation samples said, of which this "
            f"checkpoint knows nothing: run polymask test with task.score_threshold={checked} once."
        )
    threshold = best_threshold(validation, checked)
    if np.isnan(threshold):
        log.warning("task.score_threshold=%s: validation found no object; %s counts.", checked, DEFAULT)
        return DEFAULT
    return threshold


def write_thresholds(folder: Path, rows: Rows, groups: Sequence[str], validation: Rows, used: float) -> None:
    """Write `score_thresholds.csv`: what each way to choose gives on validation and test samples.

    Args:
        folder: Folder of the test report.
        rows: Rows of the test.
        groups: (N,) group of each sample, for intervals.
        validation: What `counted_objects` returned of the validation samples; nothing is written for {}.
        used: The threshold of this test.
    """
    if not validation:
        return
    counted, weights = counted_objects(rows), bootstrap_weights(groups, _REPLICATES, seed=0)
    thresholds = {"used": used, "default": DEFAULT}
    lines = []
    for rule, threshold in (thresholds | {rule: best_threshold(validation, rule) for rule in RULES}).items():
        line = {"rule": rule, "threshold": threshold}
        line |= {f"val_{name}": values[0] for name, values in metrics_at(validation, threshold).items()}
        drawn = metrics_at(counted, threshold, weights)
        for name, values in metrics_at(counted, threshold).items():
            low, high = percentile_interval(drawn[name])
            line |= {name: values[0], f"{name}_low": low, f"{name}_high": high}
        lines.append(line)
    table = pd.DataFrame(lines).to_csv(index=False, float_format="%.6g")
    write_text(folder / "score_thresholds.csv", table)
