"""Options that are a section of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

from polymask.errors import UserError, listed, nearest

Options = TypeVar("Options")


def options_of(kind: type[Options], given: Mapping[str, Any] | None, key: str) -> Options:
    """Return a dataclass of options of which some are given; the others have their defaults.

    Args:
        kind: The dataclass; it judges the values.
        given: Its fields by name, None for none.
        key: Key of the section, such as `task.linking`.

    Raises:
        UserError: A field is unknown, or what is given is no mapping.
    """
    known = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if not isinstance(given, Mapping | None):
        raise UserError(f"{key}={given!r} is no section; give some of {', '.join(known)}.")
    for name in given or {}:
        if name not in known:
            raise UserError(f"{key}.{name} is unknown.{nearest(name, known)} {listed(name, known)}")
    return kind(**(given or {}))
