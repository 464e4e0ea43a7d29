"""From masks within boxes, as Mask R-CNN predicts them, to masks of whole images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks

from polymask.structures import rle
from polymask.structures.objects import FoundObjects
from polymask.structures.rle import Rle


def paste_masks(
    mask_probabilities: Tensor, boxes: Tensor, size: tuple[int, int], threshold: float = 0.5
) -> list[Rle]:
    """Return the masks of a whole image.

    The result is that of torchvision's `paste_masks_in_image(…) >= threshold`, but only one object at a time
    is decoded, and only within its box.

    Args:
        mask_probabilities: (N, M, M) within the boxes.
        boxes: (N, 4) x0, y0, x1, y1 in the image's pixels; parts outside the image are cut off.
        size: (height, width) of the image.
        threshold: Least probability of a pixel inside, above 0.
    """
    # A border of zeros, so that masks fade out at the edge of the box instead of ending there.
    padded, scale = expand_masks(mask_probabilities.float().cpu(), padding=1)
    corners = expand_boxes(boxes.float().cpu(), scale).to(torch.int64).tolist()
    canvas = np.zeros(size, np.uint8, order="F")  # column by column, as run lengths count
    masks = []
    for probabilities, box in zip(padded, corners, strict=True):
        rows, columns, inside = _inside(probabilities, box, size, threshold)
        canvas[rows, columns] = inside
        masks.append(rle.encode(canvas))
        canvas[rows, columns] = 0
    return masks


def _inside(
    probabilities: Tensor, box: Sequence[int], size: tuple[int, int], threshold: float
) -> tuple[slice, slice, np.ndarray]:
    """Return rows and columns of the part of a box in the image, and the bool mask there.

    Args:
        probabilities: (M, M).
        box: Whole-numbered x0, y0, x1, y1, x1 and y1 inclusive.
        size: (height, width) of the image.
        threshold: Least probability inside.
    """
    (x0, y0, x1, y1), (height, width) = box, size
    whole = (max(y1 - y0 + 1, 1), max(x1 - x0 + 1, 1))
    rows = slice(max(y0, 0), max(min(y1 + 1, height), 0))
    columns = slice(max(x0, 0), max(min(x1 + 1, width), 0))
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return slice(0), slice(0), np.zeros((0, 0), bool)
    resized = F.interpolate(probabilities[None, None], size=whole, mode="bilinear", align_corners=False)[0, 0]
    part = resized[rows.start - y0 : rows.stop - y0, columns.start - x0 : columns.stop - x0]
    return rows, columns, part.numpy() >= threshold


def to_predictions(
    ids: Sequence[str],
    raws: Sequence[Mapping[str, Tensor]],
    sizes: Sequence[tuple[int, int]],
    threshold: float = 0.5,
) -> list[FoundObjects]:
    """Return the detections of each image with masks of its size, leaving out those with an empty mask.

    Args:
        ids: Ids of B samples.
        raws: What `MaskRCNNSegmenter.predict` returned for them.
        sizes: (height, width) of each image in pixels.
        threshold: Least probability of a pixel of a mask.
    """
    predictions = []
    for sample, raw, (height, width) in zip(ids, raws, sizes, strict=True):
        masks = paste_masks(raw["masks"], raw["boxes"], (height, width), threshold)
        keep = [number for number, mask in enumerate(masks) if rle.area(mask) > 0]
        boxes, labels, scores = (raw[name].cpu().numpy()[keep] for name in ("boxes", "labels", "scores"))
        predictions.append(
            FoundObjects(
                id=sample,
                size=(height, width),
                boxes=boxes.clip(0, np.array([width, height, width, height], np.float32)),
                labels=labels,
                scores=scores,
                masks=[masks[number] for number in keep],
            )
        )
    return predictions
