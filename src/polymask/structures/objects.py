"""The objects of one image, each with a class, a box and a mask: the true ones, and those found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np

from polymask.structures.rle import Rle


@dataclass(frozen=True, kw_only=True)
class Objects:
    """N objects of one image. Indexing as of an array, by a slice, numbers or a bool mask, chooses some.

    Attributes:
        size: (height, width) of the image in pixels.
        boxes: (N, 4) float32 x0, y0, x1, y1 in pixels, x1 and y1 exclusive.
        labels: (N,) int64 class index, 0 to K - 1 (there is no background among objects).
        masks: N run-length encodings, see `polymask.structures.rle`.
    """

    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    masks: Sequence[Rle]

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.labels)

    def __getitem__(self, index: slice | np.ndarray) -> Self:
        """Return some of the objects."""
        numbers = np.arange(len(self))[index]
        chosen: dict[str, Any] = {"masks": [self.masks[number] for number in numbers]}
        for field in fields(self):
            values = getattr(self, field.name)
            if isinstance(values, np.ndarray):
                chosen[field.name] = values[numbers]
        return replace(self, **chosen)


@dataclass(frozen=True, kw_only=True)
class FoundObjects(Objects):
    """The objects found in one image, at the image's own size, best score first.

    Attributes:
        id: Id of the sample.
        scores: (N,) float32 in [0, 1], descending.
    """

    id: str
    scores: np.ndarray


@dataclass(frozen=True, kw_only=True)
class TrueObjects(Objects):
    """The true objects of one image; their boxes are derived from their masks.

    Attributes:
        crowd: (N,) bool: a region of many objects, which neither rewards nor punishes what is found in it.
    """

    crowd: np.ndarray
