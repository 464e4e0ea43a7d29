"""Rows as text: for people in aligned columns, for programs as CSV."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Iterable, Sequence


def align_columns(rows: Sequence[Sequence[str]], *, left: int = 1, indent: str = "") -> list[str]:
    """Return one line per row with columns of equal width, the first `left` aligned on the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [*map(str.ljust, row[:left], widths), *map(str.rjust, row[left:], widths[left:])]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def csv_text(rows: Iterable[Sequence[object]]) -> str:
    r"""Return rows as CSV, lines ending in "\n"."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def same_name(name: str) -> str:
    """Return a name in the one form (NFC) in which names from tables, JSON files and disks are compared.

    macOS and some archives write `é` as two characters, tables mostly as one; both look the same.
    """
    return unicodedata.normalize("NFC", name)
