"""Locks between processes that the operating system frees when their holder dies, however it dies."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

_held: set[int] = set()
"""Descriptors of the locks of this process."""


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock `path` inside the block where it is free; yields whether it was.

    The file is removed at the end. Where the system or the file system knows no locks nobody is kept out.
    """
    descriptor = _locked(path)
    if descriptor is None:
        yield False
        return
    _held.add(descriptor)
    try:
        yield True
    finally:
        # Removed while it is held: whoever opened it before finds below that it has no name any more.
        path.unlink(missing_ok=True)
        _held.discard(descriptor)
        os.close(descriptor)


def _locked(path: Path) -> int | None:
    """Return the descriptor of the locked file, None when another process holds it."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if fcntl is not None:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # some network file systems refuse to lock
            return descriptor
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(path)):
                return descriptor
        os.close(descriptor)


def _close_in_fork() -> None:
    """Leave the locks to the parent: a loader worker that outlives it must not keep them."""
    for descriptor in _held:
        with suppress(OSError):
            os.close(descriptor)
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_fork)
