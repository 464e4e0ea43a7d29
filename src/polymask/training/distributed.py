"""Processes started by `torchrun`; a single process is world size 1 of the same code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Processes:
    """This process among those of the run.

    Attributes:
        rank: Number of this process over all machines.
        local_rank: Number of this process on its machine.
        world_size: Number of processes.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Return whether this process is the one that writes files and talks to the tracker."""
        return self.rank == 0

    def share(self, value: Shared) -> Shared:
        """Return the main process' `value` in all processes."""
        if self.world_size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values, src=0)
        return values[0]

    def means(self, rows: list[dict[str, float]]) -> list[dict[str, float]]:
        """Return the mean of each value of each row over the processes."""
        if self.world_size == 1:
            return rows
        every: list[list[dict[str, float]]] = [[]] * self.world_size
        dist.all_gather_object(every, rows)
        return [
            {name: sum(one[name] for one in same) / self.world_size for name in same[0]}
            for same in zip(*every, strict=True)
        ]

    @torch.no_grad()
    def share_buffers(self, module: nn.Module) -> None:
        """Give all processes the main process' buffers, such as BatchNorm statistics.

        Each process gathers its own in a training step, and DistributedDataParallel aligns them only before
        the next one; an evaluation in between would mix networks, none of them the one that is saved.
        """
        if self.world_size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)


def leave() -> None:
    """Part from the other processes, after which each works alone."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def processes() -> Iterator[Processes]:
    """Join the processes that `torchrun` started (read from its environment) for the time of the block."""
    world_size = int(os.environ.get("WORLD_SIZE", "1"))
    if world_size == 1:
        yield Processes()
        return
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if torch.cuda.is_available():
        torch.cuda.set_device(local_rank)
    dist.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(rank=dist.get_rank(), local_rank=local_rank, world_size=world_size)
    finally:
        leave()
