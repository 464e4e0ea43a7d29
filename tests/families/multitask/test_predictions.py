from __future__ import annotations

import cv2
import numpy as np
import pytest

from polymask.data.images import fit_mask
from polymask.families.multitask.predictions import mask_from_probabilities


def blurred(channels: int, height: int, width: int) -> np.ndarray:
    """(channels, height, width) float32 between 0 and 1, smooth enough for areas of one class."""
    values = np.random.default_rng(0).random((channels, height, width)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(channel, (0, 0), 2) for channel in values])


@pytest.mark.parametrize("channels", [1, 4])
@pytest.mark.parametrize("own", [(64, 64), (61, 47)])
@pytest.mark.parametrize("size", [(450, 600), (9, 14), (64, 65), (2000, 3001), (33, 7)])
def test_masks_are_those_of_probabilities_enlarged_at_once(channels, own, size):
    probabilities = blurred(channels, *own)
    whole = np.stack([cv2.resize(channel, size[::-1]) for channel in probabilities])
    wanted = whole[0] > 0.5 if channels == 1 else whole.argmax(axis=0)
    found = mask_from_probabilities(probabilities, size)
    assert found.dtype == np.uint8
    # Not one pixel, on processors that multiply and add with one rounding; else a tie may fall otherwise.
    assert np.count_nonzero(found != wanted) <= 2


@pytest.mark.parametrize("size", [(100, 400), (400, 100), (90, 61)])
def test_masks_of_a_letterbox_come_back_at_their_pixels(size):
    rows, columns = np.mgrid[: size[0], : size[1]]
    # Off the middle, and up to the rim where a border of padding would show.
    true = ((rows / size[0] - 0.3) / 0.4) ** 2 + ((columns / size[1] - 0.7) / 0.3) ** 2 < 1
    fitted = fit_mask(true.astype(np.uint8), (64, 64), "letterbox")
    for padding in (0.0, 1.0):
        probabilities = np.where(fitted == 255, padding, fitted)[None].astype(np.float32)
        found = mask_from_probabilities(probabilities, size, "letterbox") == 1
        cell = max(size) / 64  # a pixel of the network in those of the image
        assert (found & true).sum() / (found | true).sum() > 0.93
        for axis in (0, 1):
            ends = [np.flatnonzero(mask.any(axis=axis))[[0, -1]] for mask in (found, true)]
            assert np.abs(ends[0] - ends[1]).max() <= cell


def test_a_letterbox_without_padding_is_a_stretched_image():
    probabilities = blurred(3, 64, 64)
    stretched, boxed = (mask_from_probabilities(probabilities, (90, 90), f) for f in ("stretch", "letterbox"))
    np.testing.assert_array_equal(boxed, stretched)
