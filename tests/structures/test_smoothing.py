from __future__ import annotations

import numpy as np
import pytest

from polymask.structures.smoothing import smooth_mask


def disc(
    radius: float, centre: tuple[int, int] = (100, 120), size: tuple[int, int] = (200, 240)
) -> np.ndarray:
    y, x = np.ogrid[: size[0], : size[1]]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return (first & second).sum() / (first | second).sum()


@pytest.mark.parametrize("radius", [12, 30, 80])
def test_a_disc_stays_a_disc(radius: int) -> None:
    assert iou(smooth_mask(disc(radius)), disc(radius)) >= 0.98


def test_holes_and_spikes_vanish() -> None:
    mask = disc(50)
    mask[100, 120] = False
    mask[80:100, 100:110] = False  # too wide for the blur: filled because nothing of the outside reaches it
    mask[100, 170:200] = True
    smooth = smooth_mask(mask)
    assert smooth[100, 120]
    assert smooth[85, 105]
    assert not smooth[100, 176:].any()


def test_the_largest_piece_stays() -> None:
    large, small = disc(40, (60, 60)), disc(25, (140, 180))
    smooth = smooth_mask(large | small)
    assert not (smooth & small).any()
    assert iou(smooth, large) >= 0.98


def test_twice_is_once() -> None:
    rng = np.random.default_rng(0)
    mask = disc(60) ^ (rng.random((200, 240)) < 0.05)
    once = smooth_mask(mask)
    assert (smooth_mask(once) ^ once).mean() <= 0.005


def test_a_mask_at_the_border_stays_there() -> None:
    mask = np.zeros((100, 100), bool)
    mask[:, :40] = True
    np.testing.assert_array_equal(smooth_mask(mask), mask)


def test_nothing_stays_nothing_and_a_line_stays_something() -> None:
    assert not smooth_mask(np.zeros((5, 7), np.uint8)).any()
    line = np.zeros((50, 50), np.uint8)
    line[20, 5:45] = 255
    np.testing.assert_array_equal(smooth_mask(line), line > 0)
