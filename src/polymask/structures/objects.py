"""Predictions of images with many objects, each with a class, a box and a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from polymask.structures.rle import Rle


@dataclass(frozen=True, kw_only=True)
class InstancePrediction:
    """The objects found in one image, at the image's own size, best score first.

    Attributes:
        id: Id of the sample.
        size: (height, width) of the image in pixels.
        boxes: (N, 4) float32 x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        labels: (N,) int64 class index, 0 to K - 1 (there is no background among objects).
        scores: (N,) float32 in [0, 1], descending.
        masks: N run-length encodings, see `polymask.structures.rle`.
    """

    id: str
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    scores: np.ndarray
    masks: Sequence[Rle]


@dataclass(frozen=True, kw_only=True)
class InstanceTruth:
    """The true objects of one image.

    Attributes:
        size: (height, width) of the image in pixels.
        boxes: (N, 4) float32 x0, y0, x1, y1 in pixels, x1 and y1 exclusive, derived from the masks.
        labels: (N,) int64 class index, 0 to K - 1.
        masks: N run-length encodings.
        crowd: (N,) bool: a region of many objects, which neither rewards nor punishes what is found in it.
    """

    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    masks: Sequence[Rle]
    crowd: np.ndarray
