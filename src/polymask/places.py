"""Where a configuration from a file may write: below the project root, and nowhere else unasked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, MutableMapping
from pathlib import Path
from typing import Any

from polymask.trust import trusted_entries
from polymask.utils.names import has_control_characters
from polymask.utils.paths import resolve

_DRAWING_READERS = ("polymask.data.demo.read_demo",)
"""Readers that write their data set when it is not there."""


def keep_inside(config: MutableMapping[str, Any]) -> dict[str, Any]:
    """Replace the places to write to that lie outside of the project by those of the project.

    A checkpoint may come from anywhere: it must not choose where on this machine files appear, nor to which
    server results go. What is typed in a command is put on top of its configuration, and so wins.

    Args:
        config: A stored configuration; it is changed.

    Returns:
        Dotted key to the value that was replaced.
    """
    moved = {}
    for key, (is_inside, instead) in _PLACES.items():
        *parents, name = key.split(".")
        node: Any = config
        for parent in parents:
            node = node.get(parent) if isinstance(node, Mapping) else None
        value = node.get(name) if isinstance(node, MutableMapping) else None
        inside = value is None or (isinstance(value, str) and is_inside(value))
        if not inside and not _writes_nothing(key, config):
            moved[key], node[name] = value, instead
    return moved


def is_inside_folder(path: str) -> bool:
    """Return whether a path lies below the project root or a trusted folder."""
    if has_control_characters(path):
        return False
    folders = [resolve(""), *(Path(entry) for entry in trusted_entries() if entry.startswith(("/", "~")))]
    # As it is written, too: a link that the user has put into the project may lead out of it.
    try:
        return any(
            Path(change(resolve(path))).is_relative_to(change(folder.expanduser()))
            for change in (os.path.normpath, os.path.realpath)
            for folder in folders
        )
    except RuntimeError:  # `~nobody`
        return False


def is_inside_store(uri: str) -> bool:
    """Return whether a tracker's address is a SQLite file of the project, or trusted."""
    if any(uri == entry or uri.startswith(f"{entry.rstrip('/')}/") for entry in trusted_entries()):
        return True
    # Without options: `?uri=true` would give the path another meaning.
    match = re.fullmatch(r"sqlite:///([^?#:%]+)", uri)
    return match is not None and is_inside_folder(match[1])


def _writes_nothing(key: str, config: Mapping[str, Any]) -> bool:
    """Return whether the place is only read: a data set that nobody draws, or that is there already."""
    if key != "data.data_dir":
        return False
    reader = config["data"].get("reader")
    target = reader.get("_target_") if isinstance(reader, Mapping) else None
    folder = resolve("") / os.path.expanduser(str(config["data"]["data_dir"]))
    return target not in _DRAWING_READERS or folder.is_dir()


_PLACES: dict[str, tuple[Callable[[str], bool], str | None]] = {
    "local_save_dir": (is_inside_folder, None),
    "data.data_dir": (is_inside_folder, "data/demo"),
    "data.cache_dir": (is_inside_folder, ".cache/samples"),
    "data.reader.memory_dir": (is_inside_folder, ".cache/pairs"),
    "data.reader.masks.memory_dir": (is_inside_folder, ".cache/pairs"),
    "tracker.tracking_uri": (is_inside_store, "sqlite:///mlruns/mlflow.db"),
    "tracker.mlflow.tracking_uri": (is_inside_store, "sqlite:///mlruns/mlflow.db"),
    "tracker.folder": (is_inside_folder, "outputs/tensorboard"),
    "tracker.tensorboard.folder": (is_inside_folder, "outputs/tensorboard"),
}
"""Key to write to -> what is inside, and what stands there instead."""
