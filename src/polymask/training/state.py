"""How far a run has come, and whether it should go on."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any


@dataclass
class TrainingState:
    """Everything about the course of a run that is not a tensor.

    Attributes:
        epoch: Number of epochs that are done.
        step: Number of optimisation steps that are done.
        best_value: Best value of the monitored metric so far, None before the first epoch.
        best_epoch: Epoch (from 1) of that value, 0 before the first.
        epochs_since_best: Epochs without improvement.
        threads: Threads that it was computed with, 0 where that is not known.
        history: Metrics of each epoch, with `epoch` (from 1).
        points: Of the step log, see `polymask.training.step_log`: each with `step`, `epoch` (from 1), `time`
            (seconds since 1970) and its values.
        window: Sums of the losses since the last point, which the next epoch's first point will need.
        window_batches: Batches that are in these sums.
    """

    epoch: int = 0
    step: int = 0
    best_value: float | None = None
    best_epoch: int = 0
    epochs_since_best: int = 0
    threads: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    points: list[dict[str, float]] = field(default_factory=list)
    window: dict[str, float] = field(default_factory=dict)
    window_batches: int = 0

    def end_epoch(self, metrics: dict[str, float], monitor: str, mode: str) -> bool:
        """Count an epoch; return whether the monitored metric is the best yet (NaN never is)."""
        self.epoch += 1
        self.history.append({"epoch": self.epoch, **metrics})
        value = metrics[monitor]
        sign = 1 if mode == "max" else -1
        improved = value == value and (self.best_value is None or sign * value > sign * self.best_value)
        if improved:
            self.best_value, self.best_epoch, self.epochs_since_best = value, self.epoch, 0
        else:
            self.epochs_since_best += 1
        return improved

    def should_stop(self, *, epochs: int, patience: int | None) -> bool:
        """Return whether all epochs are done or patience has run out."""
        return self.epoch >= epochs or (patience is not None and self.epochs_since_best >= patience)

    def epoch_seconds(self) -> float:
        """Return how long an epoch takes, validation included: the median of the newest five; 0 before."""
        seconds = [row["epoch_seconds"] for row in self.history[-5:] if "epoch_seconds" in row]
        return median(seconds) if seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the fields as a dict."""
        return asdict(self)
