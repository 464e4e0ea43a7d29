"""Hydra without what it does again and again in a process of many commands.

Composing a configuration takes a fifth of a second, two thirds of it for parsing the same shipped files, and
a command composes twice. The processes that tests start use Hydra as it is.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins


def quicken_hydra() -> None:
    """Let this process compose once per command and parse a YAML file once, while nobody writes to it."""
    Hydra.get_mode = lambda self, config_name, overrides: None  # composes to find hydra.mode; -m decides then
    Plugins.instance()  # registers the sources
    for scheme in ("file", "pkg"):
        source = SourcesRegistry.instance().resolve(scheme)
        source.load_config = _remembering(source.load_config)


def _remembering(load: Any) -> Any:
    loaded: dict[tuple[str, str, int], bytes] = {}

    def load_config(self: Any, config_path: str) -> Any:
        file = Path(self.path.partition("://")[2], self._normalize_file_name(config_path))
        key = (self.path, config_path, file.stat().st_mtime_ns if file.exists() else 0)
        if key not in loaded:
            loaded[key] = pickle.dumps(load(self, config_path))  # Hydra takes parts out of what it gets
        return pickle.loads(loaded[key])

    return load_config
