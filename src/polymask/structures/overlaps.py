"""How much the numbered regions of two label maps overlap, counted for all pairs at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Largest table of pairs that is counted into; beyond it, sorting the pairs costs less memory and time.
_TABLE_ELEMENTS = 2**20


class Overlaps(NamedTuple):
    """The P pairs of numbers that share pixels, sorted by the first number, then by the second.

    Attributes:
        first: (P,) int64 number in the first label map, from 1.
        second: (P,) int64 number in the second label map, from 1.
        shared: (P,) int64 pixels that they share.
    """

    first: np.ndarray
    second: np.ndarray
    shared: np.ndarray


def count_overlaps(first: np.ndarray, second: np.ndarray) -> Overlaps:
    """Count the pixels that each region of one label map shares with each of another.

    Args:
        first: (H, W) whole numbers, 0 = background.
        second: The same.
    """
    both = (first > 0) & (second > 0)
    columns = int(second.max(initial=0)) + 1
    pairs = first[both].astype(np.int64) * columns + second[both]
    if (int(first.max(initial=0)) + 1) * columns <= _TABLE_ELEMENTS:
        counts = np.bincount(pairs)
        found = np.flatnonzero(counts)
        return Overlaps(*np.divmod(found, columns), counts[found])
    found, shared = np.unique(pairs, return_counts=True)
    return Overlaps(*np.divmod(found, columns), shared)


def sum_overlaps(parts: Sequence[Overlaps]) -> Overlaps:
    """Add up the overlaps of the slices of two label volumes whose numbers mean the same in all slices."""
    if not parts:
        return Overlaps(*np.zeros((3, 0), np.int64))
    first, second, shared = (np.concatenate(values) for values in zip(*parts, strict=True))
    columns = int(second.max(initial=0)) + 1
    found, places = np.unique(first * columns + second, return_inverse=True)
    sums = np.zeros(len(found), np.int64)
    np.add.at(sums, places, shared)
    return Overlaps(*np.divmod(found, columns), sums)


def intersection_over_union(
    overlaps: Overlaps, first_areas: np.ndarray, second_areas: np.ndarray
) -> np.ndarray:
    """Return the (P,) float64 intersection over union of the pairs, above 0.

    Args:
        overlaps: The pairs.
        first_areas: Pixels of each number of the first label map, by number, that of the background included.
        second_areas: The same of the second.
    """
    total = first_areas[overlaps.first] + second_areas[overlaps.second] - overlaps.shared
    return overlaps.shared / total


def mutual_best(overlaps: Overlaps, quality: np.ndarray) -> np.ndarray:
    """Return the places of the pairs of which each is the best partner of the other; no number twice.

    Args:
        overlaps: The pairs.
        quality: (P,) higher is better; of equal ones, the pair that stands first is better for both.
    """
    order = np.argsort(-quality, kind="stable")
    best_of_first, best_of_second = (
        np.unique(numbers[order], return_index=True)[1] for numbers in (overlaps.first, overlaps.second)
    )
    return order[np.intersect1d(best_of_first, best_of_second)]
