"""Colours of the objects of a volume: a true and a found object that match have the same one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.spatial import cKDTree

from polymask.families.volumes.tables import Shapes
from polymask.structures.overlaps import count_overlaps, intersection_over_union, mutual_best, sum_overlaps

# Bright on grey, and apart from each other; white is for objects without a partner.
_COLOURS = np.array(
    [
        (86, 180, 233),
        (230, 159, 0),
        (0, 200, 140),
        (240, 228, 66),
        (255, 110, 80),
        (220, 130, 230),
        (150, 220, 60),
        (120, 140, 255),
        (0, 220, 230),
        (255, 150, 180),
    ],
    np.uint8,
)
ALONE = (255, 255, 255)
_NEIGHBOURS = 6
_LEAST_IOU = 0.5


def partners(
    found: Iterable[np.ndarray],
    truth: Iterable[np.ndarray],
    annotated: Sequence[bool] | np.ndarray,
    num_found: int,
    num_true: int,
) -> np.ndarray:
    """Return the true label that each found object matches at an IoU of 0.5 or more, 0 where none.

    Args:
        found: Z slices (H, W) of numbers up to `num_found`.
        truth: Z slices (H, W) of labels up to `num_true`.
        annotated: (Z,) which slices have a truth; only they count.
        num_found: The largest number.
        num_true: The largest label.

    Returns:
        (num_found + 1,) int64; no true label stands there twice, but 0.
    """
    sizes = [np.zeros(count + 1, np.int64) for count in (num_found, num_true)]
    parts = []
    for one, other, known in zip(found, truth, annotated, strict=True):
        if known:
            parts.append(count_overlaps(one, other))
            for page, total in zip((one, other), sizes, strict=True):
                total += np.bincount(page.ravel(), minlength=len(total))
    overlaps = sum_overlaps(parts)
    iou = intersection_over_union(overlaps, *sizes)
    best = mutual_best(overlaps, iou)
    best = best[iou[best] >= _LEAST_IOU]
    matched = np.zeros(num_found + 1, np.int64)
    matched[overlaps.first[best]] = overlaps.second[best]
    return matched


def object_colours(shapes: Shapes, spacing: Sequence[float]) -> np.ndarray:
    """Return a colour for each object that none of its nearest neighbours has, as far as there are enough.

    Args:
        shapes: N objects.
        spacing: Edges of a voxel along z, y, x.

    Returns:
        (N + 1, 3) uint8 RGB by label; row 0, the background, is black.
    """
    table = np.zeros((len(shapes.voxels) + 1, 3), np.uint8)
    present = np.flatnonzero(shapes.voxels)
    if not len(present):
        return table
    centres = shapes.centres[present] * np.asarray(spacing)
    _, near = cKDTree(centres).query(centres, k=min(_NEIGHBOURS + 1, len(present)))
    chosen = np.full(len(present), -1)
    for index, neighbours in enumerate(near.reshape(len(present), -1)):
        wanted = (index + np.arange(len(_COLOURS))) % len(_COLOURS)
        free = wanted[~np.isin(wanted, chosen[neighbours])]
        chosen[index] = free[0]  # there are more colours than neighbours
    table[present + 1] = _COLOURS[chosen]
    return table


def matched_colours(true_table: np.ndarray, matched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the colours of true and of found objects, those without a partner white.

    Args:
        true_table: (N + 1, 3) uint8, what `object_colours` says of the true ones.
        matched: (M + 1,) what `partners` says of the found ones.
    """
    true = true_table.copy()
    alone = ~np.isin(np.arange(len(true)), matched)
    alone[0] = False
    true[alone] = ALONE
    found = true_table[matched]
    found[1:][matched[1:] == 0] = ALONE
    return true, found
