"""Text for people: rows in aligned columns, names in one form."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence


def align_columns(rows: Sequence[Sequence[str]], *, left: int = 1, indent: str = "") -> list[str]:
    """Return one line per row with columns of equal width, the first `left` aligned on the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = [*map(str.ljust, row[:left], widths), *map(str.rjust, row[left:], widths[left:])]
        lines.append((indent + "  ".join(cells)).rstrip())
    return lines


def same_name(name: str) -> str:
    """Return a name in the one form (NFC) in which names from tables, JSON files and disks are compared.

    macOS and some archives write `é` as two characters, tables mostly as one; both look the same.
    """
    return unicodedata.normalize("NFC", name)
