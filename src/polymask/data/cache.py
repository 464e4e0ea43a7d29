"""Decoded, resized samples in one memory-mapped file, shared by loader workers, processes and later runs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np


class SampleCache:
    """A fixed-size array of samples on disk; each row is filled the first time it is asked for.

    The operating system's page cache keeps it in memory once, however many processes read it. Rows are
    deterministic functions of the source files, so two processes that fill one row write the same bytes.

    Args:
        folder: Where cache files live.
        key: Everything that a row depends on (file names, sizes, times, image size); its hash names the file.
        num_samples: Number of rows.
        shape: Shape of a row; rows are uint8.
    """

    def __init__(self, folder: Path, *, key: Sequence[str], num_samples: int, shape: tuple[int, ...]) -> None:
        name = hashlib.sha256("\n".join([repr(shape), *key]).encode()).hexdigest()[:24]
        folder.mkdir(parents=True, exist_ok=True)
        self._rows = _open_array(folder / f"{name}.rows", (num_samples, *shape))
        self._filled = _open_array(folder / f"{name}.filled", (num_samples,))

    def get(self, index: int, read: Callable[[], np.ndarray]) -> np.ndarray:
        """Return row `index`, a read-only uint8 array; `read` makes it when it is not there yet."""
        if not self._filled[index]:
            row = read()
            self._rows[index] = row
            self._filled[index] = 1  # only after the row is whole: another process may look meanwhile
            return row
        row = self._rows[index].view(np.ndarray)
        row.flags.writeable = False
        return row


def file_key(path: Path | None) -> str:
    """Return a text that changes when the file at `path` does (name, size, time of modification)."""
    if path is None:
        return "-"
    status = path.stat()
    return f"{path}|{status.st_size}|{status.st_mtime_ns}"


def _open_array(path: Path, shape: tuple[int, ...]) -> np.memmap:
    size = int(np.prod(shape))
    # Growing a file to its size leaves a hole of zeros and never touches rows that others have written.
    with path.open("ab"):
        os.truncate(path, size)
    return np.memmap(path, dtype=np.uint8, mode="r+", shape=shape)
