"""Tables as CSV: the one writer of all of them that are no data frame."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

Row = Mapping[str, object] | Sequence[object]
"""Cells by the names of their columns, or in the order of the columns."""


def csv_text(columns: Sequence[str], rows: Iterable[Row]) -> str:
    r"""Return a table with its header, lines ending in "\n".

    Args:
        columns: Names of the columns.
        rows: What a row by names lacks, and None, stays empty.
    """
    return csv_rows(columns, [columns, *rows])


def csv_rows(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Return rows without the header, to be appended to a table; see `csv_text`."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(_cells(row, columns) for row in rows)
    return text.getvalue()


def _cells(row: Row, columns: Sequence[str]) -> Sequence[object]:
    if not isinstance(row, Mapping):
        return row
    assert row.keys() <= set(columns), f"cells of no column: {row.keys() - set(columns)}"
    return [row.get(name, "") for name in columns]
