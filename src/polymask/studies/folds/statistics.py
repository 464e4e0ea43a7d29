"""The metrics of several folds summed up.

It is done in two ways, which answer different questions. Mean and standard deviation over the folds treat
each trained model as one observation; the deviation is no standard error, since the folds' training sets
overlap (Bengio and Grandvalet, "No unbiased estimator of the variance of K-fold cross-validation", JMLR 5,
2004). The pooled value takes the test samples of all folds as one set, with a bootstrap interval over their
groups. For metrics that rank samples by score (AUROC, average precision) pooling mixes the scores of
different models; there the mean over folds is the one to report (Forman and Scholz, "Apples-to-apples in
cross-validation studies", SIGKDD Explorations 12(1), 2010).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from polymask.metrics.bootstrap import bootstrap_weights, percentile_interval
from polymask.structures.samples import Rows

SampleMetrics = Callable[[Rows, np.ndarray | None], dict[str, np.ndarray]]
"""Of rows and (R, N) weights (None for the point estimate, R = 1) to (R,) values per metric."""


@dataclass(frozen=True, kw_only=True)
class MetricSummary:
    """One metric over the folds; NaN where undefined.

    Attributes:
        values: The value of each fold.
        mean: Mean over the folds in which the metric is defined.
        std: Sample standard deviation (n - 1) over these folds; NaN for fewer than two.
        pooled: Value over the test samples of all folds.
        low: Lower end of the 95 % bootstrap interval of `pooled`.
        high: Upper end.
    """

    values: tuple[float, ...]
    mean: float
    std: float
    pooled: float
    low: float
    high: float


def summarize_metrics(
    rows: Sequence[Rows],
    groups: Sequence[Sequence[str]],
    metrics: Sequence[SampleMetrics],
    *,
    num_replicates: int = 1000,
    seed: int = 0,
) -> dict[str, MetricSummary]:
    """Return the summary of every metric that any of the folds has.

    Args:
        rows: The rows of each fold.
        groups: The group of each sample, per fold; a group is drawn whole, also where it is in several folds.
        metrics: What computes the metrics of each fold; that of the first serves for the pooled rows.
        num_replicates: Replicates of the bootstrap.
        seed: Seed of the bootstrap.
    """
    per_fold = [_first(compute(own, None)) for compute, own in zip(metrics, rows, strict=True)]
    shared = [name for name in rows[0] if all(name in own for own in rows)]
    together = {name: np.concatenate([own[name] for own in rows]) for name in shared}
    weights = bootstrap_weights([group for own in groups for group in own], num_replicates, seed)
    pooled = _first(metrics[0](together, None))
    replicates = metrics[0](together, weights)
    summaries = {}
    for name in dict.fromkeys(name for values in per_fold for name in values):
        values = np.array([own.get(name, np.nan) for own in per_fold])
        defined = values[~np.isnan(values)]
        low, high = percentile_interval(replicates.get(name, np.array([np.nan])))
        summaries[name] = MetricSummary(
            values=tuple(values.tolist()),
            mean=float(defined.mean()) if len(defined) else float("nan"),
            std=float(defined.std(ddof=1)) if len(defined) > 1 else float("nan"),
            pooled=pooled.get(name, float("nan")),
            low=low,
            high=high,
        )
    return summaries


def _first(metrics: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(values[0]) for name, values in metrics.items()}
