"""The objects of one image as images of object numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from scipy import ndimage

from polymask.errors import UserError
from polymask.structures.masks import IGNORE

MOST_NUMBERS = np.iinfo(np.uint16).max
_MOST_CLASSES = IGNORE - 1


@dataclass(frozen=True, kw_only=True)
class Layers:
    """The N objects of one image, as images of object numbers.

    Objects that overlap lie in different layers, so that one transform of the layers moves all of them
    together, at the cost of one or two masks rather than N.

    Attributes:
        layers: (H, W, L) uint16, L >= 1: object numbers from 1, 0 = background.
        layer: (N,) int64, the layer that an object lies in.
        number: (N,) int64, its number there.
        labels: (N,) int64 class index, from 0.
        crowd: (N,) bool: a region of many objects rather than one.
    """

    layers: np.ndarray
    layer: np.ndarray
    number: np.ndarray
    labels: np.ndarray
    crowd: np.ndarray

    def to_target(self) -> dict[str, np.ndarray]:
        """Return the objects that have any pixel in the image, each with the box around its pixels.

        Returns:
            `boxes` (M, 4) float32 x0, y0, x1, y1 in pixels, x1 and y1 exclusive; `labels` (M,) int64;
            `masks` (M, H, W) uint8 0/1; `crowd` (M,) bool.
        """
        windows = self.windows()
        seen = np.array([index for index, window in enumerate(windows) if window is not None], np.int64)
        masks = np.zeros((len(seen), *self.layers.shape[:2]), np.uint8)
        boxes = np.zeros((len(seen), 4), np.float32)
        for row, index in enumerate(seen):
            y, x = window = windows[index]
            boxes[row] = x.start, y.start, x.stop, y.stop
            masks[row][window] = self.layers[..., self.layer[index]][window] == self.number[index]
        return {"boxes": boxes, "labels": self.labels[seen], "masks": masks, "crowd": self.crowd[seen]}

    def union_mask(self) -> np.ndarray:
        """Return (H, W) uint8: 1 = any object, 255 = ignore (crowd without object), 0 = background."""
        return self._paint(np.ones(len(self.labels), np.uint8))

    def class_mask(self) -> np.ndarray:
        """Return (H, W) uint8: 1 + class index, 255 = ignore (crowd without object), 0 = background.

        Where objects overlap, the smaller one wins: it would vanish under the larger one.

        Raises:
            UserError: There are more classes than values.
        """
        if self.labels.size and self.labels.max() >= _MOST_CLASSES:
            raise UserError(
                f"class masks hold at most {_MOST_CLASSES} classes, but a label is {self.labels.max()}; "
                "choose fewer with data.classes."
            )
        return self._paint((self.labels + 1).astype(np.uint8))

    def windows(self) -> list[tuple[slice, slice] | None]:
        """Return the (rows, columns) that each object spans, None when it has no pixel."""
        found = [ndimage.find_objects(self.layers[..., layer]) for layer in range(self.layers.shape[-1])]
        return [
            found[layer][number - 1] if number <= len(found[layer]) else None
            for layer, number in zip(self.layer, self.number, strict=True)
        ]

    def masks(self) -> Iterator[np.ndarray]:
        """Yield the (H, W) bool mask of each object, one after the other: all at once may be too many."""
        for layer, number in zip(self.layer, self.number, strict=True):
            yield self.layers[..., layer] == number

    def _paint(self, values: np.ndarray) -> np.ndarray:
        """Return (H, W) uint8 with the value of the smallest object at each pixel, crowds below objects."""
        result = np.zeros(self.layers.shape[:2], np.uint8)
        smallest = np.full(result.shape, np.inf)
        for index in range(self.layers.shape[-1]):
            layer = self.layers[..., index]
            area = np.bincount(layer.ravel(), minlength=MOST_NUMBERS + 1).astype(float)
            value = np.zeros(len(area), np.uint8)
            inside = self.layer == index
            value[self.number[inside]] = np.where(self.crowd, IGNORE, values)[inside]
            area[self.number[inside & self.crowd]] += result.size + 1  # larger than any object
            area[0] = np.inf
            wins = area[layer] < smallest
            result[wins], smallest[wins] = value[layer[wins]], area[layer[wins]]
        return result


def stack_masks(
    masks: Iterable[np.ndarray], labels: Sequence[int], crowd: Sequence[bool], size: tuple[int, int]
) -> Layers:
    """Put each mask into the first layer in which it overlaps nothing.

    Args:
        masks: One (H, W) bool or uint8 per object, asked for one after the other.
        labels: Class index per object.
        crowd: Whether an object is a crowd region.
        size: (H, W).
    """
    layers = [np.zeros(size, np.uint16)]
    counts = [0]
    places = []
    for mask in masks:
        x, y, width, height = cv2.boundingRect(mask.astype(np.uint8))
        window = slice(y, y + height), slice(x, x + width)
        inside = mask[window] != 0
        free = (index for index, layer in enumerate(layers) if not layer[window][inside].any())
        index = next(free, len(layers))
        if index == len(layers):
            layers.append(np.zeros(size, np.uint16))
            counts.append(0)
        counts[index] += 1
        layers[index][window][inside] = counts[index]
        places.append((index, counts[index]))
    layer, number = np.array(places, np.int64).reshape(-1, 2).T
    return Layers(
        layers=np.stack(layers, axis=-1),
        layer=layer,
        number=number,
        labels=np.array(labels, np.int64),
        crowd=np.array(crowd, bool),
    )


def number_objects(label_map: np.ndarray) -> Layers:
    """Return the objects of one class in a label map, in the order of their numbers.

    Args:
        label_map: (H, W) of any integers; 0 is background, any other number an object, gaps are allowed.

    Raises:
        UserError: There are more than 65,535 objects.
    """
    if label_map.dtype in (np.uint8, np.uint16):  # a table of all values instead of sorting the pixels
        numbers = np.flatnonzero(np.bincount(label_map.ravel()))
        table = np.zeros(MOST_NUMBERS + 1, np.int64)
        table[numbers] = np.arange(len(numbers))
        places = table[label_map]
    else:
        numbers, places = np.unique(label_map, return_inverse=True)
    objects = numbers[numbers != 0]
    if len(objects) > MOST_NUMBERS:
        raise UserError(
            f"a label map has {len(objects)} objects, the most allowed is {MOST_NUMBERS}; cut it into tiles."
        )
    new = np.zeros(len(numbers), np.uint16)
    new[numbers != 0] = np.arange(1, len(objects) + 1)
    return Layers(
        layers=new[places].reshape(*label_map.shape, 1),
        layer=np.zeros(len(objects), np.int64),
        number=np.arange(1, len(objects) + 1, dtype=np.int64),
        labels=np.zeros(len(objects), np.int64),
        crowd=np.zeros(len(objects), bool),
    )


def check_size(
    source: str | Path, size: tuple[int, int], image: Path, image_size: tuple[int, int] | None
) -> None:
    """Compare the (height, width) of an image's objects with that of the image.

    Raises:
        UserError: They differ.
    """
    if image_size is not None and size != tuple(image_size):
        turned = (
            " The image may be turned by its EXIF data: save it upright." if size == image_size[::-1] else ""
        )
        raise UserError(
            f"the objects of {source} are {size[1]} x {size[0]} pixels but their image {image.name} is "
            f"{image_size[1]} x {image_size[0]}; both must have one size.{turned}"
        )
