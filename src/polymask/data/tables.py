"""Reading of the CSV tables that users bring."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path

from polymask.errors import UserError
from polymask.utils.text import same_name

_ID_COLUMNS = ("id", "image_id", "image", "file_name", "isic_id")


def read_csv(path: str | Path) -> list[dict[str, str]]:
    """Read a CSV file; see `parse_csv`.

    Raises:
        UserError: The file is absent, unreadable, not UTF-8, empty or malformed.
    """
    return [row for _, row in numbered_rows(*_read_text(path))]


def read_numbered_csv(path: str | Path) -> list[tuple[int, dict[str, str]]]:
    """Read a CSV file with the number of each row's line, for messages about single rows; see `parse_csv`.

    Raises:
        UserError: As `read_csv` does.
    """
    return numbered_rows(*_read_text(path))


def _read_text(path: str | Path) -> tuple[str, str]:
    """Return the text of a CSV file and what to call it."""
    try:
        return Path(path).read_text(encoding="utf-8-sig"), str(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}. Give a readable CSV file.") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text. Save it as CSV in UTF-8.") from error


def parse_csv(text: str, source: str) -> list[dict[str, str]]:
    """Return the rows of a CSV text, at least one, by column name in lower case.

    Values are in the composed form of Unicode, as the names of files are, see `same_name`.

    Args:
        text: The first line names the columns; blank lines are skipped.
        source: Where the text comes from, for the message.

    Raises:
        UserError: No rows, two columns of one name, or a line that does not fit the first one.
    """
    return [row for _, row in numbered_rows(text, source)]


def numbered_rows(text: str, source: str) -> list[tuple[int, dict[str, str]]]:
    """Return the rows of a CSV text with the number of the line in which each ends; see `parse_csv`."""
    reader = csv.reader(io.StringIO(same_name(text), newline=""), strict=True)
    try:
        lines = [(reader.line_num, cells) for cells in reader if cells]
    except csv.Error as error:
        raise UserError(
            f"{source} is malformed in line {reader.line_num}: {error}. Mend the line."
        ) from error
    if len(lines) < 2:
        raise UserError(f"{source} is empty. Give a CSV with a line of column names and one line per image.")
    columns = [name.strip().lower() for name in lines[0][1]]
    if len(set(columns)) < len(columns):
        raise UserError(f"{source} has two columns of one name: {', '.join(columns)}. Rename one.")
    for number, cells in lines:
        if len(cells) != len(columns):
            found = f"{len(cells)} values for {len(columns)} columns"
            raise UserError(f"{source} is malformed in line {number}: {found}. Mend the line.")
    return [(number, dict(zip(columns, cells, strict=True))) for number, cells in lines[1:]]


def id_column(columns: Sequence[str], source: str) -> str:
    """Return the column that names the samples: their ids or the names of their files.

    Args:
        columns: All columns, in lower case.
        source: Where they come from, for the message.

    Raises:
        UserError: There is none.
    """
    found = next((name for name in _ID_COLUMNS if name in columns), None)
    if found is None:
        raise UserError(f"{source} has no column {' or '.join(_ID_COLUMNS)}. Found: {', '.join(columns)}.")
    return found


def some(names: Sequence[str]) -> str:
    """Return the first few of `names` for a message."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def nearest_files(ids: Sequence[str], folder: Path) -> str:
    """Return which files of a folder may have been meant as the masks of some ids."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    for id_ in ids[:3]:
        near = [name for name in names if id_ in name] or get_close_matches(id_, names, n=1)
        if near:
            return f"nearest to {id_}: {some(near[:3])}."
    return f"it holds {some(names)}." if names else "it is empty."
