"""Mean and standard deviation of the pixels of any number of images, without rounding on the way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np

CHANNELS = ("red", "green", "blue")


@dataclass(kw_only=True)
class PixelSums:
    """Sums over the pixels of all images, in whole numbers: no rounding however many there are."""

    num_pixels: int = 0
    sums: list[int] = field(default_factory=lambda: [0, 0, 0])
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])

    def add(self, image: np.ndarray) -> None:
        """Take the pixels of an image, (H, W, 3) uint8."""
        self.num_pixels += image.shape[0] * image.shape[1]
        for channel, values in enumerate(cv2.split(image)):
            self.sums[channel] += int(cv2.sumElems(values)[0])
            # OpenCV squares a root here, hence the rounding; it is exact up to 10^10 pixels per image.
            self.squares[channel] += round(cv2.norm(values, cv2.NORM_L2SQR))

    def mean_and_std(self, channels: Sequence[int] = (0, 1, 2)) -> tuple[float, float]:
        """Return mean and population standard deviation of `channels` pooled, as fractions of 1."""
        count = self.num_pixels * len(channels)
        total = sum(self.sums[channel] for channel in channels)
        squares = sum(self.squares[channel] for channel in channels)
        return total / (255 * count), math.sqrt(count * squares - total**2) / (255 * count)
