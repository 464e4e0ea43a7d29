"""Tables as plain text, the same on a terminal and in a log file."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence


def text_table(title: str, rows: Sequence[Sequence[str]], *, header: Sequence[str] = ()) -> str:
    """Return a table between two rules, without lines at its sides, so that a row can be copied.

    Args:
        title: Stands above it.
        rows: Its cells.
        header: Names of the columns; empty for none.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    utf = (sys.stdout.encoding or "").lower().startswith("utf")
    width = max(len(title), *(len(" ".join(row)) + 3 * len(row) for row in [header, *rows]))
    style = box.HORIZONTALS if utf else box.Box("    \n" * 2 + " -- \n" + "    \n" * 5, ascii=True)
    table = Table(
        title=title, box=style, show_header=bool(header), title_justify="left", title_style="", pad_edge=False
    )
    for number in range(len((rows or [header])[0])):
        table.add_column(Text(header[number]) if header else "", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    # As wide as its longest row: a line that was broken could not be copied.
    console = Console(file=io.StringIO(), width=width + 8, color_system=None, legacy_windows=False)
    console.print(table)
    return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines())  # type: ignore[attr-defined]


def duration(seconds: float) -> str:
    """Return a time such as `0:12:30`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
