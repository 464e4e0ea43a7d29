"""The table of an inference run, which survives an interruption at any moment."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from polymask.utils.files import write_text
from polymask.utils.tables import csv_rows, csv_text

_FINAL, _PARTIAL = "predictions.csv", "predictions.partial.csv"


class PredictionTable:
    """`predictions.csv`, and until it is complete the rows so far in `predictions.partial.csv`.

    Args:
        folder: Folder of the results; the rows of both files in it are taken over.
        columns: Names of the columns; `file` identifies a row.
    """

    def __init__(self, folder: Path, columns: Sequence[str]) -> None:
        self.columns = list(columns)
        self._final, self._partial = folder / _FINAL, folder / _PARTIAL
        self.rows: dict[str, Mapping[str, Any]] = {}
        for path in (self._final, self._partial):
            if path.is_file():
                self.rows |= _read(path)
        self._file: TextIO

    def __enter__(self) -> PredictionTable:
        """Open the table for `add`."""
        write_text(self._partial, csv_text(self.columns, self.rows.values()))
        self._file = self._partial.open("a", newline="", encoding="utf-8")
        return self

    def __exit__(self, *error: object) -> None:
        """Close the file; its rows stay."""
        self._file.close()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append a row, at once also on disk."""
        self.rows[row["file"]] = row
        self._file.write(csv_rows(self.columns, [row]))
        self._file.flush()

    def finish(self, order: Sequence[str]) -> None:
        """Write the final table: the files of `order` first, then those of earlier runs."""
        names = dict.fromkeys([*order, *self.rows])
        rows = [self.rows[name] for name in names if name in self.rows]
        write_text(self._final, csv_text(self.columns, rows))
        self._partial.unlink()


def remove_tables(folder: Path) -> None:
    """Forget the rows of earlier runs."""
    for name in (_FINAL, _PARTIAL):
        (folder / name).unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Mapping[str, Any]]:
    # Without newline translation, or a line break inside a file name would change.
    text = path.read_bytes().decode("utf-8", errors="ignore")
    whole = text[: text.rfind("\n") + 1]  # a kill may have cut the last row short: its image comes again
    rows = csv.DictReader(io.StringIO(whole, newline=""))
    return {row["file"]: row for row in rows if None not in row.values() and None not in row}
