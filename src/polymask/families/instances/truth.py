"""The true objects of an image in plain containers, from a batch or from disk."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from polymask.data.records import Record
from polymask.structures import rle
from polymask.structures.objects import TrueObjects


def truth_of(target: dict[str, Tensor]) -> TrueObjects:
    """Return the target of one image in plain containers."""
    height, width = target["masks"].shape[1:]
    return _true_objects({name: values.cpu().numpy() for name, values in target.items()}, (height, width))


def read_truth(record: Record, size: tuple[int, int]) -> TrueObjects:
    """Read the true objects of an image of (height, width) `size`."""
    return _true_objects(record.read_objects(size).to_target(), size)


def _true_objects(target: dict[str, np.ndarray], size: tuple[int, int]) -> TrueObjects:
    return TrueObjects(
        size=size,
        boxes=target["boxes"],
        labels=target["labels"],
        masks=[rle.encode(mask) for mask in target["masks"]],
        crowd=target["crowd"],
    )
