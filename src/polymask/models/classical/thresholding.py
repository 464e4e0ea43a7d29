"""The dark region in the middle of an image, by a threshold on its blue channel.

In blue, pigment differs most from skin. The threshold is Otsu's ("A threshold selection method from
gray-level histograms", IEEE Trans. SMC, 1979). Dark corners, as the round field of a dermatoscope leaves
them, are no part of the region. Hair can be painted over first, as DullRazor does (Lee et al., Comput. Biol.
Med., 1997).
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

# Lengths as shares of the image's longer side.
_BLUR = 0.008
_DETAIL = 0.01
_RIM = 0.02
_HAIR = 0.02
_CORNER = 0.25
"""Corners are darker than this share of the median brightness."""
_HAIR_DEPTH = 25
"""Grey levels (of 255) by which hair is darker than what lies on both of its sides."""


def dark_region(image: np.ndarray, *, remove_hair: bool = False) -> np.ndarray:
    """Return the dark region of an image that is largest and nearest to the middle.

    Args:
        image: (H, W, 3) uint8 RGB.
        remove_hair: Paint over hair first.

    Returns:
        (H, W) bool, without holes; all False when nothing is darker than the rest.
    """
    longer = max(image.shape[:2])
    if remove_hair:
        image = without_hair(image)
    blurred = cv2.GaussianBlur(image, (0, 0), max(_BLUR * longer, 0.5))
    corners = dark_corners(blurred)
    blue = blurred[..., 2]
    inside = blue[~corners]
    if not inside.size or inside.min() == inside.max():
        return np.zeros(blue.shape, bool)
    threshold, _ = cv2.threshold(inside[None], 0, 255, cv2.THRESH_OTSU)
    dark = ((blue <= threshold) & ~corners).astype(np.uint8)
    detail = _disc(_DETAIL * longer)
    cleaned = cv2.morphologyEx(cv2.morphologyEx(dark, cv2.MORPH_OPEN, detail), cv2.MORPH_CLOSE, detail)
    return ndimage.binary_fill_holes(_most_central(cleaned))


def dark_corners(image: np.ndarray) -> np.ndarray:
    """Return the nearly black regions that reach from a corner of an image, but not to its middle.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H, W) bool.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    dark = (grey < _CORNER * np.median(grey)).astype(np.uint8)
    _, pieces = cv2.connectedComponents(dark)
    height, width = grey.shape
    middle = pieces[height // 4 : height - height // 4, width // 4 : width - width // 4]
    numbers = {int(pieces[row, column]) for row in (0, -1) for column in (0, -1)} - {0}
    numbers -= set(np.unique(middle).tolist())
    found = np.isin(pieces, list(numbers))
    # Their edges are blurred: half dark, they would pass for what is looked for.
    return cv2.dilate(found.astype(np.uint8), _disc(_RIM * max(grey.shape))) > 0


def without_hair(image: np.ndarray) -> np.ndarray:
    """Paint over dark lines thinner than 2 % of the longer side, by what lies around them.

    Args:
        image: (H, W, 3) uint8 RGB.

    Returns:
        (H, W, 3) uint8.
    """
    length = max(5, int(_HAIR * max(image.shape[:2])) | 1)
    diagonal = np.eye(length, dtype=np.uint8)
    lines = (
        diagonal,
        np.ascontiguousarray(diagonal[::-1]),
        np.ones((1, length), np.uint8),
        np.ones((length, 1), np.uint8),
    )
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    depth = np.max([cv2.morphologyEx(grey, cv2.MORPH_BLACKHAT, line) for line in lines], axis=0)
    hair = cv2.dilate((depth > _HAIR_DEPTH).astype(np.uint8), np.ones((3, 3), np.uint8))
    return cv2.inpaint(image, hair, 3, cv2.INPAINT_TELEA)


def _most_central(dark: np.ndarray) -> np.ndarray:
    """Return the largest piece, where area counts the less the farther a piece is from the middle."""
    _, pieces, statistics, centres = cv2.connectedComponentsWithStats(dark)
    if len(statistics) == 1:  # the background alone
        return np.zeros(dark.shape, bool)
    middle = np.array(dark.shape[::-1]) / 2
    distance = np.linalg.norm(centres[1:] - middle, axis=1) / np.linalg.norm(middle)
    weighted = statistics[1:, cv2.CC_STAT_AREA] * np.exp(-8 * distance**2)
    return pieces == 1 + int(weighted.argmax())


def _disc(diameter: float) -> np.ndarray:
    side = max(3, round(diameter) | 1)
    return cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))
