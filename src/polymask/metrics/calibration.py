"""How far probabilities can be believed: calibration errors, Brier score, risk at a coverage.

In the shapes, N is the number of samples, K of classes, B of bins and R of replicates. As in
`polymask.metrics.classification`, a weight of k counts a sample k times.

torchmetrics gives the same calibration error and scikit-learn the same Brier score, as the tests show, but
neither takes the weights that intervals are made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from polymask.metrics.bootstrap import as_weights, check_class_names, ratio
from polymask.metrics.classification import known_samples

NUM_BINS = 15
"""As in Guo et al., "On calibration of modern neural networks", ICML 2017."""
_EDGES = np.linspace(0, 1, NUM_BINS + 1, dtype=np.float32)


class Bins(NamedTuple):
    """Weighted sums over the samples of each bin, each (R, B): samples, confidences, and events that came."""

    weight: np.ndarray
    confidence: np.ndarray
    events: np.ndarray


def calibration_metrics(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Compute `ece` and `brier` of all classes.

    `ece` is the expected calibration error of the predicted class in bins of equal width (Guo et al., ICML
    2017), as torchmetrics' `MulticlassCalibrationError` has it; `brier` the mean over samples of the summed
    squares of probability minus truth, from 0 to 2 (Brier, Monthly Weather Review 78, 1950).

    Args:
        labels: (N,) int class of each sample; -1 = unknown, left out.
        probabilities: (N, K), finite, summing to 1.
        weights: (R, N) non-negative sample weights, or None for the point estimate (R = 1).

    Returns:
        Metric name to (R,) float64; NaN without a sample.

    Raises:
        UserError: A probability is not finite.
        ValueError: Shapes disagree or a label is not in -1..K-1.
    """
    labels, probabilities, weights = known_samples(labels, probabilities, weights)
    confidence, correct = _predicted(labels, probabilities)
    truth = labels[:, None] == np.arange(probabilities.shape[1])
    return {
        "ece": calibration_error(equal_width_bins(confidence, correct, weights)),
        "brier": _mean(((probabilities - truth).astype(np.float64) ** 2).sum(axis=1), weights),
    }


def per_class_calibration(
    labels: np.ndarray,
    probabilities: np.ndarray,
    class_names: Sequence[str],
    weights: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Compute `ece_equal_mass`, `aurc`, and `ece_{name}` and `brier_{name}` of each class against the rest.

    `ece_equal_mass` has bins that hold equally many samples (Nixon et al., "Measuring calibration in deep
    learning", CVPR workshops 2019); `aurc` is the area under the curve of `risk_coverage`.

    Args:
        labels: As in `calibration_metrics`, like `probabilities`, `weights`, result and errors.
        probabilities: (N, K).
        class_names: Names of the K classes.
        weights: (R, N) or None.

    Raises:
        UserError: Also when a name is given twice or is `equal_mass`.
    """
    check_class_names(class_names, probabilities.shape[1], reserved=("equal_mass",))
    labels, probabilities, weights = known_samples(labels, probabilities, weights)
    confidence, correct = _predicted(labels, probabilities)
    coverage, risk = risk_coverage(confidence, correct, weights)
    steps = np.diff(coverage, axis=1, prepend=0)
    metrics = {
        "ece_equal_mass": calibration_error(equal_mass_bins(confidence, correct, weights)),
        "aurc": np.where(weights.sum(axis=1) > 0, (steps * risk).sum(axis=1), np.nan),
    }
    for index, name in enumerate(class_names):
        own, truth = probabilities[:, index], labels == index
        metrics[f"ece_{name}"] = calibration_error(equal_width_bins(own, truth, weights))
        metrics[f"brier_{name}"] = _mean((own.astype(np.float64) - truth) ** 2, weights)
    return metrics


def log_loss(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """Compute `log_loss`, the mean of -log of the true class's probability: what temperatures lower.

    Arguments and errors are those of `calibration_metrics`.
    """
    labels, probabilities, weights = known_samples(labels, probabilities, weights)
    of_true = np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0].astype(np.float64)
    return {"log_loss": _mean(-np.log(np.maximum(of_true, np.finfo(np.float32).tiny)), weights)}


def equal_width_bins(confidence: np.ndarray, events: np.ndarray, weights: np.ndarray) -> Bins:
    """Sum over `NUM_BINS` ranges of confidence; a bin holds its lower end, 1 has a bin of its own.

    Args:
        confidence: (N,) predicted probability of the event, in [0, 1].
        events: (N,) bool, whether it came.
        weights: (R, N).
    """
    inside = (bin_places(confidence)[:, None] == np.arange(NUM_BINS + 1)).astype(np.float64)
    values = confidence.astype(np.float64)[:, None], np.asarray(events, np.float64)[:, None]
    return Bins(weights @ inside, *(weights @ (inside * value) for value in values))


def bin_places(confidence: np.ndarray) -> np.ndarray:
    """Return the number of the bin of equal width of each float32 confidence, of `NUM_BINS` + 1."""
    return np.searchsorted(_EDGES, confidence, side="right") - 1


def equal_mass_bins(
    confidence: np.ndarray, events: np.ndarray, weights: np.ndarray, num_bins: int = NUM_BINS
) -> Bins:
    """Sum over bins along the ranking by confidence that hold the same weight each.

    A sample on the edge of two bins counts in both, in part; samples of equal confidence count as one, so
    that their order plays no part.

    Args:
        confidence: As in `equal_width_bins`, like `events` and `weights`.
        events: (N,) bool.
        weights: (R, N).
        num_bins: Number of bins B.
    """
    last, order = _ranked(confidence)
    sums = np.zeros((3, len(weights), num_bins))
    if len(confidence):
        weight = weights[:, order]
        columns = (weight, weight * confidence[order].astype(np.float64), weight * events[order])
        running = [np.pad(column.cumsum(axis=1)[:, last], ((0, 0), (1, 0))) for column in columns]
        total = running[0][:, -1:]
        # One replicate behind the other, each in its own range of numbers, so that one call serves them all.
        start = np.cumsum(total + 1, axis=0) - total
        edges = start + total * np.arange(num_bins + 1) / num_bins
        for kind, column in enumerate(running):
            at_edges = np.interp(edges.ravel(), (start + running[0]).ravel(), column.ravel())
            sums[kind] = np.diff(at_edges.reshape(edges.shape), axis=1)
    return Bins(*sums)


def calibration_error(bins: Bins) -> np.ndarray:
    """Return the mean over samples of their bin's distance of confidence and frequency (R,), else NaN."""
    return ratio(np.abs(bins.confidence - bins.events).sum(axis=1), bins.weight.sum(axis=1))


def risk_coverage(
    confidence: np.ndarray, correct: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return which share of the samples is decided at each confidence, and how many of these are wrong.

    The curve of El-Yaniv and Wiener, "On the foundations of noise-free selective classification", Journal of
    Machine Learning Research 11, 2010.

    Args:
        confidence: (N,) probability of the predicted class.
        correct: (N,) bool.
        weights: (R, N).

    Returns:
        Coverage (rising) and risk, each (R, M), a point for each of the M distinct confidences, highest
        first; 0 where a replicate has no sample so confident.
    """
    last, order = _ranked(-confidence)
    covered = np.cumsum(weights[:, order], axis=1)[:, last]
    wrong = np.cumsum((weights * ~correct.astype(bool))[:, order], axis=1)[:, last]
    total = weights.sum(axis=1, keepdims=True)
    return (
        np.nan_to_num(ratio(covered, np.broadcast_to(total, covered.shape))),
        np.nan_to_num(ratio(wrong, covered)),
    )


def predicted_class(
    labels: np.ndarray, probabilities: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the confidence (N',) in the predicted class, whether it is right, and the weights (R, N').

    Of the N' samples whose class is known; arguments and errors are those of `calibration_metrics`.
    """
    labels, probabilities, weights = known_samples(labels, probabilities, weights)
    return *_predicted(labels, probabilities), weights


def _ranked(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the order (N,) of rising values, and which places of it are the last of equal ones."""
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    return np.append(ranked[1:] != ranked[:-1], True)[: len(ranked)], order


def _predicted(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return probabilities.max(axis=1, initial=0), probabilities.argmax(axis=1) == labels


def _mean(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    weights = as_weights(weights, len(values))
    return ratio(weights @ values, weights.sum(axis=1))
