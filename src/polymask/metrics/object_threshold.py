"""The least score of objects that count, chosen where it serves best.

What is kept of N images for it: `detection_scores` (N, D) float32; `detection_kinds` (N, D) int8: 1 matches a
true object at a mask IoU of 0.5, 0 is a false alarm, -1 an empty place or of no account; and `num_true` (N,)
true objects of all classes. Matching goes from the best score down, so it is the same for every threshold.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polymask.errors import choose
from polymask.metrics.average_precision import flagged
from polymask.metrics.bootstrap import as_weights, ratio
from polymask.structures.samples import Rows

RULES = ("best_f1", "best_count")


class ThresholdCurve(NamedTuple):
    """What each threshold gives: thresholds (T,), falling, F1 of objects and mean error of counts."""

    thresholds: np.ndarray
    f1: np.ndarray
    count_error: np.ndarray


def counted_objects(rows: Rows) -> Rows:
    """Return what thresholds follow from, see the module, of the rows of `match_image`."""
    hits, alarms = (flagged(rows[f"detection_{kind}"][:, :, 0, 0], 0) for kind in ("hits", "alarms"))
    kinds = np.where(hits, 1, np.where(alarms, 0, -1)).astype(np.int8)
    kinds[rows["detection_labels"] < 0] = -1
    return {
        "detection_scores": rows["detection_scores"],
        "detection_kinds": kinds,
        "num_true": rows["num_true"][:, :, 0].sum(axis=1),
    }


def threshold_curve(counted: Rows) -> ThresholdCurve:
    """Return F1 and count error for each score that was given as the threshold.

    Args:
        counted: What `counted_objects` returned.
    """
    kinds, num_true = counted["detection_kinds"], counted["num_true"]
    # Best first within each image, too: the n-th object is one too few less, or from then on one too many.
    order = np.argsort(-counted["detection_scores"], axis=1, kind="stable")
    kinds, scores = (np.take_along_axis(a, order, axis=1) for a in (kinds, counted["detection_scores"]))
    counts = kinds >= 0
    change = np.where(np.cumsum(counts, axis=1) <= num_true[:, None], -1, 1)[counts]
    hits, scores = kinds[counts] == 1, scores[counts].astype(np.float64)
    ranking = np.argsort(-scores, kind="stable")
    scores = scores[ranking]
    last = np.append(scores[1:] != scores[:-1], True)[: len(scores)]
    caught, error = np.cumsum(hits[ranking]), num_true.sum() + np.cumsum(change[ranking])
    found = np.arange(1, len(scores) + 1)
    return ThresholdCurve(
        thresholds=scores[last],
        f1=(2 * caught / (found + num_true.sum()))[last],
        count_error=error[last] / max(1, len(num_true)),
    )


def best_threshold(counted: Rows, rule: str) -> float:
    """Return the highest threshold that is best.

    Args:
        counted: What `counted_objects` returned.
        rule: Of `RULES`: the highest F1, or the least mean error of the number of objects.

    Returns:
        The threshold, in (0, 1]; NaN where nothing was found or nothing is to be found.
    """
    choose("task.score_threshold", rule, RULES)
    curve = threshold_curve(counted)
    if not len(curve.thresholds) or not counted["num_true"].sum():
        return float("nan")
    best = curve.f1.argmax() if rule == "best_f1" else curve.count_error.argmin()
    return float(curve.thresholds[best])


def metrics_at(counted: Rows, threshold: float, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return `f1` of all objects together and `count_error`, the mean over images, at a threshold.

    Args:
        counted: What `counted_objects` returned.
        threshold: Least score.
        weights: (R, N) non-negative weights of the images, or None for the point estimate (R = 1).

    Returns:
        Each (R,) float64; NaN where undefined.
    """
    num_true = counted["num_true"]
    weights = as_weights(weights, len(num_true))
    kinds = np.where(counted["detection_scores"] >= threshold, counted["detection_kinds"], -1)
    found, hits = (kinds >= 0).sum(axis=1), (kinds == 1).sum(axis=1)
    return {
        "f1": ratio(2 * (weights @ hits), weights @ (found + num_true)),
        "count_error": ratio(weights @ np.abs(found - num_true), weights.sum(axis=1)),
    }
