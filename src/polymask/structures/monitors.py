"""What tells which epochs are the best: the keys of metrics, and which direction of each is better."""

from __future__ import annotations

from collections.abc import Sequence

from polymask.errors import UserError

_DIRECTIONS = ("min", "max")


def direction(key: str) -> str:
    """Return which direction of a metric is better, where nobody says: `min` of losses, `max` of all else."""
    return "min" if "loss" in key else "max"


def parse_monitors(entries: Sequence[str], *, besides: str) -> dict[str, str]:
    """Return the metrics of which each gets a checkpoint, with the direction that is better.

    Args:
        entries: Keys such as `val/auroc_macro`; `val/count_error:min` says the direction, too.
        besides: The metric of the run's own best checkpoint, which needs no second one.

    Raises:
        UserError: It is no list of texts, or a metric is to be both minimised and maximised.
    """
    if isinstance(entries, str) or not all(isinstance(entry, str) and entry for entry in entries or ()):
        raise UserError(
            f"task.monitors={entries!r} must be a list of metrics, such as "
            "[val/dice_lesion_image,val/count_error:min]."
        )
    found: dict[str, str] = {}
    for entry in entries or ():
        key, _, said = entry.rpartition(":")
        if said not in _DIRECTIONS:
            key, said = entry, direction(entry)
        if found.setdefault(key, said) != said:
            raise UserError(f"task.monitors names {key} as both min and max; name it once.")
    found.pop(besides, None)
    return found
