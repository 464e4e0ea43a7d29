"""Two tested runs within each subgroup of the samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np

from polymask.metrics.permutation import holm
from polymask.metrics.subgroups import ROWS_PREFIX, Subgroup, SubgroupMetric, subgroups_of
from polymask.reporting.subgroups import FIGURE, TABLE, plot_subgroups
from polymask.structures.samples import Rows
from polymask.studies.comparison.sides import Side
from polymask.studies.comparison.statistics import compare_samples
from polymask.utils.files import write_text
from polymask.utils.numbers import none_for_nan
from polymask.utils.tables import csv_text

_NAN = float("nan")
_LEVEL = 0.05


@dataclass(frozen=True, kw_only=True)
class SubgroupComparison:
    """One metric of two runs within a subgroup; NaN where something is undefined or the subgroup too small.

    Attributes:
        column: Name of the column.
        subgroup: The value that its samples share.
        metric: Name of the metric.
        num_samples: Number of samples.
        num_groups: Number of their groups.
        a: Its value for run A.
        b: Its value for run B.
        difference: B - A.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        p_value: As that of a `MetricComparison`.
        p_value_holm: The same, corrected for the number of differences in the table.
    """

    column: str
    subgroup: str
    metric: str
    num_samples: int
    num_groups: int
    a: float = _NAN
    b: float = _NAN
    difference: float = _NAN
    low: float = _NAN
    high: float = _NAN
    p_value: float = _NAN
    p_value_holm: float = _NAN


def write_subgroup_comparison(
    folder: Path, side_a: Side, side_b: Side, *, num_replicates: int, num_permutations: int, seed: int
) -> list[str]:
    """Compare two runs within each subgroup that their tests know, in `subgroups.csv` and `subgroups.png`.

    Where both know a column, the subgroups of A are taken.

    Args:
        folder: Where to write; nothing is written without subgroups.
        side_a: Run A.
        side_b: Run B, on the same samples in the same order.
        num_replicates: Replicates of the bootstrap.
        num_permutations: Swaps of the permutation test at most.
        seed: Seed of both.

    Returns:
        A sentence on what was found, none without subgroups.
    """
    columns = {
        key: values for key, values in (side_b.rows | side_a.rows).items() if key.startswith(ROWS_PREFIX)
    }
    if not columns:
        return []
    draws = {"num_replicates": num_replicates, "num_permutations": num_permutations, "seed": seed}
    lines = [
        line
        for found in subgroups_of(columns, side_a.groups)
        for line in _compare(found, side_a, side_b, draws)
    ]
    corrected = holm([line.p_value for line in lines])
    lines = [replace(line, p_value_holm=p_value) for line, p_value in zip(lines, corrected, strict=True)]
    cells = [[*map(none_for_nan, asdict(line).values())] for line in lines]
    write_text(folder / TABLE, csv_text([field.name for field in fields(SubgroupComparison)], cells))
    plot_subgroups(
        [_as_metric(line) for line in lines],
        dict.fromkeys((line.metric for line in lines), 0.0),
        folder / FIGURE,
        title="Difference B \N{MINUS SIGN} A within subgroups with 95 % interval (filled: it is not zero,",
    )
    return [_sentence(lines)]


def _compare(found: Subgroup, side_a: Side, side_b: Side, draws: dict[str, int]) -> list[SubgroupComparison]:
    """Return the headline metrics of a subgroup, its counts alone where it is too small."""
    scorer = side_a.family.scorer
    names = [name for name in scorer.headline if name in scorer.metrics(side_a.rows)]
    counts = {"num_samples": found.num_samples, "num_groups": found.num_groups}
    lines = {
        name: SubgroupComparison(column=found.column, subgroup=found.name, metric=name, **counts)
        for name in names
    }
    if found.num_groups < side_a.smallest_subgroup:
        return list(lines.values())

    def metrics(rows: Rows, weights: np.ndarray | None) -> dict[str, np.ndarray]:
        return {name: values for name, values in scorer.metrics(rows, weights).items() if name in names}

    rows_a, rows_b = (
        {name: values[found.members] for name, values in side.rows.items()} for side in (side_a, side_b)
    )
    groups = np.asarray(side_a.groups, dtype=str)[found.members].tolist()
    for each in compare_samples(metrics, rows_a, rows_b, groups, **draws):
        lines[each.name] = replace(
            lines[each.name],
            a=each.value_a,
            b=each.value_b,
            difference=each.difference,
            low=each.low,
            high=each.high,
            p_value=each.p_value,
        )
    return list(lines.values())


def _as_metric(line: SubgroupComparison) -> SubgroupMetric:
    """Return a difference as the forest plot takes any value."""
    return SubgroupMetric(
        column=line.column,
        subgroup=line.subgroup,
        metric=line.metric,
        num_samples=line.num_samples,
        num_groups=line.num_groups,
        value=line.difference,
        low=line.low,
        high=line.high,
        p_value_holm=line.p_value_holm,
    )


def _sentence(lines: Sequence[SubgroupComparison]) -> str:
    tested = [line for line in lines if not np.isnan(line.p_value)]
    clear = [line for line in tested if line.p_value_holm < _LEVEL]
    names = "; ".join(
        f"{line.metric} of {line.column} {line.subgroup} ({line.difference:+.4f})" for line in clear
    )
    return (
        f"Within subgroups ({TABLE}), {len(clear)} of {len(tested)} differences have p below {_LEVEL} after "
        f"Holm's correction for their number{': ' if names else ''}{names}."
    )
