"""Hydra's reader of YAML files, with a memory.

Every command of a test composes the same shipped files twice, and two thirds of that is parsing. The
processes that tests start read their files without this.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins


def remember_yaml() -> None:
    """Let this process parse a YAML file once, as long as nobody writes to it."""
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
