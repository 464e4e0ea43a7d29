"""Thresholds that give a wanted sensitivity or specificity, and what follows from decisions by them.

A threshold is chosen on one set of samples and applied, unchanged, to another. What it says of each of these
is a column of rows, `called_{name}` (N, 2) int8: whether the sample was called positive and whether it is,
each 1, 0, or -1 = unknown. So whoever has the rows has the metrics, with their intervals.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polymask.metrics.bootstrap import as_weights, ratio
from polymask.structures.samples import Rows

KINDS = ("sensitivity", "specificity")
MEASURES = ("sensitivity", "specificity", "ppv", "npv", "number_needed_to_biopsy")
_PREFIX = "called_"


class OperatingPoint(NamedTuple):
    """What is wanted of a decision.

    Attributes:
        of: Name of the class or group of classes that is looked for.
        classes: Indices of its classes.
        kind: `sensitivity` or `specificity`.
        wanted: Its least value.
    """

    of: str
    classes: Sequence[int]
    kind: str
    wanted: float

    @property
    def key(self) -> str:
        """Return the end of its metrics' names, such as `malignant_at_sensitivity_0.95`."""
        return f"{self.of}_at_{self.kind}_{self.wanted:g}"

    @property
    def column(self) -> str:
        """Return the name of its column of rows."""
        return f"{_PREFIX}{self.key}"


def group_scores(probabilities: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return the (N,) float64 probability of any of some classes, from (N, K)."""
    return probabilities[:, list(classes)].astype(np.float64).sum(axis=1)


def group_truth(labels: np.ndarray, classes: Sequence[int]) -> np.ndarray:
    """Return whether each of (N,) labels is one of some classes: int8 1, 0, or -1 where it is unknown."""
    return np.where(labels >= 0, np.isin(labels, list(classes)), -1).astype(np.int8)


def threshold_for(scores: np.ndarray, truth: np.ndarray, kind: str, wanted: float) -> float:
    """Return the threshold that gives a wanted sensitivity or specificity and as much as it can of the other.

    Samples are called positive whose score is at least the threshold.

    Args:
        scores: (N,) higher = more probably positive.
        truth: (N,) 1, 0, or -1 = unknown.
        kind: Of `KINDS`.
        wanted: Least value, above 0 and at most 1.

    Returns:
        The threshold; NaN where there is no sample to measure it on.
    """
    of_kind = scores[truth == (1 if kind == "sensitivity" else 0)]
    if not len(of_kind):
        return float("nan")
    # Of 20 samples 0.95 are 19, not 20 by a rounding error.
    needed = int(np.ceil(wanted * len(of_kind) - 1e-9))
    ranked = np.sort(of_kind)
    if kind == "sensitivity":
        return float(ranked[len(ranked) - needed])
    return float(np.nextafter(ranked[needed - 1], np.inf))


def called(scores: np.ndarray, truth: np.ndarray, threshold: float) -> np.ndarray:
    """Return the column of a decision, (N, 2) int8, see the module; all unknown for a threshold of NaN."""
    calls = np.where(np.isnan(threshold), -1, scores >= threshold)
    return np.stack([calls, truth], axis=1).astype(np.int8)


def operating_metrics(rows: Rows, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Compute the `MEASURES` of each decision among the rows.

    `ppv` and `npv` are the positive and negative predictive value, at the share of positives of these very
    samples; `number_needed_to_biopsy` is 1 / `ppv`: how many are called positive for each that is.

    Args:
        rows: With any number of columns `called_{name}`, see the module.
        weights: (R, N) non-negative sample weights, or None for the point estimate (R = 1).

    Returns:
        `{measure}_{name}` to (R,) float64; NaN where undefined.
    """
    metrics: dict[str, np.ndarray] = {}
    for column in rows:
        if column.startswith(_PREFIX):
            measures = rates(rows[column], weights)
            metrics |= {f"{name}_{column.removeprefix(_PREFIX)}": value for name, value in measures.items()}
    return metrics


def rates(decisions: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Compute the `MEASURES` of one column of decisions; arguments as in `operating_metrics`."""
    weights = as_weights(weights, len(decisions))
    calls, truth = decisions.T
    hits, alarms, misses, rest = (
        weights @ ((calls == call) & (truth == true)) for true, call in ((1, 1), (0, 1), (1, 0), (0, 0))
    )
    return {
        "sensitivity": ratio(hits, hits + misses),
        "specificity": ratio(rest, rest + alarms),
        "ppv": ratio(hits, hits + alarms),
        "npv": ratio(rest, rest + misses),
        "number_needed_to_biopsy": ratio(hits + alarms, hits),
    }


def exact_intervals(decisions: np.ndarray, level: float = 0.95) -> dict[str, tuple[float, float]]:
    """Return the exact binomial interval of sensitivity and specificity of one column of decisions.

    Where every positive was found, each replicate of a bootstrap says so, too, and its interval has no width,
    be there two positives or two hundred; this one tells them apart (Clopper and Pearson, "The use of
    confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26(4), 1934). It takes
    samples as independent, which those of one group are not.

    Args:
        decisions: (N, 2), see the module.
        level: Of confidence.

    Returns:
        Lower and upper end for each of `KINDS`; NaN without a sample to measure it on.
    """
    from scipy.stats import binomtest

    calls, truth = decisions.T
    found = {}
    for kind, value in zip(KINDS, (1, 0), strict=True):
        of_kind = calls[(truth == value) & (calls >= 0)]
        right = int((of_kind == value).sum())
        found[kind] = (
            tuple(binomtest(right, len(of_kind)).proportion_ci(level, method="exact"))
            if len(of_kind)
            else (float("nan"), float("nan"))
        )
    return found


def net_benefit(
    scores: np.ndarray, truth: np.ndarray, thresholds: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return the net benefit of deciding by scores, and that of calling every sample positive.

    True positives per sample minus false positives per sample times t / (1 - t): whoever acts from a
    probability t on holds a missed positive to be (1 - t) / t times as bad as a false alarm (Vickers and
    Elkin, "Decision curve analysis", Medical Decision Making 26(6), 2006). To call none has 0.

    Args:
        scores: (N,) probabilities.
        truth: (N,) 1, 0, or -1 = unknown, left out.
        thresholds: (T,) in (0, 1).
        weights: (R, N) or None.

    Returns:
        Each (R, T) float64, NaN without a sample.
    """
    known = truth >= 0
    weights = as_weights(weights, len(scores))[:, known]
    positive = truth[known] == 1
    calls = (scores[known, None] >= thresholds).astype(np.float64)
    odds = thresholds / (1 - thresholds)
    hits, alarms = (weights * positive) @ calls, (weights * ~positive) @ calls
    total = np.broadcast_to(weights.sum(axis=1)[:, None], hits.shape)
    prevalence = ratio((weights @ positive.astype(np.float64))[:, None] + np.zeros_like(hits), total)
    return ratio(hits - alarms * odds, total), prevalence - (1 - prevalence) * odds
