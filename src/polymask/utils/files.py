"""Writing files so that a reader sees the old content or the new, never a half."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from polymask.errors import UserError


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], *, sync: bool = True) -> None:
    """Write a file under a temporary name beside it, sync it to disk, then move it into place.

    Args:
        path: Final name; its folder is created.
        write: Called with the open binary file.
        sync: Wait until the disk has the content, so that even a power cut leaves no half file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


REPORT_NAME = "metrics.json"
"""Written by every report, whatever it reports on: a folder that holds it may be replaced by a later one."""


@contextmanager
def report_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write to, which takes the place of `folder` when the block ends well.

    Raises:
        UserError: `folder` holds something else than an earlier report, which must not be replaced.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / REPORT_NAME).is_file():
        raise UserError(
            f"{folder} holds other files than a report, and a report would replace them; choose another "
            "local_save_dir."
        )
    staging, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        # Moved aside first: deleting takes time, in which a kill would leave half of the old folder.
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, see `write_atomically`."""
    write_atomically(path, lambda file: file.write(text.encode()))
