"""Short public names of a package, imported when they are first asked for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def lazy_names(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """Return a package's `__getattr__`, which finds each public name in its module.

    A configuration so names what it means and not the file in which it stands, and to import the package
    imports nothing else.

    Args:
        package: Name of the package.
        modules: Public name to the module within the package in which it is defined.
    """

    def __getattr__(name: str) -> Any:  # noqa: N807 - it becomes one
        if name not in modules:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{modules[name]}"), name)

    return __getattr__
