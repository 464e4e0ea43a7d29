"""Learning-rate courses. Each builder takes the length of the run and returns a `Schedule`."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, OneCycleLR, ReduceLROnPlateau


class Schedule:
    """A learning-rate course that moves after every optimisation step, or after every epoch by a metric.

    Args:
        per_step: Scheduler to move after every optimisation step, if any.
        per_epoch: Scheduler to move after every epoch with the monitored value, if any.
    """

    def __init__(
        self, *, per_step: LambdaLR | OneCycleLR | None = None, per_epoch: ReduceLROnPlateau | None = None
    ) -> None:
        self._per_step, self._per_epoch = per_step, per_epoch

    def end_step(self) -> None:
        """Move on after an optimisation step."""
        if self._per_step is not None:
            self._per_step.step()

    def end_epoch(self, monitored: float) -> None:
        """Move on after an epoch whose monitored metric was `monitored`."""
        if self._per_epoch is not None:
            self._per_epoch.step(monitored)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the scheduler."""
        scheduler = self._per_step or self._per_epoch
        return scheduler.state_dict() if scheduler is not None else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        scheduler = self._per_step or self._per_epoch
        if scheduler is not None:
            scheduler.load_state_dict(state)


def constant(optimizer: Optimizer, *, steps_per_epoch: int, epochs: int, mode: str) -> Schedule:
    """Keep the learning rate."""
    return Schedule()


def cosine(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    mode: str,
    warmup_epochs: float = 0.0,
    final_factor: float = 0.01,
) -> Schedule:
    """Linear warm-up, then half a cosine down to `final_factor` (Loshchilov & Hutter 2017)."""

    def decay(progress: float) -> float:
        return final_factor + (1 - final_factor) * 0.5 * (1 + math.cos(math.pi * progress))

    return _after_warmup(optimizer, decay, steps_per_epoch, epochs, warmup_epochs)


def poly(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    mode: str,
    warmup_epochs: float = 0.0,
    power: float = 0.9,
) -> Schedule:
    """Linear warm-up, then (1 - progress) ** power (Chen et al. 2018, DeepLab)."""
    return _after_warmup(
        optimizer, lambda progress: (1 - progress) ** power, steps_per_epoch, epochs, warmup_epochs
    )


def step(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    mode: str,
    step_epochs: int = 10,
    factor: float = 0.1,
) -> Schedule:
    """Multiply the learning rate by `factor` every `step_epochs` epochs."""
    length = max(1, step_epochs * steps_per_epoch)
    return Schedule(per_step=LambdaLR(optimizer, lambda done: factor ** (done // length)))


def one_cycle(
    optimizer: Optimizer, *, steps_per_epoch: int, epochs: int, mode: str, warmup_share: float = 0.3
) -> Schedule:
    """One rise and fall whose peak is the configured learning rate (Smith & Topin 2018)."""
    peaks = [group["lr"] for group in optimizer.param_groups]
    # The momentum stays as the optimizer has it: only the learning rate is scheduled here.
    return Schedule(
        per_step=OneCycleLR(
            optimizer,
            max_lr=peaks,
            total_steps=max(2, steps_per_epoch * epochs) + 1,
            pct_start=warmup_share,
            cycle_momentum=False,
        )
    )


def plateau(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    mode: str,
    factor: float = 0.1,
    patience: int = 5,
    min_learning_rate: float = 0.0,
) -> Schedule:
    """Multiply by `factor` when the monitored metric has not improved for `patience` epochs."""
    scheduler = ReduceLROnPlateau(
        optimizer,
        mode="max" if mode == "max" else "min",
        factor=factor,
        patience=patience,
        min_lr=min_learning_rate,
    )
    return Schedule(per_epoch=scheduler)


def _after_warmup(
    optimizer: Optimizer,
    decay: Callable[[float], float],
    steps_per_epoch: int,
    epochs: int,
    warmup_epochs: float,
) -> Schedule:
    total = max(1, steps_per_epoch * epochs)
    warmup = round(min(warmup_epochs, epochs) * steps_per_epoch)

    def factor(done: int) -> float:
        if done < warmup:
            return (done + 1) / (warmup + 1)
        return decay(min(1.0, (done - warmup) / max(1, total - warmup)))

    return Schedule(per_step=LambdaLR(optimizer, factor))
