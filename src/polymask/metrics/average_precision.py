"""COCO's average precision of one class from rows of `match_image`, vectorised over sample weights.

Precision at a recall is the best precision at that recall or a higher one; average precision is its mean
over 101 recalls (Lin et al., "Microsoft COCO: Common objects in context", ECCV 2014, with the
interpolation of Everingham et al., "The PASCAL visual object classes challenge", IJCV 88, 2010).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

RECALLS = np.linspace(0, 1, 101)

# Elements of the largest temporary array (2 MiB of float64): replicates beyond it go in chunks.
_CHUNK_ELEMENTS = 2**18


class Ranking(NamedTuple):
    """The found objects of one class in all images, best score first, ties in the order of the images.

    Attributes:
        images: (D,) index of the row that each belongs to.
        scores: (D,) float32.
        hits: (D, 2, 4) flags, see `polymask.metrics.instance_matching.match_image`.
        alarms: (D, 2, 4) flags.
    """

    images: np.ndarray
    scores: np.ndarray
    hits: np.ndarray
    alarms: np.ndarray


def rank(rows: dict[str, np.ndarray], label: int) -> Ranking:
    """Put the found objects of class `label` in order."""
    images, places = np.nonzero(rows["detection_labels"] == label)
    order = np.argsort(-rows["detection_scores"][images, places], kind="stable")
    images, places = images[order], places[order]
    names = ("detection_scores", "detection_hits", "detection_alarms")
    return Ranking(images, *(rows[name][images, places] for name in names))


def flagged(flags: np.ndarray, threshold: int) -> np.ndarray:
    """Return as bool, same shape, whether bit `threshold` of the flags is set."""
    return (flags >> threshold & 1).astype(bool)


def average_precision(
    ranking: Ranking, num_true: np.ndarray, weights: np.ndarray, num_thresholds: int
) -> np.ndarray:
    """Compute the average precision of each kind, range of areas, IoU threshold and replicate.

    A weight of w counts a sample w times, found and true objects alike. Found objects of one sample that
    tie in score stay in order, whatever their weight.

    Args:
        ranking: Found objects of the class.
        num_true: (N, 4) true objects of the class per sample and range of areas.
        weights: (R, N) non-negative sample weights.
        num_thresholds: Number of IoU thresholds T, the bits of the flags.

    Returns:
        (2, 4, T, R) float64 in [0, 1], NaN where there is no true object.
    """
    num_true = weights @ num_true  # (R, 4)
    values = np.empty((*ranking.hits.shape[1:], num_thresholds, len(weights)))
    step = max(1, _CHUNK_ELEMENTS // max(1, len(ranking.images)))
    for start in range(0, len(weights), step):
        chunk = slice(start, start + step)
        # Found objects lead here, so that sums along the ranking run over all replicates at once.
        by_rank = weights[chunk].T[ranking.images]
        for kind, area, threshold in np.ndindex(values.shape[:3]):
            hits = flagged(ranking.hits[:, kind, area], threshold)
            counted = hits | flagged(ranking.alarms[:, kind, area], threshold)
            values[kind, area, threshold, chunk] = _interpolated(
                by_rank, hits, counted, num_true[chunk, area]
            )
    return values


def _interpolated(
    weights: np.ndarray, hits: np.ndarray, counted: np.ndarray, num_true: np.ndarray
) -> np.ndarray:
    """Return the average precision (R,) of ranked weights (D, R), bool (D,) flags and true objects (R,).

    Precision peaks and recall grows only where a hit is, so the curve is followed at the hits alone.
    """
    caught = np.cumsum(weights[hits], axis=0)
    seen = np.cumsum(weights[counted], axis=0)[hits[counted]]
    # The added epsilon is COCO's; here it also serves the hits before any that a replicate drew.
    precision = np.divide(caught, seen + np.spacing(1), out=seen)
    best = np.maximum.accumulate(precision[::-1], axis=0)[::-1]
    reached = np.searchsorted(RECALLS, caught / np.where(num_true > 0, num_true, 1), side="right")
    gained = reached.astype(np.float64)
    gained[1:] -= reached[:-1]
    total = np.einsum("ij,ij->j", best, gained)
    return np.where(num_true > 0, total / len(RECALLS), np.nan)
