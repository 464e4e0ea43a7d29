from __future__ import annotations

import cv2
import numpy as np
import pytest

from polymask.models.classical.thresholding import dark_corners, dark_region, without_hair

SIZE = (180, 240)
SKIN, SPOT = (220, 170, 150), (120, 80, 70)


def scene(*, corners: bool = False, hair: bool = False, spot: tuple[int, int] = (90, 120)) -> np.ndarray:
    """Skin with an elliptic spot at (row, column), seen through a round field, with hair across it."""
    image = np.full((*SIZE, 3), SKIN, np.uint8)
    cv2.ellipse(image, spot[::-1], (40, 25), 20, 0, 360, SPOT, -1)
    if hair:
        for x in range(20, 240, 40):
            cv2.line(image, (x, 0), (x - 60, 179), (60, 50, 50), 1)
    if corners:
        field = np.zeros(SIZE, np.uint8)
        cv2.circle(field, (120, 90), 135, 1, -1)
        image[field == 0] = 5
    noise = np.random.default_rng(0).normal(0, 4, image.shape)
    return (image + noise).clip(0, 255).astype(np.uint8)


def truth(spot: tuple[int, int] = (90, 120)) -> np.ndarray:
    mask = np.zeros(SIZE, np.uint8)
    cv2.ellipse(mask, spot[::-1], (40, 25), 20, 0, 360, 1, -1)
    return mask > 0


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return float((first & second).sum() / max((first | second).sum(), 1))


@pytest.mark.parametrize("corners", [False, True])
def test_a_spot_is_found_and_dark_corners_are_not(corners: bool) -> None:
    assert iou(dark_region(scene(corners=corners)), truth()) > 0.93


def test_dark_corners_are_the_corners() -> None:
    image = scene(corners=True)
    black = image.max(axis=2) < 60
    found = dark_corners(image)
    assert found[black].all()
    assert not (found & truth()).any()
    assert not dark_corners(scene()).any()


def test_of_two_spots_the_more_central_one_is_taken() -> None:
    image = scene(spot=(90, 120))
    cv2.ellipse(image, (18, 20), (30, 22), 0, 0, 360, SPOT, -1)
    assert iou(dark_region(image), truth()) > 0.9


def test_hair_is_painted_over() -> None:
    clean, hairy = scene(), scene(hair=True)
    changed = np.abs(hairy.astype(int) - clean).max(axis=2) > 60
    before = np.abs(hairy.astype(int) - clean)[changed].mean()
    after = np.abs(without_hair(hairy).astype(int) - clean)[changed].mean()
    assert changed.sum() > 500
    assert after < before / 4
    assert iou(dark_region(hairy, remove_hair=True), truth()) > 0.9


def test_nothing_is_found_in_an_even_image() -> None:
    assert not dark_region(np.full((40, 50, 3), 200, np.uint8)).any()
    assert dark_region(np.zeros((1, 1, 3), np.uint8)).shape == (1, 1)
