"""Metrics of instance segmentation of weighted samples, from the rows of `match_image`.

In the shapes, N is the number of images, K of classes and R of replicates.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polymask.metrics.average_precision import average_precision, flagged, rank
from polymask.metrics.bootstrap import as_weights, check_class_names, ratio
from polymask.metrics.coco_matching import AREAS, IOU_THRESHOLDS
from polymask.metrics.detection_calibration import detection_calibration_error
from polymask.metrics.instance_matching import KINDS
from polymask.metrics.object_threshold import counted_objects
from polymask.metrics.segmentation import segmentation_metrics

_AT_75 = 5  # IOU_THRESHOLDS[5] is 0.75


def instance_metrics(
    rows: dict[str, np.ndarray], weights: np.ndarray | None, class_names: Sequence[str]
) -> dict[str, np.ndarray]:
    """Compute all metrics of found objects.

    `{kind}_ap` is COCO's average precision of masks or boxes, the mean over the IoU thresholds 0.50, 0.55,
    ... 0.95 and the classes that have true objects; `{kind}_ap50` and `{kind}_ap75` take one threshold,
    `{kind}_ap_small`, `_medium` and `_large` a range of areas, with several classes `{kind}_ap_{name}` and
    `{kind}_ap50_{name}` one class. They equal pycocotools' (whose areas of found masks are those of the
    masks only if the result file names no boxes); where that says -1, they are NaN.

    `top_mask_iou` is the mean over images with true objects of the IoU of the best mask and the union of
    the true ones. Found objects of enough score (see `match_image`) give `precision_at_score`,
    `recall_at_score` and `f1_at_score` (all classes and images pooled, masks matched at IoU 0.5),
    `count_error` (mean over images of the absolute difference of the numbers of found and of true objects),
    with several classes `count_error_{name}`, `count_bias` (mean of found minus true), and of the union of
    their masks `{dice,iou}_lesion_{image,pooled}` as in `polymask.metrics.segmentation`. `detection_ece` is
    the detection calibration error of all found objects, of any score, by masks at IoU 0.5.

    Args:
        rows: Rows of `match_image` of N images, in the order of their ids; each (N, ...).
        weights: (R, N) non-negative sample weights, or None for the point estimate (R = 1).
        class_names: Names of the K classes.

    Returns:
        Metric name to (R,) float64; NaN where a metric is undefined.

    Raises:
        UserError: One of several classes has a name given twice, or one that stands for a range of areas.
        ValueError: Shapes disagree.
    """
    num_images, num_classes, _ = rows["num_true"].shape
    several = num_classes > 1
    check_class_names(class_names, num_classes, reserved=tuple(AREAS) if several else ())
    weights = as_weights(weights, num_images)
    class_keys = list(class_names) if several else []
    return {
        **_average_precisions(rows, weights, class_keys),
        **_scores_at_threshold(rows, weights),
        **_count_errors(rows, weights, class_keys),
        "detection_ece": detection_calibration_error(counted_objects(rows), weights),
        **segmentation_metrics(rows["union_confusion"], weights, ["lesion"]),
    }


def precision_recall_curve(
    rows: dict[str, np.ndarray], kind: str, iou: float, label: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the curve of one class, not interpolated, with a point per distinct score.

    Args:
        rows: Rows of `match_image`.
        kind: `mask` or `box`.
        iou: One of `IOU_THRESHOLDS`, such as 0.5.
        label: Class index.

    Returns:
        Recall (rising), precision and score (falling), each (P,) float64: of the objects found with at
        least that score. Empty when there is no true object or none that counts was found.

    Raises:
        ValueError: `kind` or `iou` is not one of those allowed.
    """
    thresholds = np.flatnonzero(np.isclose(IOU_THRESHOLDS, iou))
    if kind not in KINDS or len(thresholds) == 0:
        allowed = f"kind one of {KINDS}, iou one of {IOU_THRESHOLDS.round(2).tolist()}"
        raise ValueError(f"kind={kind!r}, iou={iou}: expected {allowed}.")
    ranking, place = rank(rows, label), (slice(None), KINDS.index(kind), 0)
    hits = flagged(ranking.hits[place], thresholds[0])
    counted = hits | flagged(ranking.alarms[place], thresholds[0])
    num_true = rows["num_true"][:, label, 0].sum()
    hits, scores = hits[counted], ranking.scores[counted].astype(np.float64)
    # Objects of equal score share one threshold: the curve has a point only behind the last of them.
    last = np.append(scores[1:] != scores[:-1], True)[: len(scores)] & (num_true > 0)
    caught, seen = np.cumsum(hits)[last], np.arange(1, len(hits) + 1)[last]
    return caught / max(1, num_true), caught / seen, scores[last]


def confusion_counts(rows: dict[str, np.ndarray]) -> np.ndarray:
    """Count pairs of classes over all images.

    Found objects of enough score, best first, take the free true object of whatever class whose mask
    overlaps most, at IoU 0.5 or more. Unlike in average precision, an object found with the wrong class
    so uses up the true one. What is found in a crowd is left out.

    Args:
        rows: Rows of `match_image`.

    Returns:
        (K + 1, K + 1) int64, rows the true class and columns the found one; the last row holds what was
        found where nothing is, the last column what was missed.
    """
    return rows["instance_confusion"].sum(axis=0, dtype=np.int64)


def _average_precisions(
    rows: dict[str, np.ndarray], weights: np.ndarray, class_keys: Sequence[str]
) -> dict[str, np.ndarray]:
    """Average over thresholds, areas and classes; `class_keys` is empty when there is one class."""
    num_true = rows["num_true"]
    # (K, 2, 4, T, R)
    values = np.stack(
        [
            average_precision(rank(rows, label), num_true[:, label], weights, len(IOU_THRESHOLDS))
            for label in range(num_true.shape[1])
        ]
    )
    metrics = {}
    for index, kind in enumerate(KINDS):
        of_kind = values[:, index].swapaxes(0, 1)  # (4, K, T, R)
        for area, of_area in zip(AREAS, of_kind, strict=True):
            suffix = "" if area == "all" else f"_{area}"
            metrics[f"{kind}_ap{suffix}"] = _mean_over_classes(of_area.mean(axis=1))
        everywhere = of_kind[0]
        metrics[f"{kind}_ap50"] = _mean_over_classes(everywhere[:, 0])
        metrics[f"{kind}_ap75"] = _mean_over_classes(everywhere[:, _AT_75])
        for name, of_class in zip(class_keys, everywhere, strict=False):
            metrics[f"{kind}_ap_{name}"] = of_class.mean(axis=0)
            metrics[f"{kind}_ap50_{name}"] = of_class[0]
    return metrics


def _mean_over_classes(values: np.ndarray) -> np.ndarray:
    """Average (K, R) to (R,) over the classes that are not NaN."""
    defined = ~np.isnan(values)
    return ratio(np.where(defined, values, 0.0).sum(axis=0), defined.sum(axis=0))


def _scores_at_threshold(rows: dict[str, np.ndarray], weights: np.ndarray) -> dict[str, np.ndarray]:
    found, hits, true = (
        weights @ values.sum(axis=1)
        for values in (rows["num_found"], rows["num_hits"], rows["num_true"][:, :, 0])
    )
    has_truth = ~np.isnan(rows["top_mask_iou"])
    overlap = np.where(has_truth, rows["top_mask_iou"].astype(np.float64), 0.0)
    return {
        "top_mask_iou": ratio(weights @ overlap, weights @ has_truth),
        "precision_at_score": ratio(hits, found),
        "recall_at_score": ratio(hits, true),
        "f1_at_score": ratio(2 * hits, found + true),
    }


def _count_errors(
    rows: dict[str, np.ndarray], weights: np.ndarray, class_keys: Sequence[str]
) -> dict[str, np.ndarray]:
    excess = rows["num_found"] - rows["num_true"][:, :, 0]  # (N, K)
    per_image = {"count_error": np.abs(excess.sum(axis=1)), "count_bias": excess.sum(axis=1)}
    for index, name in enumerate(class_keys):
        per_image[f"count_error_{name}"] = np.abs(excess[:, index])
    total = weights.sum(axis=1)
    return {name: ratio(weights @ values, total) for name, values in per_image.items()}
