"""Classification metrics of weighted samples, vectorised over bootstrap replicates.

In the shapes, N is the number of samples, C of classes and R of replicates. The conventions are those of
scikit-learn after dropping samples of weight 0 and repeating a sample of weight k k times.

torchmetrics gives the same point estimates, as the tests show, but its AUROC and average precision
take no sample weights, so that intervals cannot come from there; and an interval must come from the code of
its estimate. It serves where there are no weights: in the curves of `polymask.reporting.figures`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polymask.errors import UserError
from polymask.metrics.bootstrap import as_weights, check_class_names, ratio

# Elements of the largest temporary array (8 MiB of float64): replicates beyond it go in chunks.
_CHUNK_ELEMENTS = 2**20


class _Counts(NamedTuple):
    """Weighted sample counts of each replicate and class, each (R, C)."""

    correct: np.ndarray
    predicted: np.ndarray
    support: np.ndarray


def classification_metrics(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Compute the metrics that summarise all classes; the predicted class is the most probable one.

    `_macro` is the plain mean over classes, `_weighted` the mean weighted by the class's share of the
    truth. Precision, recall and F1 average over the classes that occur in truth or prediction, a class
    whose own value is undefined counting as 0. `balanced_accuracy` is the mean recall over the classes
    of the truth. `auroc_macro` (one against the rest, ties by mid-rank: Hanley and McNeil, Radiology
    143, 1982) and `average_precision_macro` (sum of precision times the step in recall, without
    interpolation) average over the classes that have positives and negatives.

    Args:
        labels: (N,) int class of each sample; -1 = unknown, left out.
        probabilities: (N, C) scores, higher = more probable, finite.
        weights: (R, N) non-negative sample weights, or None for the point estimate (R = 1).

    Returns:
        Metric name to (R,) float64 in [0, 1]; NaN where a metric is undefined.

    Raises:
        UserError: A probability is not finite.
        ValueError: Shapes disagree or a label is not in -1..C-1.
    """
    labels, probabilities, weights = known_samples(labels, probabilities, weights)
    counts = _count(labels, probabilities, weights)
    total = counts.support.sum(axis=1)
    auroc, average_precision = _rankings(labels, probabilities, weights)
    in_truth, occurs = counts.support > 0, counts.support + counts.predicted > 0
    metrics = {
        "accuracy": ratio(counts.correct.sum(axis=1), total),
        "balanced_accuracy": _mean_over_classes(_class_scores(counts)["recall"], in_truth),
    }
    for name, scores in _class_scores(counts).items():
        scores = np.nan_to_num(scores, nan=0.0)
        metrics[f"{name}_macro"] = _mean_over_classes(scores, occurs)
        metrics[f"{name}_weighted"] = ratio((scores * counts.support).sum(axis=1), total)
    metrics["auroc_macro"] = _mean_over_classes(auroc, ~np.isnan(auroc))
    metrics["average_precision_macro"] = _mean_over_classes(average_precision, ~np.isnan(average_precision))
    return metrics


def per_class_metrics(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Compute `recall_{name}`, `precision_{name}`, `f1_{name}` and `auroc_{name}` of each class.

    Here an undefined value stays NaN: recall of a class without truth, precision of one never
    predicted, F1 of one that is neither, AUROC of one without positives or without negatives.

    Args:
        labels: As in `classification_metrics`, like `probabilities` and `weights`.
        probabilities: (N, C).
        class_names: Names of the C classes.
        weights: (R, N) or None.

    Returns:
        Metric name to (R,) float64 in [0, 1] or NaN.

    Raises:
        UserError: A probability is not finite, a name is given twice or is `macro` or `weighted`.
        ValueError: Shapes disagree, a label is not in -1..C-1, or there are not C names.
    """
    check_class_names(class_names, probabilities.shape[1], reserved=("macro", "weighted"))
    labels, probabilities, weights = known_samples(labels, probabilities, weights)
    scores = _class_scores(_count(labels, probabilities, weights))
    scores["auroc"], _ = _rankings(labels, probabilities, weights)
    return {
        f"{score}_{name}": values[:, index]
        for score, values in scores.items()
        for index, name in enumerate(class_names)
    }


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Count samples by class of the truth (rows) and of the prediction (columns).

    Args:
        labels: (N,) int class of each sample; -1 = unknown, left out.
        predicted: (N,) int predicted class, 0..C-1.
        num_classes: Number of classes C.

    Returns:
        (C, C) int64.
    """
    known = labels != -1
    pairs = labels[known].astype(np.int64) * num_classes + predicted[known]
    return np.bincount(pairs, minlength=num_classes**2).reshape(num_classes, num_classes)


def known_samples(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Check the input and leave out samples of unknown class."""
    if probabilities.ndim != 2 or labels.shape != probabilities.shape[:1]:
        raise ValueError(
            f"labels {labels.shape} and probabilities {probabilities.shape} are not (N,), (N, C)."
        )
    num_classes = probabilities.shape[1]
    if np.any((labels < -1) | (labels >= num_classes)):
        raise ValueError(f"labels are in {labels.min()}..{labels.max()}, expected -1..{num_classes - 1}.")
    known = labels != -1
    probabilities = probabilities[known]
    bad = int((~np.isfinite(probabilities)).any(axis=1).sum())
    if bad:
        raise UserError(
            f"{bad} of {len(probabilities)} samples have probabilities that are not finite: the model "
            "has diverged or its precision overflows; lower the learning rate or use precision fp32."
        )
    return labels[known], probabilities, as_weights(weights, len(known))[:, known]


def _count(labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray) -> _Counts:
    """Count correct, predicted and true samples of each class."""
    one_hot = np.eye(probabilities.shape[1])
    truth, guess = one_hot[labels], one_hot[probabilities.argmax(axis=1)]  # (N, C)
    return _Counts(correct=weights @ (truth * guess), predicted=weights @ guess, support=weights @ truth)


def _class_scores(counts: _Counts) -> dict[str, np.ndarray]:
    """Return precision, recall and F1 of each replicate and class, (R, C), NaN where undefined."""
    return {
        "precision": ratio(counts.correct, counts.predicted),
        "recall": ratio(counts.correct, counts.support),
        "f1": ratio(2 * counts.correct, counts.predicted + counts.support),
    }


def _mean_over_classes(scores: np.ndarray, included: np.ndarray) -> np.ndarray:
    """Average (R, C) scores over the classes included in each replicate, (R, C) bool."""
    return ratio(np.where(included, scores, 0.0).sum(axis=1), included.sum(axis=1))


def _rankings(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROC and average precision of each replicate and class, each (R, C)."""
    num_samples, num_classes = probabilities.shape
    order = np.argsort(-probabilities, axis=0, kind="stable")
    auroc, average_precision = np.empty((2, len(weights), num_classes))
    step = max(1, _CHUNK_ELEMENTS // max(1, num_samples))
    for start in range(0, len(weights), step):
        chunk = slice(start, start + step)
        # Samples lead here, so that sorting moves whole rows and the sums run over replicates at once.
        by_sample = np.ascontiguousarray(weights[chunk].T)
        for index in range(num_classes):
            ranked = order[:, index]
            auroc[chunk, index], average_precision[chunk, index] = _rank_one_class(
                probabilities[ranked, index], labels[ranked] == index, by_sample[ranked]
            )
    return auroc, average_precision


def _rank_one_class(
    scores: np.ndarray, positive: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return AUROC and average precision (R,) of scores (N,) in falling order, weights (N, R)."""
    # Tied samples share one threshold: the curves have a point only behind the last of them.
    last_of_tie = np.ones(len(scores), dtype=bool)
    last_of_tie[:-1] = scores[1:] != scores[:-1]
    true_weights = weights * positive[:, None]
    hits = np.cumsum(true_weights, axis=0)[last_of_tie]
    alarms = np.cumsum(weights - true_weights, axis=0)[last_of_tie]
    num_positive, num_negative = true_weights.sum(axis=0), weights[~positive].sum(axis=0)
    new_hits, new_alarms = np.diff(hits, axis=0, prepend=0), np.diff(alarms, axis=0, prepend=0)
    area = (new_alarms * (hits - new_hits / 2)).sum(axis=0)
    # Thresholds above every drawn sample have neither hits nor alarms and add nothing.
    seen = np.maximum(hits + alarms, np.finfo(np.float64).tiny)
    steps = (new_hits * hits / seen).sum(axis=0)
    auroc = ratio(area, num_positive * num_negative)
    return auroc, np.where(np.isnan(auroc), np.nan, ratio(steps, num_positive))
