"""The least score of the sections from which objects of volumes are linked, chosen where it serves best.

What is kept of N volumes for it: what `polymask.metrics.object_threshold` keeps, of single sections before
they are linked; and, where they were linked anew with each of the `THRESHOLDS`, `linked_found` (N, T) objects
and `linked_true` (N,) true ones, -1 where some slices have no truth. How many objects a threshold gives
cannot be told from sections one by one: a missing one cuts an object in two, one too many joins two objects.
"""

from __future__ import annotations

import numpy as np

from polymask.errors import choose
from polymask.metrics.average_precision import flagged
from polymask.metrics.bootstrap import as_weights, ratio
from polymask.metrics.object_threshold import RULES, metrics_at
from polymask.structures.samples import Rows

THRESHOLDS = tuple(step / 20 for step in range(1, 20))


def counted_sections(rows: Rows) -> Rows:
    """Return what thresholds follow from, see the module, of the rows of volumes."""
    scores = rows["slice_scores"]
    kinds = np.where(scores < 0, -1, flagged(rows["slice_hits"], 0)).astype(np.int8)
    counted = {
        "detection_scores": scores,
        "detection_kinds": kinds,
        "num_true": rows["slice_num_true"].astype(np.int64),
    }
    if "linked_found" in rows:
        whole = rows["is_complete"].astype(bool)
        counted["linked_found"] = rows["linked_found"]
        counted["linked_true"] = np.where(whole, rows["num_true"], -1)
    return counted


def volume_metrics_at(
    counted: Rows, threshold: float, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return `f1` of all sections together and `count_error`, the mean over volumes, at a threshold.

    Args:
        counted: What `counted_sections` returned.
        threshold: Least score.
        weights: (R, N) non-negative weights of the volumes, or None for the point estimate (R = 1).

    Returns:
        Each (R,) float64; NaN where undefined: the error of the count without one of the `THRESHOLDS`, or
        without a volume that was linked with them and has truth in all its slices.
    """
    metrics = metrics_at(counted, threshold, weights)
    weights = as_weights(weights, len(counted["num_true"]))
    metrics["count_error"] = np.full(len(weights), np.nan)
    if "linked_found" in counted and threshold in THRESHOLDS:
        true, found = counted["linked_true"], counted["linked_found"][:, THRESHOLDS.index(threshold)]
        weights = weights * (true >= 0)
        metrics["count_error"] = ratio(weights @ np.abs(found - true), weights.sum(axis=1))
    return metrics


def best_volume_threshold(counted: Rows, rule: str) -> float:
    """Return the highest of the `THRESHOLDS` that is best; of equal errors of counts the one of best F1.

    Args:
        counted: What `counted_sections` returned.
        rule: Of `RULES`: the highest F1 of sections, or the least mean error of the number of objects.

    Returns:
        The threshold; NaN where nothing right was found or, for counts, nothing is found, there or known.
    """
    choose("task.score_threshold", rule, RULES)
    falling = THRESHOLDS[::-1]
    tried = [volume_metrics_at(counted, threshold) for threshold in falling]
    f1, error = (np.array([each[name][0] for each in tried]) for name in ("f1", "count_error"))
    if rule == "best_f1":
        return falling[np.nanargmax(f1)] if np.nansum(f1) else float("nan")
    is_known = (
        not np.isnan(error).all() and counted["linked_found"].any() and (counted["linked_true"] > 0).any()
    )
    if not is_known:
        return float("nan")
    # A few volumes often leave several thresholds with one error: of too many and too few at a time, too.
    return falling[np.where(error == np.nanmin(error), np.nan_to_num(f1), -1).argmax()]
