"""Cluster bootstrap as sample weights, and what metrics of weighted samples share: division and keys."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from polymask.errors import UserError, number, whole_number


def bootstrap_weights(groups: Sequence[str], num_replicates: int, seed: int) -> np.ndarray:
    """Draw whole groups with replacement, as many as there are, once per replicate.

    Images of one lesion or patient resemble each other; drawing single images would treat them as
    independent and make intervals too narrow. This is the randomised cluster bootstrap of Field and
    Welsh, "Bootstrapping clustered data", Journal of the Royal Statistical Society B 69(3), 2007.
    The draws depend on the set of group names and the seed, never on the order of the samples.

    Args:
        groups: (N,) group of each sample (lesion, patient, sequence).
        num_replicates: Number of replicates R, at least 1.
        seed: Seed of the draws.

    Returns:
        (R, N) float64: how often the group of each sample was drawn; equal within a group.

    Raises:
        UserError: `num_replicates` is below 1.
    """
    whole_number("num_replicates", num_replicates, least=1)
    names, group_of_sample = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    num_groups = len(names)
    draws = np.random.default_rng(seed).integers(num_groups, size=(num_replicates, num_groups))
    # Each replicate counts in its own range of bins, so that one bincount serves them all.
    bins = draws + num_groups * np.arange(num_replicates)[:, None]
    counts = np.bincount(bins.ravel(), minlength=num_replicates * num_groups)
    return counts.reshape(num_replicates, num_groups)[:, group_of_sample].astype(np.float64)


def percentile_interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval that holds the share `level` of the replicates.

    The percentile interval of Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.

    Args:
        values: (R,) one metric in each replicate; NaN replicates (metric undefined there) are left out.
        level: Share of the replicates inside, in (0, 1).

    Returns:
        Lower and upper end, in the metric's unit; (NaN, NaN) when no replicate is defined.

    Raises:
        UserError: `level` is not between 0 and 1.
    """
    number("level", level, above=0, below=1, what="a share", note="such as 0.95")
    defined = values[~np.isnan(values)]
    if defined.size == 0:
        return float("nan"), float("nan")
    lower, upper = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2])
    return float(lower), float(upper)


def as_weights(weights: np.ndarray | None, num_samples: int) -> np.ndarray:
    """Return `weights` as (R, N) float64; None stands for the point estimate, one replicate of ones.

    Raises:
        ValueError: `weights` is not (R, N) with N = `num_samples`.
    """
    if weights is None:
        return np.ones((1, num_samples))
    if weights.ndim != 2 or weights.shape[1] != num_samples:
        raise ValueError(f"weights have shape {weights.shape}, expected (replicates, {num_samples}).")
    return weights.astype(np.float64, copy=False)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide elementwise (equal shapes) in float64; NaN, without a warning, where the denominator is 0."""
    undefined = np.full(np.shape(denominator), np.nan)
    return np.divide(numerator, denominator, out=undefined, where=denominator != 0)


def check_class_names(class_names: Sequence[str], num_classes: int, reserved: Collection[str]) -> None:
    """Make sure that every class has one name and that no two metrics share a key.

    Raises:
        UserError: A name occurs twice or is one of `reserved`, the words of the keys over all classes.
        ValueError: The number of names is not `num_classes`.
    """
    if len(class_names) != num_classes:
        raise ValueError(f"{len(class_names)} class names for {num_classes} classes: {list(class_names)}.")
    for name in class_names:
        if name in reserved or list(class_names).count(name) > 1:
            raise UserError(
                f"class name {name!r} would give two metrics the same key: rename the class; names must be "
                f"unique and none of {', '.join(reserved)}."
            )
