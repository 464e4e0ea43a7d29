"""The comparison of two runs as text for people."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from polymask.studies.comparison.statistics import MetricComparison, swaps_are_exhaustive
from polymask.utils.text import align_columns

_WIDTH = 100


def comparison_text(
    results: Sequence[MetricComparison],
    *,
    name_a: str,
    name_b: str,
    num_images: int,
    num_groups: int,
    num_replicates: int,
    num_permutations: int,
    notes: Sequence[str],
) -> str:
    """Return the table of all metrics with what is needed to read it.

    Args:
        results: One per metric.
        name_a: Name of run A.
        name_b: Name of run B.
        num_images: Number of samples compared.
        num_groups: Number of their groups.
        num_replicates: Replicates of the bootstrap.
        num_permutations: Swaps drawn at most.
        notes: What else the reader must know; "" for none.
    """
    grouped = num_groups < num_images
    units = "groups" if grouped else "images"
    exhaustive = swaps_are_exhaustive(num_groups, num_permutations)
    swaps = f"all {2 ** (num_groups - 1):,} different" if exhaustive else f"{num_permutations:,} random"
    tested = sum(not math.isnan(result.p_value) for result in results)
    explanation = [
        "B - A is positive where B has the larger value; whether larger is better depends on the metric.",
        f"low and high are the 95 % interval of B - A of a paired bootstrap: {num_replicates:,} replicates, "
        f"each of which draws {units} with replacement, the same for both runs.",
        f"p is that of a two-sided paired permutation test: the share of {swaps} ways to swap the two runs' "
        f"predictions in some of the {units} that give a difference at least as large.",
        f"The p-values are not corrected for the number of metrics: if the runs did not differ at all, up to "
        f"{0.05 * tested:.1f} of {tested} would be expected below 0.05.",
    ]
    counts = f"{num_images:,} test images" + (f" of {num_groups:,} groups" if grouped else "")
    sections = [
        "\n".join([f"A: {name_a}", f"B: {name_b}", counts]),
        *(["\n".join(map(_item, notes))] if notes else []),
        "\n".join(_table(results)),
        "\n".join(map(_item, explanation)),
    ]
    return "\n\n".join(sections) + "\n"


def _item(text: str) -> str:
    # A long word may be a path or a hash, of which only the whole is of use.
    return textwrap.fill(
        text,
        _WIDTH,
        initial_indent="- ",
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def _table(results: Sequence[MetricComparison]) -> list[str]:
    head = ("metric", "A", "B", "B - A", "low", "high", "p")
    lines = [head, *(_cells(result) for result in results)]
    rule = tuple("-" * max(map(len, column)) for column in zip(*lines, strict=True))
    return align_columns([head, rule, *lines[1:]])


def _cells(result: MetricComparison) -> tuple[str, ...]:
    values = [_number(value) for value in (result.value_a, result.value_b)]
    differences = [_number(value, "+") for value in (result.difference, result.low, result.high)]
    return (result.name, *values, *differences, _number(result.p_value))


def _number(value: float, sign: str = "") -> str:
    """Return four decimals; nothing where it is undefined."""
    if math.isnan(value):
        return ""
    text = f"{value:{sign}z.4f}"
    return text if float(text) else text.lstrip("+")  # a zero has no sign, also one that rounding made
