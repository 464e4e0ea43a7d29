"""Drawn data sets appear whole or not at all, and are not taken for others."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from polymask.errors import UserError


def write_once(folder: Path, write: Callable[[Path], None], *, readme: str, settings: str, part: str) -> None:
    """Write a data set unless it is there already.

    The folder appears whole or not at all, and of several writers at once the first one wins.

    Args:
        folder: Where the data set shall stand; missing parents are made.
        write: Called with the folder to write to, which it makes.
        readme: Text of README.txt, with `{settings}` in a line of its own.
        settings: What the data set was made with.
        part: A file or folder that every such data set has.

    Raises:
        UserError: `folder` exists and holds something else, or a data set of other settings.
    """
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        # A sibling, because a rename is atomic only within one file system.
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as scratch:
            # One level down: the scratch folder itself is private (0700).
            staged = Path(scratch) / folder.name
            write(staged)
            (staged / "README.txt").write_text(readme.format(settings=settings), encoding="utf-8")
            try:
                os.rename(staged, folder)
            except OSError:
                if not folder.exists():  # else another writer was first: his copy stays, ours goes
                    raise
    _check_present(folder, settings, part)


def _check_present(folder: Path, settings: str, part: str) -> None:
    """Stop when a folder that is there already is not the wanted one, rather than use other data silently."""
    if not (folder / part).exists():
        raise UserError(
            f"{folder} exists but has no {part}. Remove it, or name another folder for demo data."
        )
    readme = folder / "README.txt"
    if readme.is_file() and settings not in readme.read_text(encoding="utf-8").splitlines():
        raise UserError(
            f"{folder} was not made with {settings}. Remove it to have it made anew, or name another."
        )
