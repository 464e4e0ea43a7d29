"""Checks of single values of `model.fusion`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from polymask.errors import UserError


def odd(key: str, value: Any, *, why: str) -> int:
    """Return a value that is an odd number of at least 1.

    Args:
        key: Where it was given, for the message.
        value: The user's value.
        why: The reason, for the message.

    Raises:
        UserError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1 or value % 2 == 0:
        raise UserError(f"{key}={value!r} is not valid; give an odd number (1, 3, 5, …): {why}.")
    return value


def one_of(key: str, value: Any, allowed: Sequence[Any]) -> Any:
    """Return a value that is one of a few.

    Raises:
        UserError: It is not; 1 is not true, and true not 1.
    """
    if not any(value == option and type(value) is type(option) for option in allowed):
        words = " or ".join(str(option).lower() for option in allowed)
        raise UserError(f"{key}={value!r} is not valid; give {words}.")
    return value
