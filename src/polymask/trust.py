"""What the configuration inside a file may name, when the file may be a stranger's.

Hydra's `instantiate` imports and calls whatever `_target_` names. That is what one's own YAML is for; a
checkpoint that somebody sent would so run any code it likes. A configuration that was read from a file passes
`check_config` before anything is imported or built: it may name constructors of a list, each in its place.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from polymask.errors import UserError
from polymask.utils.paths import CONFIG_DIR

TRUSTED = "POLYMASK_TRUSTED"
"""Environment variable with what the user trusts besides, see `trusted_entries`."""

Place = tuple[str, int, str, bool]
"""Group, number of keys, last key, whether it is `_partial_`: ("loss", 4, "term", False)."""

LISTED: dict[Place, tuple[str, ...]] = {
    ("loss", 4, "term", False): (
        "torch.nn.CrossEntropyLoss",
        "torch.nn.MultiMarginLoss",
        "segmentation_models_pytorch.losses.DiceLoss",
        "segmentation_models_pytorch.losses.FocalLoss",
        "segmentation_models_pytorch.losses.JaccardLoss",
        "segmentation_models_pytorch.losses.LovaszLoss",
        "segmentation_models_pytorch.losses.TverskyLoss",
    ),
}
"""Constructors by place that no YAML file of config/ names, but that a run may have been given."""

LIBRARIES = {
    "optimizer": ("torch.optim", {"torch.optim": ("Optimizer",)}),
    "transforms": (
        "albumentations",
        {"albumentations": ("BasicTransform",), "albumentations.core.composition": ("BaseCompose",)},
    ),
}
"""Group -> a package, and the base classes (by module) of which the group may name subclasses."""

_NOWHERE: Place = ("", 0, "", False)
_SPECIAL = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
_MOST_NODES = 100_000  # more are no configuration, but a trap for whoever walks through it
_MOST_LEVELS = 32
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")


@dataclass(frozen=True)
class Target:
    """A `_target_` with the keys that lead to its node, such as `loss.segmentation.dice.term`."""

    name: Any
    path: tuple[str | int, ...]
    is_partial: bool

    @property
    def key(self) -> str:
        """The key of the node."""
        return ".".join(map(str, self.path)) or "the configuration"

    @property
    def place(self) -> Place:
        """Where it stands: what is harmless in one place need not be in another, or called at once."""
        return (
            (str(self.path[0]), len(self.path), str(self.path[-1]), self.is_partial)
            if self.path
            else _NOWHERE
        )


def check_config(config: Mapping[str, Any], source: str) -> None:
    """Refuse a configuration from a file that could run code, or read what only this machine knows.

    Args:
        config: Plain containers.
        source: The file, for the message.

    Raises:
        UserError: A target is not allowed in its place; a value is an interpolation (`${oc.env:NAME}` would
            read the environment) or no plain value.
    """
    targets = list(_targets(config, source))
    # All names before the first import: importing runs code, too.
    for target in targets:
        if not _is_allowed_name(target):
            raise _refusal(target, source)
    for target in targets:
        if target.name not in allowed(target.place) and not _is_what_it_says(target):
            raise _refusal(target, source)


@lru_cache
def _constructors(folder: Path) -> dict[Place, set[str]]:
    """Return what the YAML files of a configuration tree name, by place."""
    found = {place: set(names) for place, names in LISTED.items()}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    for file in sorted(folder.rglob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        is_global = text.startswith("# @package _global_")
        group = () if is_global else file.parent.relative_to(folder).parts
        try:
            content = yaml.load(text, loader)
        except yaml.YAMLError:  # whoever composes with it is told; it allows nothing
            continue
        for target in _targets(content or {}, str(file), group, stored=False):
            found.setdefault(target.place, set()).add(str(target.name))
    return found


def allowed(place: Place) -> set[str]:
    """Return the exact names that a file may give as `_target_` in a place."""
    return _constructors(CONFIG_DIR).get(place, set())


def trusted_entries() -> list[str]:
    """Return the entries of `POLYMASK_TRUSTED`, separated by commas.

    Modules (`mypackage.nets`, with all below them), and places to write to outside of the project: folders
    (`/scratch/me`) and servers (`http://mlflow.lab:5000`).
    """
    return [entry.strip() for entry in os.environ.get(TRUSTED, "").split(",") if entry.strip()]


def is_trusted_module(name: str) -> bool:
    """Return whether a dotted name is one of the user's trusted modules, or lies below one."""
    return any(name == entry or name.startswith(f"{entry}.") for entry in trusted_entries())


def _targets(
    node: Any, source: str, path: tuple[str | int, ...] = (), *, stored: bool = True
) -> Iterator[Target]:
    """Yield every target of a tree, at any depth.

    Raises:
        UserError: `stored`, and a value is an interpolation or no plain value, or there are too many.
    """
    waiting: list[tuple[Any, tuple[str | int, ...]]] = [(node, path)]
    for _ in range(_MOST_NODES):
        if not waiting:
            return
        node, path = waiting.pop()
        children: list[tuple[Any, Any]] = []
        if isinstance(node, Mapping):
            children = list(node.items())
            if "_target_" in node:
                yield Target(node["_target_"], path, node.get("_partial_", False) is True)
        elif isinstance(node, list | tuple):
            children = list(enumerate(node))
        elif stored:
            _check_value(node, path, source)
        for key, child in children:
            if stored and isinstance(node, Mapping):
                _check_key(key, path, source)
            waiting.append((child, (*path, key)))
        if len(path) > _MOST_LEVELS:
            break
    raise _damaged(path[:3], source, "it is too large or nested too deeply")


def _check_key(key: Any, path: tuple[str | int, ...], source: str) -> None:
    if not isinstance(key, str | int) or isinstance(key, bool):
        raise _damaged(path, source, f"a key is {type(key).__name__}, not text")
    if isinstance(key, str):
        _check_text(key, path, source)
        if re.fullmatch(r"_\w+_", key) and key not in _SPECIAL:
            raise _damaged((*path, key), source, "there is no such special key")


def _check_value(value: Any, path: tuple[str | int, ...], source: str) -> None:
    if value is not None and not isinstance(value, str | int | float):
        raise _damaged(path, source, f"it is {type(value).__name__}, not text, number or list")
    if isinstance(value, str):
        _check_text(value, path, source)


def _check_text(text: str, path: tuple[str | int, ...], source: str) -> None:
    """Refuse what OmegaConf would replace: a stored configuration is resolved, so none is left in ours."""
    if "${" in text or text == "???":
        raise _damaged(path, source, f"{text[:60]!r} would be replaced by something of this machine")


def _damaged(path: tuple[str | int, ...], source: str, what: str) -> UserError:
    key = ".".join(map(str, path)) or "the configuration"
    return UserError(
        f"checkpoint {source}: {key} of its configuration is not valid: {what}. src/train.py did not write "
        "it so; use the original file, or train anew."
    )


def _is_allowed_name(target: Target) -> bool:
    """Judge a target by its name alone."""
    if not isinstance(target.name, str) or not _NAME.fullmatch(target.name):
        return False
    if target.name in allowed(target.place) or is_trusted_module(target.name):
        return True
    package, _ = LIBRARIES.get(target.place[0], ("", {}))
    return bool(package) and target.name.startswith(f"{package}.")


def _is_what_it_says(target: Target) -> bool:
    """Look at what an allowed name leads to: never at something that a module only happened to import."""
    package, bases = LIBRARIES.get(target.place[0], ("", {}))
    if package and target.name.startswith(f"{package}.") and _is_subclass(target.name, package, bases):
        return True
    if not is_trusted_module(target.name):
        return False
    from hydra.utils import get_object

    try:
        found = get_object(target.name)
    except (ImportError, AttributeError, ValueError):  # the builder says that it cannot be imported
        return True
    home, own_name = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    return is_trusted_module(f"{home}.{own_name}")


def _is_subclass(name: str, package: str, bases: Mapping[str, Sequence[str]]) -> bool:
    """Return whether a name is a class' own in a package, and the class derived from one of `bases`."""
    importlib.import_module(package)  # the package itself, nothing that the name says
    module, _, attribute = name.rpartition(".")
    found = vars(sys.modules[module]).get(attribute) if module in sys.modules else None
    parents = tuple(vars(sys.modules[home])[base] for home, names in bases.items() for base in names)
    return (
        isinstance(found, type)
        and issubclass(found, parents)
        and found.__qualname__ == attribute
        and (found.__module__ == package or found.__module__.startswith(f"{package}."))
    )


def _refusal(target: Target, source: str) -> UserError:
    name = target.name if isinstance(target.name, str) else repr(target.name)
    remedy = f"; if that code is your own, set {TRUSTED}={name[:120]}" if _NAME.fullmatch(name) else ""
    return UserError(
        f"checkpoint {source}: {target.key}._target_={name[:120]!r} is no constructor that a file may name "
        f"there: to load it would run code of {name.rpartition('.')[0][:120] or name[:120]}. Do not use it "
        f"unless you know who wrote it{remedy}."
    )
