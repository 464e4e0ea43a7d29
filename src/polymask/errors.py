"""The one exception that stands for a mistake of the user rather than a defect of polymask."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from typing import cast


class UserError(Exception):
    """Something the user can mend: a missing file, a wrong key, a bad mask, an absent checkpoint.

    The message is one line that names the value, what is allowed and the remedy. The command line
    prints it without a traceback and ends with exit status 2.
    """

    def __init__(self, message: str) -> None:
        # From a loader worker an error comes as the text of its whole traceback; the message is its end.
        super().__init__(message.rpartition(f"{__name__}.UserError: ")[2].rstrip())


def nearest(word: str, options: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the option nearest to `word`, or "" when none is near."""
    matches = difflib.get_close_matches(str(word), [str(option) for option in options], n=1, cutoff=0.5)
    return f" Did you mean '{matches[0]}'?" if matches else ""


def listed(word: str, options: Iterable[str], *, how_to_list: str = "") -> str:
    """Return a sentence with all options, or the five nearest to `word` where there are too many.

    Args:
        word: The user's choice.
        options: What is allowed.
        how_to_list: Where all of them can be seen, for the case that they are not shown.
    """
    allowed = [str(option) for option in options]
    if len(allowed) <= _MOST_OPTIONS_SHOWN:
        return f"Allowed: {', '.join(allowed)}."
    near = ", ".join(difflib.get_close_matches(str(word), allowed, n=5, cutoff=0.0))
    rest = f"; all of them: {how_to_list}" if how_to_list else ""
    return f"The nearest of {len(allowed)} are: {near}{rest}."


_MOST_OPTIONS_SHOWN = 30


def choose(
    what: str,
    word: str,
    options: Iterable[str],
    *,
    meant: Mapping[str, str] | None = None,
    how_to_list: str = "",
) -> str:
    """Return `word` when it is one of `options`.

    Args:
        what: Where the word was given, for the message (a configuration key such as `model.model`).
        word: The user's choice.
        options: What is allowed.
        meant: The option that another word for it means, where their spelling does not tell.
        how_to_list: See `listed`.

    Raises:
        UserError: `word` is not an option; the message lists them and names the nearest.
    """
    allowed = list(options)
    if word not in allowed:
        known = (meant or {}).get(str(word).lower())
        hint = f" Did you mean '{known}'?" if known else nearest(word, allowed)
        raise UserError(f"{what}={word!r} is unknown.{hint} {listed(word, allowed, how_to_list=how_to_list)}")
    return word


def whole_number(key: str, value: object, *, least: int) -> int:
    """Return `value` when it is a whole number of at least `least`.

    Raises:
        UserError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise UserError(f"{key}={value!r} is not valid; it must be a whole number of at least {least}.")
    return value


def number(
    key: str,
    value: object,
    *,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
    what: str = "a number",
    note: str = "",
) -> float:
    """Return `value` when it is a finite number within all bounds that are given.

    Args:
        key: Where it was given, for the message.
        value: The user's value.
        least: Smallest number that is allowed.
        most: Largest number that is allowed.
        above: What the number must be larger than.
        below: What the number must be smaller than.
        what: What kind of number, for the message.
        note: What else may be given, or an example.

    Raises:
        UserError: It is not.
    """
    # NaN and infinity are within no bounds.
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if is_number and _is_within(cast("float", value), least=least, most=most, above=above, below=below):
        return cast("float", value)
    bounds = {"of at least": least, "above": above, "at most": most, "below": below}
    allowed = " and ".join(f"{words} {bound:g}" for words, bound in bounds.items() if bound is not None)
    # YAML reads 1e-3 as text and 1.0e-3 as a number.
    note = note or ("e.g. 1.0e-3" if isinstance(value, str) else "")
    raise UserError(f"{key}={value!r} is not valid; give {what} {allowed}{note and f', {note}'}.")


def _is_within(
    value: float, *, least: float | None, most: float | None, above: float | None, below: float | None
) -> bool:
    return (
        (least is None or value >= least)
        and (most is None or value <= most)
        and (above is None or value > above)
        and (below is None or value < below)
    )
