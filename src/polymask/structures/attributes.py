"""Values of a table's columns: which are known, and which are numbers."""

from __future__ import annotations

import math

UNKNOWN = "unknown"
"""The subgroup of samples of which a value is not known."""

_NOT_KNOWN = frozenset({"", "na", "n/a", "nan", UNKNOWN})


def known_text(value: str) -> str:
    """Return a value, "" when it says that nothing is known: empty, NA, NaN, unknown."""
    text = value.strip()
    return "" if text.lower() in _NOT_KNOWN else text


def as_number(text: str) -> float:
    """Return a known value as a number, NaN when it is no finite one."""
    try:
        value = float(text)
    except ValueError:
        return math.nan
    return value if math.isfinite(value) else math.nan
