"""Predictions of images that have a mask and a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import TypeVar

import cv2
import numpy as np
from torch import Tensor

_Values = TypeVar("_Values", np.ndarray, Tensor)

_STRIP_VALUES = 2**22  # probabilities enlarged at a time


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """What the network says of one image.

    Attributes:
        id: Id of the sample.
        mask_probabilities: (C, H, W) float32 at the network's input size: C = 1 probability of lesion, or one
            channel per class with the background first. None when the task has no masks.
        class_probabilities: (K,) float32, sums to 1. None when the task has no classes.
        more_masks: Probabilities of further networks, of other sizes: that of a pixel is the mean over all,
            each interpolated to the size at which it is asked for.
    """

    id: str
    mask_probabilities: Tensor | None
    class_probabilities: Tensor | None
    more_masks: Sequence[Tensor] = ()

    def mask(self, size: tuple[int, int] | None = None) -> np.ndarray | None:
        """Return the mask at a (height, width), see `mask_from_probabilities`; None without masks."""
        if self.mask_probabilities is None:
            return None
        maps = [found.cpu().numpy() for found in (self.mask_probabilities, *self.more_masks)]
        return mask_from_probabilities(maps[0], size or maps[0].shape[1:], more=maps[1:])


def probabilities(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `mask` (B, C, H, W) and/or `label` (B, K) probabilities in float32 of a network's logits."""
    found = {}
    if "mask_logits" in outputs:
        logits = outputs["mask_logits"].float()
        found["mask"] = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
    if "class_logits" in outputs:
        found["label"] = outputs["class_logits"].float().softmax(dim=1)
    return found


def image_predictions(ids: Sequence[str], found: Mapping[str, Tensor]) -> list[ImagePrediction]:
    """Return one prediction per id of what `probabilities` returned."""
    nothing = [None] * len(ids)
    masks, classes = found.get("mask", nothing), found.get("label", nothing)
    return [
        ImagePrediction(id=name, mask_probabilities=mask, class_probabilities=label)
        for name, mask, label in zip(ids, masks, classes, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """A prediction at the image's own size, in plain containers.

    Attributes:
        mask: (H, W) uint8: 0 = background, 1 = lesion, or 1 + class number when `multiclass`. None when
            the task has no masks.
        multiclass: Whether the mask tells the classes apart.
        class_probabilities: Probability per class name, None without classes.
        predicted_class: Name of the most probable class, None without classes.
    """

    mask: np.ndarray | None
    multiclass: bool
    class_probabilities: dict[str, float] | None
    predicted_class: str | None


def image_result(
    prediction: ImagePrediction, size: tuple[int, int], class_names: Sequence[str], *, multiclass: bool
) -> ImageResult:
    """Bring a prediction to the image's own (height, width)."""
    mask, probabilities = prediction.mask(size), None
    if prediction.class_probabilities is not None:
        values = prediction.class_probabilities.tolist()
        probabilities = dict(zip(class_names, values, strict=True))
    best = max(probabilities, key=probabilities.__getitem__) if probabilities else None
    return ImageResult(
        mask=mask, multiclass=multiclass, class_probabilities=probabilities, predicted_class=best
    )


def mask_from_probabilities(
    probabilities: np.ndarray, size: tuple[int, ...] | None = None, *, more: Sequence[np.ndarray] = ()
) -> np.ndarray:
    """Decide the class of each pixel.

    Args:
        probabilities: (C, H, W) float32, see `ImagePrediction.mask_probabilities`.
        size: (height, width) of the result; the probabilities are interpolated to it before the decision.
        more: Probabilities of further networks, (C, H', W') each; what is decided is then the mean of all.

    Returns:
        (height, width) uint8: 0 = background, 1 = lesion or class + 1.
    """
    size = probabilities.shape[1:] if size is None else size
    mask = np.empty(size, np.uint8)
    for strips in zip(*(_strips(each, size) for each in (probabilities, *more)), strict=True):
        rows = strips[0][0]
        mask[rows] = _decide(mean_of([values for _, values in strips]))
    return mask


def mean_of(values: Sequence[_Values]) -> _Values:
    """Return the mean of arrays or tensors of one shape; of one, its own bits."""
    return reduce(add, values) / len(values)


def _strips(probabilities: np.ndarray, size: tuple[int, ...]) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of (C, H, W) probabilities at a size, which may be their own; the same rows for all maps."""
    if probabilities.shape[1:] != size:
        yield from _enlarged_strips(probabilities, size)
        return
    step = _strip_height(probabilities, size)
    for start in range(0, size[0], step):
        yield slice(start, start + step), probabilities[:, start : start + step]


def _strip_height(probabilities: np.ndarray, size: tuple[int, ...]) -> int:
    return max(1, _STRIP_VALUES // (len(probabilities) * size[1]))


def _decide(probabilities: np.ndarray) -> np.ndarray:
    if len(probabilities) == 1:
        return (probabilities[0] > 0.5).astype(np.uint8)
    return probabilities.argmax(axis=0).astype(np.uint8)


def _enlarged_strips(probabilities: np.ndarray, size: tuple[int, ...]) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of (C, H, W) probabilities at another size, interpolated linearly as `cv2.resize` does.

    All at once would take 4 C bytes per pixel of the image: 3.5 GB for 8 channels of 108 megapixels.
    """
    height, width = size
    own_height = probabilities.shape[1]
    # Columns first, at the few rows of the network; then each row of the image lies between two of these.
    wide = np.stack([cv2.resize(channel, (width, own_height)) for channel in probabilities])
    position = ((np.arange(height) + 0.5) * (own_height / height) - 0.5).clip(0, own_height - 1)
    above = np.floor(position).astype(np.int64)
    below = np.minimum(above + 1, own_height - 1)
    share = (position - above).astype(np.float32)[:, None]
    step = _strip_height(probabilities, size)
    for start in range(0, height, step):
        rows = slice(start, start + step)
        upper, lower = wide[:, above[rows]], wide[:, below[rows]]
        # In double precision, because OpenCV multiplies and adds with one rounding.
        yield rows, (upper + (lower - upper).astype(np.float64) * share[rows]).astype(np.float32)


def merged(predictions: Sequence[ImagePrediction]) -> ImagePrediction:
    """Return what several networks say of one image together: the mean of their probabilities.

    Maps of one size are averaged as they are: interpolation is linear, so their mean at the image's own size
    is the same. Maps of several sizes wait for `ImagePrediction.mask`, which knows at what size they meet.
    """
    masks = [each.mask_probabilities for each in predictions if each.mask_probabilities is not None]
    classes = [each.class_probabilities for each in predictions if each.class_probabilities is not None]
    if len({mask.shape for mask in masks}) == 1:
        masks = [mean_of(masks)]
    return ImagePrediction(
        id=predictions[0].id,
        mask_probabilities=masks[0] if masks else None,
        class_probabilities=mean_of(classes) if classes else None,
        more_masks=masks[1:],
    )
