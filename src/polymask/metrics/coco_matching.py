"""The matching rules of the COCO evaluation, on overlaps and areas alone.

A found object matches a true one when they overlap enough (Lin et al., "Microsoft COCO: Common objects in
context", ECCV 2014): best score first, each found object takes the true object of largest intersection
over union (IoU) that is still free. Crowds, and objects outside a range of areas, are ignored: what
matches only them is neither right nor wrong.
"""

from __future__ import annotations

import numpy as np

IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
AREAS = {"all": (0, 1e5**2), "small": (0, 32**2), "medium": (32**2, 96**2), "large": (96**2, 1e5**2)}
"""Ranges of areas in square pixels, both ends inside."""


def outside_areas(areas: np.ndarray) -> np.ndarray:
    """Return (4, N): which of the objects lie outside each range of areas."""
    return np.stack([(areas < low) | (areas > high) for low, high in AREAS.values()])


def box_areas(boxes: np.ndarray) -> np.ndarray:
    """Return the (...) float64 areas of boxes (..., 4), x0, y0, x1, y1."""
    return np.prod(boxes[..., 2:].astype(np.float64) - boxes[..., :2], axis=-1)


def box_iou(found: np.ndarray, true: np.ndarray, crowd: np.ndarray) -> np.ndarray:
    """Return the (D, G) IoU of boxes in float64, over the found area alone where the true box is a crowd."""
    found, true = found[:, None].astype(np.float64), true[None].astype(np.float64)
    sides = np.minimum(found[..., 2:], true[..., 2:]) - np.maximum(found[..., :2], true[..., :2])
    shared = np.prod(sides.clip(0), axis=-1)
    total = np.where(crowd, box_areas(found), box_areas(found) + box_areas(true) - shared)
    return np.divide(shared, total, out=np.zeros_like(shared), where=shared > 0)


def match(overlap: np.ndarray, ignored: np.ndarray, crowd: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Let each found object, in order, take the true one that overlaps most and is free.

    All ranges of areas and thresholds go side by side. True objects that count come before ignored ones;
    of equal overlaps the last wins, as in COCO; a crowd is never used up.

    Args:
        overlap: (D, G) IoU, best score first.
        ignored: (A, G) true objects that do not count in a range of areas.
        crowd: (G,) bool.
        thresholds: (T,) least IoU, ascending.

    Returns:
        (D, A, T) index of the true object, -1 for none.
    """
    (num_found, num_true), (num_areas, _) = overlap.shape, ignored.shape
    matches = np.full((num_found, num_areas, len(thresholds)), -1)
    free = np.ones((num_areas, len(thresholds), num_true), bool)
    near = overlap >= thresholds[0]
    # Most pairs concern nobody else; only the others have to be settled in order.
    alone = near & (near.sum(axis=0) == 1) & (near.sum(axis=1, keepdims=True) == 1)
    found, true = np.nonzero(alone)
    enough = overlap[found, true][:, None] >= thresholds
    matches[found] = np.where(enough, true[:, None], -1)[:, None]
    for index in np.flatnonzero((near & ~alone).any(axis=1)):
        candidates = np.flatnonzero(near[index])
        candidates = candidates[np.argsort(overlap[index, candidates], kind="stable")]
        # A whole number per candidate, higher is better, so that nearly equal overlaps stay apart.
        rank = np.arange(len(candidates)) + len(candidates) * ~ignored[:, candidates]  # (A, C)
        possible = free[:, :, candidates] & (overlap[index, candidates] >= thresholds[:, None])
        rank = np.where(possible, rank[:, None], -1)
        best = candidates[rank.argmax(axis=2)]
        area, threshold = np.nonzero(rank.max(axis=2) >= 0)
        taken = best[area, threshold]
        matches[index, area, threshold] = taken
        free[area, threshold, taken] = crowd[taken]
    return matches


def hits_and_alarms(matches: np.ndarray, ignored: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Return (2, D, 4, 10) bool from matches (D, 4, 10), ignored true (4, G) and outside found (4, D)."""
    # The added column answers for -1, the match with nothing.
    padded = np.pad(ignored, ((0, 0), (0, 1)))
    on_ignored = padded[np.arange(len(padded))[:, None], matches]
    return np.stack([(matches >= 0) & ~on_ignored, (matches < 0) & ~outside.T[:, :, None]])
