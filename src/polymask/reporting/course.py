"""The course of a training, as the report of its test shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Course:
    """The course of a training.

    Attributes:
        history: Metrics of each epoch, with `epoch` (from 1); empty when nothing is known of them.
        best_epoch: The epoch (from 1) whose weights were tested.
    """

    history: Sequence[dict[str, float]]
    best_epoch: int


def plot_course(course: Course, folder: Path) -> None:
    """Write `training_curves.png`, if anything is known of the training."""
    if len(course.history):
        import pandas as pd

        from polymask.reporting.figures import plot_training_curves

        frame = pd.DataFrame(list(course.history))
        plot_training_curves(frame, folder / "training_curves.png", course.best_epoch)
