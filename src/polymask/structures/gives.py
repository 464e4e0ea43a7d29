"""What a data set, a network or a loss gives, in words: by these a family finds out what fits it.

The words are `image`, `mask`, `label` (a class per image), `objects`, `volume`, and `reconstruction` (of the
image, from a part of it).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Function = TypeVar("Function", bound=Callable[..., object])


def gives(*words: str) -> Callable[[Function], Function]:
    """Return a decorator that says what a function's result gives; a class has an attribute `gives`."""

    def mark(function: Function) -> Function:
        function.gives = frozenset(words)  # type: ignore[attr-defined]
        return function

    return mark


def given_by(target: object, needs: frozenset[str]) -> frozenset[str]:
    """Return what `target` gives; code of one's own need not say: it fits."""
    return getattr(target, "gives", needs)
