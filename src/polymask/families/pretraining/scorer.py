"""The metrics of reconstructions, from rows."""

from __future__ import annotations

import numpy as np

from polymask.families import base
from polymask.metrics.bootstrap import as_weights, ratio
from polymask.structures.samples import Rows


class Scorer(base.Scorer):
    """Scores reconstructions.

    The rows of N images are `loss` (N,), and `loss_mean_image` (N,) of the same masked patches, see
    `Loss.of_mean_image`. The share of the variance that is explained is 1 - loss / variance: 0 for who
    predicts the mean colour, 1 for a perfect reconstruction; unlike the loss it can be compared between
    normalised and plain pixels and between data sets.
    """

    headline = ("explained",)

    def metrics(
        self, rows: Rows, weights: np.ndarray | None = None, *, per_class: bool = False
    ) -> dict[str, np.ndarray]:
        """Compute `explained`, of the sums over all images."""
        weights = as_weights(weights, len(rows["ids"]))
        loss, variance = (weights @ rows[name].astype(np.float64) for name in ("loss", "loss_mean_image"))
        return {"explained": 1 - ratio(loss, variance)}

    def scores(self, rows: Rows) -> dict[str, np.ndarray]:
        """Return the explained share of each image, NaN for one of a single colour."""
        loss, variance = (rows[name].astype(np.float64) for name in ("loss", "loss_mean_image"))
        return {"explained": 1 - ratio(loss, variance)}

    def truth(self, rows: Rows, *, same_grid: bool) -> dict[str, np.ndarray]:
        """Return nothing: what is masked depends on the network's patches."""
        return {}
