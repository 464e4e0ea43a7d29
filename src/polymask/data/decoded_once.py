"""Files that several read together are decoded once, and forgotten when all have read them."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, ParamSpec, TypeVar

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_kept: ContextVar[dict[Hashable, Any] | None] = ContextVar("kept", default=None)


@contextmanager
def decoded_once() -> Iterator[None]:
    """Let every `once` inside of the block do its work once; for the few files of one case."""
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def once(
    function: Callable[_Arguments, _Result], *arguments: _Arguments.args, **options: _Arguments.kwargs
) -> _Result:
    """Call a function, or return what it returned before in the same block of `decoded_once`.

    The result is shared, so nobody may change it. Outside of a block nothing is kept.
    """
    kept = _kept.get()
    if kept is None:
        return function(*arguments, **options)
    key = (function, arguments, tuple(options.items()))
    if key not in kept:
        kept[key] = function(*arguments, **options)
    result: _Result = kept[key]
    return result
