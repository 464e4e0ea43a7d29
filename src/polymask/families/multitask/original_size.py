"""Masks scored at the size of their images: counts of pixels, and distances of outlines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from polymask.errors import UserError, number
from polymask.metrics.boundaries import boundary_scores, score_names
from polymask.metrics.rows import ORIGINAL
from polymask.metrics.segmentation import confusion_per_sample, lesion_confusion_per_sample
from polymask.structures.masks import IGNORE
from polymask.structures.samples import Rows

_STRIP_PIXELS = 2**22  # counted at a time
_MICROMETRES = 1000  # in a millimetre


class OriginalScores:
    """Scores one mask after the other and keeps a few numbers of each, whatever its size.

    Args:
        num_classes: Number of classes of the masks with the background, 2 for binary ones.
        pixel_size: (height, width) of a pixel in micrometres, None when unknown.
        tolerances: Distances of outlines that count as none, in millimetres, or in pixels where their size is
            not known.
    """

    def __init__(
        self, *, num_classes: int, pixel_size: tuple[float, float] | None, tolerances: Sequence[float]
    ) -> None:
        self.num_classes, self.tolerances = num_classes, list(tolerances)
        height, width = pixel_size or (_MICROMETRES, _MICROMETRES)
        self.spacing = (height / _MICROMETRES, width / _MICROMETRES)
        self.names = score_names("mm" if pixel_size else "px", self.tolerances)
        self._counts: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._distances: dict[str, list[float]] = {}

    def add(self, id_: str, predicted: np.ndarray, true: np.ndarray | None) -> None:
        """Score a mask.

        Args:
            id_: Id of the sample.
            predicted: (H, W) uint8 class of each pixel, 0 = background.
            true: The same, with 255 = ignore; None when it is unknown.
        """
        if true is None:
            self._counts[id_] = np.zeros((self.num_classes, 3), np.int64), np.zeros(3, np.int64)
            self._distances[id_] = [float("nan")] * len(self.names)
            return
        self._counts[id_] = count_pixels(predicted, true, self.num_classes)
        valid = true != IGNORE  # an ignored pixel is background in both
        hd95, nsd = boundary_scores(
            predicted * valid, true * valid, spacing=self.spacing, tolerances=self.tolerances
        )
        self._distances[id_] = [hd95, *nsd]

    def complete(self, rows: Rows) -> Rows:
        """Return the rows of the samples with their scores, as they are where there were no masks.

        The columns are `confusion_original` (N, C, 3) and `lesion_confusion_original` (N, 3) int64, as the
        ones on the grid of the network, and (N,) scores called as `score_names` says.
        """
        if not self._counts:
            return rows
        ids = rows["ids"].tolist()
        counts, lesion = (np.stack([self._counts[id_][place] for id_ in ids]) for place in (0, 1))
        distances = np.array([self._distances[id_] for id_ in ids])
        scores = {name: distances[:, place] for place, name in enumerate(self.names)}
        return {**rows, f"confusion{ORIGINAL}": counts, f"lesion_confusion{ORIGINAL}": lesion, **scores}


def count_pixels(predicted: np.ndarray, true: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Count the pixels of one mask strip by strip, so that a large one needs no more memory.

    Args:
        predicted: (H, W) uint8, 0 = background.
        true: (H, W) uint8, 255 = ignore.
        num_classes: Number of classes C with the background.

    Returns:
        (C, 3) and (3,) int64 of `confusion_per_sample` and `lesion_confusion_per_sample`.
    """
    counts, lesion = np.zeros((num_classes, 3), np.int64), np.zeros(3, np.int64)
    step = max(1, _STRIP_PIXELS // predicted.shape[1])
    for start in range(0, len(predicted), step):
        pair = [torch.from_numpy(mask[start : start + step])[None] for mask in (predicted, true)]
        counts += confusion_per_sample(pair[0], pair[1], num_classes)[0].numpy()
        lesion += lesion_confusion_per_sample(pair[0], pair[1])[0].numpy()
    return counts, lesion


def parse_pixel_size(value: float | Sequence[float] | None) -> tuple[float, float] | None:
    """Return `data.pixel_size` as (height, width) in micrometres, None when it is unknown.

    Raises:
        UserError: It is neither a number above 0 nor two of them.
    """
    if value is None:
        return None
    sides = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value, value]
    if len(sides) != 2:
        raise UserError(
            f"data.pixel_size={value} is not valid; give the side of a pixel in micrometres, or "
            "[height,width], or null."
        )
    height, width = (
        number("data.pixel_size", side, above=0, what="micrometres per pixel", note="or null")
        for side in sides
    )
    return float(height), float(width)


def parse_tolerances(value: Sequence[float]) -> list[float]:
    """Return `task.surface_tolerances` in rising order, each once.

    Raises:
        UserError: It is no list of numbers of at least 0.
    """
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UserError(
            f"task.surface_tolerances={value!r} is not valid; give a list of distances in pixels, or in "
            "millimetres with data.pixel_size, such as [1,2], or []."
        )
    return sorted({float(number("task.surface_tolerances", each, least=0)) for each in value})
