"""Sections that are missing between two others of an object."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import distance_transform_edt


def find_gaps(objects: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """Find where objects are missing.

    Args:
        objects: (S,) object number of each section, 0 for none.
        slices: (S,) its slice.

    Returns:
        (M, 3) int64: object, last slice before and first slice behind each gap, sorted.
    """
    order = np.lexsort((slices, objects))
    objects, slices = objects[order], slices[order]
    is_gap = (objects[1:] > 0) & (objects[1:] == objects[:-1]) & (slices[1:] > slices[:-1] + 1)
    return np.stack([objects[1:], slices[:-1], slices[1:]], axis=1)[is_gap]


def fill_gap(labels: np.ndarray, number: int, before: int, behind: int) -> None:
    """Draw an object between two of its sections, where no other object is.

    The outline lies where the signed distances to the outlines of both sections, weighted by how near they
    are, add up to 0 (Raya and Udupa, "Shape-based interpolation of multidimensional objects", IEEE
    Transactions on Medical Imaging 9(1), 1990).

    Args:
        labels: (Z, H, W) uint16 object numbers, 0 = background; changed in place, may be memory-mapped.
        number: Number of the object.
        before: Last slice before the gap.
        behind: First slice behind it.
    """
    masks = labels[before] == number, labels[behind] == number
    rows, columns = (np.flatnonzero((masks[0] | masks[1]).any(axis=axis)) for axis in (1, 0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    first, last = (_signed_distance(mask[window]) for mask in masks)
    for z in range(before + 1, behind):
        share = (z - before) / (behind - before)
        inside = (1 - share) * first + share * last > 0
        drawn = labels[z][window]
        labels[z][window] = np.where(inside & (drawn == 0), number, drawn)


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    """Return the distance of each pixel of a (H, W) mask to its outline in pixels, negative outside."""
    # The nearest pixel of the other side is half a pixel beyond the outline; a mask may fill its window.
    inside = distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    return np.where(mask, inside - 0.5, 0.5 - distance_transform_edt(~mask))
