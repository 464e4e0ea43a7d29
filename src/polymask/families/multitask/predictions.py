"""Predictions of images that have a mask and a class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor

from polymask.data.images import fit_window

_STRIP_VALUES = 2**22  # probabilities enlarged at a time
_Values = TypeVar("_Values", np.ndarray, Tensor)


@dataclass(frozen=True, kw_only=True)
class ImagePrediction:
    """What the network says of one image.

    Attributes:
        id: Id of the sample.
        mask_probabilities: (C, H, W) float32 at the network's input size: C = 1 probability of lesion, or one
            channel per class with the background first. None when the task has no masks.
        class_probabilities: (K,) float32, sums to 1. None when the task has no classes.
        fit: How the image came to the network's size, see `fit_window`.
        others: What further networks say, whose maps have another size or fit: the probabilities of a pixel
            are the mean over all, each brought to the size at which they are asked for.
        explanation: (H, W) float32 in [0, 1] at the network's input size: how much each place speaks for the
            predicted class. None where nobody asked.
    """

    id: str
    mask_probabilities: Tensor | None
    class_probabilities: Tensor | None
    fit: str = "stretch"
    others: Sequence[ImagePrediction] = ()
    explanation: Tensor | None = None


def probabilities(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return `mask` (B, C, H, W) and/or `label` (B, K) probabilities in float32 of a network's logits."""
    found = {}
    if "mask_logits" in outputs:
        logits = outputs["mask_logits"].float()
        found["mask"] = logits.sigmoid() if logits.shape[1] == 1 else logits.softmax(dim=1)
    if "class_logits" in outputs:
        found["label"] = outputs["class_logits"].float().softmax(dim=1)
    return found


def image_predictions(ids: Sequence[str], found: Mapping[str, Tensor], fit: str) -> list[ImagePrediction]:
    """Return one prediction per id of what `probabilities` returned, and of an `explanation` (B, H, W).

    `fit` is how these images came to the network's size.
    """
    nothing = [None] * len(ids)
    masks, classes, maps = (found.get(name, nothing) for name in ("mask", "label", "explanation"))
    return [
        ImagePrediction(
            id=name, mask_probabilities=mask, class_probabilities=label, explanation=heat, fit=fit
        )
        for name, mask, label, heat in zip(ids, masks, classes, maps, strict=True)
    ]


def merged(predictions: Sequence[ImagePrediction]) -> ImagePrediction:
    """Return what several networks say of one image together: the mean of their probabilities.

    Maps of one size and fit are averaged as they are: interpolation is linear, so their mean at the image's
    own size is the same. Others wait until somebody knows at what size they meet.
    """
    first, *others = predictions
    maps = [each.mask_probabilities for each in predictions if each.mask_probabilities is not None]
    classes = [each.class_probabilities for each in predictions if each.class_probabilities is not None]
    found = replace(first, class_probabilities=mean_of(classes) if classes else None)
    if not maps or len({(each.fit, found.shape) for each, found in zip(predictions, maps, strict=True)}) > 1:
        return replace(found, others=others if maps else ())
    return replace(found, mask_probabilities=mean_of(maps))


def probabilities_together(
    predictions: Sequence[ImagePrediction], sizes: Sequence[tuple[int, int]]
) -> dict[str, Tensor]:
    """Return predictions of a batch as `probabilities` does, masks on the grid of the first network.

    Args:
        predictions: B of them, such as `merged` returned.
        sizes: (height, width) of each image.
    """
    found = {}
    if predictions[0].mask_probabilities is not None:
        found["mask"] = torch.stack(
            [_on_grid(each, size) for each, size in zip(predictions, sizes, strict=True)]
        )
    classes = [each.class_probabilities for each in predictions if each.class_probabilities is not None]
    if classes:
        found["label"] = torch.stack(classes)
    return found


def _on_grid(prediction: ImagePrediction, size: tuple[int, int]) -> Tensor:
    """Return the mean of the maps (C, H, W) on the grid of the first, whose padding stays as it is."""
    assert prediction.mask_probabilities is not None
    if not prediction.others:
        return prediction.mask_probabilities
    grid = prediction.mask_probabilities.clone()
    window = (slice(None), *fit_window(size, grid.shape[1:], prediction.fit))
    maps = [grid[window]]
    for other in prediction.others:
        assert other.mask_probabilities is not None
        own = other.mask_probabilities[:, *fit_window(size, other.mask_probabilities.shape[1:], other.fit)]
        shape = grid[window].shape[1:]
        maps.append(torch.nn.functional.interpolate(own[None], shape, mode="bilinear")[0])
    grid[window] = mean_of(maps)
    return grid


@dataclass(frozen=True, kw_only=True)
class ImageResult:
    """A prediction at the image's own size, in plain containers.

    Attributes:
        mask: (H, W) uint8: 0 = background, 1 = lesion, or 1 + class number when `multiclass`. None when
            the task has no masks.
        multiclass: Whether the mask tells the classes apart.
        class_probabilities: Probability per class name, None without classes.
        predicted_class: Name of the most probable class, None without classes or where that is left open.
        explanation: (H, W) float32 in [0, 1]: how much each pixel speaks for the most probable class. None
            where nobody asked.
    """

    mask: np.ndarray | None
    multiclass: bool
    class_probabilities: dict[str, float] | None
    predicted_class: str | None
    explanation: np.ndarray | None = None


def image_result(
    prediction: ImagePrediction, size: tuple[int, int], class_names: Sequence[str], *, multiclass: bool
) -> ImageResult:
    """Bring a prediction to the image's own (height, width)."""
    mask, probabilities = None, None
    maps = [
        (each.mask_probabilities.cpu().numpy(), each.fit)
        for each in (prediction, *prediction.others)
        if each.mask_probabilities is not None
    ]
    if maps:
        (first, fit), *others = maps
        mask = mask_from_probabilities(first, size, fit, others=others)
    if prediction.class_probabilities is not None:
        values = prediction.class_probabilities.tolist()
        probabilities = dict(zip(class_names, values, strict=True))
    best = max(probabilities, key=probabilities.__getitem__) if probabilities else None
    heat = prediction.explanation
    return ImageResult(
        mask=mask,
        multiclass=multiclass,
        class_probabilities=probabilities,
        predicted_class=best,
        explanation=None if heat is None else _heat_at_size(heat.cpu().numpy(), size, prediction.fit),
    )


def mask_from_probabilities(
    probabilities: np.ndarray,
    size: tuple[int, int],
    fit: str = "stretch",
    *,
    others: Sequence[tuple[np.ndarray, str]] = (),
) -> np.ndarray:
    """Decide the class of each pixel of an image, for a test and an inference alike.

    Args:
        probabilities: (C, H, W) float32, see `ImagePrediction.mask_probabilities`.
        size: (height, width) of the image; the probabilities are interpolated to it before the decision.
        fit: How the image came to the network's size, see `fit_window`: padding is cut off first.
        others: Probabilities and fit of further networks; what is decided is then the mean of all.

    Returns:
        (height, width) uint8: 0 = background, 1 = lesion or class + 1.
    """
    maps = [own[:, *fit_window(size, own.shape[1:], how)] for own, how in ((probabilities, fit), *others)]
    mask = np.empty(size, np.uint8)
    for strips in zip(*(_strips(each, size) for each in maps), strict=True):
        rows = strips[0][0]
        mask[rows] = _decide(mean_of([values for _, values in strips]))
    return mask


def mean_of(values: Sequence[_Values]) -> _Values:
    """Return the mean of arrays or tensors of one shape; of one, its own bits."""
    return reduce(add, values) / len(values)


def _strips(probabilities: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield rows of (C, H, W) probabilities at a size, which may be their own; the same rows for all maps."""
    if probabilities.shape[1:] != size:
        yield from _enlarged_strips(probabilities, size)
        return
    step = _strip_height(probabilities, size)
    for start in range(0, size[0], step):
        yield slice(start, start + step), probabilities[:, start : start + step]


def _strip_height(probabilities: np.ndarray, size: tuple[int, int]) -> int:
    return max(1, _STRIP_VALUES // (len(probabilities) * size[1]))


def _heat_at_size(values: np.ndarray, size: tuple[int, int], fit: str) -> np.ndarray:
    """Return an explanation (H, W) at (height, width) of the image, as masks are; its largest value is 1."""
    values = values[fit_window(size, values.shape, fit)]
    whole = np.empty(size, np.float32)
    for rows, strip in _enlarged_strips(values[None], size):
        whole[rows] = strip[0]
    whole /= max(
        float(whole.max()), float(np.finfo(np.float32).tiny)
    )  # what was largest may lie in the padding
    return whole


def _decide(probabilities: np.ndarray) -> np.ndarray:
    if len(probabilities) == 1:
        return (probabilities[0] > 0.5).astype(np.uint8)
    return probabilities.argmax(axis=0).astype(np.uint8)


def _enlarged_strips(probabilities: np.ndarray, size: tuple[int, int]) -> Iterator[tuple[slice, np.ndarray]]:
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
