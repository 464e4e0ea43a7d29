from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from polymask.tracking.base import NoTracker
from polymask.tracking.epoch_log import EpochLog


class Recorder(NoTracker):
    """Keeps the metrics that it is given."""

    def __init__(self) -> None:
        self.metrics: list[tuple[int, dict[str, float]]] = []
        self.points: list[list[dict[str, float]]] = []

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self.metrics.append((step, dict(metrics)))

    def log_steps(self, points: Sequence[Mapping[str, float]]) -> None:
        self.points.append([dict(point) for point in points])


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_epoch_goes_to_the_tracker_once_and_all_of_them_to_the_file(tmp_path: Path) -> None:
    tracker, path = Recorder(), tmp_path / "outputs" / "run" / "metrics.csv"
    history: list[dict[str, float]] = []
    log = EpochLog(path, tracker)
    for epoch, loss in enumerate((2.0, 1.5, 1.25), start=1):
        history.append({"epoch": epoch, "train/loss": loss, "learning_rate": 1e-3 / epoch})
        log.log_epoch(history)
        assert rows_of(path) == [{name: str(value) for name, value in row.items()} for row in history]
    assert tracker.metrics == [
        (1, {"train/loss": 2.0, "learning_rate": 1e-3}),
        (2, {"train/loss": 1.5, "learning_rate": 5e-4}),
        (3, {"train/loss": 1.25, "learning_rate": 1e-3 / 3}),
    ]


def test_a_resumed_run_has_the_earlier_epochs_in_its_file_but_sends_only_the_new_one(tmp_path: Path) -> None:
    tracker, path = Recorder(), tmp_path / "metrics.csv"
    history = [{"epoch": 1, "val/loss": 2.0}, {"epoch": 2, "val/loss": 1.0}, {"epoch": 3, "val/loss": 0.5}]
    EpochLog(path, tracker).log_epoch(history)
    assert [row["val/loss"] for row in rows_of(path)] == ["2.0", "1.0", "0.5"]
    assert tracker.metrics == [(3, {"val/loss": 0.5})]


def test_metrics_that_appear_later_and_undefined_ones_keep_their_columns(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    history = [
        {"epoch": 1, "val/loss": 2.0},
        {"epoch": 2, "val/loss": math.nan, "val/dice": 0.5},
        {"epoch": 3, "val/dice": 0.75},
    ]
    EpochLog(path, NoTracker()).log_epoch(history)
    assert rows_of(path) == [
        {"epoch": "1", "val/loss": "2.0", "val/dice": ""},
        {"epoch": "2", "val/loss": "nan", "val/dice": "0.5"},
        {"epoch": "3", "val/loss": "", "val/dice": "0.75"},
    ]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.csv"]


def test_running_means_and_maxima_are_those_of_the_values_so_far(tmp_path: Path) -> None:
    tracker, path = Recorder(), tmp_path / "metrics.csv"
    log = EpochLog(path, tracker, running=["val/dice"])
    history: list[dict[str, float]] = []
    for epoch, dice in enumerate((0.5, math.nan, 0.75, 0.25), start=1):
        history.append({"epoch": epoch, "val/dice": dice})
        log.log_epoch(history)
    running = [(m["val/dice_running_mean"], m["val/dice_running_max"]) for _, m in tracker.metrics]
    assert running == [(0.5, 0.5), (0.5, 0.5), (0.625, 0.75), (0.5, 0.75)]
    assert [row["val/dice_running_max"] for row in rows_of(path)] == ["0.5", "0.5", "0.75", "0.75"]
    assert "val/dice_running_mean" not in history[0]  # the history of the checkpoint stays as measured


def test_running_metric_that_nobody_logs_is_named_once(tmp_path: Path, caplog) -> None:
    log = EpochLog(tmp_path / "metrics.csv", NoTracker(), running=["val/dise"])
    for epochs in (1, 2):
        log.log_epoch([{"epoch": epoch, "val/dice": 0.5} for epoch in range(1, epochs + 1)])
    assert caplog.text.count("val/dise is not logged in this run. Did you mean 'val/dice'?") == 1


def test_points_of_steps_go_to_the_tracker_once_and_all_of_them_to_a_file_of_their_own(
    tmp_path: Path,
) -> None:
    tracker, path = Recorder(), tmp_path / "metrics.csv"
    log = EpochLog(path, tracker)
    points = [{"step": step, "epoch": 1 + step // 5, "step/train/loss": 1 / step} for step in (2, 4, 6, 8)]
    log.log_steps(points[:2], 1)
    log.log_steps(points, 2)
    assert tracker.points == [points[:2], points[2:]]
    assert rows_of(tmp_path / "metrics_steps.csv") == [
        {name: str(value) for name, value in point.items()} for point in points
    ]
    assert tracker.metrics == []
