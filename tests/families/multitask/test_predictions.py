from __future__ import annotations

import cv2
import numpy as np
import pytest

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
