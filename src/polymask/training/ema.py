"""Exponential moving average of the weights (Polyak & Juditsky 1992)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage:
    """Keeps averaged copies of a module's floating-point parameters and buffers.

    After the n-th update the decay is min(decay, (1 + n) / (10 + n)), so that the random start is forgotten
    quickly.

    Args:
        module: The module whose weights are averaged.
        decay: Share of the old average that stays, in (0, 1).
    """

    def __init__(self, module: nn.Module, *, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self._live = {
            name: tensor for name, tensor in module.state_dict().items() if tensor.is_floating_point()
        }
        self._average = {name: tensor.clone() for name, tensor in self._live.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move the averages towards the current weights."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        torch._foreach_lerp_(list(self._average.values()), list(self._live.values()), 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the module hold the averages inside the block, and its own weights again after it."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for name, live in self._live.items():
            own = live.clone()
            live.copy_(self._average[name])
            self._average[name].copy_(own)

    def state_dict(self) -> dict[str, Tensor | int]:
        """Return the averages and the number of updates."""
        return {"num_updates": self.num_updates, **self._average}

    def load_state_dict(self, state: dict[str, Tensor | int]) -> None:
        """Take over what `state_dict` returned."""
        self.num_updates = int(state["num_updates"])
        for name, average in self._average.items():
            average.copy_(torch.as_tensor(state[name]))
