"""Objects of another image pasted onto a training image.

Ghiasi et al., "Simple copy-paste is a strong data augmentation method for instance segmentation", CVPR 2021
(arXiv 2012.07177): both images are augmented, a random subset of the objects of one is put onto the other,
and what they cover no longer belongs to the objects below. Edges are not blended: the paper found no
difference.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from polymask.errors import UserError, number, whole_number
from polymask.families.instances.cache import Sample
from polymask.structures.layers import MOST_NUMBERS, Layers

_KEY = "data.copy_paste"
_LEAST_VISIBLE = 0.1
"""Share of an object's pixels below which what pasted ones leave of it teaches nothing."""


@dataclass(frozen=True, kw_only=True)
class CopyPaste:
    """How objects are pasted: the options `data.copy_paste`.

    Attributes:
        probability: Of each training image that objects of another are pasted onto it; 0 is never.
        max_objects: Pasted onto an image at most; how many is drawn evenly from 1 on.
        scale: Least and largest factor by which the other image is resized.

    Raises:
        UserError: A value is out of range.
    """

    probability: float = 0.0
    max_objects: int = 20
    scale: Sequence[float] = (0.8, 1.25)

    def __post_init__(self) -> None:
        number(f"{_KEY}.probability", self.probability, least=0, most=1)
        whole_number(f"{_KEY}.max_objects", self.max_objects, least=1)
        if isinstance(self.scale, str) or not isinstance(self.scale, Sequence) or len(self.scale) != 2:
            raise UserError(f"{_KEY}.scale={self.scale!r} is not valid; give two factors, e.g. [0.8,1.25].")
        low, high = (number(f"{_KEY}.scale", factor, above=0, most=10) for factor in self.scale)
        if low > high:
            raise UserError(f"{_KEY}.scale=[{low:g},{high:g}] is not valid; the smaller factor comes first.")
        object.__setattr__(self, "scale", (low, high))

    def __call__(self, below: Sample, other: Sample, random: np.random.Generator) -> Sample:
        """Paste some objects of one sample onto another; both stay as they are.

        Crowd regions are never pasted. Of an object that keeps too little of itself the rest becomes a crowd
        region: it is no object any more, and no background either.

        Args:
            below: Image (H, W, 3) uint8 and its objects.
            other: Likewise, of any size: it is resized and laid onto the other image at random, inside where
                it is smaller, and around it where it is larger.
            random: What factor, place and objects are drawn from.

        Returns:
            The new image, of the size of `below`, and its objects: the old ones first.
        """
        image, objects = below
        pasted_image, pasted = self._placed(other, image.shape[:2], random)
        room = MOST_NUMBERS - int(objects.number.max(initial=0))
        pasted = _keep(pasted, self._chosen(pasted, random)[:room])
        covered = (pasted.layers > 0).max(axis=-1)
        return np.where(covered[..., None], pasted_image, image), _join(_cover(objects, covered), pasted)

    def _placed(self, other: Sample, size: tuple[int, ...], random: np.random.Generator) -> Sample:
        """Return image and objects, resized and moved onto a black canvas of (height, width) `size`."""
        image, objects = other
        factor = random.uniform(self.scale[0], self.scale[1])
        height, width = (max(1, round(side * factor)) for side in image.shape[:2])
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
        layers = [
            cv2.resize(np.ascontiguousarray(layer), (width, height), interpolation=cv2.INTER_NEAREST_EXACT)
            for layer in np.moveaxis(objects.layers, -1, 0)
        ]
        whole = replace(objects, layers=np.stack(layers, axis=-1))
        rows, columns = (
            _overlap(own, int(random.integers(min(0, side - own), max(0, side - own) + 1)), side)
            for own, side in zip((height, width), size, strict=True)
        )
        canvas = np.zeros((*size, image.shape[-1]), np.uint8)
        canvas[rows[1], columns[1]] = image[rows[0], columns[0]]
        numbers = np.zeros((*size, len(layers)), np.uint16)
        numbers[rows[1], columns[1]] = whole.layers[rows[0], columns[0]]
        return canvas, _without_slivers(replace(objects, layers=numbers), whole)

    def _chosen(self, objects: Layers, random: np.random.Generator) -> np.ndarray:
        """Return the indices of a random subset of the objects that have pixels and are no crowd."""
        there = np.flatnonzero((_areas(objects) > 0) & ~objects.crowd)
        most = min(self.max_objects, len(there))
        count = int(random.integers(1, most + 1)) if most else 0
        return np.sort(random.choice(there, count, replace=False))


def _overlap(own: int, start: int, side: int) -> tuple[slice, slice]:
    """Return which part of a range of `own` pixels, laid at `start`, lies in one of `side`, and where."""
    first, last = max(0, start), min(side, start + own)
    return slice(first - start, last - start), slice(first, last)


def _areas(objects: Layers) -> np.ndarray:
    """Return the number of pixels of each object, (N,) int64."""
    layers = np.moveaxis(objects.layers, -1, 0)
    counts = np.stack([np.bincount(layer.ravel(), minlength=MOST_NUMBERS + 1) for layer in layers])
    return counts[objects.layer, objects.number]


def _keep(objects: Layers, chosen: np.ndarray) -> Layers:
    """Return some of the objects, numbered anew from 1 on; the others leave the layers."""
    table = np.zeros((objects.layers.shape[-1], MOST_NUMBERS + 1), np.uint16)
    new = np.arange(1, len(chosen) + 1)
    table[objects.layer[chosen], objects.number[chosen]] = new
    layers = [of_layer[objects.layers[..., index]] for index, of_layer in enumerate(table)]
    return Layers(
        layers=np.stack(layers, axis=-1),
        layer=objects.layer[chosen],
        number=new,
        labels=objects.labels[chosen],
        crowd=objects.crowd[chosen],
    )


def _cover(objects: Layers, covered: np.ndarray) -> Layers:
    """Take the covered pixels (H, W) from the objects, and their rank from those that keep too few."""
    visible = replace(objects, layers=np.where(covered[..., None], np.uint16(0), objects.layers))
    return _without_slivers(visible, objects)


def _without_slivers(objects: Layers, before: Layers) -> Layers:
    """Make crowd regions of objects that kept too few of the pixels that they had before."""
    return replace(objects, crowd=objects.crowd | (_areas(objects) < _LEAST_VISIBLE * _areas(before)))


def _join(below: Layers, above: Layers) -> Layers:
    """Return the objects of both, which have no pixel in common."""
    depth = max(below.layers.shape[-1], above.layers.shape[-1])
    offset = int(below.number.max(initial=0))
    raised = np.where(above.layers > 0, above.layers + np.uint16(offset), np.uint16(0))
    padded = [np.pad(x, ((0, 0), (0, 0), (0, depth - x.shape[-1]))) for x in (below.layers, raised)]
    return Layers(
        layers=padded[0] | padded[1],
        layer=np.concatenate([below.layer, above.layer]),
        number=np.concatenate([below.number, above.number + offset]),
        labels=np.concatenate([below.labels, above.labels]),
        crowd=np.concatenate([below.crowd, above.crowd]),
    )
