"""The comparison of two or more runs as text for people."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from polymask.studies.comparison.statistics import MetricComparison, RunMetric, swaps_are_exhaustive
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
    units = _units(num_images, num_groups)
    tested = sum(not math.isnan(result.p_value) for result in results)
    explanation = [
        "B - A is positive where B has the larger value; whether larger is better depends on the metric.",
        f"low and high are the 95 % interval of B - A of a paired bootstrap: {num_replicates:,} replicates, "
        f"each of which draws {units} with replacement, the same for both runs.",
        _test(units, num_groups, num_permutations),
        f"The p-values are not corrected for the number of metrics: if the runs did not differ at all, up to "
        f"{0.05 * tested:.1f} of {tested} would be expected below 0.05.",
    ]
    head = [f"A: {name_a}", f"B: {name_b}", _counts(num_images, num_groups)]
    return _sections(head, notes, _table(results), explanation)


def runs_text(
    lines: Sequence[RunMetric],
    *,
    num_images: int,
    num_groups: int,
    num_replicates: int,
    num_permutations: int,
    notes: Sequence[str],
) -> str:
    """Return the table of several runs, metric by metric, with what is needed to read it.

    Args:
        lines: One per metric and run, those of a metric together and run A first.
        num_images: Number of samples compared.
        num_groups: Number of their groups.
        num_replicates: Replicates of the bootstrap.
        num_permutations: Swaps drawn at most.
        notes: What else the reader must know.
    """
    name_a, *others = dict.fromkeys(line.run for line in lines)
    units = _units(num_images, num_groups)
    tested = sum(not math.isnan(line.p_value) for line in lines)
    explanation = [
        "run - A is positive where the run has the larger value; whether larger is better depends on the "
        "metric.",
        f"In brackets is the 95 % interval of a bootstrap: {num_replicates:,} replicates, each of which "
        f"draws {units} with replacement, the same for all runs, so that the intervals of run - A are "
        "paired ones.",
        _test(units, num_groups, num_permutations),
        f"The p-values are not corrected for the number of comparisons, {len(others)} runs with A in each "
        f"metric: if no run differed from A at all, up to {0.05 * tested:.1f} of {tested} would be expected "
        "below 0.05.",
    ]
    head = [f"A: {name_a}", *(f"   {name}" for name in others), _counts(num_images, num_groups)]
    return _sections(head, notes, _table_of_runs(lines, name_a), explanation)


def _sections(head: Sequence[str], notes: Sequence[str], table: Sequence[str], items: Sequence[str]) -> str:
    sections = [head, [*map(_item, notes)], table, [*map(_item, items)]]
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _units(num_images: int, num_groups: int) -> str:
    """Return what is drawn and swapped."""
    return "groups" if num_groups < num_images else "images"


def _counts(num_images: int, num_groups: int) -> str:
    return f"{num_images:,} test images" + (f" of {num_groups:,} groups" if num_groups < num_images else "")


def _test(units: str, num_groups: int, num_permutations: int) -> str:
    """Say where p-values are from."""
    exhaustive = swaps_are_exhaustive(num_groups, num_permutations)
    swaps = f"all {2 ** (num_groups - 1):,} different" if exhaustive else f"{num_permutations:,} random"
    return (
        f"p is that of a two-sided paired permutation test: the share of {swaps} ways to swap the two runs' "
        f"predictions in some of the {units} that give a difference at least as large."
    )


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


def _table_of_runs(lines: Sequence[RunMetric], name_a: str) -> list[str]:
    head = ("metric", "run", "value [95 % interval]", "run - A [95 % interval]", "p")
    cells: list[tuple[str, ...]] = []
    for line in lines:
        # An empty line between metrics: the eye compares within one.
        is_a = line.run == name_a
        cells += [("",) * len(head)] if is_a and cells else []
        value = _with_interval(line.value, line.low, line.high)
        difference = _with_interval(line.difference, line.difference_low, line.difference_high, "+")
        run = f"{line.run} (A)" if is_a else line.run
        cells.append((line.metric if is_a else "", run, value, difference, _number(line.p_value)))
    rule = tuple("-" * max(map(len, column)) for column in zip(head, *cells, strict=True))
    return align_columns([head, rule, *cells], left=2)


def _with_interval(value: float, low: float, high: float, sign: str = "") -> str:
    interval = f" [{_number(low, sign)}, {_number(high, sign)}]" if not math.isnan(low) else ""
    return f"{_number(value, sign)}{interval}" if not math.isnan(value) else ""


def _number(value: float, sign: str = "") -> str:
    """Return four decimals; nothing where it is undefined."""
    if math.isnan(value):
        return ""
    text = f"{value:{sign}z.4f}"
    return text if float(text) else text.lstrip("+")  # a zero has no sign, also one that rounding made
