"""Comparison of the found with the true objects of one image, as rows of fixed size.

Of each of the K classes only the `max_detections` best found objects are looked at, so a row has
D = K * max_detections places, filled from the front, best score first. The flags are those of the COCO
evaluation; their last two axes are `KINDS` and `coco_matching.AREAS`, bit t stands for
`coco_matching.IOU_THRESHOLDS[t]`. The area of a true object is that of its mask for both kinds, the area of a
found one that of its mask or of its box. A row holds

- `detection_labels` (D,) int16, -1 where a place is empty, and `detection_scores` (D,) float32;
- `detection_hits` and `detection_alarms` (D, 2, 4) int16 flags: matched with a true object, matched with
  nothing; neither is set where ignored;
- `num_true` (K, 4) int32: true objects per class and range of areas that are not ignored;
- `num_found` and `num_hits` (K,) int32: found objects of enough score, without those in crowds, and those of
  them whose mask matches at IoU 0.5;
- `instance_confusion` (K + 1, K + 1) int32: see `polymask.metrics.instances.confusion_counts`;
- `top_mask_iou` () float32: IoU of the one mask of best score, of whatever class and score, with the union of
  the true masks; 0 when nothing was found, NaN without true pixels;
- `union_confusion` (2, 3) int64: as `polymask.metrics.segmentation.confusion_per_sample` for the union of the
  found masks of enough score and the union of the true masks. This and `top_mask_iou` leave out the pixels
  that lie in a crowd and in no true object.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polymask.metrics.coco_matching import (
    IOU_THRESHOLDS,
    box_areas,
    box_iou,
    hits_and_alarms,
    match,
    outside_areas,
)
from polymask.structures import rle
from polymask.structures.objects import FoundObjects, TrueObjects

KINDS = ("mask", "box")


def match_image(
    prediction: FoundObjects,
    truth: TrueObjects,
    *,
    num_classes: int,
    max_detections: int = 100,
    score_threshold: float,
) -> dict[str, np.ndarray]:
    """Compare the objects found in one image with the true ones.

    Args:
        prediction: Objects found in the image.
        truth: True objects of the same image.
        num_classes: Number of classes K.
        max_detections: Found objects per class at most; 100 in COCO, too few where an image holds more.
        score_threshold: Least score of the objects that count, are confused and make up the union; the
            flags, and average precision with them, take all scores.

    Returns:
        The row, described at the head of this module.

    Raises:
        ValueError: Prediction and truth differ in size, or a label is not in 0..K-1.
    """
    _check(prediction, truth, num_classes)
    kept = _best_of_each_class(prediction, max_detections)
    labels, scores, boxes = (
        values[kept] for values in (prediction.labels, prediction.scores, prediction.boxes)
    )
    masks = [prediction.masks[index] for index in kept]
    crowd = truth.crowd.astype(bool)
    overlaps = (rle.iou(masks, truth.masks, crowd.tolist()), box_iou(boxes, truth.boxes, crowd))
    ignored = crowd | outside_areas(_mask_areas(truth.masks))
    flags = []
    for overlap, areas in zip(overlaps, (_mask_areas(masks), box_areas(boxes)), strict=True):
        of_class = np.where(labels[:, None] == truth.labels, overlap, 0.0)
        matches = match(of_class, ignored, crowd, IOU_THRESHOLDS)
        flags.append(hits_and_alarms(matches, ignored, outside_areas(areas)))
    hits, alarms = np.stack(flags, axis=2)  # each (D, 2, 4, 10)
    enough = scores >= score_threshold
    places = num_classes * max_detections
    return {
        "detection_labels": _fill(labels.astype(np.int16), places, -1),
        "detection_scores": _fill(scores.astype(np.float32), places, 0),
        "detection_hits": _fill(_pack(hits), places, 0),
        "detection_alarms": _fill(_pack(alarms), places, 0),
        "num_true": np.stack([_count(truth.labels[~out], num_classes) for out in ignored], axis=1),
        "num_found": _count(labels[enough & (hits | alarms)[:, 0, 0, 0]], num_classes),
        "num_hits": _count(labels[enough & hits[:, 0, 0, 0]], num_classes),
        "instance_confusion": _confusion(overlaps[0][enough], labels[enough], truth, num_classes),
        **_union_rows(masks[:1], _chosen(masks, enough), truth),
    }


def _pack(flags: np.ndarray) -> np.ndarray:
    """Turn bool (D, 2, 4, 10) into int16 (D, 2, 4) with a bit per threshold."""
    return (flags @ (1 << np.arange(flags.shape[-1]))).astype(np.int16)


def _fill(values: np.ndarray, places: int, empty: int) -> np.ndarray:
    filled = np.full((places, *values.shape[1:]), empty, values.dtype)
    filled[: len(values)] = values
    return filled


def _count(labels: np.ndarray, num_classes: int) -> np.ndarray:
    return np.bincount(labels, minlength=num_classes).astype(np.int32)


def _check(prediction: FoundObjects, truth: TrueObjects, num_classes: int) -> None:
    """Refuse what would give numbers without meaning."""
    if tuple(prediction.size) != tuple(truth.size):
        raise ValueError(
            f"{prediction.id}: the prediction has size {prediction.size}, the truth {truth.size}."
        )
    for what, labels in (("found", prediction.labels), ("true", truth.labels)):
        if np.any((labels < 0) | (labels >= num_classes)):
            raise ValueError(
                f"{prediction.id}: {what} labels are in {labels.min()}..{labels.max()}, "
                f"expected 0..{num_classes - 1}."
            )


def _best_of_each_class(prediction: FoundObjects, max_detections: int) -> np.ndarray:
    """Return the indices of the found objects that count, best score first, ties in the given order."""
    order = np.argsort(-prediction.scores, kind="stable")
    beyond = np.zeros(len(order), bool)
    for label in np.unique(prediction.labels):
        beyond[np.flatnonzero(prediction.labels[order] == label)[max_detections:]] = True
    return order[~beyond]


def _mask_areas(masks: Sequence[rle.Rle]) -> np.ndarray:
    return np.array([rle.area(mask) for mask in masks], np.float64)


def _chosen(masks: Sequence[rle.Rle], which: np.ndarray) -> list[rle.Rle]:
    return [mask for mask, chosen in zip(masks, which, strict=True) if chosen]


def _confusion(overlap: np.ndarray, labels: np.ndarray, truth: TrueObjects, num_classes: int) -> np.ndarray:
    """Count pairs of true class (rows) and found class (columns) at IoU 0.5, whatever the classes."""
    crowd = truth.crowd.astype(bool)
    matches = match(overlap, crowd[None], crowd, IOU_THRESHOLDS[:1])[:, 0, 0]
    missed = ~crowd
    missed[matches[matches >= 0]] = False
    # The added entries answer for -1: the background, which is no crowd.
    true_labels = np.append(truth.labels, num_classes)[matches]
    outside_crowd = ~np.append(crowd, False)[matches]
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int32)
    np.add.at(counts, (true_labels[outside_crowd], labels[outside_crowd]), 1)
    counts[:, num_classes] += _count(truth.labels[missed], num_classes + 1)
    return counts


def _union_rows(top: list[rle.Rle], confident: list[rle.Rle], truth: TrueObjects) -> dict[str, np.ndarray]:
    """Compare the best mask, and the union of the confident ones, with that of the true ones, by pixel."""
    crowds, singles = (
        _chosen(truth.masks, truth.crowd.astype(bool) == is_crowd) for is_crowd in (True, False)
    )
    true = rle.union(singles, truth.size)
    valid = true | ~rle.union(crowds, truth.size)
    best = _count_pixels(rle.union(top, truth.size) & valid, true)
    hits, alarms, misses = _count_pixels(rle.union(confident, truth.size) & valid, true)
    rest = int(valid.sum()) - hits - alarms - misses
    return {
        "top_mask_iou": np.array(best[0] / sum(best) if true.any() else np.nan, np.float32),
        # Seen from the background, a missed pixel is a false alarm and the other way round.
        "union_confusion": np.array([[rest, misses, alarms], [hits, alarms, misses]], np.int64),
    }


def _count_pixels(predicted: np.ndarray, true: np.ndarray) -> tuple[int, int, int]:
    """Return true positive, false positive and false negative pixels of two bool masks."""
    hits = int((predicted & true).sum())
    return hits, int(predicted.sum()) - hits, int(true.sum()) - hits
