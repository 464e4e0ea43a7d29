"""What fits what: a task needs some words, and data set, network and loss must give them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.utils import get_object
from omegaconf import DictConfig

from polymask.errors import UserError
from polymask.families.base import Family
from polymask.structures.gives import given_by
from polymask.utils.paths import CONFIG_DIR

_SECTIONS = {"data": "data set", "model": "network", "loss": "loss"}


def check_fit(cfg: DictConfig, family: Family) -> None:
    """Raise UserError when data set, network or loss do not give what a family needs.

    Args:
        cfg: The whole configuration.
        family: Its family.
    """
    wanted = _wanted(family)
    given = {section: given_by(get_object(cfg[section]._target_), needs) for section, needs in wanted.items()}
    wrong = [section for section in _SECTIONS if not wanted[section] <= given[section]]
    if not wrong:
        return
    found = ", ".join(f"the {_SECTIONS[section]} gives {_listing(given[section])}" for section in wrong)
    fitting = {section: _that_give(section, wanted[section]) for section in wrong}
    remedies = [f"{section}={_options(names)}" for section, names in fitting.items() if names]
    tasks = [name for name, own in _families().items() if _fits(_wanted(own), given)]
    ways = [f"use {' and '.join(remedies)}"] if remedies else []
    ways += [f"or with what there is task={_options(tasks)}"] if tasks else []
    raise UserError(
        f"the task needs {_listing(family.needs | family.predicts)}, but {found}: {', '.join(ways)}."
    )


def _wanted(family: Family) -> dict[str, frozenset[str]]:
    """Return what each section must give."""
    return {"data": family.needs, "model": family.predicts, "loss": family.predicts}


def _fits(wanted: Mapping[str, frozenset[str]], given: Mapping[str, frozenset[str]]) -> bool:
    return all(needs <= given[section] for section, needs in wanted.items())


def _that_give(group: str, needs: frozenset[str]) -> list[str]:
    """Return the options of a configuration group that give all of `needs`."""
    nodes = {name: _node(group, name) for name in _names(group)}
    return [
        name
        for name, node in nodes.items()
        # A part of other files lacks a value that they fill in.
        if node.get("reader") != "???" and needs <= given_by(get_object(str(node["_target_"])), frozenset())
    ]


def _families() -> dict[str, Family]:
    """Return the family of each option of `task`, with any class."""
    families = {}
    for name in _names("task"):
        # Values that other parts of the configuration decide are left at their defaults.
        own = {key: value for key, value in _node("task", name).items() if "${" not in str(value)}
        families[name] = get_object(own.pop("_target_"))(class_names=["a class"], **own)
    return families


def _names(group: str) -> list[str]:
    return sorted({path.stem for folder in _folders() for path in (folder / group).glob("*.yaml")})


def _node(group: str, name: str) -> Mapping[str, Any]:
    """Return the YAML of an option, on top of the options of the same group that it builds upon."""
    files = (folder / group / f"{name}.yaml" for folder in _folders())
    content = yaml.safe_load(next(filter(Path.is_file, files)).read_text(encoding="utf-8"))
    below: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            below |= _node(group, entry)
    return {**below, **content}


def _folders() -> list[Path]:
    """Return the folders of YAML files, polymask's and the user's own (`--config-dir`), in Hydra's order."""
    if not HydraConfig.initialized():
        return [CONFIG_DIR]
    sources = HydraConfig.get().runtime.config_sources
    return [Path(source.path) for source in sources if source.schema == "file"]


def _listing(words: frozenset[str]) -> str:
    return " and ".join(sorted(words)) or "nothing"


def _options(names: Sequence[str]) -> str:
    return " or ".join(names)
