"""The contract between a task and the trainer, the test run and the inference run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from polymask.evaluation.base import PredictionWriter, Report

Batch = dict[str, Any]
"""What the data set's `collate` returns, its tensors on the task's device."""


class Task(nn.Module, ABC):
    """A learning problem: the network, its losses and its metrics.

    The trainer knows only what stands here. A batch is what the task's data set collates; its tensors are
    already on the task's device.

    Attributes:
        monitor: Metric key, such as `val/loss`, that decides which checkpoint is the best.
        mode: `min` or `max`: which direction of `monitor` is better.
    """

    monitor: str
    mode: str

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
    def predict_step(self, batch: Batch, *, tta: bool = False) -> list[Any]:
        """Return one prediction per sample without looking at targets; `tta` averages over flips."""

    @abstractmethod
    def result(self, prediction: Any, size: tuple[int, int]) -> Any:
        """Return a prediction in plain containers, at the image's own (height, width) in pixels."""

    @abstractmethod
    def report(self, folder: Path, data: Any) -> Report:
        """Return the consumer of a test run's predictions, which writes tables and figures to `folder`."""

    @abstractmethod
    def prediction_writer(self, folder: Path, *, overlay: bool) -> PredictionWriter:
        """Return the consumer of an inference run's predictions, which writes them to `folder`."""
