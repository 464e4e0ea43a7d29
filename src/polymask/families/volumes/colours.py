"""Colours of the objects of a volume: a true and a found object that match have the same one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from scipy.spatial import cKDTree

from polymask.families.volumes.tables import Shapes
from polymask.structures.overlaps import count_overlaps, sum_overlaps

# Bright on grey, and apart from each other; white is for objects that are missed or false.
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


def owners(
    found: Iterable[np.ndarray],
    truth: Iterable[np.ndarray],
    annotated: Sequence[bool] | np.ndarray,
    num_true: int,
) -> np.ndarray:
    """Return the found object that covers more than half of each true one, 0 where none does.

    So objects match in SEG and DET, too. One found object may own several true ones.

    Args:
        found: Z slices (H, W) of numbers, 0 is background.
        truth: Z slices (H, W) of labels up to `num_true`.
        annotated: (Z,) which slices have a truth; only they count.
        num_true: The largest label.

    Returns:
        (num_true + 1,) int64 by label.
    """
    sizes, parts = np.zeros(num_true + 1, np.int64), []
    for one, other, known in zip(found, truth, annotated, strict=True):
        if known:
            parts.append(count_overlaps(one, other))
            sizes += np.bincount(other.ravel(), minlength=num_true + 1)
    overlaps = sum_overlaps(parts)
    covers = 2 * overlaps.shared > sizes[overlaps.second]
    owner = np.zeros(num_true + 1, np.int64)
    owner[overlaps.second[covers]] = overlaps.first[covers]
    return owner


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


def matched_colours(
    true_table: np.ndarray, owner: np.ndarray, true_sizes: np.ndarray, num_found: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the colours of true and of found objects; those that are missed or false are white.

    Args:
        true_table: (N + 1, 3) uint8, what `object_colours` says of the true ones.
        owner: (N + 1,) what `owners` says.
        true_sizes: (N,) voxels of the true ones: who owns several has the colour of the largest.
        num_found: M, the largest number of a found object.

    Returns:
        (N + 1, 3) and (M + 1, 3) uint8 RGB by label; row 0, the background, is black.
    """
    true = np.where(owner[:, None] > 0, true_table, ALONE).astype(np.uint8)
    found = np.full((num_found + 1, 3), ALONE, np.uint8)
    true[0] = found[0] = 0
    for label in (np.argsort(true_sizes) + 1).tolist():
        if owner[label]:
            found[owner[label]] = true_table[label]
    return true, found
