"""Numbers and their names as people read them, and intervals as bars."""

from __future__ import annotations

import math
from collections.abc import Iterable

from polymask.reporting.page.blocks import Bar, Cell

UNDEFINED = "–"  # noqa: RUF001
Axis = tuple[float, float]

_WORDS = {
    "ap": "AP", "ap50": "AP50", "ap75": "AP75", "auc": "AUC", "aurc": "AURC", "auroc": "AUROC", "det": "DET",
    "ece": "ECE", "f1": "F1", "hd95": "HD95", "iou": "IoU", "mae": "MAE", "npv": "NPV", "nsd": "NSD",
    "num": "number of", "ppv": "PPV", "roc": "ROC", "seg": "SEG", "std": "standard deviation",
}  # fmt: skip


def readable(name: str) -> str:
    """Return the name of a metric or a column in words: `f1_macro` is F1 macro."""
    if name == "p_value":
        return "p-value"
    text = " ".join(_WORDS.get(word, word) for word in name.split("_") if word)
    return text[:1].upper() + text[1:]


def shown(value: float) -> str:
    """Return a number with about three digits behind the point, NaN as a dash."""
    if math.isnan(value):
        return UNDEFINED
    if value == int(value) if math.isfinite(value) else True:
        return f"{value:,.0f}"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3f}" if 0.001 <= size < 100 else f"{value:.3g}"


def number(value: float | None) -> Cell:
    """Return a number as a cell, None as an undefined one."""
    if value is None or math.isnan(value):
        return Cell(text=UNDEFINED)
    # One decimal of a share of exactly 1 would look like a count.
    text = f"{value:.3f}" if isinstance(value, float) and 0 <= value <= 1 else shown(value)
    return Cell(text=text, exact=repr(value))


def with_interval(
    value: float | None, low: float | None, high: float | None, *, axis: Axis | None = None
) -> Cell:
    """Return a number with its interval, drawn where `axis` holds all three."""
    cell = number(value)
    if low is None or high is None or math.isnan(low) or math.isnan(high):
        return cell
    bar = None
    if value is not None and axis is not None:
        bar = _bar(value, low, high, axis)
    return Cell(text=cell.text, exact=cell.exact, low=number(low), high=number(high), bar=bar)


def common_axis(values: Iterable[float | None]) -> Axis | None:
    """Return an axis for the shares and differences of shares among `values`, None when there are none."""
    known = [value for value in values if value is not None and -1 <= value <= 1]
    if not known:
        return None
    if min(known) >= 0:
        return 0.0, 1.0
    largest = max(map(abs, known))
    step = 10.0 ** math.floor(math.log10(largest))
    end = min(1.0, math.ceil(largest / step - 1e-9) * step)
    return -end, end


def _bar(value: float, low: float, high: float, axis: Axis) -> Bar | None:
    first, last = axis
    if not all(first <= part <= last for part in (value, low, high)):
        return None

    def place(part: float) -> float:
        return round(100 * (part - first) / (last - first), 2)

    return Bar(
        start=place(low),
        length=round(place(high) - place(low), 2),
        mark=place(value),
        zero=place(0) if first < 0 else None,
        ends=(f"{first:g}", f"{last:g}"),
    )
