"""How single samples are passed around: their keys, and what is shown of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

SampleKey = tuple[int, int, int]
"""(epoch, index, repeat): what the samplers hand to the dataset, see `polymask.data.samplers`."""

Rows = dict[str, np.ndarray]
"""What an evaluation keeps: `ids` (N,) str and any number of (N, ...) arrays, one row per sample."""


@dataclass(frozen=True, kw_only=True)
class OriginalSample:
    """One sample as it is on disk, in a form that all data sets share.

    Attributes:
        id: Unique name.
        image: (H, W, 3) uint8 RGB at the file's own size.
        mask: (H, W) uint8, 1 = foreground, 0 = background; None when the sample has no mask.
        class_names: One per labelled object, or one for the whole image; empty when unknown.
        subset: `train`, `val`, `test`, or "" when the split does not use the sample.
        num_objects: Number of annotated objects, None when they are not told apart.
    """

    id: str
    image: np.ndarray
    mask: np.ndarray | None
    class_names: list[str]
    subset: str
    num_objects: int | None = None


class TitledSample(NamedTuple):
    """What a sheet of pictures shows: image (H, W, 3) uint8, mask (H, W) uint8 (255 = ignore) or None."""

    title: str
    image: np.ndarray
    mask: np.ndarray | None
