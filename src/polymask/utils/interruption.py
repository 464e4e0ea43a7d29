"""Ctrl-C and SIGTERM: they end the work wherever it stands, but never tear what is being written.

Between the writes a signal raises `Interrupted`. While a file is written or a record sent it waits for the
end of that, because libraries written in C replace or swallow what is raised inside of them. That it came is
remembered, so that the end of the command can tell an interruption whatever error came out of it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or a request to terminate, as schedulers of clusters send it."""


@dataclass
class _State:
    """What is known of signals in this process.

    Attributes:
        pid: The process that handles them; its forks do not.
        received: Number of the first signal, None before one.
        depth: Number of blocks that must not be interrupted, nested.
        waiting: A signal waits for the end of these blocks.
        advice: What to tell the user of what was interrupted.
    """

    pid: int = 0
    received: int | None = None
    depth: int = 0
    waiting: bool = False
    advice: str = ""


_state = _State()


@contextmanager
def interruptible() -> Iterator[None]:
    """Turn SIGINT and SIGTERM into `Interrupted` inside the block; inside another such block do nothing."""
    global _state
    # Only the main thread may handle signals.
    if _state.pid == os.getpid() or threading.current_thread() is not threading.main_thread():
        yield
        return
    _state = _State(pid=os.getpid())
    before = {number: signal.signal(number, _handle) for number in _SIGNALS}
    try:
        yield
    finally:
        _state.pid = 0
        for number, handler in before.items():
            # None: a handler that was not installed from Python, which cannot be put back.
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a signal wait for the end of the block; a second one, of an impatient user, does not wait."""
    if not _handles_signals():
        yield
        return
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
        due = _state.waiting and _state.depth == 0
        if due:
            _state.waiting = False
    if due:  # an error of the block itself goes first: `was_interrupted` tells the rest
        raise Interrupted


def raise_if_interrupted() -> None:
    """Raise `Interrupted` again where it was raised before but lost, as in a finalizer or a callback."""
    if _handles_signals() and _state.received is not None and _state.depth == 0:
        raise Interrupted


def was_interrupted(error: BaseException | None = None) -> bool:
    """Return whether a signal came, or `error` is that of one."""
    received = _state.pid == os.getpid() and _state.received is not None  # not of an earlier command
    return received or isinstance(error, KeyboardInterrupt)


def exit_status() -> int:
    """Return the status that an interrupted command ends with: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (_state.received or signal.SIGINT)


def advise(text: str) -> None:
    """Keep what the user is told when the command ends by an interruption."""
    _state.advice = text


def advice() -> str:
    """Return the last `advise`, "" when there was none."""
    return _state.advice


def _handles_signals() -> bool:
    return _state.pid == os.getpid() and threading.current_thread() is threading.main_thread()


def _handle(number: int, frame: FrameType | None) -> None:
    if _state.pid != os.getpid():  # a fork, such as a loader worker
        raise KeyboardInterrupt
    if _state.received is None:
        _state.received = number
    if _state.depth and not _state.waiting:
        _state.waiting = True
        return
    _state.waiting = False
    raise Interrupted
