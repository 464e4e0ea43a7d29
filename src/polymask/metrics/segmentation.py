"""Dice and intersection over union (IoU), both from one confusion count per sample and class.

A count holds pixels as (true positive, false positive, false negative). Dice = 2 TP / (2 TP + FP + FN) and
IoU = TP / (TP + FP + FN) (Taha and Hanbury, "Metrics for evaluating 3D medical image segmentation", BMC
Medical Imaging 15, 2015) come from the same count, so Dice >= IoU always.

Conventions: pixels of target 255 are left out. An image without any valid pixel (no mask) is left out. An
image whose truth and prediction are both empty has lesion Dice = IoU = 1; so have pooled pixels when all
images are so. A class absent from truth and prediction is left out of the means of that class and of the
means over classes; its own value is NaN. A mean over nothing is NaN.

The thresholded IoU counts an image whose IoU is below 0.65 as 0: the thresholded Jaccard index of the ISIC
challenge (Codella et al., "Skin lesion analysis toward melanoma detection 2018", arXiv:1902.03368).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor, stack

from polymask.metrics.bootstrap import as_weights, check_class_names, ratio
from polymask.structures.masks import IGNORE

LEAST_IOU = 0.65
"""Below it a mask counts as missed in the thresholded IoU."""


def confusion_per_sample(predicted: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Count pixels per sample and class without waiting for the device.

    Args:
        predicted: (B, H, W) int class of each pixel, 0 = background.
        target: (B, H, W) int true class of each pixel, 255 = ignore. Values are not checked here, since
            looking at them would stall the device: a pixel of an unknown class is only a false positive.
        num_classes: Number of classes C with the background, 2 for binary masks, at most 255.

    Returns:
        (B, C, 3) int64 on the device of the inputs: true positive, false positive, false negative pixels.

    Raises:
        ValueError: The shapes are not both (B, H, W), or `num_classes` reaches the ignore value.
    """
    _check_masks(predicted, target)
    if num_classes > IGNORE:
        raise ValueError(f"num_classes={num_classes} reaches the ignore value {IGNORE}.")
    valid = target != IGNORE
    # One class at a time: a one-hot copy of the batch would need C times the memory.
    counts = [_count_pixels((predicted == index) & valid, target == index) for index in range(num_classes)]
    return stack(counts, dim=1)


def lesion_confusion_per_sample(predicted: Tensor, target: Tensor) -> Tensor:
    """Count pixels per sample after joining all foreground classes into one.

    Args:
        predicted: (B, H, W) int class of each pixel, 0 = background.
        target: (B, H, W) int true class of each pixel, 0 = background, 255 = ignore.

    Returns:
        (B, 3) int64 on the device of the inputs: true positive, false positive, false negative pixels.

    Raises:
        ValueError: The shapes are not both (B, H, W).
    """
    _check_masks(predicted, target)
    valid = target != IGNORE
    return _count_pixels((predicted != 0) & valid, (target != 0) & valid)


def segmentation_metrics(
    counts: np.ndarray,
    weights: np.ndarray | None,
    class_names: Sequence[str],
    lesion_counts: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """Compute Dice and IoU of all images; see the module's conventions for empty masks.

    With N images, C classes and R replicates. `_image` is the mean over images, `_pooled` takes the pixels
    of all images together, `_macro_pooled` is the mean of the pooled values over the classes that occur in
    truth or prediction. `lesion` is the foreground as a whole. One class gives `{dice,iou}_lesion_image`,
    `iou_thresholded_lesion_image` and `{dice,iou}_lesion_pooled`; several give also
    `{dice,iou}_macro_pooled` and, for each class, `{dice,iou}_{name}_pooled` and `{dice,iou}_{name}_image`
    (images where the class occurs in truth or prediction).

    Args:
        counts: (N, C, 3) int64 of `confusion_per_sample`, class 0 = background.
        weights: (R, N) non-negative sample weights, or None for the point estimate (R = 1).
        class_names: Names of the classes 1..C-1.
        lesion_counts: (N, 3) int64 of `lesion_confusion_per_sample`; needed with several classes.

    Returns:
        Metric name to (R,) float64 in [0, 1]; NaN where a metric is undefined.

    Raises:
        UserError: One of several classes has a name given twice or is called `lesion` or `macro`.
        ValueError: Shapes disagree, or there are several classes and no `lesion_counts`.
    """
    several = len(class_names) > 1
    check_class_names(class_names, counts.shape[1] - 1, reserved=("lesion", "macro") if several else ())
    if lesion_counts is None and several:
        raise ValueError(
            "several classes need lesion_counts: confusions of one class do not hold the union's."
        )
    weights = as_weights(weights, len(counts))
    lesion = counts[:, 1] if lesion_counts is None else lesion_counts
    metrics = _lesion_metrics(lesion, _has_mask(counts), weights)
    if several:
        metrics |= _class_metrics(counts[:, 1:], weights, class_names)
    return metrics


def lesion_scores(lesion_counts: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Score the foreground of each image.

    Args:
        lesion_counts: (N, 3) int64 of `lesion_confusion_per_sample`.
        counts: (N, C, 3) int64 of `confusion_per_sample`; it tells which images have a mask.

    Returns:
        `dice` and `iou`, (N,) float64 in [0, 1]; NaN where an image has no mask.
    """
    has_mask = _has_mask(counts)
    scores = _overlap(lesion_counts)
    return {name: _one_if_empty(values, has_mask) for name, values in scores.items()}


def count_masks(lesion_counts: np.ndarray, counts: np.ndarray) -> dict[str, int]:
    """Count the true masks, and those of them that are empty: there, finding nothing scores 1.

    Args:
        lesion_counts: (N, 3) int64 of `lesion_confusion_per_sample`.
        counts: (N, C, 3) int64 of `confusion_per_sample`; it tells which images have a mask.

    Returns:
        `num_masks` and `num_empty_masks`.
    """
    has_mask = _has_mask(counts)
    return {
        "num_masks": int(has_mask.sum()),
        "num_empty_masks": int((has_mask & _is_empty(lesion_counts)).sum()),
    }


def pixel_accuracy(counts: np.ndarray, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Compute the share of pixels of the right class, the background included.

    Args:
        counts: (N, C, 3) int64 of `confusion_per_sample`, class 0 = background.
        weights: (R, N) non-negative sample weights, or None for the point estimate (R = 1).

    Returns:
        `pixel_accuracy_image` (mean over the images that have a mask) and `pixel_accuracy_pooled` (pixels of
        all images together), (R,) float64 in [0, 1]; NaN without any mask.
    """
    weights = as_weights(weights, len(counts))
    right = counts[..., 0].sum(axis=1)
    total = right + counts[..., 2].sum(axis=1)  # each valid pixel is found or missed in its true class
    return {
        "pixel_accuracy_image": _mean_over_images(ratio(right, total)[:, None], weights)[:, 0],
        "pixel_accuracy_pooled": ratio(weights @ right, weights @ total),
    }


def _check_masks(predicted: Tensor, target: Tensor) -> None:
    """Refuse shapes that would broadcast against each other and count nonsense."""
    if predicted.ndim != 3 or predicted.shape != target.shape:
        raise ValueError(
            f"predicted {tuple(predicted.shape)}, target {tuple(target.shape)}: not both (B, H, W)."
        )


def _count_pixels(predicted: Tensor, target: Tensor) -> Tensor:
    """Count the pixels (B, 3) of two bool masks (B, H, W) without ignored pixels."""
    hits = (predicted & target).sum(dim=(1, 2))
    return stack([hits, predicted.sum(dim=(1, 2)) - hits, target.sum(dim=(1, 2)) - hits], dim=-1)


def _is_empty(lesion_counts: np.ndarray) -> np.ndarray:
    """Return (N,) bool: the truth has no foreground, neither found nor missed."""
    return (lesion_counts[:, 0] + lesion_counts[:, 2]) == 0


def _has_mask(counts: np.ndarray) -> np.ndarray:
    # A valid pixel is always counted for its true class, the background included.
    return counts.sum(axis=(1, 2)) > 0


def _lesion_metrics(counts: np.ndarray, has_mask: np.ndarray, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Score the foreground, counts (N, 3), of the images that have a mask, (N,) bool."""
    per_image, pooled = _overlap(counts), _overlap(weights @ counts)
    any_mask = weights @ has_mask > 0
    metrics = {}
    for score in per_image:
        filled = _one_if_empty(per_image[score], has_mask)
        metrics[f"{score}_lesion_image"] = _mean_over_images(filled[:, None], weights)[:, 0]
        metrics[f"{score}_lesion_pooled"] = _one_if_empty(pooled[score], any_mask)
    thresholded = np.where(filled < LEAST_IOU, 0.0, filled)  # of IoU, the last of the scores; NaN stays
    metrics["iou_thresholded_lesion_image"] = _mean_over_images(thresholded[:, None], weights)[:, 0]
    return metrics


def _class_metrics(
    counts: np.ndarray, weights: np.ndarray, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Score each foreground class, counts (N, C-1, 3), and the mean over classes."""
    per_image, pooled = _overlap(counts), _overlap(np.tensordot(weights, counts, axes=1))
    metrics = {}
    for score in per_image:
        occurs = ~np.isnan(pooled[score])
        summed = np.where(occurs, pooled[score], 0.0).sum(axis=1)
        metrics[f"{score}_macro_pooled"] = ratio(summed, occurs.sum(axis=1))
        image_means = _mean_over_images(per_image[score], weights)
        for index, name in enumerate(class_names):
            metrics[f"{score}_{name}_pooled"] = pooled[score][:, index]
            metrics[f"{score}_{name}_image"] = image_means[:, index]
    return metrics


def _overlap(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Return Dice and IoU of counts (..., 3), each (...), NaN where truth and prediction are empty."""
    hits, errors = counts[..., 0], counts[..., 1] + counts[..., 2]
    return {"dice": ratio(2 * hits, 2 * hits + errors), "iou": ratio(hits, hits + errors)}


def _one_if_empty(scores: np.ndarray, has_mask: np.ndarray) -> np.ndarray:
    """Score 1 where nothing was there and nothing was found, but only where a mask says so."""
    return np.where(np.isnan(scores) & has_mask, 1.0, scores)


def _mean_over_images(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average (N, K) scores to (R, K) over the images where they are not NaN."""
    defined = ~np.isnan(scores)
    return ratio(weights @ np.where(defined, scores, 0.0), weights @ defined)
