"""What fits what: a task needs some words, and data set, network and loss must give them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from polymask.errors import UserError
from polymask.structures.gives import given_by
from polymask.utils.paths import CONFIG_DIR

_SECTIONS = {"data": "the data set", "model": "the network", "loss": "the loss"}


def check_fit(cfg: DictConfig, section: str, needs: frozenset[str]) -> None:
    """Raise UserError when a part of a run does not give what its task needs.

    Args:
        cfg: The whole configuration.
        section: `data`, `model` or `loss`.
        needs: What it must give.
    """
    given = given_by(get_object(cfg[section]._target_), needs)
    if needs <= given:
        return
    tasks = [name for name, wanted in _needs_of_tasks(section).items() if wanted <= given]
    remedies = [
        f"{group}={' or '.join(names)}"
        for group, names in ((section, _options_that_give(section, needs)), ("task", tasks))
        if names
    ]
    raise UserError(
        f"{_SECTIONS[section]} gives {_listing(given)}, but the task needs {_listing(needs - given)}: use "
        f"{', or '.join(remedies)}."
    )


def _options_that_give(group: str, needs: frozenset[str]) -> list[str]:
    """Return the options of a configuration group that give all of `needs`."""
    nodes = {name: _node(group, name) for name in _names(group)}
    return [
        name
        for name, node in nodes.items()
        # A part of other files lacks a value that they fill in.
        if "???" not in (node.get("reader"), node["_target_"])
        and needs <= given_by(get_object(str(node["_target_"])), frozenset())
    ]


def _needs_of_tasks(section: str) -> dict[str, frozenset[str]]:
    """Return what each option of `task` needs of a section."""
    needs = {}
    for name in _names("task"):
        # Values that other parts of the configuration decide are left at their defaults.
        own = {key: value for key, value in _node("task", name).items() if "${" not in str(value)}
        family = instantiate(OmegaConf.create(own), class_names=["a class"])
        needs[name] = family.needs if section == "data" else family.predicts
    return needs


def _names(group: str) -> list[str]:
    return sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))


def _node(group: str, name: str) -> Mapping[str, Any]:
    """Return the YAML of an option, on top of the options of the same group that it builds upon."""
    content = yaml.safe_load((CONFIG_DIR / group / f"{name}.yaml").read_text(encoding="utf-8"))
    below: dict[str, Any] = {}
    for entry in content.pop("defaults", []):
        if isinstance(entry, str) and entry != "_self_":
            below |= _node(group, entry)
    return {**below, **content}


def _listing(words: frozenset[str]) -> str:
    return " and ".join(sorted(words)) or "nothing"
