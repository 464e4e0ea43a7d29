"""Randomness of the networks (dropout, initial weights) as a function of seed, epoch and process."""

from __future__ import annotations

import random

import numpy as np
import torch


def seed_everything(*numbers: int) -> None:
    """Seed torch (all devices), numpy and Python from integers such as (seed, epoch, rank).

    Called at the start of every epoch, so the state of no generator has to outlive an epoch: a resumed run
    draws what the uninterrupted one would have drawn.
    """
    state = np.random.SeedSequence(numbers).generate_state(3)
    torch.manual_seed(int(state[0]))
    np.random.seed(int(state[1]))  # noqa: NPY002 - third-party code draws from the legacy generator
    random.seed(int(state[2]))
