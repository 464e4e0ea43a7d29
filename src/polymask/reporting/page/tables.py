"""Tables of CSV files for the page: numbers formatted, and each number beside its interval."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from polymask.reporting.page.blocks import Cell, Table
from polymask.reporting.page.numbers import Axis, common_axis, number, readable, with_interval

MOST_ROWS = 200


def csv_table(
    path: Path, caption: str, note: str = "", *, most_rows: int = MOST_ROWS, folded: bool = False
) -> Table | None:
    """Return the table of a CSV file, None when it has no rows.

    A column with an interval (`x`, `x_low` and `x_high`, or `low` and `high` right after it) becomes one.

    Args:
        path: The file, with a header.
        caption: Stands above it.
        note: Stands below it.
        most_rows: More rows are left out, and the note says so.
        folded: Whether it is shown only when asked for.
    """
    with path.open(encoding="utf-8", newline="") as file:
        columns, *rows = list(csv.reader(file)) or [[]]
    if not rows:
        return None
    if len(rows) > most_rows:
        more = f"The first {most_rows:,} of {len(rows):,} rows; all are in {path.name}."
        rows, note = rows[:most_rows], f"{note} {more}".strip()
    rows = [row + [""] * (len(columns) - len(row)) for row in rows]
    places = _places(columns)
    cells = [_column(columns[own[0]], [[row[place] for place in own] for row in rows]) for own in places]
    numeric = [all(cell.exact or cell.text in ("", "–") for cell in column) for column in cells]  # noqa: RUF001
    return Table(
        caption=caption,
        columns=[readable(columns[own[0]]) for own in places],
        numeric=numeric,
        rows=list(zip(*cells, strict=True)),
        note=note,
        folded=folded,
    )


def _places(columns: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the places of each column that is shown: one, or three of a value and its interval."""
    found: list[tuple[int, ...]] = []
    taken: set[int] = set()
    for place, name in enumerate(columns):
        if place in taken:
            continue
        ends = [f"{name}_low", f"{name}_high"]
        if not set(ends) <= set(columns):
            ends = ["low", "high"] if list(columns[place + 1 : place + 3]) == ["low", "high"] else []
        own = (place, *(columns.index(end) for end in ends))
        taken |= set(own)
        found.append(own)
    return found


def _column(name: str, texts: Sequence[Sequence[str]]) -> list[Cell]:
    """Return the cells of a column: names of metrics in words, too, and intervals on one axis."""
    if name == "metric":
        return [Cell(text=readable(text), key=text) for (text,) in texts]
    numbers = [[_number(text) for text in cell] for cell in texts]
    axis = common_axis(value for cell in numbers for value in cell)
    return [_cell(cell, own, axis) for cell, own in zip(texts, numbers, strict=True)]


def _cell(texts: Sequence[str], numbers: Sequence[float | None], axis: Axis | None) -> Cell:
    if len(texts) == 3:
        return with_interval(*numbers, axis=axis)
    if texts[0] and numbers[0] is None:
        return Cell(text=texts[0])
    return number(numbers[0])


def _number(text: str) -> float | None:
    """Return the number of a cell, None for a text or an empty cell; whole numbers stay whole."""
    try:
        return int(text) if text.lstrip("-").isdigit() else float(text)
    except ValueError:
        return None
