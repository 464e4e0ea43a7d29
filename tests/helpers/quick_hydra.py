"""Hydra without what it does again and again in a process of many commands.

Composing a configuration takes a fifth of a second, nearly all of it for putting the same shipped files
together anew, and a command composes twice. The processes that tests start use Hydra as it is.
"""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

from hydra._internal import defaults_list
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.hydra import Hydra
from hydra._internal.sources_registry import SourcesRegistry
from hydra.core.plugins import Plugins

from polymask.utils.paths import CONFIG_DIR


def quicken_hydra() -> None:
    """Let this process compose once per command, and put files together once, while nobody writes to them.

    What a command line says of single values is applied to the result each time, by Hydra.
    """
    Hydra.get_mode = lambda self, config_name, overrides: None  # composes to find hydra.mode; -m decides then
    Plugins.instance()  # registers the sources
    for scheme in ("file", "pkg"):
        source = SourcesRegistry.instance().resolve(scheme)
        source.load_config = _remembering(source.load_config)
    defaults_list._create_defaults_list = _choosing_once(defaults_list._create_defaults_list)
    ConfigLoaderImpl._compose_config_from_defaults_list = _merging_once(
        ConfigLoaderImpl._compose_config_from_defaults_list
    )


def _remembering(load: Any) -> Any:
    loaded: dict[tuple[str, str, int], bytes] = {}

    def load_config(self: Any, config_path: str) -> Any:
        file = Path(_folder(self.path), self._normalize_file_name(config_path))
        key = (self.path, config_path, file.stat().st_mtime_ns if file.exists() else 0)
        if key not in loaded:
            loaded[key] = pickle.dumps(load(self, config_path))  # Hydra takes parts out of what it gets
        return pickle.loads(loaded[key])

    return load_config


def _choosing_once(create: Any) -> Any:
    """Find out once which files the same choices lead to; Hydra marks on the way which choices were used."""
    known: dict[Any, bytes] = {}

    def create_defaults_list(repo: Any, config_name: str, overrides: Any, **options: Any) -> Any:
        key = (config_name, pickle.dumps(_choices(overrides)), *options.values(), _files(repo))
        if key not in known:
            found = create(repo, config_name, overrides, **options)
            known[key] = pickle.dumps((found, _choices(overrides)))
        found, choices = pickle.loads(known[key])
        vars(overrides).update(choices)
        return found

    return create_defaults_list


def _merging_once(merge: Any) -> Any:
    """Merge the same files once."""
    known: dict[Any, bytes] = {}

    def compose_config_from_defaults_list(self: Any, defaults: Any, repo: Any) -> Any:
        key = (pickle.dumps([vars(each) for each in defaults]), _files(repo))
        if key not in known:
            known[key] = pickle.dumps(merge(self, defaults=defaults, repo=repo))
        return pickle.loads(known[key])

    return compose_config_from_defaults_list


def _choices(overrides: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(overrides).items() if name != "config_overrides"}


def _files(repo: Any) -> tuple[tuple[str, int], ...]:
    """Return the folders of YAML files that a configuration may be made of, and the files in them.

    With the times of their last change, but for the shipped ones, which no test changes.
    """
    folders = [_folder(source.path) for source in repo.get_sources() if source.scheme() == "file"]
    others = [folder for folder in folders if Path(folder) != CONFIG_DIR]
    files = [file for folder in others for file in sorted(Path(folder).rglob("*.yaml"))]
    return (*((folder, 0) for folder in folders), *((str(file), file.stat().st_mtime_ns) for file in files))


def _folder(path: str) -> str:
    """Return the path of a source, which may or may not be an address."""
    return path.partition("://")[2] or path
