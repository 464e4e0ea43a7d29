"""The least score of objects that count: a number, or a rule that chooses one on validation samples."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from polymask.errors import UserError, choose, number
from polymask.metrics.object_threshold import RULES, best_threshold
from polymask.structures.samples import Rows

log = logging.getLogger(__name__)

DEFAULT = 0.5
"""Counts until a rule has chosen."""


def check_threshold(value: float | str) -> float | str:
    """Return a threshold or a rule.

    Raises:
        UserError: It is neither.
    """
    if isinstance(value, str):
        return choose("task.score_threshold", value, (*RULES, "a number from 0 to 1"))
    note = f"or a rule: {', '.join(RULES)}"
    return number("task.score_threshold", value, least=0, most=1, note=note)


def chosen_threshold(
    value: float | str, validation: Rows, best: Callable[[Rows, str], float] = best_threshold
) -> float:
    """Return a threshold as a number.

    Args:
        value: The number, or a rule.
        validation: What was kept of the validation samples for it; {} where that is not enough.
        best: Returns the threshold that a rule chooses by it, NaN for none.

    Raises:
        UserError: It is a rule, and nothing or not enough is known of validation samples.
    """
    checked = check_threshold(value)
    if not isinstance(checked, str):
        return checked
    if not validation:
        raise UserError(
            f"task.score_threshold={checked} needs what the run's validation samples said of it, which this "
            f"checkpoint does not know: run polymask test with +task.score_threshold={checked} once."
        )
    threshold = best(validation, checked)
    if np.isnan(threshold):
        log.warning("task.score_threshold=%s: validation samples do not say; %s counts.", checked, DEFAULT)
        return DEFAULT
    return threshold
