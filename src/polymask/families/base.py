"""The contract between a task and the trainer, the test run and the inference run."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor, nn

Batch = dict[str, Any]
"""What the data set's `collate` returns, its tensors on the task's device."""


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


class Task(nn.Module, ABC):
    """A learning problem: the network, its losses and its metrics.

    The trainer knows only what stands here. A batch is what the task's data set collates; its tensors are
    already on the task's device.

    Attributes:
        monitor: Metric key, such as `val/loss`, that decides which checkpoint is the best.
        mode: `min` or `max`: which direction of `monitor` is better.
        samples: What it learns from, in the words of the data set's `samples`.
        has_tta: Whether `predict_step` can average over flips.
        learns_masks: Whether it needs masks, so that data without any foreground are refused.
    """

    monitor: str
    mode: str
    samples: str
    has_tta: bool = True
    learns_masks: bool = True

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Run `training_step`; the name is what DistributedDataParallel calls."""
        return self.training_step(batch)

    @abstractmethod
    def start_epoch(self, epoch: int) -> None:
        """Prepare the network for training in `epoch`: training mode, frozen parts frozen."""

    @abstractmethod
    def parameter_groups(self) -> dict[str, list[nn.Parameter]]:
        """Return the parameters as `encoder` (may have its own learning rate) and `rest`."""

    @abstractmethod
    def training_step(self, batch: Batch) -> dict[str, Tensor]:
        """Return scalars; `loss` is optimised, the others are logged under their names."""

    def training_metrics(self) -> dict[str, float]:
        """Return metrics of the training batches since `start_epoch`; none unless a task collects some.

        They are of the augmented images and of weights that still moved, so they lag behind an evaluation of
        the same samples. With several processes all must call it.
        """
        return {}

    @abstractmethod
    def evaluation_step(self, batch: Batch) -> list[Any]:
        """Return one prediction per sample and feed losses and metrics."""

    @abstractmethod
    def compute_metrics(self) -> dict[str, float]:
        """Return all metrics since `reset_metrics`, keys without the `val/` or `test/` prefix."""

    @abstractmethod
    def reset_metrics(self) -> None:
        """Forget what `evaluation_step` has collected."""

    @abstractmethod
    def sample_metrics(
        self, rows: dict[str, np.ndarray], weights: np.ndarray | None = None, *, per_class: bool = False
    ) -> dict[str, np.ndarray]:
        """Compute the metrics from rows that were collected before, for intervals and comparisons.

        Args:
            rows: One row per sample under each name; `ids` (N,) are the samples.
            weights: (R, N) non-negative weights of the samples, None for the point estimate (R = 1).
            per_class: Also those of each class that are too many to be logged in every epoch.

        Returns:
            Metric name to (R,) values, NaN where undefined.
        """

    @abstractmethod
    def sample_scores(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return name to (N,) scores that tell how well each sample was predicted.

        Higher is better, NaN where a sample has no truth. The first name matters most.
        """

    @abstractmethod
    def predict_step(self, batch: Batch, *, tta: bool = False) -> list[Any]:
        """Return one prediction per sample without looking at targets; `tta` averages over flips."""

    @abstractmethod
    def result(self, prediction: Any, size: tuple[int, int]) -> Any:
        """Return a prediction in plain containers, at the image's own (height, width) in pixels."""

    @abstractmethod
    def picture(self, prediction: Any, record: Any) -> np.ndarray:
        """Draw one prediction beside the truth: (H, W, 3) uint8 RGB.

        Args:
            prediction: What `evaluation_step` returned for the sample.
            record: The sample's record of the data set.
        """

    @abstractmethod
    def report(self, folder: Path, data: Any) -> Report:
        """Return the consumer of a test run's predictions, which writes tables and figures to `folder`."""

    @abstractmethod
    def prediction_writer(self, folder: Path, *, overlay: bool) -> PredictionWriter:
        """Return the consumer of an inference run's predictions, which writes them to `folder`."""


def takes(build: Callable[..., Any], **arguments: Any) -> bool:
    """Return whether a function or class can be called with `arguments`; it is not called."""
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError:
        return False
    return True
