"""A mask as a person would draw it: one piece, without holes, with a smooth outline."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

_SHARE = 0.005
"""Of the side of a square as large as the mask: standard deviation of the blur for a strength of 1."""


def smooth_mask(mask: np.ndarray, strength: float = 2.0) -> np.ndarray:
    """Smooth the outline of a mask, keep its largest piece, and fill its holes.

    The mask is blurred by a Gaussian whose width grows with the mask (a pixel at least), and is where half of
    the blurred value is passed. Spikes and holes narrower than that vanish; areas hardly change.

    Args:
        mask: (H, W) bool, or numbers of which 0 is the background.
        strength: Width of the blur, in 0.5 % of the square root of the mask's area.

    Returns:
        (H, W) bool; all False for an empty mask.
    """
    mask = np.asarray(mask) != 0
    if not mask.any():
        return mask
    sigma = max(1.0, _SHARE * strength * math.sqrt(np.count_nonzero(mask)))
    # Beyond the image lies what lies at its border: a mask that is cut off there stays so.
    blurred = ndimage.gaussian_filter(mask.astype(np.float32), sigma, mode="nearest", truncate=3.0)
    pieces, _ = ndimage.label(blurred > 0.5)
    sizes = np.bincount(pieces.ravel())[1:]
    if not len(sizes):  # thinner than the blur everywhere: better as it is than gone
        pieces, _ = ndimage.label(mask)
        sizes = np.bincount(pieces.ravel())[1:]
    return ndimage.binary_fill_holes(pieces == 1 + int(sizes.argmax()))
