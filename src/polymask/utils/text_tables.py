"""Tables as plain text, the same on a terminal and in a log file."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def text_table(title: str, rows: Sequence[Sequence[str]], *, header: Sequence[str] = ()) -> str:
    """Return a table between two rules, without lines at its sides and unbroken, so that a row can be copied.

    Args:
        title: Stands above it.
        rows: Its cells.
        header: Names of the columns; empty for none.
    """
    cells = [list(header), *rows] if header else list(rows)
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    dash = "─" if (sys.stdout.encoding or "").lower().startswith("utf") else "-"
    rule = dash * max(map(len, [title, *lines]))
    if header:
        lines.insert(1, rule)
    return "\n".join([title, rule, *lines, rule])


def duration(seconds: float) -> str:
    """Return a time such as `0:12:30`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
