"""Temperatures: one number, or one of each class, that makes probabilities as certain as they are right.

Temperature scaling after Guo et al., "On calibration of modern neural networks", ICML 2017: logits are
divided by T before the softmax. Logits are known up to a constant, so that the logarithms of the
probabilities serve as such: softmax(log p / T). One temperature never changes which class is the most
probable one; with one of each class (vector scaling without biases, same source, on the log probabilities)
it may.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LARGEST = 20.0
"""Temperatures are between its inverse and this."""


def tempered(probabilities: Tensor, temperature: float | np.ndarray) -> Tensor:
    """Return probabilities at a temperature.

    Args:
        probabilities: (N, K, ...), summing to 1 over K.
        temperature: One number above 0, or (K,) of each class.

    Returns:
        (N, K, ...), of the same type.
    """
    shape = (1, -1, *[1] * (probabilities.ndim - 2))
    scale = torch.as_tensor(temperature, dtype=torch.float32, device=probabilities.device).view(shape)
    return (probabilities.float().log() / scale).softmax(dim=1).to(probabilities.dtype)


def tempered_binary(probabilities: Tensor, temperature: float) -> Tensor:
    """Return probabilities of one thing, of any shape, at a temperature; 0.5 stays 0.5."""
    return (probabilities.float().logit() / temperature).sigmoid().to(probabilities.dtype)


def fit_temperature(labels: np.ndarray, probabilities: np.ndarray) -> float:
    """Return the temperature with the least log loss.

    Args:
        labels: (N,) int class of each sample; -1 = unknown, left out.
        probabilities: (N, K).

    Returns:
        The temperature; NaN without a sample of known class.
    """
    from scipy.optimize import minimize_scalar

    labels, logits = _known(labels, probabilities)
    if not len(labels):
        return float("nan")
    span = np.log(LARGEST)
    # The loss is convex in 1/T (a sum of log-sum-exps of linear terms), so there is one minimum over log T.
    found = minimize_scalar(
        lambda log_t: _loss(labels, logits, np.exp(-log_t))[0],
        bounds=(-span, span),
        method="bounded",
        options={"xatol": 1e-6},
    )
    return float(np.exp(found.x))


def fit_temperature_per_class(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the (K,) temperatures with the least log loss; a class without a sample gets that of all.

    Arguments are those of `fit_temperature`; NaN without a sample of known class.
    """
    from scipy.optimize import minimize

    common = fit_temperature(labels, probabilities)
    labels, logits = _known(labels, probabilities)
    num_classes = probabilities.shape[1]
    if not len(labels):
        return np.full(num_classes, np.nan)
    occurs = np.bincount(labels, minlength=num_classes) > 0
    bounds = [(1 / LARGEST, LARGEST) if there else (1 / common, 1 / common) for there in occurs]
    start = np.full(num_classes, 1 / common)
    found = minimize(
        lambda scale: _loss(labels, logits, scale), start, jac=True, bounds=bounds, method="L-BFGS-B"
    )
    return np.asarray(1 / found.x)


def at_bound(temperature: float | np.ndarray) -> bool:
    """Return whether a temperature could not go further, as where all samples are right: none is the best."""
    return bool(np.any(np.abs(np.log(temperature)) > np.log(LARGEST) - 1e-3))


def _known(labels: np.ndarray, probabilities: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return labels and log probabilities of the samples of known class."""
    known = labels >= 0
    smallest = np.finfo(np.float32).tiny
    return labels[known].astype(np.int64), np.log(
        np.maximum(probabilities[known].astype(np.float64), smallest)
    )


def _loss(labels: np.ndarray, logits: np.ndarray, scale: float | np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean log loss of `scale` times `logits`, and its gradient by the scale of each class."""
    from scipy.special import logsumexp

    scaled = logits * scale
    log_p = scaled - logsumexp(scaled, axis=1, keepdims=True)
    truth = labels[:, None] == np.arange(logits.shape[1])
    return -float(log_p[truth].mean()), ((np.exp(log_p) - truth) * logits).mean(axis=0)
