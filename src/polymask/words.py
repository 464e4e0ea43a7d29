"""What stands on a command line: flags, and words that are or should be key=value."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NoReturn

from hydra._internal.utils import get_args_parser

from polymask.errors import UserError


def split_words(words: Sequence[str], config_name: str) -> tuple[list[str], list[str], bool]:
    """Return Hydra's flags with their values, all other words, and whether several runs are asked for.

    Args:
        words: The command line.
        config_name: Name of the primary configuration, whose keys a message may name.

    Raises:
        UserError: A flag does not exist, such as the `--epochs` of `--epochs 3`, or has no such value.
    """
    parser = get_args_parser()
    for number, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if word.startswith("-") and flag not in parser._option_string_actions:
            following = words[number + 1] if number + 1 < len(words) else ""
            value = value if equals else "" if following.startswith("-") or "=" in following else following
            raise UserError(f"{flag} is no flag; {_as_pair(flag.lstrip('-'), value, config_name)}")
    parser.error = _refuse  # type: ignore[method-assign]  # argparse would print its usage, and exit
    known = parser.parse_intermixed_args(list(words))
    rest = [word for word in words if word in known.overrides]
    flags = [word for word in words if word not in known.overrides]
    return flags, rest, known.multirun or "hydra.mode=MULTIRUN" in rest


def joined_trackers(words: Sequence[str]) -> list[str]:
    """Return a command line with `tracker=[b,a]` as the one option `tracker=a_b`.

    Hydra chooses one option of a group, so several trackers are an option with their names in its own.
    """
    return [
        re.sub(r"\[([\w, ]+)\]", _joined, word) if word.startswith("tracker=") else word for word in words
    ]


def _joined(names: re.Match[str]) -> str:
    return "_".join(sorted({name.strip() for name in names[1].split(",")}))


def check_pairs(words: Sequence[str], config_name: str) -> None:
    """Raise UserError for a word that is not key=value."""
    for word in words:
        if "=" not in word and not word.startswith("~"):  # ~key takes a key out
            raise UserError(f"{word!r} is not key=value; {_as_pair(word.lstrip('+'), '', config_name)}")


def _as_pair(word: str, value: str, config_name: str) -> str:
    from polymask.config_errors import nearest_key  # composes, so only for a message

    name = word.replace("-", "_")
    key = nearest_key(name, config_name, []) or nearest_key(word, config_name, [])
    if key is None:
        return "options are written key=value, and --help shows the keys."
    return f"write {key}={value or '…'}"


def _refuse(message: str) -> NoReturn:
    raise UserError(f"{message}; options are written key=value, and --help shows the keys.")
