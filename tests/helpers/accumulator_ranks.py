"""Rows for the tests of the accumulator, and what each of two processes does with them."""

from __future__ import annotations

from datetime import timedelta

import torch
from torch import distributed

from polymask.metrics.accumulator import Accumulator

IDS = ["s03", "s01", "s04", "s00", "s02"]


def make_rows():
    generator = torch.Generator().manual_seed(0)
    return {
        "probabilities": torch.rand(5, 3, generator=generator),
        "counts": torch.arange(5 * 2 * 3).reshape(5, 2, 3),
    }


def accumulate(*batches):
    accumulator = Accumulator()
    rows = make_rows()
    for batch in batches:
        accumulator.update([IDS[i] for i in batch], **{name: rows[name][batch] for name in rows})
    return accumulator


TYPES = [torch.bool, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bfloat16, torch.float64]


def every_type(rank):
    """Samples of process 1 alone, rows of every type; neither gloo nor NCCL could send int16."""
    accumulator = Accumulator()
    with torch.inference_mode():
        if rank == 1:
            accumulator.update(["\udcff", "ü"], **{f"{t}".split(".")[1]: torch.eye(2).to(t) for t in TYPES})
    return accumulator.compute()


def refused(accumulator):
    """The message of a `compute` that fails, after which the accumulator is used again."""
    try:
        accumulator.compute()
    except ValueError as error:
        accumulator.reset()
        accumulator.update([f"r{distributed.get_rank()}"], again=torch.ones(1))
        assert accumulator.compute()["again"].tolist() == [1, 1]
        return str(error)


def growing(rank):
    """Rows of a second `compute`, after a first that gathered only some."""
    accumulator = accumulate([0]) if rank == 0 else accumulate([1, 2])
    assert len(accumulator.compute()["ids"]) == 3
    if rank == 0:
        accumulator.update(IDS[3:], **{name: tensor[3:] for name, tensor in make_rows().items()})
    return accumulator.compute()


def run_rank(rank, folder):
    """What each of two processes does; its findings go to files for the test to read."""
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),  # processes that wait for different things shall fail, not hang
    )
    computed = {
        "uneven": (accumulate([3, 0], [2]) if rank == 0 else accumulate([4, 1])).compute(),
        "one_sided": (accumulate([0, 1, 2, 3, 4]) if rank == 1 else Accumulator()).compute(),
        "growing": growing(rank),
        "every_type": every_type(rank),
        "none": Accumulator().compute(),
    }
    other, shape = Accumulator(), Accumulator()
    other.update([f"r{rank}"], **{f"name{rank}": torch.zeros(1)})
    shape.update([f"r{rank}"], value=torch.zeros(1, 2 + rank))
    padded = accumulate([0, 1, 2]) if rank == 0 else accumulate([3, 4, 0])
    computed["refused"] = {"padded": refused(padded), "other": refused(other), "shape": refused(shape)}
    torch.save(computed, folder / f"{rank}.pt")
    distributed.destroy_process_group()
