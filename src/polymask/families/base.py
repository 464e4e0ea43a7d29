"""The contract between a task and the trainer, the test run and the inference run."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

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


RESULTS_NAME = "inference.json"
"""File that marks a folder of results of an inference; nothing in it is a case."""


class Application(ABC):
    """Applies a trained task to cases: to images, or to whatever else the family predicts as one.

    It holds no network and opens no file before it is asked to. The way of a case: `read` opens it, `collate`
    joins several, `predict` gets what was joined on the task's device, and `write` (for files) or `result`
    (for Python) makes of the prediction what a person wants. `read` runs in the loader's processes and
    `write` in threads; how much of a case is in memory at a time is the family's affair.

    Attributes:
        folders: Names of the folders that `write` fills.
        columns: Names of the values that `write` returns.
        settings: What was chosen for this inference rather than in training, by key of the configuration:
            results of different settings do not go into one folder.
        batch_size: Cases per pass through the network, unless the user gives another number.
    """

    folders: Sequence[str]
    columns: Sequence[str]
    settings: Mapping[str, Any]
    batch_size: int

    @abstractmethod
    def find(self, folder: Path) -> list[Path]:
        """Return the cases below a folder, relative to it and sorted; hidden ones and results are left out.

        Raises:
            UserError: There is none.
        """

    @abstractmethod
    def read(self, source: str | Path | np.ndarray, *, draw: bool = False) -> tuple[Any, Any]:
        """Open a case.

        Args:
            source: Its path, or what would be read from there.
            draw: Whether `write` shall draw the prediction on it.

        Returns:
            The network's input, for `collate`; and what `result` and `write` will have to know of the case.

        Raises:
            UserError: It cannot be read.
        """

    @abstractmethod
    def collate(self, ids: Sequence[str], inputs: Sequence[Any]) -> Batch:
        """Return the inputs of some cases as one batch for `predict`; tensors are moved to its device."""

    @abstractmethod
    def predict(self, task: Any, batch: Batch) -> Sequence[Any]:
        """Return one prediction per case; without gradients and in the caller's precision.

        Args:
            task: The family's task.
            batch: What `collate` returned.
        """

    @abstractmethod
    def result(self, prediction: Any, case: Any) -> Any:
        """Return a prediction in plain containers, at the case's own size."""

    @abstractmethod
    def write(self, folder: Path, name: Path, prediction: Any, case: Any) -> dict[str, Any]:
        """Write the files of one case.

        Args:
            folder: Folder of the results.
            name: Of its files: a path below each of `folders`, without suffix.
            prediction: What `predict` returned for it.
            case: What `read` returned for it.

        Returns:
            Its row of `predictions.csv`.
        """

    @abstractmethod
    def finish(self, folder: Path) -> None:
        """Write what is about all cases, those of earlier runs into the same folder too."""


class Task(nn.Module, ABC):
    """A learning problem: the network, its losses and its metrics.

    The trainer knows only what stands here. A batch is what the task's data set collates; its tensors are
    already on the task's device.

    Attributes:
        monitor: Metric key, such as `val/loss`, that decides which checkpoint is the best.
        mode: `min` or `max`: which direction of `monitor` is better.
        samples: What it learns from, in the words of the data set's `samples`.
        options: Keys of an inference's configuration that `application` takes, beside those of every family.
        learns_masks: Whether it needs masks, so that data without any foreground are refused.
    """

    monitor: str
    mode: str
    samples: str
    options: ClassVar[Sequence[str]] = ()
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
    def application(self, data: Mapping[str, Any], chosen: Mapping[str, Any]) -> Application:
        """Return what applies the task to new cases.

        Args:
            data: The `data` section of the stored configuration.
            chosen: Values of the keys of `options` that take the place of those of training.

        Raises:
            UserError: A value is not allowed.
        """


def takes(build: Callable[..., Any], **arguments: Any) -> bool:
    """Return whether a function or class can be called with `arguments`; it is not called."""
    try:
        inspect.signature(build).bind(**arguments)
    except TypeError:
        return False
    return True
