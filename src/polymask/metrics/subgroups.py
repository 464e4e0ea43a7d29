"""Metrics of subgroups of the samples: their values, differences, gaps, and what of it may be chance.

Samples come in groups (patients, lesions) that resemble each other. Whole groups are drawn for intervals and
exchanged for p-values. In the shapes, N is the number of samples and R of replicates or permutations.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from polymask.metrics.bootstrap import bootstrap_weights, percentile_interval
from polymask.metrics.permutation import Metrics, holm, permutation_p_values
from polymask.structures.attributes import UNKNOWN
from polymask.structures.samples import Rows

ROWS_PREFIX = "subgroup_"
"""Of the rows' columns that hold subgroups: (N,) str each."""

NUM_REPLICATES = 1000
_NAN = float("nan")


class Subgroup(NamedTuple):
    """Samples that share a value of a column.

    Attributes:
        column: Name of the column.
        name: The value they share.
        members: (N,) bool.
        others: (N,) bool: all samples of another known value.
        num_samples: Number of members.
        num_groups: Number of their groups.
    """

    column: str
    name: str
    members: np.ndarray
    others: np.ndarray
    num_samples: int
    num_groups: int


@dataclass(frozen=True, kw_only=True)
class SubgroupMetric:
    """A metric of a subgroup; NaN where something is undefined, or the subgroup too small.

    Attributes:
        column: Name of the column.
        subgroup: The value that its samples share.
        metric: Name of the metric.
        num_samples: Number of samples.
        num_groups: Number of their groups.
        value: What a test on these samples alone would give.
        low: Lower end of its 95 % interval.
        high: Upper end.
        difference: Value - that of all samples with another known value of the column.
        difference_low: Lower end of its 95 % interval.
        difference_high: Upper end.
        p_value: How probable a difference at least as large, of either sign, would be if it did not matter
            which groups are in the subgroup.
        p_value_holm: The same, corrected for the number of differences that were tested.
    """

    column: str
    subgroup: str
    metric: str
    num_samples: int
    num_groups: int
    value: float = _NAN
    low: float = _NAN
    high: float = _NAN
    difference: float = _NAN
    difference_low: float = _NAN
    difference_high: float = _NAN
    p_value: float = _NAN
    p_value_holm: float = _NAN


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Largest minus smallest value of a metric among the subgroups of a column.

    Attributes:
        column: Name of the column.
        metric: Name of the metric.
        largest: Subgroup with the largest value.
        smallest: Subgroup with the smallest value.
        gap: The difference of the two.
        low: Lower end of the 95 % interval of this difference.
        high: Upper end.
    """

    column: str
    metric: str
    largest: str
    smallest: str
    gap: float
    low: float
    high: float


def subgroups_of(rows: Rows, groups: Sequence[str]) -> list[Subgroup]:
    """Return the subgroups of all columns, those of a column in their order, `unknown` last."""
    names = np.asarray(groups, dtype=str)
    found = []
    for key in rows:
        if not key.startswith(ROWS_PREFIX):
            continue
        values = rows[key]
        for value in sorted(set(values.tolist()), key=_order):
            members = values == value
            others = ~members & (values != UNKNOWN)
            counts = int(members.sum()), len(set(names[members]))
            found.append(Subgroup(key.removeprefix(ROWS_PREFIX), value, members, others, *counts))
    return found


def measure_subgroups(
    rows: Rows, groups: Sequence[str], metrics: Metrics, names: Sequence[str], *, smallest: int, seed: int = 0
) -> tuple[list[SubgroupMetric], list[Gap]]:
    """Measure each subgroup, and compare it with the other samples.

    Intervals are percentiles of a bootstrap that draws whole groups: of a value among the subgroup's own, of
    differences and gaps among all. P-values are of permutations, see `permutation_p_values`, and corrected
    by Holm for the number of all that are returned. Samples without a value of a column are its subgroup
    `unknown`, which is measured but compared with nothing.

    Args:
        rows: N samples, with columns of subgroups.
        groups: (N,) group of each sample.
        metrics: Computes the metrics.
        names: Which of them to compare; all others are measured, and compared with nothing.
        smallest: Of subgroups with fewer groups only the counts are returned, and they are compared with
            nothing.
        seed: Seed of all draws.

    Returns:
        One entry per subgroup and metric; and the gaps of columns with at least two subgroups of that size.
    """
    measured = _Measured(rows, np.asarray(groups, dtype=str), metrics, names, smallest, seed)
    lines = [line for found in subgroups_of(rows, groups) for line in measured.lines(found)]
    return measured.corrected(lines), measured.gaps(lines)


class _Measured:
    """The samples, what is measured of them, and what is kept from one subgroup to the next."""

    def __init__(
        self,
        rows: Rows,
        groups: np.ndarray,
        metrics: Metrics,
        names: Sequence[str],
        smallest: int,
        seed: int,
    ) -> None:
        of_all = metrics(rows, None)
        self.rows, self.groups, self.metrics = rows, groups, metrics
        self.names = [name for name in names if name in of_all]
        self.all_names = [*self.names, *(name for name in of_all if name not in self.names)]
        self.smallest, self.seed = smallest, seed
        self._weights = bootstrap_weights(groups.tolist(), NUM_REPLICATES, seed)
        self._drawn: dict[tuple[str, str], dict[str, np.ndarray]] = {}
        # Of a column with two subgroups both differences are one test: by who is compared with whom.
        self._tests: dict[tuple[bytes, ...], dict[str, float]] = {}
        self._test_of: dict[tuple[str, str], tuple[bytes, ...]] = {}

    def lines(self, found: Subgroup) -> list[SubgroupMetric]:
        """Return all metrics of a subgroup, with their differences to the other samples."""
        lines = self.values(found)
        if found.num_groups < self.smallest or found.name == UNKNOWN:
            return lines
        number = len(self.names)
        return [*self._compared(found, lines[:number]), *lines[number:]]

    def values(self, found: Subgroup) -> list[SubgroupMetric]:
        """Return all metrics of a subgroup; only the counts of a small one."""
        counts = {"num_samples": found.num_samples, "num_groups": found.num_groups}
        lines = [
            SubgroupMetric(column=found.column, subgroup=found.name, metric=name, **counts)
            for name in self.all_names
        ]
        if found.num_groups < self.smallest:
            return lines
        own_groups = self.groups[found.members].tolist()
        values = self._values(found.members)
        drawn = self._values(found.members, bootstrap_weights(own_groups, NUM_REPLICATES, self.seed))
        for number, name in enumerate(self.all_names):
            low, high = percentile_interval(drawn[name])
            lines[number] = replace(lines[number], value=float(values[name][0]), low=low, high=high)
        return lines

    def _compared(self, found: Subgroup, lines: Sequence[SubgroupMetric]) -> list[SubgroupMetric]:
        """Return the metrics of a subgroup with their differences to the other samples."""
        drawn = self._values(found.members, self._weights[:, found.members])
        self._drawn[found.column, found.name] = drawn
        if len(set(self.groups[found.others].tolist())) < self.smallest:
            return list(lines)
        of_others = self._values(found.others)
        drawn_others = self._values(found.others, self._weights[:, found.others])
        differences = {line.metric: line.value - float(of_others[line.metric][0]) for line in lines}
        p_values = self._p_values(found, differences)
        compared = []
        for line in lines:
            low, high = percentile_interval(drawn[line.metric] - drawn_others[line.metric])
            compared.append(
                replace(
                    line,
                    difference=differences[line.metric],
                    difference_low=low,
                    difference_high=high,
                    p_value=p_values[line.metric],
                )
            )
        return compared

    def _p_values(self, found: Subgroup, differences: dict[str, float]) -> dict[str, float]:
        test = tuple(sorted((found.members.tobytes(), found.others.tobytes())))
        self._test_of[found.column, found.name] = test
        if test not in self._tests:
            both = found.members | found.others
            self._tests[test] = permutation_p_values(
                {name: values[both] for name, values in self.rows.items()},
                self.groups[both],
                found.members[both],
                self.metrics,
                differences,
                seed=self.seed,
            )
        return self._tests[test]

    def corrected(self, lines: Sequence[SubgroupMetric]) -> list[SubgroupMetric]:
        """Return the metrics with p-values corrected for the number of tests."""
        tests = [(test, name) for test, p_values in self._tests.items() for name in p_values]
        p_values = holm([self._tests[test][name] for test, name in tests])
        corrected = dict(zip(tests, p_values, strict=True))
        return [
            replace(line, p_value_holm=corrected[self._test_of[key], line.metric])
            if line.metric in self.names and (key := (line.column, line.subgroup)) in self._test_of
            else line
            for line in lines
        ]

    def gaps(self, lines: Sequence[SubgroupMetric]) -> list[Gap]:
        """Return the gap of each column and metric with at least two values."""
        found = []
        of_gap: dict[tuple[str, str], list[SubgroupMetric]] = {}
        for line in lines:
            is_compared = line.metric in self.names and (line.column, line.subgroup) in self._drawn
            if is_compared and not np.isnan(line.value):
                of_gap.setdefault((line.column, line.metric), []).append(line)
        for (column, metric), own in of_gap.items():
            ends = (max(own, key=lambda line: line.value), min(own, key=lambda line: line.value))
            largest, smallest = (end.subgroup for end in ends)
            if largest == smallest:  # one alone, or all alike
                continue
            drawn = self._drawn[column, largest][metric] - self._drawn[column, smallest][metric]
            low, high = percentile_interval(drawn)
            found.append(
                Gap(
                    column=column,
                    metric=metric,
                    largest=largest,
                    smallest=smallest,
                    gap=ends[0].value - ends[1].value,
                    low=low,
                    high=high,
                )
            )
        return found

    def _values(self, members: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Return the (R,) values of each metric of some samples, NaN where their truth gives none."""
        found = self.metrics({name: values[members] for name, values in self.rows.items()}, weights)
        undefined = np.full(1 if weights is None else len(weights), np.nan)
        return {name: found.get(name, undefined) for name in self.all_names}


def _order(value: str) -> tuple[bool, bool, float, str]:
    """Return what sorts subgroups: bands by their numbers, then names; `unknown` comes last."""
    number = re.match(r"(<)?(?:>=)?(-?\d+(?:\.\d+)?(?:e[+-]?\d+)?)", value)
    if number is None:
        return value == UNKNOWN, True, 0.0, value
    return False, False, float("-inf") if number[1] else float(number[2]), value
