"""Batches as lists of (pass, index, repeat) keys; a pass goes over all samples and is an epoch by default.

The key carries all that augmentation depends on, so the dataset needs no state: workers may live on from
epoch to epoch, their number may change, and an interrupted run draws the very same batches again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch.utils.data import Sampler

from polymask.errors import UserError
from polymask.structures.samples import SampleKey


class TrainBatches(Sampler[list[SampleKey]]):
    """Shuffled batches of equal size; `start_epoch` chooses which epoch the next iteration gives.

    A pass goes over all samples once. An epoch is one pass, or the next `batches_per_epoch` batches of the
    endless row of passes 0, 1, 2, …: it may end inside of a pass, where the next one goes on. Keys hold the
    number of the pass, so that a sample is augmented as in that epoch of an ordinary run. Which batches an
    epoch has follows from its number alone.

    Args:
        num_samples: Samples in the subset.
        batch_size: Samples per batch and process.
        seed: Seed of the order.
        weights: (N,) sampling weights; when given, N samples are drawn with replacement in proportion to
            them. A sample that is drawn again in an epoch gets another `repeat`, hence another augmentation.
        rank: Number of this process.
        world_size: Number of processes; together they draw what one process would.
        batches_per_epoch: Batches of an epoch and process, None for those of a pass.

    Raises:
        UserError: An epoch has a length, but there is no batch to fill it with.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        seed: int,
        weights: Sequence[float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        batches_per_epoch: int | None = None,
    ) -> None:
        self.num_samples = num_samples
        # Never more than there is: a data set smaller than a batch still trains.
        self.batch_size = min(batch_size, max(1, num_samples // world_size))
        self.seed = seed
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        self.rank, self.world_size = rank, world_size
        # A last one that is not full is left out.
        self._batches_per_pass = num_samples // (self.batch_size * world_size)
        self._batches_per_epoch = batches_per_epoch or self._batches_per_pass
        if batches_per_epoch and not self._batches_per_pass:
            raise UserError(
                f"{world_size} processes cannot share {num_samples} training samples: each needs one; start "
                "fewer processes."
            )
        self._epoch = 0

    def start_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self._epoch = epoch

    def __len__(self) -> int:
        """Return the number of batches of an epoch per process."""
        return self._batches_per_epoch

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield this process' share of each batch."""
        begin = self._epoch * len(self)
        batch, end = begin, begin + len(self)
        while batch < end:
            number, first = divmod(batch, self._batches_per_pass)
            last = min(first + end - batch, self._batches_per_pass)
            yield from self._batches_of_pass(number, range(first, last))
            batch += last - first

    def _batches_of_pass(self, number: int, batches: range) -> Iterator[list[SampleKey]]:
        seen: Counter[int] = Counter()
        keys: list[SampleKey] = []
        for index in self._draw(number):
            keys.append((number, index, seen[index]))
            seen[index] += 1
        whole = self.batch_size * self.world_size
        for start in (batch * whole for batch in batches):
            yield keys[start + self.rank : start + whole : self.world_size]

    def _draw(self, number: int) -> list[int]:
        seed = int(np.random.SeedSequence([self.seed, number]).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator().manual_seed(seed)
        if self.weights is None:
            return torch.randperm(self.num_samples, generator=generator).tolist()
        return torch.multinomial(self.weights, self.num_samples, True, generator=generator).tolist()


class EvaluationBatches(Sampler[list[SampleKey]]):
    """Every sample once, in order; the last batch may be short, and nothing is padded.

    Args:
        num_samples: Samples in the subset.
        batch_size: Samples per batch and process.
        rank: Number of this process; it gets every `world_size`-th batch. Whole batches, so that losses
            that depend on a batch's composition are the same for any number of processes.
        world_size: Number of processes.
    """

    def __init__(self, num_samples: int, *, batch_size: int, rank: int = 0, world_size: int = 1) -> None:
        self.num_samples, self.batch_size = num_samples, batch_size
        self._starts = range(rank * batch_size, num_samples, world_size * batch_size)

    def __len__(self) -> int:
        """Return the number of batches of this process."""
        return len(self._starts)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield the batches."""
        for start in self._starts:
            yield [(0, index, 0) for index in range(start, min(start + self.batch_size, self.num_samples))]
