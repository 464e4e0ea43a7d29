"""The part of an object mask inside its box, decoded without the rest of the image.

Decoding a mask whole costs the pixels of the image; of a hundred small objects in a large image that is
nearly all background.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from polymask.structures import rle
from polymask.structures.rle import Rle


class Crop(NamedTuple):
    """A mask (h, w) bool whose first pixel lies in column `x` and row `y` of the image; it may be empty."""

    x: int
    y: int
    mask: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """Return the rows and columns of the image that the mask covers."""
        height, width = self.mask.shape
        return slice(self.y, self.y + height), slice(self.x, self.x + width)


def crop(mask: Rle) -> Crop:
    """Return the pixels of a mask inside its smallest box."""
    x0, y0, x1, y1 = (int(side) for side in rle.box(mask))
    if x1 <= x0 or y1 <= y0:
        return Crop(0, 0, np.zeros((0, 0), bool))
    height = mask["size"][0]
    ends = np.cumsum(_run_lengths(mask["counts"]))
    # Columns x0 to x1 stand one after the other; runs of background and object alternate.
    steps = np.zeros((x1 - x0) * height + 1, np.int8)
    edges = ends[: len(ends) // 2 * 2].reshape(-1, 2) - x0 * height
    full = edges[:, 0] < edges[:, 1]
    np.add.at(steps, edges[full, 0], 1)
    np.add.at(steps, edges[full, 1], -1)
    inside = np.cumsum(steps[:-1], dtype=np.int8).astype(bool)
    return Crop(x0, y0, inside.reshape(x1 - x0, height).T[y0:y1])


def _run_lengths(counts: bytes) -> np.ndarray:
    """Return the lengths that COCO packs into text.

    Each letter holds five bits, lowest first, and a sixth that says whether the number goes on; the fifth
    bit of the last letter is the sign. From the fourth on, a number is the difference to the one two
    before it (`rleToString` of the COCO API).
    """
    letters = np.frombuffer(counts, np.uint8).astype(np.int64) - 48
    last = (letters & 32) == 0
    starts = np.flatnonzero(np.r_[True, last[:-1]])
    position = np.arange(len(letters)) - np.repeat(starts, np.diff(np.r_[starts, len(letters)]))
    numbers = np.add.reduceat((letters & 31) << (5 * position), starts)
    sign = letters[last] & 16
    numbers -= np.where(sign > 0, np.int64(1) << (5 * (position[last] + 1)), 0)
    lengths = numbers.copy()
    lengths[1::2] = np.cumsum(numbers[1::2])
    # The third number is a length of its own: the chain of even places begins there.
    lengths[2::2] = np.cumsum(numbers[2::2])
    return lengths
