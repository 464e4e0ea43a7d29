"""What the values of binary masks mean, decided from all masks of a data set at once.

One file does not tell: a mask of 0 and 1 may be one of a set of class ids. So every mask is looked at before
the first epoch, one rule is found for all of them, and what can be read in two ways is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from polymask.data.decoding import grey_and_alpha, read_values
from polymask.data.facts import Foreground, MaskFacts
from polymask.errors import UserError, nearest

WORDS = ("auto", "nonzero", "half")
_SAY = "data.mask_values=nonzero (all but 0), half (above half of the largest value) or a list such as [{}]"


@dataclass(frozen=True, kw_only=True)
class MaskRule:
    """How the values of a mask become foreground and background.

    Attributes:
        alpha: The mask is the alpha channel, rather than the greys or palette indices.
        above: Larger values are foreground.
        listed: Only these values are foreground; `above` does not count then.
        words: What the masks hold, for people.
    """

    alpha: bool = False
    above: float = 0.0
    listed: tuple[int, ...] = ()
    words: str = field(default="", compare=False)

    def key(self) -> str:
        """Return a text that differs between rules that may read a mask differently."""
        return f"alpha={self.alpha} above={self.above:g} listed={list(self.listed)}"

    def read(self, path: Path) -> np.ndarray:
        """Decode a mask file.

        Returns:
            (H, W) uint8 with 0 = background, 1 = foreground, upright as its EXIF orientation says.

        Raises:
            UserError: The file is missing, damaged or has several pages, or has no alpha channel although the
                mask is to be found there.
        """
        grey, alpha = grey_and_alpha(read_values(path, "mask"))
        if not self.alpha:
            return self._is_foreground(grey).astype(np.uint8)
        if alpha is None:
            raise UserError(f"mask {path} has no alpha channel, but the masks of its set are there; mend it.")
        return self._is_foreground(alpha).astype(np.uint8)

    def foreground(self, facts: MaskFacts) -> Foreground:
        """Return what `read` would give, counted."""
        values, pixels = np.array(facts.alpha if self.alpha else facts.counts, np.int64).reshape(-1, 2).T
        return Foreground(int(pixels[self._is_foreground(values)].sum()), int(pixels.sum()))

    def _is_foreground(self, values: np.ndarray) -> np.ndarray:
        return np.isin(values, self.listed) if self.listed else values > self.above


NONZERO = MaskRule()
"""All but 0 is foreground."""


def check_option(option: object) -> str | tuple[int, ...]:
    """Return `data.mask_values` as a word or the values that are foreground.

    Raises:
        UserError: It is neither.
    """
    if isinstance(option, str) and option in WORDS:
        return option
    values = [option] if isinstance(option, int) else option
    if (
        isinstance(values, Iterable)
        and not isinstance(values, str)
        and (listed := tuple(values))
        and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in listed)
    ):
        return listed
    raise UserError(
        f"data.mask_values={option!r} is not valid.{nearest(str(option), WORDS)} Allowed: {', '.join(WORDS)} "
        "or a list of the values that are foreground, such as [2]."
    )


def decide(facts: Sequence[MaskFacts], option: object, *, where: Path) -> MaskRule:
    """Find the one rule for all masks of a data set.

    Args:
        facts: Of every mask file.
        option: `auto`, `nonzero`, `half` or a list of foreground values.
        where: The data set, for messages.

    Raises:
        UserError: The values can be read in more than one way, and `option` does not say how.
    """
    wanted = check_option(option)
    alpha = _in_alpha(facts, where)
    tables = [_table((f.alpha if alpha else f.counts) or []) for f in facts]
    pixels: Counter[int] = Counter()
    for table in tables:
        pixels.update(table)
    place = "in the alpha channel " if alpha else ""
    listing = place + _listing(pixels)
    if isinstance(wanted, tuple):
        if pixels and not set(wanted) & set(pixels):
            raise UserError(
                f"data.mask_values={list(wanted)}: no mask of {where} has such a value; they hold {listing}."
            )
        name = ", ".join(map(str, wanted))
        return MaskRule(alpha=alpha, listed=wanted, words=f"{listing}; {name} is foreground")
    top = max(pixels, default=0)
    if wanted == "half":
        return MaskRule(alpha=alpha, above=top / 2, words=f"{listing}; above {top / 2:g} is foreground")
    if wanted == "nonzero":
        return MaskRule(alpha=alpha, words=f"{listing}; all but 0 is foreground")
    if not alpha:
        _refuse_colours(facts, where)
    if len([value for value in pixels if value]) > 1:
        if (reason := _no_fringes(facts, tables, pixels)) is not None:
            raise UserError(f"the masks of {where} hold {listing}. {reason} {_remedy(pixels)}")
        levels = f"{place}greys from 0 to {top} with fringes"
        return MaskRule(alpha=alpha, above=top / 2, words=f"{levels}; above {top / 2:g} is foreground")
    return MaskRule(alpha=alpha, words=place + (f"0 and {top}" if pixels[0] and top else f"{top} only"))


def _in_alpha(facts: Sequence[MaskFacts], where: Path) -> bool:
    """Return whether the masks are the alpha channels: these vary while the colours never do."""
    varying = sum(len(f.alpha or []) > 1 for f in facts)
    if not varying:
        return False
    plain = sum(len(f.colours or f.counts) > 1 or f.alpha is None for f in facts)
    # Opacity beside a mask in colours is common; then no file may have it in the alpha channel alone.
    hidden = sum(len(f.alpha or []) > 1 and len(f.colours or f.counts) == 1 for f in facts)
    if hidden and plain:
        raise UserError(
            f"{hidden} masks of {where} are in the alpha channel, {plain} in the colours; save all of them "
            "as greys without an alpha channel."
        )
    return hidden > 0


def _refuse_colours(facts: Sequence[MaskFacts], where: Path) -> None:
    colours: Counter[int] = Counter()
    for one in facts:
        colours.update(_table(one.colours))
    foreground = [code for code in colours if code]
    if len(foreground) > 1:
        total = colours.total()
        listed = ", ".join(f"#{code:06x} ({count / total:.1%})" for code, count in colours.most_common(5))
        more = f" and {len(colours) - 5} more" if len(colours) > 5 else ""
        raise UserError(
            f"{sum(bool(f.colours) for f in facts)} of {len(facts)} masks of {where} have several colours: "
            f"{listed}{more}. Save them with one value per meaning, or set data.mask_values=nonzero if all "
            "but black is foreground."
        )


def _no_fringes(
    facts: Sequence[MaskFacts], tables: Sequence[dict[int, int]], pixels: Counter[int]
) -> str | None:
    """Return why several values are not two levels with blurred edges between them, None when they are."""
    kinds = Counter(value for table in tables for value in _only_foreground(table))
    if len(kinds) > 1 and sum(kinds.values()) == sum(any(table) for table in tables if set(table) - {0}):
        parts = ", ".join(f"{count} files with {value}" for value, count in sorted(kinds.items())[:6])
        return f"Each has one value, but not the same: {parts}."
    top = max(pixels)
    full = 65535 if top > 255 else 255
    low, high = full / 8, full * 7 / 8
    middle = [value for value in pixels if low < value < high]
    blurred = all(f.lossy for f, table in zip(facts, tables, strict=True) if len(table) > 2)
    level = sum(f.level_pixels for f in facts)
    if top < high or (len(middle) < 3 and not blurred):
        return "Are these class ids or object numbers?"
    total = pixels.total()
    if sum(pixels[value] for value in middle) > 0.25 * total or level > 0.001 * total:
        return f"There are levels between 0 and {top}, not only blurred edges."
    faint = sum(0 < max(table) <= low for table in tables)
    if faint:
        return f"{faint} of {len(tables)} files have values up to {low:g} only: other ones than the rest?"
    return None


def _table(pairs: Sequence[Sequence[int]]) -> dict[int, int]:
    return {int(value): int(pixels) for value, pixels in pairs}


def _only_foreground(table: dict[int, int]) -> list[int]:
    """Return the one value beside 0 of a mask that has no other."""
    values = [value for value in table if value]
    return values if len(values) == 1 else []


def _listing(pixels: Counter[int]) -> str:
    """Return values with their shares of all pixels."""
    total = pixels.total()
    values = sorted(pixels)
    shown = values if len(values) <= 6 else sorted(value for value, _ in pixels.most_common(5))
    listed = ", ".join(f"{value} ({pixels[value] / total:.1%})" for value in shown)
    return listed + (f" and {len(values) - len(shown)} more values" if len(values) > len(shown) else "")


def _remedy(pixels: Counter[int]) -> str:
    example = next(value for value, _ in pixels.most_common() if value)
    return f"Say what is foreground: {_SAY.format(example)}."
