"""Names that become paths. One that was read from a file is checked where it is read."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import PurePosixPath

from polymask.errors import UserError

_MOST_BYTES = 200
"""Room for what is added to a name, such as `.last.pt` and the ending of a file that is not whole yet."""


def is_file_name(name: object) -> bool:
    """Return whether a name is one plain part of a path: no folder, not hidden, of a length that fits."""
    return isinstance(name, str) and stays_inside(name) and "/" not in name and not name.startswith(".")


def stays_inside(name: object) -> bool:
    """Return whether a path such as `site_a/x7`, put below any folder, stays below it."""
    if not isinstance(name, str) or has_control_characters(name) or "\\" in name:
        return False
    parts = name.split("/")
    return (
        not PurePosixPath(name).is_absolute()
        and all(part not in ("", ".", "..") for part in parts)
        and all(len(part.encode(errors="surrogateescape")) <= _MOST_BYTES for part in parts)
    )


def check_file_names(names: Iterable[str]) -> None:
    """Refuse names of files that are no text: bytes that Python could not read are surrogates in them.

    Raises:
        UserError: Such a name is there; the message tells a name in another encoding from a locale without
            letters, where Python reads every name as ASCII.
    """
    bad = [name for name in names if any("\ud800" <= letter <= "\udfff" for letter in name)]
    if bad and all(_is_utf8(name) for name in bad):
        raise UserError(
            f"{len(bad)} file names have letters that Python does not read in this locale, e.g. {bad[0]!a}; "
            "set PYTHONUTF8=1 (or LC_ALL=C.UTF-8) and run again."
        )
    if bad:
        raise UserError(
            f"{len(bad)} file names are not UTF-8, e.g. {bad[0]!a}; rename these files (convmv does so)."
        )


def _is_utf8(name: str) -> bool:
    try:
        os.fsencode(name).decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def has_control_characters(text: str) -> bool:
    """Return whether a text holds a line break, a zero byte or the like, which no name has."""
    return any(letter < " " or letter == "\x7f" for letter in text)


def check_inside(names: Iterable[object], source: str) -> None:
    """Refuse ids of samples that cannot be names of files below a folder.

    Raises:
        UserError: One leads elsewhere.
    """
    bad = next((name for name in names if not stays_inside(name)), None)
    if bad is not None:
        raise UserError(
            f"{source} names {str(bad)[:120]!r}, which is no name of a file below a folder; rename it, or "
            "use the original file."
        )
