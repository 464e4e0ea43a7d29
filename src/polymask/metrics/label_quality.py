"""How likely the given class of a sample is wrong, from predictions of models that never saw the sample.

The quantities of confident learning (Northcutt, Jiang and Chuang, "Confident learning: estimating uncertainty
in dataset labels", Journal of Artificial Intelligence Research 70, 2021, arXiv:1911.00068). With N samples, K
classes, given labels y and out-of-fold probabilities p:

    self-confidence      p[i, y_i]
    normalised margin    p[i, y_i] - max of p[i, j] over j != y_i
    threshold            t_j = mean of p[i, j] over the samples given the class j
    confident class      the j of largest p[i, j] among those with p[i, j] >= t_j; none without such a j
    confident joint      C[a, b] = samples given a whose confident class is b
    joint                Q[a, b] = C[a, b] / sum_b C[a, b] * (samples given a) / N

A class of which the models are unsure everywhere has a low threshold, so that its samples are not taken for
errors only because all of their probabilities are low.
"""

from __future__ import annotations

import numpy as np

from polymask.metrics.bootstrap import ratio

NONE = -1
"""The confident class of a sample that has none."""
_ROUNDING = 1e-6
"""The mean of equal probabilities can be a little above each of them."""


def self_confidence(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the probability of each given class.

    Args:
        labels: (N,) int given class, 0 to K - 1.
        probabilities: (N, K), each row sums to 1.

    Returns:
        (N,) in [0, 1]; low is suspicious.
    """
    return np.take_along_axis(probabilities, labels[:, None], axis=1)[:, 0]


def normalized_margin(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the probability of each given class minus that of the best other one.

    Args:
        labels: (N,) int given class.
        probabilities: (N, K), K at least 2.

    Returns:
        (N,) in [-1, 1]; below 0 another class is the most probable one.
    """
    others = probabilities.copy()
    np.put_along_axis(others, labels[:, None], -np.inf, axis=1)
    return self_confidence(labels, probabilities) - others.max(axis=1)


def class_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return t (K,): the mean probability of each class over its own samples; infinite where it has none."""
    given = labels[:, None] == np.arange(probabilities.shape[1])
    mean = ratio((given * probabilities).sum(axis=0), given.sum(axis=0))
    return np.where(np.isnan(mean), np.inf, mean)


def confident_classes(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the (N,) int class that each sample has with confidence, whatever was given; `NONE` for none.

    Args:
        labels: (N,) int given class, from which the thresholds come.
        probabilities: (N, K).
    """
    enough = probabilities >= class_thresholds(labels, probabilities) - _ROUNDING
    best = np.where(enough, probabilities, -1.0).argmax(axis=1)
    return np.where(enough.any(axis=1), best, NONE)


def confident_joint(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return C (K, K) int: samples by given class (rows) and confident class (columns)."""
    confident = confident_classes(labels, probabilities)
    counts = np.zeros((probabilities.shape[1],) * 2, np.int64)
    np.add.at(counts, (labels[confident != NONE], confident[confident != NONE]), 1)
    return counts


def estimated_joint(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return Q (K, K): the share of samples by given class (rows) and true class (columns), which sums to 1.

    Every class that was given to a sample has a row: some of its samples are not below its own mean.
    """
    counts = confident_joint(labels, probabilities)
    given = np.bincount(labels, minlength=len(counts))
    return counts / counts.sum(axis=1, keepdims=True).clip(1) * (given / len(labels))[:, None]
