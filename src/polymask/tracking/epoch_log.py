"""Metrics of every epoch, to the tracker and to a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from polymask.tracking.base import Tracker
from polymask.utils.files import write_text


class EpochLog:
    """Sends each epoch's metrics to the tracker and keeps the whole course in `metrics.csv`.

    Args:
        path: The CSV file; rewritten whole each time, so after a resume it holds the earlier epochs too.
        tracker: The tracker.
    """

    def __init__(self, path: Path, tracker: Tracker) -> None:
        self.path, self.tracker = path, tracker

    def log_epoch(self, history: list[dict[str, float]]) -> None:
        """Take the metrics of all epochs so far; the last entry goes to the tracker."""
        columns = list(dict.fromkeys(name for row in history for name in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(history)
        write_text(self.path, text.getvalue())
        newest = history[-1]
        metrics = {name: value for name, value in newest.items() if name != "epoch"}
        self.tracker.log_metrics(metrics, step=int(newest["epoch"]))
