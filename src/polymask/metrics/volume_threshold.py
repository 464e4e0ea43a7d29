"""The least score of the sections from which objects of volumes are linked, chosen where it serves best.

What is kept of N volumes for it, whose sections were linked anew with each of the T `THRESHOLDS`:
`linked_found` and `linked_hits` (N, T), objects and those of them that match a true one at an IoU of 0.5; and
`linked_true` (N,) true ones, -1 where some slices have no truth. Sections one by one do not tell: a missing
one cuts an object in two or is made up for by its neighbours, one too many joins two objects or is dropped.
"""

from __future__ import annotations

import numpy as np

from polymask.errors import choose
from polymask.metrics.bootstrap import as_weights, ratio
from polymask.metrics.object_threshold import RULES
from polymask.structures.samples import Rows

THRESHOLDS = tuple(step / 20 for step in range(1, 20))


def linked_objects(rows: Rows) -> Rows:
    """Return what thresholds follow from, see the module; {} of rows that were linked with one alone."""
    if "linked_found" not in rows:
        return {}
    true = np.where(rows["is_complete"].astype(bool), rows["num_true"], -1)
    return {"linked_true": true, **{name: rows[name] for name in ("linked_found", "linked_hits")}}


def volume_metrics_at(
    linked: Rows, threshold: float, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Return `f1` of all objects together and `count_error`, the mean over volumes, at a threshold.

    Args:
        linked: What `linked_objects` returned.
        threshold: Least score of a section.
        weights: (R, N) non-negative weights of the volumes, or None for the point estimate (R = 1).

    Returns:
        Each (R,) float64; NaN where undefined: without one of the `THRESHOLDS`, or without a volume that has
        truth in all its slices.
    """
    true = linked["linked_true"]
    weights = as_weights(weights, len(true)) * (true >= 0)
    if threshold not in THRESHOLDS:
        return {name: np.full(len(weights), np.nan) for name in ("f1", "count_error")}
    place = THRESHOLDS.index(threshold)
    found, hits = (linked[name][:, place] for name in ("linked_found", "linked_hits"))
    return {
        "f1": ratio(2 * (weights @ hits), weights @ (found + true)),
        "count_error": ratio(weights @ np.abs(found - true), weights.sum(axis=1)),
    }


def best_volume_threshold(linked: Rows, rule: str) -> float:
    """Return the highest of the `THRESHOLDS` that is best; of equal errors of counts the one of best F1.

    Args:
        linked: What `linked_objects` returned.
        rule: Of `RULES`: the highest F1, or the least mean error of the number of objects.

    Returns:
        The threshold; NaN where no volume has truth in all its slices, or, by F1, nothing right was found.
    """
    choose("task.score_threshold", rule, RULES)
    falling = THRESHOLDS[::-1]
    tried = [volume_metrics_at(linked, threshold) for threshold in falling]
    f1, error = (np.array([each[name][0] for each in tried]) for name in ("f1", "count_error"))
    f1 = np.nan_to_num(f1)
    if np.isnan(error).all() or (rule == "best_f1" and not f1.any()):
        return float("nan")
    # A few volumes often leave several thresholds with one error, of too many here and of too few there.
    candidates = f1 if rule == "best_f1" else np.where(error == error.min(), f1, -1)
    return falling[candidates.argmax()]
