"""The true objects of an image in plain containers, from a batch or from disk."""

from __future__ import annotations

from torch import Tensor

from polymask.data.records import Record
from polymask.structures import rle
from polymask.structures.objects import TrueObjects


def truth_of(target: dict[str, Tensor]) -> TrueObjects:
    """Return the target of one image in plain containers."""
    masks = target["masks"].cpu().numpy()
    return TrueObjects(
        size=(masks.shape[1], masks.shape[2]),
        boxes=target["boxes"].cpu().numpy(),
        labels=target["labels"].cpu().numpy(),
        masks=[rle.encode(mask) for mask in masks],
        crowd=target["crowd"].cpu().numpy(),
    )


def read_truth(record: Record, size: tuple[int, int]) -> TrueObjects:
    """Read the true objects of an image of (height, width) `size`."""
    target = record.read_objects(size).to_target()
    return TrueObjects(
        size=size,
        boxes=target["boxes"],
        labels=target["labels"],
        masks=[rle.encode(mask) for mask in target["masks"]],
        crowd=target["crowd"],
    )
