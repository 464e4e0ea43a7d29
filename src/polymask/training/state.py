"""How far a run has come, and whether it should go on."""

from __future__ import annotations

from collections.abc import Mapping
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
        best_values: Best value so far of each further metric that is monitored, by its key.
        best_epochs: Epoch (from 1) of each of these values.
        epochs_since_best: Epochs without improvement of any monitored metric.
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
    best_values: dict[str, float] = field(default_factory=dict)
    best_epochs: dict[str, int] = field(default_factory=dict)

    def end_epoch(
        self, metrics: Mapping[str, float], monitor: str, mode: str, others: Mapping[str, str] | None = None
    ) -> list[str]:
        """Count an epoch.

        Args:
            metrics: What was measured in it.
            monitor: Key of the metric that tells the run's best epoch.
            mode: `min` or `max`: which direction of it is better.
            others: Key to mode of further metrics, whose best epochs are known beside it.

        Returns:
            The keys of those that are better than ever, `monitor` first.
        """
        self.epoch += 1
        improved = []
        if _is_better(metrics[monitor], self.best_value, mode):
            self.best_value, self.best_epoch = metrics[monitor], self.epoch
            improved.append(monitor)
        for key, direction in (others or {}).items():
            if _is_better(metrics[key], self.best_values.get(key), direction):
                self.best_values[key], self.best_epochs[key] = metrics[key], self.epoch
                improved.append(key)
        self.epochs_since_best = 0 if improved else self.epochs_since_best + 1
        # Of one metric alone its own course tells.
        counted = {"epochs_without_improvement": self.epochs_since_best} if others else {}
        self.history.append({"epoch": self.epoch, **metrics, **counted})
        return improved

    def should_stop(self, *, epochs: int, patience: int | None) -> bool:
        """Return whether all epochs are done or patience has run out."""
        return self.epoch >= epochs or (patience is not None and self.epochs_since_best >= patience)

    def epoch_seconds(self) -> float:
        """Return how long an epoch takes, validation included: the median of the newest five; 0 before."""
        seconds = [row["epoch_seconds"] for row in self.history[-5:] if "epoch_seconds" in row]
        return median(seconds) if seconds else 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the fields as a dict, those of further metrics where there are some."""
        optional = ("best_values", "best_epochs")
        return {name: value for name, value in asdict(self).items() if value or name not in optional}


def _is_better(value: float, best: float | None, mode: str) -> bool:
    """Return whether a value is better than the best so far: NaN never is, nor what is equal."""
    sign = 1 if mode == "max" else -1
    return value == value and (best is None or sign * value > sign * best)
