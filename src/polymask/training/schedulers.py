"""Learning-rate courses. Each builder takes the length of the run and returns a `Schedule`."""

from __future__ import annotations

import math
import warnings
from bisect import bisect_right
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from polymask.errors import UserError, number, whole_number


class Schedule:
    """A learning-rate course that moves after every optimisation step, or after every epoch by a metric.

    Args:
        per_step: Scheduler to move after every optimisation step, if any.
        per_epoch: Scheduler to move after every epoch with the monitored value, if any.
    """

    def __init__(
        self, *, per_step: LambdaLR | None = None, per_epoch: ReduceLROnPlateau | None = None
    ) -> None:
        self._per_step, self._per_epoch = per_step, per_epoch

    def end_step(self) -> None:
        """Move on after an optimisation step, also one that fp16 left out for its large gradients."""
        if self._per_step is None:
            return
        if self._per_step.last_epoch > 0:
            self._per_step.step()
            return
        with warnings.catch_warnings():
            # Left out, the first step looks as if the schedule came before the optimizer.
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
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
        """Take over what `state_dict` returned; call it after the optimizer has its own state back.

        A course over the steps of a run is a function of the step and the number of all steps. So a run that
        goes on to more epochs has from its next step on the rate of a run of the new length; the optimizer's
        own state has that of the old length. A plateau keeps its rate and what it counted.
        """
        scheduler = self._per_step or self._per_epoch
        if scheduler is not None:
            scheduler.load_state_dict(state)
        if self._per_step is not None:
            course = self._per_step
            for group, peak, factor in zip(
                course.optimizer.param_groups, course.base_lrs, course.lr_lambdas, strict=True
            ):
                group["lr"] = peak * factor(course.last_epoch)


def constant(optimizer: Optimizer, *, steps_per_epoch: int, epochs: int, mode: str) -> Schedule:
    """Keep the learning rate."""
    return Schedule()


def cosine(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    mode: str,
    warmup_epochs: float | None = None,
    warmup_share: float | None = None,
    final_factor: float = 0.01,
) -> Schedule:
    """Linear warm-up, then half a cosine down to `final_factor` (Loshchilov & Hutter 2017).

    The warm-up takes `warmup_epochs` or the `warmup_share` of all steps, and one epoch where both are None.

    Raises:
        UserError: Both are given, or a value is not allowed.
    """
    total = max(1, steps_per_epoch * epochs)
    warmup = _warmup_steps(warmup_epochs, warmup_share, steps_per_epoch, epochs, otherwise=1)
    return _after_warmup(optimizer, lambda progress: _half_cosine(1.0, final_factor, progress), total, warmup)


def poly(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    mode: str,
    warmup_epochs: float | None = None,
    warmup_share: float | None = None,
    power: float = 0.9,
) -> Schedule:
    """Linear warm-up, then (1 - progress) ** power (Chen et al. 2018, DeepLab).

    The warm-up takes `warmup_epochs` or the `warmup_share` of all steps; there is none where both are None.

    Raises:
        UserError: Both are given, or a value is not allowed.
    """
    total = max(1, steps_per_epoch * epochs)
    warmup = _warmup_steps(warmup_epochs, warmup_share, steps_per_epoch, epochs, otherwise=0)
    return _after_warmup(optimizer, lambda progress: (1 - progress) ** power, total, warmup)


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


def milestones(
    optimizer: Optimizer,
    *,
    steps_per_epoch: int,
    epochs: int,
    mode: str,
    milestones: Sequence[int],
    factor: float = 0.1,
    warmup_steps: int = 0,
) -> Schedule:
    """Multiply the learning rate by `factor` after each of the given optimisation steps.

    Before, it rises in `warmup_steps` equal steps; whatever the length of the run, these steps stay.

    Raises:
        UserError: A value is no number that is allowed, or the milestones do not increase.
    """
    steps = [whole_number("scheduler.milestones", value, least=1) for value in milestones]
    if any(later <= earlier for earlier, later in pairwise(steps)):
        raise UserError(
            f"scheduler.milestones={steps} is not valid; each must be larger than the one before, e.g. "
            f"{sorted(set(steps))}."
        )
    number("scheduler.factor", factor, above=0)
    warmup = whole_number("scheduler.warmup_steps", warmup_steps, least=0)

    def rate(done: int) -> float:
        rise = min(1.0, (done + 1) / (warmup + 1))
        return rise * float(factor ** bisect_right(steps, done))

    return Schedule(per_step=LambdaLR(optimizer, rate))


def one_cycle(
    optimizer: Optimizer, *, steps_per_epoch: int, epochs: int, mode: str, warmup_share: float = 0.3
) -> Schedule:
    """One rise and fall whose peak is the configured learning rate (Smith & Topin 2018).

    Half a cosine from 1/25 of the peak up to it within `warmup_share` of the run, then half a cosine down to
    1/250,000. Only the learning rate is scheduled: the momentum stays as the optimizer has it.
    """
    last = max(2, steps_per_epoch * epochs)
    top = warmup_share * (last + 1) - 1

    def factor(done: int) -> float:
        if done <= top:
            return _half_cosine(1 / 25, 1.0, done / top if top > 0 else 1.0)
        return _half_cosine(1.0, 1 / 250_000, min(1.0, (done - top) / (last - top)))

    return Schedule(per_step=LambdaLR(optimizer, factor))


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


def _half_cosine(start: float, end: float, progress: float) -> float:
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


def _warmup_steps(
    warmup_epochs: float | None,
    warmup_share: float | None,
    steps_per_epoch: int,
    epochs: int,
    *,
    otherwise: float,
) -> int:
    if warmup_share is None:
        return round(min(otherwise if warmup_epochs is None else warmup_epochs, epochs) * steps_per_epoch)
    share = number("scheduler.warmup_share", warmup_share, least=0, most=1)
    if warmup_epochs:
        raise UserError(
            f"scheduler.warmup_epochs={warmup_epochs} and scheduler.warmup_share={warmup_share} both set the "
            "warm-up; set one of them to null."
        )
    return round(share * steps_per_epoch * epochs)


def _after_warmup(optimizer: Optimizer, decay: Callable[[float], float], total: int, warmup: int) -> Schedule:
    def factor(done: int) -> float:
        if done < warmup:
            return (done + 1) / (warmup + 1)
        return decay(min(1.0, (done - warmup) / max(1, total - warmup)))

    return Schedule(per_step=LambdaLR(optimizer, factor))
