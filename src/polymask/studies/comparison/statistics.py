"""Statistics of two runs on the same samples: paired bootstrap intervals and permutation tests.

In the shapes, N is the number of samples, G of groups and R of replicates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from polymask.errors import whole_number
from polymask.metrics.bootstrap import bootstrap_weights, percentile_interval

Rows = dict[str, np.ndarray]
Metrics = Callable[[Rows, np.ndarray | None], dict[str, np.ndarray]]
"""Takes rows and (R, N) weights, None for the point estimate; returns metric name to (R,) values."""

# Elements of one array of weights (16 MiB of float64): replicates beyond it go in chunks.
_CHUNK_ELEMENTS = 2**21


@dataclass(frozen=True, kw_only=True)
class MetricComparison:
    """One metric of the runs A and B; NaN where something is undefined.

    Attributes:
        name: Name of the metric.
        value_a: Its value for run A.
        value_b: Its value for run B.
        difference: B - A.
        low: Lower end of the 95 % interval of the difference.
        high: Upper end.
        p_value: How probable a difference at least as large, of either sign, would be if it made no
            difference which of the two runs a prediction comes from.
    """

    name: str
    value_a: float
    value_b: float
    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True, kw_only=True)
class RunMetric:
    """One metric of one of several runs, with its difference to run A; NaN where something is undefined.

    Attributes:
        metric: Name of the metric.
        run: Name of the run.
        value: Its value.
        low: Lower end of its own 95 % interval.
        high: Upper end.
        difference: This run - A; NaN for A, as all that follows.
        difference_low: Lower end of the 95 % interval of the difference, of the same draws for both runs.
        difference_high: Upper end.
        p_value: As that of a `MetricComparison`.
    """

    metric: str
    run: str
    value: float
    low: float
    high: float
    difference: float = float("nan")
    difference_low: float = float("nan")
    difference_high: float = float("nan")
    p_value: float = float("nan")


def compare_samples(
    metrics: Metrics,
    rows_a: Rows,
    rows_b: Rows,
    groups: Sequence[str],
    *,
    num_replicates: int,
    num_permutations: int,
    seed: int,
) -> list[MetricComparison]:
    """Compare two runs, metric by metric.

    The interval is the percentile interval of a paired bootstrap (Efron and Tibshirani, "An Introduction to
    the Bootstrap", 1993): each replicate draws whole groups and takes the same ones for both runs. The
    p-value is that of a two-sided paired permutation test: the predictions of the two runs are swapped in
    some of the groups. With drawn swaps it is (1 + those whose difference is at least as large) /
    (1 + drawn), which is never zero (Phipson and Smyth, "Permutation P-values should never be zero",
    Statistical Applications in Genetics and Molecular Biology 9(1), 2010); see `swaps_are_exhaustive` for
    when all swaps are tried instead, which gives their exact share. Replicates and swaps in which a metric
    is undefined are left out.

    Args:
        metrics: As `metrics` of a scorer; must count samples of weight 0 as if they were not there.
        rows_a: Rows of run A, `ids` (N,) among them. Truth must be the same in both.
        rows_b: Rows of run B: the same samples in the same order.
        groups: (N,) group (patient, sequence) of each sample; the sample's id where there are none.
        num_replicates: Replicates of the bootstrap.
        num_permutations: Swaps that are drawn at most.
        seed: Seed of the draws, which depend on the groups' names and not on the order of the samples.

    Returns:
        One entry per metric that both runs have, in the order of run A.

    Raises:
        ValueError: The samples differ, or are in another order.
        UserError: `num_replicates` or `num_permutations` is below 1.
    """
    whole_number("num_replicates", num_replicates, least=1)
    whole_number("num_permutations", num_permutations, least=1)
    if not np.array_equal(rows_a["ids"], rows_b["ids"]):
        raise ValueError("the rows are of different samples or in another order: see common_samples.")
    values_a, values_b = metrics(rows_a, None), metrics(rows_b, None)
    drawn = _collect(_bootstrap(metrics, rows_a, rows_b, groups, num_replicates, seed))
    swapped = _collect(_permutation(metrics, rows_a, rows_b, groups, num_permutations, seed))
    exhaustive = swaps_are_exhaustive(len(set(groups)), num_permutations)
    found = []
    for name in values_a:
        if name not in values_b:
            continue
        a, b = float(values_a[name][0]), float(values_b[name][0])
        low, high = percentile_interval(drawn[name])
        # Sums in another order differ in their last digits, which must not make equal differences unequal.
        rounding = 1e-10 * max(1.0, abs(a), abs(b))
        p_value = _p_value(swapped[name], b - a, rounding=rounding, exhaustive=exhaustive)
        found.append(
            MetricComparison(
                name=name, value_a=a, value_b=b, difference=b - a, low=low, high=high, p_value=p_value
            )
        )
    return found


def bootstrap_intervals(
    metrics: Metrics, rows: Rows, groups: Sequence[str], *, num_replicates: int, seed: int
) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each metric of one run, with the draws of `compare_samples`."""
    drawn = _collect(metrics(rows, weights) for weights in _weights(groups, num_replicates, seed))
    return {name: percentile_interval(values) for name, values in drawn.items()}


def swaps_are_exhaustive(num_groups: int, num_permutations: int) -> bool:
    """Return whether there are no more ways to swap than may be drawn, so that each is tried once.

    Swapping all other groups instead gives the same difference with the other sign, so half of the
    2^G ways are enough.
    """
    return 2 ** (num_groups - 1) <= num_permutations


def _bootstrap(
    metrics: Metrics, rows_a: Rows, rows_b: Rows, groups: Sequence[str], num_replicates: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield differences, chunk by chunk."""
    for weights in _weights(groups, num_replicates, seed):
        yield _differences(metrics(rows_a, weights), metrics(rows_b, weights))


def _weights(groups: Sequence[str], num_replicates: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the (R, N) weights of the replicates, chunk by chunk."""
    step = max(1, _CHUNK_ELEMENTS // max(1, len(groups)))
    sizes = [min(step, num_replicates - start) for start in range(0, num_replicates, step)]
    seeds = np.random.SeedSequence(seed).generate_state(len(sizes)).tolist()
    for size, own_seed in zip(sizes, seeds, strict=True):
        yield bootstrap_weights(groups, size, own_seed)


def _permutation(
    metrics: Metrics, rows_a: Rows, rows_b: Rows, groups: Sequence[str], num_permutations: int, seed: int
) -> Iterator[dict[str, np.ndarray]]:
    """Yield differences after swaps, chunk by chunk.

    Both runs' rows together are 2 N rows; what is in A after a swap is N of them: a weight of 0 or 1.
    """
    both = _interleave(rows_a, rows_b)
    names, group_of_sample = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    step = max(1, _CHUNK_ELEMENTS // max(1, 2 * len(groups)))
    for swaps in _swaps(len(names), num_permutations, seed, step):
        swapped = swaps[:, group_of_sample]  # (R, N)
        in_a = np.stack([~swapped, swapped], axis=2).reshape(len(swaps), -1).astype(np.float64)
        yield _differences(metrics(both, in_a), metrics(both, 1 - in_a))


def _interleave(rows_a: Rows, rows_b: Rows) -> Rows:
    """Return 2 N rows, the two of a sample side by side, so that any choice of one each is in order."""
    return {
        name: np.stack([values, rows_b[name]], axis=1).reshape(-1, *values.shape[1:])
        for name, values in rows_a.items()
        if name in rows_b
    }


def _swaps(num_groups: int, num_permutations: int, seed: int, step: int) -> Iterator[np.ndarray]:
    """Yield (R, G) bool: whether a group's predictions are swapped, at most `step` rows at a time."""
    if swaps_are_exhaustive(num_groups, num_permutations):
        numbers = np.arange(2 ** max(0, num_groups - 1))
        for start in range(0, len(numbers), step):
            yield (numbers[start : start + step, None] >> np.arange(num_groups)) & 1 == 1
        return
    random = np.random.default_rng(seed)
    for start in range(0, num_permutations, step):
        yield random.integers(2, size=(min(step, num_permutations - start), num_groups), dtype=np.int8) == 1


def _differences(values_a: dict[str, np.ndarray], values_b: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name: values_b[name] - values for name, values in values_a.items() if name in values_b}


def _collect(chunks: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    parts = list(chunks)
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _p_value(swapped: np.ndarray, difference: float, *, rounding: float, exhaustive: bool) -> float:
    """Return the share of the swaps with at least the size of `difference`, NaN where that is undefined."""
    defined = swapped[~np.isnan(swapped)]
    if np.isnan(difference) or len(defined) == 0:
        return float("nan")
    as_large = int((np.abs(defined) >= abs(difference) - rounding).sum())
    # All swaps hold the one that swaps nothing; those drawn are given it.
    own = 0 if exhaustive else 1
    return (own + as_large) / (own + len(defined))
