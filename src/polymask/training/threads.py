"""How many threads one operation of the network is computed with."""

from __future__ import annotations

import logging
import os

import torch

from polymask.errors import whole_number
from polymask.utils.cores import num_cores

log = logging.getLogger(__name__)


def use_threads(threads: int | None) -> int:
    """Let PyTorch compute with so many threads, and say so in the log; return the number.

    Loader workers do not count: with the cache they are idle most of the time, and results that depend on
    their number could not be repeated with another one. Each of them computes with one thread.

    Args:
        threads: The number; None for `OMP_NUM_THREADS`, or else for this process' share of the cores.

    Raises:
        UserError: No whole number above 0.
    """
    share = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    cores, given = num_cores(), os.environ.get("OMP_NUM_THREADS")
    if threads is not None:
        torch.set_num_threads(whole_number("trainer.threads", threads, least=1))
    elif not given:
        torch.set_num_threads(max(1, cores // share))
    chosen = torch.get_num_threads()
    if os.environ.get("RANK", "0") == "0":
        why = (
            "trainer.threads"
            if threads is not None
            else "OMP_NUM_THREADS"
            if given
            else "trainer.threads=null"
        )
        log.info("%d threads per process (%s; %d cores, processes here: %d)", chosen, why, cores, share)
        load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
        if chosen > 1 and load > 1.5 * cores:
            log.warning(
                "other programs keep %d cores busy (load %.1f); trainer.threads=1 may be faster", cores, load
            )
    return chosen
