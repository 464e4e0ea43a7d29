"""Turns Hydra's complaints about a command line into one line that names the right key or option."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from polymask.errors import nearest
from polymask.utils.paths import CONFIG_DIR


def explain(error: Exception, config_name: str, overrides: Sequence[str]) -> str:
    """Return one line for an error of composing the configuration.

    Args:
        error: What Hydra raised.
        config_name: Name of the primary configuration.
        overrides: The command line.
    """
    text = " ".join(str(error).split())
    if match := re.search(r"Could not override '([^']+)'", text):
        return _unknown_key(match[1], config_name)
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        return _unknown_option(match[1], match[2])
    if match := re.search(r"Could not (?:append|override) .*?'([^']+)'.*No match in the defaults list", text):
        return _unknown_key(match[1], config_name)
    return f"{text} (command line: {' '.join(overrides)})" if overrides else text


def _unknown_key(key: str, config_name: str) -> str:
    keys = _all_keys(config_name)
    leaf = key.rpartition(".")[2]
    # First the same last word elsewhere in the tree (`batch_size`).
    matches = [known for known in keys if known.rpartition(".")[2] == leaf]
    # Then initials (`lr` of learning_rate), then the nearest spelling, whole or of the last word.
    matches = matches or [known for known in keys if _initials(known) == leaf]
    matches = matches or difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    matches = matches or [
        k for k in keys if difflib.get_close_matches(leaf, [k.rpartition(".")[2]], cutoff=0.7)
    ]
    hint = f" Did you mean '{matches[0]}'?" if matches else ""
    return f"'{key}' is not a configuration key.{hint} All keys: add --cfg job to the command."


def _initials(key: str) -> str:
    return "".join(word[:1] for word in key.rpartition(".")[2].split("_"))


def _unknown_option(group: str, option: str) -> str:
    options = sorted(path.stem for path in (CONFIG_DIR / group).glob("*.yaml"))
    if not options:
        groups = sorted(path.name for path in CONFIG_DIR.iterdir() if path.is_dir())
        return (
            f"there is no configuration group '{group}'.{nearest(group, groups)} Groups: {', '.join(groups)}."
        )
    return f"{group}={option} is unknown.{nearest(option, options)} Allowed: {', '.join(options)}."


def _all_keys(config_name: str) -> list[str]:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from polymask.run_config import flatten

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        cfg = compose(config_name)
    keys = flatten(OmegaConf.to_container(cfg, resolve=False))  # type: ignore[arg-type]
    values = [key for key in keys if "_target_" not in key and "_partial_" not in key]
    groups = [path.name for path in CONFIG_DIR.iterdir() if path.is_dir() and config_name == "config"]
    return [*values, *sorted(groups)]
