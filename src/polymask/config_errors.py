"""Turns Hydra's complaints about a command line into one line that names the right key or option."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.types import Quote, QuotedString
from hydra.errors import HydraException, OverrideParseException

from polymask.errors import listed, nearest
from polymask.text_keys import quote
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
        return _unknown_option(match[1], match[2], getattr(error, "options", None) or [])
    if match := re.search(r"Could not (?:append|override) .*?'([^']+)'.*No match in the defaults list", text):
        return _unknown_key(match[1], config_name, overrides)
    if isinstance(error, OverrideParseException):
        return _unreadable(error.override)
    if "Ambiguous value for argument" in text and (match := re.search(r"argument '([^']+)'", text)):
        key, _, value = match[1].partition("=")
        return f"{match[1]} has several values: add -m for one run each, or give one list: '{key}=[{value}]'."
    return f"{text} (command line: {' '.join(overrides)})" if overrides else text


def _unreadable(override: str) -> str:
    """Return how to write a value of which Hydra takes some characters as its own."""
    key, _, value = override.partition("=")
    if value[:1] in ("[", "{", "'", '"'):
        return f"{override} cannot be read; lists are written '{key}=[a,b]', texts '{key}=\"a text\"'."
    quoted = shlex.quote(f"{key}={QuotedString(value, Quote.double).with_quotes()}")
    return f"{override} has characters that need quotes, those of the shell and Hydra's: {quoted}."


def _unknown_key(key: str, config_name: str, overrides: Sequence[str]) -> str:
    near = nearest_key(key, config_name, overrides)
    hint = f" Did you mean '{near}'?" if near else ""
    return f"'{key}' is not a configuration key.{hint} All keys: add --cfg job to the command."


def nearest_key(key: str, config_name: str, overrides: Sequence[str]) -> str | None:
    """Return the configuration key that `key` most likely means, None when there is none like it.

    Args:
        key: What was typed.
        config_name: Name of the primary configuration.
        overrides: The command line, which chooses groups and may add a folder of files.
    """
    keys = _all_keys(config_name, overrides)
    if key in keys:
        return key
    leaf = key.rpartition(".")[2]
    # First the same last word elsewhere in the tree (`batch_size`).
    matches = [known for known in keys if known.rpartition(".")[2] == leaf]
    # Then initials (`lr` of learning_rate), then the nearest spelling, whole or of the last word.
    matches = matches or [known for known in keys if _initials(known) == leaf]
    matches = matches or difflib.get_close_matches(key, keys, n=1, cutoff=0.6)
    matches = matches or [
        k for k in keys if difflib.get_close_matches(leaf, [k.rpartition(".")[2]], cutoff=0.7)
    ]
    return matches[0] if matches else None


def _initials(key: str) -> str:
    return "".join(word[:1] for word in key.rpartition(".")[2].split("_"))


def _unknown_option(group: str, option: str, options: Sequence[str]) -> str:
    if not options:
        groups = sorted(path.name for path in CONFIG_DIR.iterdir() if path.is_dir())
        return (
            f"there is no configuration group '{group}'.{nearest(group, groups)} Groups: {', '.join(groups)}."
        )
    return f"{group}={option} is unknown.{nearest(option, options)} {listed(option, options)}"


def _all_keys(config_name: str, overrides: Sequence[str]) -> list[str]:
    """Return the keys of the configuration with the groups that the command line chooses."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    from polymask.run_config import flatten

    groups = {path.name for path in CONFIG_DIR.iterdir() if path.is_dir()}
    chosen = [text for text in overrides if text.partition("=")[0] in groups]
    own_folder = get_args_parser().parse_known_args(list(overrides))[0].config_dir
    if own_folder is not None:
        chosen.append(f"hydra.searchpath=[{quote(Path(own_folder).absolute().as_uri())}]")
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONFIG_DIR), version_base="1.3"):
        try:
            cfg = compose(config_name, overrides=chosen)
        except HydraException:  # a sweep, or a second mistake
            cfg = compose(config_name)
    keys = flatten(OmegaConf.to_container(cfg, resolve=False))  # type: ignore[arg-type]
    values = [key for key in keys if "_target_" not in key and "_partial_" not in key]
    return [*values, *(sorted(groups) if config_name == "config" else [])]
