"""Losses of the training steps, read from the device in bulk and checked to be finite."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from polymask.errors import UserError


class StepLog:
    """Collects what training steps return and averages it over an epoch.

    Reading a value waits for the device, so values stay there and are read `every` steps in one copy.

    Args:
        every: Steps between reads; 1 finds a non-finite loss before it reaches the weights.
    """

    def __init__(self, *, every: int) -> None:
        self.every = every
        self._waiting: list[tuple[dict[str, Tensor], list[str]]] = []
        self._sums: dict[str, float] = {}
        self._steps = 0

    def add(self, parts: dict[str, Tensor], ids: list[str]) -> None:
        """Take the scalars of one step and the ids of its samples.

        Raises:
            UserError: A loss among those read now is not finite.
        """
        self._waiting.append(({name: value.detach() for name, value in parts.items()}, ids))
        if len(self._waiting) >= self.every:
            self.read()

    def read(self) -> None:
        """Read what waits on the device.

        Raises:
            UserError: A loss among it is not finite; the message names the parts and the samples.
        """
        if not self._waiting:
            return
        rows = torch.stack([torch.stack(list(parts.values())).float() for parts, _ in self._waiting]).tolist()
        for (parts, ids), row in zip(self._waiting, rows, strict=True):
            values = dict(zip(parts, row, strict=True))
            if not math.isfinite(values["loss"]):
                shown = ", ".join(f"{name}={value:g}" for name, value in values.items())
                raise UserError(
                    f"the loss is not finite ({shown}) for the samples {', '.join(ids)}; checkpoints of "
                    "earlier epochs are kept. Look at these samples, lower optimizer.learning_rate, set "
                    "trainer.clip_norm=1.0 or try trainer.precision=fp32."
                )
            for name, value in values.items():
                self._sums[name] = self._sums.get(name, 0.0) + value
            self._steps += 1
        self._waiting.clear()

    def means(self) -> dict[str, float]:
        """Return the mean of each part over all steps."""
        self.read()
        return {name: value / self._steps for name, value in self._sums.items()}
