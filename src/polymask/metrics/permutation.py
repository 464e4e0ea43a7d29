"""Permutation tests of a subgroup against other samples, and the correction of many p-values.

In the shapes, N is the number of samples and R of permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np

from polymask.structures.samples import Rows

Metrics = Callable[[Rows, np.ndarray | None], dict[str, np.ndarray]]
"""Takes rows and (R, N) weights, None for the point estimate; returns metric name to (R,) values."""

NUM_PERMUTATIONS = 10_000
_ENOUGH = 30  # permutations with a difference as large, after which a p-value is known well enough
_CHUNK_ELEMENTS = 2**20  # of one array of weights: permutations beyond it go in chunks


def permutation_p_values(
    rows: Rows,
    groups: np.ndarray,
    members: np.ndarray,
    metrics: Metrics,
    differences: Mapping[str, float],
    *,
    seed: int,
) -> dict[str, float]:
    """Return how probable differences as large would be if membership in a subgroup meant nothing.

    A permutation test, not the share of bootstrap replicates beyond zero: where a subgroup is small and all
    of it is right, no replicate of it is ever wrong, and the bootstrap would call any difference certain.
    Permutations are drawn until 30 give a difference as large, at most 10,000 (Besag and Clifford,
    "Sequential Monte Carlo p-values", Biometrika 78(2), 1991), so that only small p-values take time.

    Args:
        rows: N samples.
        groups: (N,) group of each.
        members: (N,) bool: who is in the subgroup; the others are what it is compared with.
        metrics: Computes the metrics.
        differences: Of each metric to test: that of the members minus that of the others.
        seed: Seed of the permutations.

    Returns:
        Metric name to p-value, NaN where the difference or all permuted ones are undefined.
    """
    as_large: dict[str, list[np.ndarray]] = {
        name: [] for name, difference in differences.items() if not np.isnan(difference)
    }
    for drawn in _permutations(members, groups, seed):
        inside, outside = metrics(rows, drawn), metrics(rows, 1 - drawn)
        for name, parts in as_large.items():
            sizes = np.abs(inside[name] - outside[name])
            least = abs(differences[name])
            # Sums in another order differ in their last digits, which must not make equal ones unequal.
            parts.append(sizes[~np.isnan(sizes)] >= least - 1e-10 * max(1.0, least))
        if all(sum(map(np.sum, parts)) >= _ENOUGH for parts in as_large.values()):
            break
    found = {name: _sequential_p_value(np.concatenate(parts)) for name, parts in as_large.items()}
    return {name: found.get(name, float("nan")) for name in differences}


def _permutations(members: np.ndarray, groups: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    """Yield (R, N) float64, chunk by chunk: 1 where a sample is in the subgroup after a permutation.

    Groups that are in the subgroup, or out of it, as a whole change places as a whole; in groups that are
    partly in it their samples do (Winkler et al., "Multi-level block permutation", NeuroImage 123, 2015).
    """
    random = np.random.default_rng(seed)
    _, group_of = np.unique(groups, return_inverse=True)
    share = np.bincount(group_of, weights=members) / np.bincount(group_of)
    is_whole = (share == 0) | (share == 1)
    mixed = np.flatnonzero(~is_whole[group_of])
    mixed = mixed[np.argsort(group_of[mixed], kind="stable")]  # group after group
    step = min(250, max(1, _CHUNK_ELEMENTS // len(members)))
    for start in range(0, NUM_PERMUTATIONS, step):
        count = min(step, NUM_PERMUTATIONS - start)
        of_group = np.tile(share, (count, 1))
        of_group[:, is_whole] = random.permuted(of_group[:, is_whole], axis=1)
        drawn = of_group[:, group_of]
        if len(mixed):
            order = np.argsort(group_of[mixed] + random.random((count, len(mixed))), axis=1)
            drawn[:, mixed] = members[mixed][order]
        yield drawn


def _sequential_p_value(as_large: np.ndarray) -> float:
    """Return the p-value of (D,) bool draws in their order, NaN without any."""
    if len(as_large) == 0:
        return float("nan")
    hits = np.flatnonzero(as_large)
    if len(hits) >= _ENOUGH:
        return _ENOUGH / (int(hits[_ENOUGH - 1]) + 1)
    return (1 + len(hits)) / (1 + len(as_large))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number; those that are NaN are none.

    Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6(2),
    1979: the probability of any false alarm stays below the level, however the tests depend on each other.
    """
    values = np.asarray(p_values, dtype=np.float64)
    known = np.flatnonzero(~np.isnan(values))
    rising = known[np.argsort(values[known], kind="stable")]
    factors = np.arange(len(rising), 0, -1)
    values[rising] = np.minimum(1.0, np.maximum.accumulate(factors * values[rising]))
    return values.tolist()
