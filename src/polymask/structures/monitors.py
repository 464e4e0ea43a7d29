"""What tells which epochs are the best: the keys of metrics, and which direction of each is better."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from polymask.errors import UserError

_DIRECTIONS = ("min", "max")
_LESS_IS_BETTER = {"error", "ece", "brier", "aurc", "hd95"}
_BEST_AT_ZERO = "bias"


def direction(key: str) -> str:
    """Return which direction of a metric is better, where nobody says: `max`, of losses and errors `min`."""
    words = re.split(r"[/_]", key)
    return "min" if any(word in _LESS_IS_BETTER or word.endswith("loss") for word in words) else "max"


def parse_monitors(entries: Sequence[str], *, besides: str) -> dict[str, str]:
    """Return the metrics of which each gets a checkpoint, with the direction that is better.

    Args:
        entries: Keys such as `val/auroc_macro`; `val/x:min` says the direction, too.
        besides: The metric of the run's own best checkpoint, which needs no second one.

    Raises:
        UserError: It is no list of texts, or a metric is to be both minimised and maximised, or is best at
            zero and nobody says its direction.
    """
    is_list = entries is None or (isinstance(entries, Iterable) and not isinstance(entries, str))
    if not is_list or not all(isinstance(entry, str) and entry for entry in entries or ()):
        raise UserError(
            f"task.monitors={entries!r} must be a list of metrics, such as "
            "[val/dice_lesion_image,val/auroc_macro]."
        )
    found: dict[str, str] = {}
    for entry in entries or ():
        key, _, said = entry.rpartition(":")
        if said not in _DIRECTIONS:
            key, said = entry, direction(entry)
            if _BEST_AT_ZERO in re.split(r"[/_]", key):
                raise UserError(
                    f"task.monitors names {key}, which is best at 0: name the error, or say {key}:min."
                )
        if found.setdefault(key, said) != said:
            raise UserError(f"task.monitors names {key} as both min and max; name it once.")
    found.pop(besides, None)
    return found
