"""Metrics of every epoch, and of steps where they are wanted, to the tracker and to CSV files."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from polymask.errors import nearest
from polymask.tracking.base import Tracker
from polymask.utils.files import write_text
from polymask.utils.tables import csv_text

log = logging.getLogger(__name__)


class EpochLog:
    """Sends each epoch's metrics to the tracker and keeps the whole course in `metrics.csv`.

    Args:
        path: The CSV file; rewritten whole each time, so after a resume it holds the earlier epochs too. The
            step log is `{stem}_steps.csv` beside it.
        tracker: The tracker.
        running: Keys, such as `val/dice_lesion_image`, of which the mean (`…_running_mean`) and the largest
            value (`…_running_max`) over the epochs so far are recorded beside the value of the epoch.
    """

    def __init__(self, path: Path, tracker: Tracker, *, running: Sequence[str] = ()) -> None:
        self.path, self.tracker, self.running = path, tracker, list(running)
        self._missed: set[str] = set()

    def log_epoch(self, history: list[dict[str, float]]) -> None:
        """Take the metrics of all epochs so far; the last entry goes to the tracker."""
        history = self._with_running_values(history)
        _write_table(self.path, history)
        newest = history[-1]
        metrics = {name: value for name, value in newest.items() if name != "epoch"}
        self.tracker.log_metrics(metrics, step=int(newest["epoch"]))

    def log_steps(self, points: Sequence[Mapping[str, float]], epoch: int) -> None:
        """Take the points of the step log so far; those of `epoch` go to the tracker."""
        _write_table(self.path.with_stem(f"{self.path.stem}_steps"), points)
        self.tracker.log_steps([point for point in points if point["epoch"] == epoch])

    def _with_running_values(self, history: list[dict[str, float]]) -> list[dict[str, float]]:
        """Return the history with means and maxima so far; from its values alone, so a resume keeps them."""
        unknown = [key for key in self.running if key not in history[-1] and key not in self._missed]
        if unknown:
            near = nearest(unknown[0], history[-1])
            log.warning("running_metrics: %s is not logged in this run.%s", ", ".join(unknown), near)
            self._missed.update(unknown)  # said once
        rows = [dict(row) for row in history]
        for key in self.running:
            values = np.array([row.get(key, np.nan) for row in history])
            for row, count, total, largest in zip(
                rows,
                np.cumsum(~np.isnan(values)),
                np.nancumsum(values),
                np.fmax.accumulate(values),
                strict=True,
            ):
                if count:
                    row |= {f"{key}_running_mean": float(total / count), f"{key}_running_max": float(largest)}
        return rows


def _write_table(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    write_text(path, csv_text(columns, rows))
