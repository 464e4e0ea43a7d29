"""What a task family supplies for the test run and for the inference run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class Report(Protocol):
    """Consumes the predictions of a test run batch by batch, so that memory does not grow with the data."""

    def add(self, predictions: Sequence[Any]) -> None:
        """Take the predictions of one batch."""

    def finish(self, history: Sequence[dict[str, float]], best_epoch: int) -> None:
        """Write tables and figures of everything taken.

        Args:
            history: Metrics of each epoch of the training.
            best_epoch: The epoch (from 1) whose weights were tested.
        """

    def summary(self, metrics: dict[str, float]) -> list[str]:
        """Return the few lines that a person wants to see first."""

    def picture(self, id_: str) -> np.ndarray:
        """Draw one test sample beside its truth, also when an earlier process wrote the report.

        Args:
            id_: Its id.

        Returns:
            (H, W, 3) uint8 RGB, made from the files of the report's folder and the data set.
        """


class PredictionWriter(Protocol):
    """Writes the predictions of an inference run, one image at a time, possibly from several threads."""

    @property
    def folders(self) -> Sequence[str]:
        """Return the names of the folders that `write` fills."""

    @property
    def columns(self) -> Sequence[str]:
        """Return the names of the values that `write` returns."""

    def write(self, name: Path, result: Any, image: np.ndarray | None) -> dict[str, Any]:
        """Write the files of one image.

        Args:
            name: Path of the image relative to the input folder.
            result: What the task's `result` returned for it.
            image: (H, W, 3) uint8 RGB at original size, None when no overlay is wanted.

        Returns:
            The row for `predictions.csv`.
        """

    def finish(self) -> None:
        """Write what is about all images, those of earlier runs in the same folder too."""
