"""Decoded, resized samples in one memory-mapped file, shared by loader workers, processes and later runs."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from polymask.errors import UserError


class SampleCache:
    """A fixed-size array of samples on disk; each row is filled the first time it is asked for.

    The operating system's page cache keeps it in memory once, however many processes read it. Rows are
    deterministic functions of the source files, so two processes that fill one row write the same bytes.

    Args:
        folder: Where cache files live.
        key: Everything that a row depends on (file names, sizes, times, image size); its hash names the file.
        num_samples: Number of rows.
        shape: Shape of a row; rows are uint8.

    Raises:
        UserError: The folder cannot be written to, or has no room for the rows that are not filled yet.
    """

    def __init__(self, folder: Path, *, key: Sequence[str], num_samples: int, shape: tuple[int, ...]) -> None:
        name = hashlib.sha256("\n".join([repr(shape), *key]).encode()).hexdigest()[:24]
        self._stem, self._shape = folder / name, (num_samples, *shape)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._filled = self._open_filled()
            _check_room(folder, math.prod(shape) * int(np.count_nonzero(self._filled == 0)))
            self._rows = self._open_rows()
        except OSError as error:
            raise unusable(folder, error) from error

    def get(self, index: int, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Return row `index`, a read-only uint8 array; `read` makes it when it is not there yet."""
        if not self._filled[index]:
            self._rows[index] = read()
            self._filled[index] = 1  # only after the row is whole: another process may look meanwhile
        row = self._rows[index].view(np.ndarray)
        row.flags.writeable = False
        return row

    def __getstate__(self) -> dict[str, Any]:
        # Pickled by value, the arrays would be copied whole into every loader worker that is not forked.
        return {"_stem": self._stem, "_shape": self._shape}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._filled, self._rows = self._open_filled(), self._open_rows()

    def _open_filled(self) -> np.memmap:
        return _open_array(self._stem.with_suffix(".filled"), self._shape[:1])

    def _open_rows(self) -> np.memmap:
        return _open_array(self._stem.with_suffix(".rows"), self._shape)


def unusable(folder: Path, error: OSError) -> UserError:
    """Return the error of a cache folder that cannot be made or written to."""
    return UserError(
        f"data.cache_dir={folder} cannot be used: {error.strerror}; give a folder that can be "
        "written to, or data.cache_dir=null to decode every time."
    )


def file_key(path: Path | None) -> str:
    """Return a text that changes when the file at `path` does (name, size, time of modification)."""
    if path is None:
        return "-"
    status = file_status(path)
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"


def file_status(path: Path) -> os.stat_result:
    """Return size and times of a file.

    Raises:
        UserError: It is not there (any more), or is a broken link.
    """
    try:
        return path.stat()
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; replace or remove it.") from error


def _check_room(folder: Path, needed: int) -> None:
    # Writing to a mapped file on a full disk would kill the process without a word.
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise UserError(
            f"data.cache_dir={folder} has {free / 1e9:.1f} GB free but the decoded samples take "
            f"{needed / 1e9:.1f} GB; give another folder, or data.cache_dir=null to decode every time."
        )


def _open_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    # Growing a file to its size leaves a hole of zeros and never touches rows that others have written.
    with path.open("ab"):
        os.truncate(path, math.prod(shape))
    return np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
