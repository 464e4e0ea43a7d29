"""The objects that several networks found in one image become one set: weighted box fusion, with masks.

R. Solovyev, W. Wang, T. Gabruseva: Weighted boxes fusion: ensembling boxes from different object detection
models. Image and Vision Computing 107 (2021), arXiv 1910.13302. Boxes are fused as in section 3 of the paper;
masks, which it does not have, are averaged with the weights of their boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polymask.structures import rle
from polymask.structures.crops import Crop, crop
from polymask.structures.objects import FoundObjects
from polymask.structures.rle import Rle

MIN_IOU = 0.55
"""Least overlap of two boxes of one object, as the paper found best."""


def fuse_objects(predictions: Sequence[FoundObjects], *, min_iou: float = MIN_IOU) -> FoundObjects:
    """Return the objects that N networks found in one image together; of one network its own.

    Of T objects that are one, box and mask are the means, weighted by the scores, and the score is the mean
    score times min(T, N) / N: what one of five networks finds counts a fifth.

    Args:
        predictions: One per network, of one image.
        min_iou: Boxes that overlap more are of one object, if the classes are the same.
    """
    if len(predictions) == 1:
        return predictions[0]
    boxes, labels, scores = (
        np.concatenate([getattr(each, name) for each in predictions])
        for name in ("boxes", "labels", "scores")
    )
    masks = [mask for each in predictions for mask in each.masks]
    boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
    clusters, fused = cluster_boxes(boxes, labels, scores, min_iou=min_iou)
    share = np.array([min(len(members), len(predictions)) for members in clusters]) / len(predictions)
    fused_scores = np.array([scores[members].mean() for members in clusters]) * share
    order = np.argsort(-fused_scores, kind="stable")
    first = predictions[0]
    return FoundObjects(
        id=first.id,
        size=first.size,
        boxes=fused[order].astype(np.float32),
        labels=np.array([labels[clusters[number][0]] for number in order], np.int64),
        scores=fused_scores[order].astype(np.float32),
        masks=[
            mean_mask([masks[member] for member in clusters[number]], scores[clusters[number]], first.size)
            for number in order
        ],
    )


def cluster_boxes(
    boxes: np.ndarray, labels: np.ndarray, scores: np.ndarray, *, min_iou: float = MIN_IOU
) -> tuple[list[list[int]], np.ndarray]:
    """Put boxes together that are of one object: steps 1 to 5 of the paper.

    From the highest score down, each box joins the fused box of its class that it overlaps most, if by more
    than `min_iou`, which is then fused anew; else it begins a new one.

    Args:
        boxes: (M, 4) float64 x0, y0, x1, y1 of all networks.
        labels: (M,) class of each.
        scores: (M,) float64.
        min_iou: See `fuse_objects`.

    Returns:
        The rows of each of K clusters, best first; and their (K, 4) fused boxes.
    """
    clusters: list[list[int]] = []
    fused = np.zeros_like(boxes)  # of the clusters so far, which are never more than there are boxes
    classes = np.full(len(boxes), -1)
    for row in np.argsort(-scores, kind="stable").tolist():
        overlap = np.where(
            classes[: len(clusters)] == labels[row], _iou(fused[: len(clusters)], boxes[row]), 0
        )
        best = int(overlap.argmax()) if len(clusters) else 0
        if clusters and overlap[best] > min_iou:
            clusters[best].append(row)
        else:
            best = len(clusters)
            clusters.append([row])
            classes[best] = labels[row]
        fused[best] = _weighted(scores[clusters[best]]) @ boxes[clusters[best]]
    return clusters, fused[: len(clusters)]


def mean_mask(masks: Sequence[Rle], scores: np.ndarray, size: tuple[int, int]) -> Rle:
    """Return the pixels that lie in masks of at least half of the weight; of none, the first mask.

    Args:
        masks: One or more.
        scores: Their weights.
        size: (height, width) of the image.
    """
    if len(masks) == 1:
        return masks[0]
    crops = [crop(mask) for mask in masks]
    window = _window(crops)
    rows, columns = window
    sums = np.zeros((rows.stop - rows.start, columns.stop - columns.start))
    for piece, weight in zip(crops, _weighted(scores), strict=True):
        top, left = piece.y - rows.start, piece.x - columns.start
        height, width = piece.mask.shape
        sums[top : top + height, left : left + width] += weight * piece.mask
    inside = sums >= 0.5 - 1e-9  # half is enough in spite of rounding
    if not inside.any():
        return masks[0]
    mask = np.zeros(size, bool)
    mask[window] = inside
    return rle.encode(mask)


def _weighted(scores: np.ndarray) -> np.ndarray:
    """Return weights in proportion to scores that add up to one; scores of nothing but zeros weigh alike."""
    total = scores.sum()
    return scores / total if total > 0 else np.full(len(scores), 1 / len(scores))


def _window(crops: Sequence[Crop]) -> tuple[slice, slice]:
    """Return the rows and columns of the image that hold all of some masks."""
    filled = [piece for piece in crops if piece.mask.size] or crops[:1]
    windows = [piece.window for piece in filled]
    rows, columns = (
        slice(min(w[axis].start for w in windows), max(w[axis].stop for w in windows)) for axis in (0, 1)
    )
    return rows, columns


def _iou(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """Return the (K,) intersection over union of boxes with one; 0 where both have no area."""
    low, high = np.maximum(boxes[:, :2], box[:2]), np.minimum(boxes[:, 2:], box[2:])
    shared = np.prod((high - low).clip(min=0), axis=1)
    total = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) + np.prod(box[2:] - box[:2]) - shared
    return np.divide(shared, total, out=np.zeros_like(shared), where=total > 0)
