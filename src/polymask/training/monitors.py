"""The monitored metrics before the first epoch: whether they exist, and have a value."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from polymask.errors import UserError, listed, nearest
from polymask.families.base import Batch

log = logging.getLogger(__name__)


def check_monitors(
    monitor: str,
    others: Sequence[str],
    measure: Callable[[Iterable[Batch]], Mapping[str, float]],
    loader: Iterable[Batch],
    *,
    warn: bool,
) -> None:
    """Find a mistyped metric before training, and warn of one without a value.

    Args:
        monitor: The metric of the run's best epoch, `task.monitor`.
        others: Those with checkpoints of their own, `task.monitors`.
        measure: Returns the metrics of batches, by the keys that may be monitored.
        loader: The validation batches.
        warn: Whether to warn; false in all processes but one.

    Raises:
        UserError: A metric does not exist.
    """
    metrics: Mapping[str, float] = {}
    keys = [monitor, *others]
    # One batch tells; only when that one has no labels, say, and so lacks a metric, all are asked.
    for batches in (list(itertools.islice(loader, 1)), loader):
        metrics = measure(batches)
        keys = [key for key in (monitor, *others) if math.isnan(metrics.get(key, math.nan))]
        if not keys:
            return
    shown = {key: f"task.monitor={key}" if key == monitor else f"task.monitors=[{key}]" for key in keys}
    for key in keys:
        if key not in metrics:
            typed = f"task.monitor={key!r}" if key == monitor else shown[key]
            raise UserError(
                f"{typed} is not a metric of this task.{nearest(key, list(metrics))} {listed(key, metrics)}"
            )
    for key in keys if warn else ():
        log.warning(
            "%s has no value on the validation subset yet; if that has no samples of what it measures "
            "(objects, classes), no epoch will be the best.",
            shown[key],
        )
