"""How many threads one operation of the network is computed with."""

from __future__ import annotations

import logging
import os

import torch

from polymask.errors import whole_number
from polymask.utils.cores import busy_cores, num_cores

log = logging.getLogger(__name__)


def use_threads(threads: int | None, *, before: int = 0) -> int:
    """Let PyTorch compute with so many threads, and say so in the log; return the number.

    Threads wait for one another, so where another program takes one of two cores, two threads are slower
    than one. Loader workers do not count: with the cache they are idle most of the time, and results that
    depend on their number could not be repeated with another one. Each of them computes with one thread.

    Args:
        threads: The number; None for `OMP_NUM_THREADS`, or else for the cores that other programs leave to
            this process now; of the cores of a job of several processes for this one's share.
        before: The number of the run to go on with, 0 for a new one. It is kept where nothing else is said:
            sums of other parts differ in their last bits.

    Raises:
        UserError: No whole number above 0.
    """
    share = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores = num_cores()
    if threads is not None:
        why = "trainer.threads"
        torch.set_num_threads(whole_number(why, threads, least=1))
    elif os.environ.get("OMP_NUM_THREADS"):
        why = "OMP_NUM_THREADS"
    elif before:
        why = "as before"
        torch.set_num_threads(min(before, cores))
    elif share > 1:
        why = f"{cores} cores for {share} processes"
        torch.set_num_threads(max(1, cores // share))
    else:
        busy = round(busy_cores())
        why = f"{cores} cores, {busy} of them busy with other programs"
        torch.set_num_threads(max(1, cores - busy))
    chosen = torch.get_num_threads()
    if os.environ.get("RANK", "0") == "0":
        log.info("computing with %d thread%s (%s)", chosen, "" if chosen == 1 else "s", why)
    return chosen
