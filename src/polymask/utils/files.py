"""Writing files so that a reader sees the old content or the new, never a half."""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from polymask.errors import UserError
from polymask.utils.interruption import uninterrupted

_DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
"""What the place of a file can do to its writer: full, over quota, read-only, broken."""


def write_atomically(path: Path, write: Callable[[IO[bytes]], object], *, sync: bool = True) -> None:
    """Write a file under a temporary name beside it, sync it to disk, then move it into place.

    Ctrl-C and SIGTERM wait for its end.

    Args:
        path: Final name; its folder is created.
        write: Called with the open binary file.
        sync: Wait until the disk has the content, so that even a power cut leaves no half file.

    Raises:
        UserError: The disk does not take the file: it is full, read-only, over quota. What stood there before
            stays whole.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    needed = 0
    with uninterrupted():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                patient = _PatientFile(file)
                _write_patiently(patient, write)
                needed = patient.num_bytes
                if patient.error is not None:
                    raise patient.error
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        except OSError as error:
            raise _disk_error(path, error, needed) from error
        finally:
            temporary.unlink(missing_ok=True)


class _PatientFile:
    """A file that takes whatever is written after an error of the disk, and keeps the error for its owner.

    Writers in C, such as that of `torch.save`, turn an exception of `write` into errors of their own.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.error: OSError | None = None
        self.num_bytes = 0

    def write(self, data: Any) -> int:
        size = memoryview(data).nbytes
        self.num_bytes += size
        if self.error is None:
            try:
                self._file.write(data)
            except OSError as error:
                self.error = error
        return size

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _write_patiently(file: _PatientFile, write: Callable[[IO[bytes]], object]) -> None:
    try:
        write(cast("IO[bytes]", file))
    except Exception:
        if file.error is None:  # else what the writer makes of a file that stopped growing
            raise


def _disk_error(path: Path, error: OSError, needed: int) -> OSError | UserError:
    """Return one line for what the place of `path` did to its writer; other errors as they are."""
    if error.errno not in _DISK_TROUBLE:
        return error
    path, sizes = Path(error.filename or path), ""
    if needed:
        sizes = (
            f"; it needs {needed / 1e6:.1f} MB, {shutil.disk_usage(path.parent).free / 1e6:.1f} MB are free"
        )
    return _cannot_write(path, error, sizes)


def _cannot_write(path: Path, error: OSError, sizes: str = "") -> UserError:
    return UserError(
        f"{path} cannot be written ({error.strerror}{sizes}). Make room or mend the permissions there, then "
        "run it again; whatever had that name before is whole."
    )


def remove_leftovers(folder: Path, pattern: str) -> None:
    """Remove what processes that were killed while they wrote files left; only for the one writer of these.

    Args:
        folder: Folder of the files.
        pattern: Of their names; `glob.escape` makes one of a name.
    """
    for left in folder.glob(f".{pattern}.????????.tmp"):
        left.unlink(missing_ok=True)


def check_writable(folder: Path, *, remedy: str) -> None:
    """Raise UserError when `folder` is not there and cannot be made, or nothing can be written into it.

    Nothing is created.

    Args:
        folder: The folder.
        remedy: What to do instead, for the message.
    """
    existing = next(place for place in (folder, *folder.parents) if place.exists() or place.is_symlink())
    if not existing.is_dir():
        reason = f"{existing} is a file"
    elif not os.access(existing, os.W_OK | os.X_OK):
        reason = f"{existing} may not be written to"
    else:
        return
    raise UserError(f"{folder} is needed for results, but {reason}; mend that, or {remedy}.")


REPORT_NAME = "metrics.json"
"""Written by every report, whatever it reports on: a folder that holds it may be replaced by a later one."""


@contextmanager
def report_folder(folder: Path) -> Iterator[Path]:
    """Give an empty folder to write to, which takes the place of `folder` when the block ends well.

    Raises:
        UserError: `folder` holds something else than an earlier report, which must not be replaced.
    """
    check_report_folder(folder)
    staging, old = folder.with_name(f".{folder.name}.partial"), folder.with_name(f".{folder.name}.old")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
    except OSError as error:  # of any kind: what is not there cannot be made
        raise _cannot_write(folder, error) from error
    try:
        try:
            yield staging
        except OSError as error:
            raise _disk_error(folder, error, 0) from error
        # Moved aside first: deleting takes time, in which a kill would leave half of the old folder.
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            os.replace(folder, old)
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def check_report_folder(folder: Path) -> None:
    """Raise UserError when a report cannot take the place of `folder`; nothing is created."""
    remedy = "choose another local_save_dir"
    if folder.is_dir():
        if any(folder.iterdir()) and not (folder / REPORT_NAME).is_file():
            raise UserError(
                f"{folder} holds other files than a report, and a report would replace them; {remedy}."
            )
    elif folder.exists():
        raise UserError(f"{folder} is a file, where a report would be written; remove it, or {remedy}.")
    check_writable(folder.parent, remedy=remedy)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically, see `write_atomically`."""
    write_atomically(path, lambda file: file.write(text.encode()))
