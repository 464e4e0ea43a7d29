"""Numbers in files."""

from __future__ import annotations

import math
from typing import TypeVar

Value = TypeVar("Value")


def none_for_nan(value: Value) -> Value | None:
    """Return None for NaN, for which JSON has no word and a table an empty cell; all else as it is."""
    return None if isinstance(value, float) and math.isnan(value) else value
