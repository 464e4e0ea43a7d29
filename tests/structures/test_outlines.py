"""Outlines as polygons: COCO's own rasteriser gives the masks back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from scipy import ndimage

from polymask.structures.outlines import outlines

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # pycocotools and NumPy 2

EIGHT = np.ones((3, 3))


def rasterise(polygons: list[list[int]], size: tuple[int, int]) -> np.ndarray:
    return coco_mask.decode(coco_mask.merge(coco_mask.frPyObjects(polygons, *size)))


def random_mask(rng: np.random.Generator, *, smooth: bool) -> np.ndarray:
    values = rng.random(rng.integers(1, 30, 2))
    values = cv2.GaussianBlur(values, (5, 5), 1.2) if smooth else values
    return (values > np.quantile(values, rng.uniform(0.1, 0.9))).astype(np.uint8)


@pytest.mark.parametrize("smooth", [False, True])
def test_rasterised_outlines_are_the_mask_with_its_holes_filled(smooth: bool) -> None:
    rng = np.random.default_rng(0)
    with_holes = 0
    for _ in range(200):
        mask = random_mask(rng, smooth=smooth)
        if not mask.any():
            continue
        found = outlines(mask)
        pieces, number = ndimage.label(mask, EIGHT)
        filled = [ndimage.binary_fill_holes(pieces == piece) for piece in range(1, number + 1)]
        assert len(found.polygons) == number
        np.testing.assert_array_equal(rasterise(found.polygons, mask.shape), np.any(filled, axis=0))
        num_holes = sum(
            ndimage.label(whole & (pieces != piece))[1] for piece, whole in enumerate(filled, start=1)
        )
        assert found.num_holes == num_holes
        with_holes += num_holes > 0
    assert 20 < with_holes < 200


def test_corners_are_edges_of_pixels() -> None:
    mask = np.zeros((9, 9), bool)
    mask[2:5, 3:8] = True
    (polygon,), num_holes = outlines(mask)
    corners = set(zip(polygon[::2], polygon[1::2], strict=True))
    assert corners == {(3, 2), (8, 2), (8, 5), (3, 5)}
    assert (len(polygon), num_holes) == (8, 0)


def test_nothing_has_no_outline() -> None:
    assert outlines(np.zeros((4, 4), bool)) == ([], 0)
