from __future__ import annotations

import cv2
import numpy as np
import pytest

from polymask.structures import rle
from polymask.structures.crops import crop


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.98, 1.0])
@pytest.mark.parametrize("size", [(1, 1), (1, 37), (41, 1), (23, 31), (300, 4)])
def test_noise_comes_back_within_its_box(share: float, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        mask = rng.random(size) < share
        piece = crop(rle.encode(mask))
        whole = np.zeros(size, bool)
        whole[piece.window][piece.mask] = True
        np.testing.assert_array_equal(whole, mask)
        ys, xs = np.nonzero(mask)
        box = (np.ptp(ys) + 1, np.ptp(xs) + 1) if len(ys) else (0, 0)
        assert piece.mask.shape == box


def test_a_ring_in_a_large_image() -> None:
    mask = np.zeros((1200, 900), np.uint8)
    cv2.circle(mask, (600, 800), 150, 1, 5)
    piece = crop(rle.encode(mask))
    x, y, width, height = cv2.boundingRect(mask)
    assert (piece.x, piece.y) == (x, y)
    np.testing.assert_array_equal(piece.mask, mask[y : y + height, x : x + width])
