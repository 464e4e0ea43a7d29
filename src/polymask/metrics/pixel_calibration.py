"""How far the probabilities of pixels can be believed, from a histogram of each sample.

A histogram holds, for each of B ranges of the predicted probability of foreground, the number of pixels, of
those that are foreground, and the sum of their probabilities in units of 1/65535: whole numbers, so that no
order of additions changes them. The ranges divide those of `polymask.metrics.calibration` and are finer near
0 and 1, where most pixels are, so that temperatures can be fitted to histograms: the probabilities of a range
count as their mean.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor

from polymask.metrics.bootstrap import as_weights, ratio
from polymask.metrics.calibration import NUM_BINS, Bins, calibration_error
from polymask.metrics.temperature import LARGEST
from polymask.structures.masks import IGNORE

_UNITS = 65535
_TAILS = (1e-4, 1e-3, 1e-2)
EDGES = np.unique(
    np.concatenate(
        [np.linspace(0, 1, 3 * NUM_BINS + 1), np.array(_TAILS), 1 - np.array(_TAILS)],
    ).astype(np.float32)
)
"""(B + 1,) ends of the ranges, each of which holds its lower end; the last also the upper."""


@cache  # a copy to the device waits for it
def _inner_edges(device: torch.device) -> Tensor:
    return torch.as_tensor(EDGES[1:-1], device=device)


def pixel_rows(probabilities: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Sum up the pixels of each sample without waiting for the device.

    Args:
        probabilities: (N, H, W) float, of foreground.
        target: (N, H, W) int, 0 = background, 255 = ignore, anything else foreground.

    Returns:
        `pixel_histogram` (N, B, 3) int64, see the module, and `pixel_squared_error` (N,) float32: sum over
        the pixels of the square of probability minus truth.
    """
    number, num_bins = len(probabilities), len(EDGES) - 1
    values, valid = probabilities.float(), target != IGNORE
    true = (target != 0) & valid
    place = torch.bucketize(values.contiguous(), _inner_edges(values.device), right=True)
    place += num_bins * torch.arange(number, device=values.device)[:, None, None]
    columns = []
    for column in (valid, true, (values * _UNITS).round().long() * valid):
        sums = torch.zeros(number * num_bins, dtype=torch.int64, device=values.device)
        columns.append(sums.scatter_add_(0, place.flatten(), column.long().flatten()))
    squares = ((values - true.float()) ** 2 * valid).flatten(1).sum(dim=1)
    return {
        "pixel_histogram": torch.stack(columns, dim=1).view(number, num_bins, 3),
        "pixel_squared_error": squares,
    }


def pixel_calibration(
    histogram: np.ndarray, squared_error: np.ndarray, weights: np.ndarray | None, name: str
) -> dict[str, np.ndarray]:
    """Compute calibration error and Brier score of the pixels of all samples together.

    Args:
        histogram: (N, B, 3) of `pixel_rows`.
        squared_error: (N,) of `pixel_rows`.
        weights: (R, N) non-negative sample weights, or None for the point estimate (R = 1).
        name: Of the foreground.

    Returns:
        `ece_{name}_pooled` (bins of equal width) and `brier_{name}_pooled` (from 0 to 1), each (R,) float64,
        NaN without a pixel.
    """
    weights = as_weights(weights, len(histogram))
    bins = pixel_bins(histogram, weights)
    total = bins.weight.sum(axis=1)
    return {
        f"ece_{name}_pooled": calibration_error(bins),
        f"brier_{name}_pooled": ratio(weights @ squared_error.astype(np.float64), total),
    }


def pixel_bins(histogram: np.ndarray, weights: np.ndarray) -> Bins:
    """Join the ranges of (N, B, 3) histograms to bins of equal width, weighted by (R, N)."""
    place = np.minimum((EDGES[:-1] + 1e-6) * NUM_BINS, NUM_BINS - 1).astype(int)
    joined = np.zeros((len(histogram), NUM_BINS, 3))
    np.add.at(joined, (slice(None), place), histogram)  # type: ignore[arg-type]
    pixels, true, units = np.moveaxis(joined, 2, 0)
    return Bins(weights @ pixels, weights @ units / _UNITS, weights @ true)


def fit_pixel_temperature(histogram: np.ndarray) -> float:
    """Return the temperature with the least log loss of the pixels of a (B, 3) histogram; NaN without any."""
    from scipy.optimize import minimize_scalar

    pixels, true, _ = histogram.T.astype(np.float64)
    if not pixels.sum():
        return float("nan")
    logits, span = _logits(histogram), np.log(LARGEST)

    def loss(log_t: float) -> float:
        scaled = logits * np.exp(-log_t)
        summed = true * np.logaddexp(0, -scaled) + (pixels - true) * np.logaddexp(0, scaled)
        return float(summed.sum() / pixels.sum())

    found = minimize_scalar(loss, bounds=(-span, span), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def tempered_histogram(histogram: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, B, 3) histograms and (N,) sums of squared errors at a temperature, by the ranges' means."""
    pixels, true, _ = np.moveaxis(histogram.astype(np.float64), 2, 0)
    means = 1 / (1 + np.exp(-_logits(histogram) / temperature))
    place = np.searchsorted(EDGES[1:-1], means, side="right")
    result = np.zeros_like(histogram)
    rows = np.arange(len(histogram))[:, None]
    units = (means * pixels * _UNITS).round().astype(np.int64)
    np.add.at(result, (rows, place), np.stack([histogram[..., 0], histogram[..., 1], units], axis=2))
    return result, (pixels * means**2 - 2 * true * means + true).sum(axis=1)


def _logits(histogram: np.ndarray) -> np.ndarray:
    """Return the logit of the mean probability of each range (..., B), of its middle where it is empty."""
    pixels, units = histogram[..., 0], histogram[..., 2]
    middle = np.broadcast_to((EDGES[:-1] + EDGES[1:]) / 2, pixels.shape)
    means = np.divide(units / _UNITS, pixels, out=middle.astype(np.float64), where=pixels > 0)
    means = means.clip(0.25 / _UNITS, 1 - 0.25 / _UNITS)
    return np.log(means) - np.log1p(-means)
