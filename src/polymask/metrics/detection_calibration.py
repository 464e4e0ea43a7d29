"""How far the scores of found objects can be believed: does a score of 0.8 mean that 8 of 10 are there?

The detection calibration error (D-ECE), by confidence alone, of Küppers et al., "Multivariate confidence
calibration for object detection", CVPR workshops 2020: precision stands where classification has accuracy,
since of what was not found there is no score.
"""

from __future__ import annotations

import numpy as np

from polymask.metrics.bootstrap import as_weights
from polymask.metrics.calibration import NUM_BINS, Bins, bin_places, calibration_error
from polymask.structures.samples import Rows


def detection_bins(counted: Rows, weights: np.ndarray | None = None) -> Bins:
    """Sum over ranges of score the objects that were found, their scores, and how many of them are there.

    Args:
        counted: `detection_scores` and `detection_kinds` as in `polymask.metrics.object_threshold`, (N, D): a
            found object is there where it matches a true one at a mask IoU of 0.5.
        weights: (R, N) non-negative weights of the samples, or None for the point estimate (R = 1).
    """
    kinds, scores = counted["detection_kinds"], counted["detection_scores"].astype(np.float64)
    samples, places = np.nonzero(kinds >= 0)
    scores, hits = scores[samples, places], kinds[samples, places] == 1
    shape = len(kinds), NUM_BINS + 1
    cells = np.ravel_multi_index((samples, bin_places(scores.astype(np.float32))), shape)
    # Summed per sample first: weights of every single object would be as many as replicates times objects.
    sums = (np.bincount(cells, value, np.prod(shape)) for value in (np.ones(len(cells)), scores, hits))
    weights = as_weights(weights, len(kinds))
    return Bins(*(weights @ each.reshape(shape) for each in sums))


def detection_calibration_error(counted: Rows, weights: np.ndarray | None = None) -> np.ndarray:
    """Return the mean over found objects of their range's distance of score and precision (R,), else NaN.

    Arguments are those of `detection_bins`; ranges have equal width.
    """
    return calibration_error(detection_bins(counted, weights))
