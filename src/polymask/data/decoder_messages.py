"""What the image decoders written in C print: kept off the terminal, and read, because it tells of damage.

libjpeg, libpng and libtiff decode what they can of a damaged file and only print a line to the process'
standard error. No Python binding returns these lines, so the stream is turned aside while a file is decoded.
"""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")

_STDERR = 2
_LINE = re.compile(
    rb"(?:\[ ?(?:WARN|ERROR|INFO):\d+@|Corrupt JPEG data|Premature end of JPEG|Inconsistent progression|"
    rb"Invalid SOS parameters|Warning: unknown JFIF|Unknown Adobe color|libpng (?:warning|error))[^\n]*\n+"
)
_DAMAGE = re.compile(
    rb"(Corrupt JPEG data: (?P<corrupt>[^\n]+)|Premature end of JPEG file|TIFF_Error (?P<tiff>[^\n]+)|"
    rb"libpng error: (?P<png>[^\n]+))"
)
# Some cameras pad the data of a whole picture before its end marker.
_PADDING = re.compile(rb"^[1-8] extraneous bytes before marker 0xd9")


def listen(call: Callable[[], Result]) -> tuple[Result, str]:
    """Run a decoder and listen to what it prints.

    Threads may listen at the same time. When one hears of damage that another's file may have, it decodes
    again while all others wait. Whatever else the process writes meanwhile comes out a moment later.

    Args:
        call: Decodes one file.

    Returns:
        What `call` returns, and the first message that means damage, "" when there is none.
    """
    result, text = _stream.aside(call)
    if _damage(text):
        result, text = _stream.aside(call, alone=True)
    return result, _damage(text)


def _damage(text: bytes) -> str:
    for found in _DAMAGE.finditer(text):
        if not _PADDING.match(found["corrupt"] or b""):
            return next(filter(None, (found["corrupt"], found["tiff"], found["png"], found[0]))).decode(
                errors="replace"
            )
    return ""


class _Stream:
    """Standard error, turned aside into a file while at least one thread decodes."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._users = self._waiting = 0  # threads that decode; those that want to do so alone
        self._is_exclusive = False
        self._original = -1
        self._file = tempfile.TemporaryFile()  # noqa: SIM115

    def aside(self, call: Callable[[], Result], *, alone: bool = False) -> tuple[Result, bytes]:
        """Return the result of `call` and all that was written meanwhile."""
        start = self._enter(alone=alone)
        try:
            result = call()
        finally:
            text = self._leave(start)
        return result, text

    def _enter(self, *, alone: bool) -> int:
        with self._changed:
            if alone:
                self._waiting += 1
                self._changed.wait_for(lambda: not self._users)
                self._waiting -= 1
            else:
                self._changed.wait_for(lambda: not (self._is_exclusive or self._waiting))
            if not self._users:
                self._turn_aside()
            self._users += 1
            self._is_exclusive = alone
            return os.fstat(self._file.fileno()).st_size

    def _leave(self, start: int) -> bytes:
        with self._changed:
            text = self._written(start)
            self._users -= 1
            self._is_exclusive = False
            if not self._users:
                self._turn_back()
            self._changed.notify_all()
        return text

    def _turn_aside(self) -> None:
        try:
            self._original = os.dup(_STDERR)
        except OSError:  # a service without standard error
            self._original = -1
            return
        os.dup2(self._file.fileno(), _STDERR)

    def _turn_back(self) -> None:
        if self._original < 0:
            return
        os.dup2(self._original, _STDERR)
        os.close(self._original)
        self._original = -1
        text = self._written(0)
        if text:
            os.ftruncate(self._file.fileno(), 0)
            os.lseek(self._file.fileno(), 0, os.SEEK_SET)
            # What no decoder wrote, such as a progress bar or a log line of another thread.
            rest = _LINE.sub(b"", text)
            if rest:
                os.write(_STDERR, rest)

    def _written(self, start: int) -> bytes:
        size = os.fstat(self._file.fileno()).st_size
        if size <= start:
            return b""
        with open(os.dup(self._file.fileno()), "rb") as copy:
            here = copy.tell()
            copy.seek(start)
            text = copy.read(size - start)
            copy.seek(here)
        return text

    def after_fork(self) -> None:
        """Give a forked process its own standard error back, and a file of its own."""
        if self._original >= 0:
            os.dup2(self._original, _STDERR)
            os.close(self._original)
        self.__init__()  # type: ignore[misc]


_stream = _Stream()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_stream.after_fork)
