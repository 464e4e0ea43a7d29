"""Outlines of masks as the polygons of COCO, which give back the very pixels."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np


class Outlines(NamedTuple):
    """The outer outlines [x0, y0, x1, y1, …] of a mask in pixels, and the number of holes within."""

    polygons: list[list[int]]
    num_holes: int


def outlines(mask: np.ndarray) -> Outlines:
    """Trace a (H, W) mask along the edges of its pixels; every value but 0 is inside.

    A polygon through the centres of the outermost pixels, as OpenCV traces it, loses half a pixel on each
    side when COCO fills it. So each pixel is doubled, and the traced centres 2x and 2x + 1 stand for the left
    and the right edge of column x. Filled by COCO's rule these polygons are the mask, its holes filled.
    """
    y, x = np.nonzero(mask)
    if not len(y):
        return Outlines([], 0)
    top, left = int(y.min()), int(x.min())
    window = np.asarray(mask[top : y.max() + 1, left : x.max() + 1] != 0, np.uint8)
    doubled = window.repeat(2, axis=0).repeat(2, axis=1)
    contours, hierarchy = cv2.findContours(doubled, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    is_hole = hierarchy[0, :, 3] >= 0  # of its four neighbours the last is the contour around it
    corners = [_corners((c[:, 0] + 1) // 2) for c, hole in zip(contours, is_hole, strict=True) if not hole]
    return Outlines([(own + np.array([left, top])).ravel().tolist() for own in corners], int(is_hole.sum()))


def _corners(points: np.ndarray) -> np.ndarray:
    """Return the (P, 2) points of a closed outline at which it turns."""
    points = points[(points != np.roll(points, 1, axis=0)).any(axis=1)]
    before, after = points - np.roll(points, 1, axis=0), np.roll(points, -1, axis=0) - points
    return points[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]
