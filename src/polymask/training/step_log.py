"""Losses of the training steps, read from the device in bulk and checked to be finite.

They give the means of the epoch, and where it is wanted the step log: points every so many optimisation
steps, each the mean over the batches since the point before, also where an epoch ended in between.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from polymask.errors import UserError


@dataclass
class Window:
    """Sums of losses over some batches.

    Attributes:
        sums: By name.
        batches: Their number.
    """

    sums: dict[str, float] = field(default_factory=dict)
    batches: int = 0

    def add(self, values: Mapping[str, float]) -> None:
        """Take the losses of one more batch."""
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
        self.batches += 1

    def means(self) -> dict[str, float]:
        """Return the mean of each loss."""
        return {name: value / self.batches for name, value in self.sums.items()}


@dataclass(frozen=True)
class Point:
    """A point of the step log.

    Attributes:
        about: What is known without the device: step, time, learning rates.
        means: Mean of each loss since the point before.
    """

    about: dict[str, float]
    means: dict[str, float]


class StepLog:
    """Collects what training steps return and averages it over an epoch.

    Reading a value waits for the device, so values stay there and are read `every` steps in one copy.

    Args:
        every: Steps between reads; 1 finds a non-finite loss before it reaches the weights.
        window: What was summed up since the last point of the step log.

    Attributes:
        points: The points of the step log that were read, in their order.
        window: What was summed up since the last of them.
    """

    def __init__(self, *, every: int, window: Window | None = None) -> None:
        self.every = every
        self.points: list[Point] = []
        self.window = window or Window()
        self._waiting: list[tuple[dict[str, Tensor], list[str], dict[str, float] | None]] = []
        self._epoch = Window()

    def add(self, parts: dict[str, Tensor], ids: list[str], *, point: dict[str, float] | None = None) -> None:
        """Take the scalars of one step and the ids of its samples.

        Args:
            parts: The scalars by name, on their device.
            ids: The samples.
            point: Given, a point of the step log ends with this step, and this is said about it.

        Raises:
            UserError: A loss among those read now is not finite.
        """
        self._waiting.append(({name: value.detach() for name, value in parts.items()}, ids, point))
        if len(self._waiting) >= self.every:
            self.read()

    def read(self) -> None:
        """Read what waits on the device.

        Raises:
            UserError: A loss among it is not finite; the message names the parts and the samples.
        """
        if not self._waiting:
            return
        rows = torch.stack(
            [torch.stack(list(parts.values())).float() for parts, *_ in self._waiting]
        ).tolist()
        for (parts, ids, point), row in zip(self._waiting, rows, strict=True):
            values = dict(zip(parts, row, strict=True))
            if not math.isfinite(values["loss"]):
                shown = ", ".join(f"{name}={value:g}" for name, value in values.items())
                raise UserError(
                    f"the loss is not finite ({shown}) for the samples {', '.join(ids)}; checkpoints of "
                    "earlier epochs are kept. Look at these samples, lower optimizer.learning_rate, set "
                    "trainer.clip_norm=1.0 or try trainer.precision=fp32."
                )
            self._epoch.add(values)
            self.window.add(values)
            if point is not None:
                self.points.append(Point(point, self.window.means()))
                self.window = Window()
        self._waiting.clear()

    def means(self) -> dict[str, float]:
        """Return the mean of each part over all steps."""
        self.read()
        return self._epoch.means()
