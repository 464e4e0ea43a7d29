"""Rows: what an evaluation keeps of each sample, and the mean losses among them."""

from __future__ import annotations

import numpy as np

from polymask.structures.samples import Rows

ORIGINAL = "_original"
"""End of the names of all that is measured at a sample's own size rather than at that of the network."""


RAW = "_raw"
"""End of the names of probabilities as the network predicted them, where others, calibrated, count."""


def mean_losses(rows: Rows) -> dict[str, float]:
    """Return the mean of each loss over the samples that have it, NaN where none has.

    Args:
        rows: Losses are the (N,) columns whose names begin with `loss`. Every sample carries the loss of its
            batch, so that the mean over samples weighs a short batch rightly; NaN is no loss.
    """
    return {name: _mean(values) for name, values in rows.items() if name.startswith("loss")}


def _mean(values: np.ndarray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
