"""Turns Hydra's complaints about a command line into one line that names the right key or option."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

from hydra.errors import HydraException

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
        return _unknown_key(match[1], config_name, overrides)
    if match := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        return _unknown_option(match[1], match[2])
    if match := re.search(r"Could not (?:append|override) .*?'([^']+)'.*No match in the defaults list", text):
        return _unknown_key(match[1], config_name, overrides)
    if match := re.search(r"Error parsing override '([\w.+~@/-]+)=(?![\[{\"'])", text):
        return _not_quoted(match[1], overrides) or text
    return f"{text} (command line: {' '.join(overrides)})" if overrides else text


def _not_quoted(key: str, overrides: Sequence[str]) -> str | None:
    """Return how to write a value of which Hydra takes some characters as its own, None without one."""
    value = next((text.partition("=")[2] for text in overrides if text.startswith(f"{key}=")), None)
    if value is None or '"' in value or "'" in value:
        return None
    quoted = f"'{key}=\"{value}\"'"
    return f"{key}={value} has characters that need quotes, those of the shell and Hydra's: {quoted}."


def _unknown_key(key: str, config_name: str, overrides: Sequence[str]) -> str:
    keys = _all_keys(config_name, overrides)
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


def _all_keys(config_name: str, overrides: Sequence[str]) -> list[str]:
    """Return the keys of the configuration with the groups that the command line chooses."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from polymask.run_config import flatten

    groups = {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()}
    chosen = [text for text in overrides if text.partition("=")[0] in groups]
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        try:
            cfg = compose(config_name, overrides=chosen)
        except HydraException:  # a sweep, or a second mistake
            cfg = compose(config_name)
    keys = flatten(OmegaConf.to_container(cfg, resolve=False))  # type: ignore[arg-type]
    values = [key for key in keys if "_target_" not in key and "_partial_" not in key]
    return [*values, *(sorted(groups) if config_name == "config" else [])]
