"""The settings of a training, which the trainer and its loop share."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch

from polymask.families.base import Batch
from polymask.training.devices import move_batch
from polymask.training.distributed import Processes
from polymask.utils.interruption import raise_if_interrupted


class Loader(Protocol):
    """The batches of an epoch; a `torch.utils.data.DataLoader` is one."""

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches."""

    def __len__(self) -> int:
        """Return their number."""


class TrainLoader(Loader, Protocol):
    """The training batches, anew in every epoch."""

    def start_epoch(self, epoch: int) -> None:
        """Draw the samples of `epoch` (from 0) from now on."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How to train.

    Attributes:
        epochs: Epochs to train at most.
        seed: Seed of dropout and the like.
        device: Where to compute.
        precision: Number format of autocast, `torch.float32` for none.
        memory_format: Layout of convolutions.
        accumulate_batches: Batches per optimisation step.
        clip_norm: Largest norm of the gradient, None for no clipping.
        ema_decay: Decay of the averaged weights, None for no average.
        patience: Stop after this many epochs in which no monitored metric became better, None for never.
        limit_batches: Batches per epoch at most, None for all.
        batches_per_epoch: Batches of an epoch of training, as many as its steps take and no more than
            `limit_batches`; None for a pass over the training samples.
        log_every_steps: Optimisation steps between points of the step log, None for no such log.
        processes: This process among those of the run.
    """

    epochs: int
    seed: int
    device: torch.device
    precision: torch.dtype
    memory_format: torch.memory_format
    accumulate_batches: int
    clip_norm: float | None
    ema_decay: float | None
    patience: int | None
    limit_batches: int | None
    processes: Processes
    batches_per_epoch: int | None = None
    log_every_steps: int | None = None

    def num_batches(self, loader: Loader) -> int:
        """Return how many batches of `loader` an epoch takes."""
        return min(len(loader), self.limit_batches or len(loader))

    def steps_per_epoch(self, loader: Loader) -> int:
        """Return the number of optimisation steps per epoch."""
        return -(-self.num_batches(loader) // self.accumulate_batches)

    def batches(self, loader: Iterable[Batch]) -> Iterator[Batch]:
        """Yield the batches of an epoch, on the device."""
        for batch in itertools.islice(loader, self.limit_batches):
            raise_if_interrupted()
            yield move_batch(batch, self.device)
