"""The metrics of masks and classes, from rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polymask.families import base
from polymask.metrics.boundaries import boundary_metrics, score_columns
from polymask.metrics.calibration import calibration_metrics, per_class_calibration
from polymask.metrics.classification import classification_metrics, per_class_metrics
from polymask.metrics.explanations import explanation_metrics
from polymask.metrics.mask_quality import mask_disagreement
from polymask.metrics.operating_points import operating_metrics
from polymask.metrics.pixel_calibration import pixel_calibration
from polymask.metrics.rows import ORIGINAL
from polymask.metrics.segmentation import (
    count_masks,
    lesion_scores,
    pixel_accuracy,
    segmentation_metrics,
)
from polymask.structures.samples import Rows


class Scorer(base.Scorer):
    """Scores masks, classes, or both, whichever the rows hold.

    The rows of N samples are `confusion` (N, C, 3) and `lesion_confusion` (N, 3) of the masks, see
    `polymask.metrics.segmentation`; `pixel_histogram` and `pixel_squared_error`, see
    `polymask.metrics.pixel_calibration`, and the columns of `polymask.metrics.mask_quality`;
    `class_probabilities` (N, K) and `label` (N,), -1 = unknown, of the classes. Those of a test also hold
    what `OriginalScores` and `ExplanationReport` measured, in columns that end in `_original`.

    Args:
        class_names: Names of the K classes.
        multiclass: Whether masks tell the classes apart.
    """

    headline = ("dice_lesion_image", "balanced_accuracy", "iou_lesion_image", "f1_macro", "auroc_macro")

    def __init__(self, class_names: Sequence[str], *, multiclass: bool) -> None:
        self.class_names, self.multiclass = list(class_names), multiclass

    def metrics(
        self, rows: Rows, weights: np.ndarray | None = None, *, per_class: bool = False
    ) -> dict[str, np.ndarray]:
        """Compute Dice, IoU and pixel accuracy of masks; accuracy, F1, AUROC and the like of classes.

        And of both, how far their probabilities can be believed; of classes, also what decisions at operating
        points are worth. `per_class` adds recall, precision, F1, AUROC and calibration of each class.
        """
        metrics: dict[str, np.ndarray] = {}
        if "confusion" in rows:
            metrics |= self._of_masks(rows, weights)
        if f"confusion{ORIGINAL}" in rows:
            metrics |= self._of_masks(rows, weights, ORIGINAL) | boundary_metrics(rows, weights)
        if "pixel_histogram" in rows:  # which results of earlier versions lack
            pixels = rows["pixel_histogram"], rows["pixel_squared_error"]
            metrics |= pixel_calibration(*pixels, weights, "lesion")
        if "class_probabilities" in rows and (rows["label"] >= 0).any():
            labels, probabilities = rows["label"], rows["class_probabilities"]
            metrics |= classification_metrics(labels, probabilities, weights)
            metrics |= calibration_metrics(labels, probabilities, weights)
            metrics |= operating_metrics(rows, weights)
            if per_class:
                metrics |= per_class_metrics(labels, probabilities, self.class_names, weights)
                metrics |= per_class_calibration(labels, probabilities, self.class_names, weights)
        return metrics | explanation_metrics(rows, weights)

    def _of_masks(self, rows: Rows, weights: np.ndarray | None, end: str = "") -> dict[str, np.ndarray]:
        """Return the metrics of masks on the grid, or at their own size; their names end as the columns."""
        counts, lesion = rows[f"confusion{end}"], rows[f"lesion_confusion{end}"]
        names = self.class_names if self.multiclass else ["lesion"]
        metrics = segmentation_metrics(counts, weights, names, lesion) | pixel_accuracy(counts, weights)
        return {f"{name}{end}": values for name, values in metrics.items()}

    def scores(self, rows: Rows) -> dict[str, np.ndarray]:
        """Return the Dice of each lesion mask and the probability of each true class, where there are any."""
        scores = {}
        if "confusion" in rows:
            scores["dice_lesion"] = lesion_scores(rows["lesion_confusion"], rows["confusion"])["dice"]
        if "class_probabilities" in rows:
            labels = rows["label"]
            of_true = np.take_along_axis(rows["class_probabilities"], labels.clip(0)[:, None], axis=1)[:, 0]
            scores["true_class_probability"] = np.where(labels >= 0, of_true, np.nan)
        return scores

    def truth(self, rows: Rows, *, same_grid: bool) -> dict[str, np.ndarray]:
        """Return the true classes and, on one grid and at their own size, the areas of the true masks."""
        truth = {"classes": rows["label"]} if "label" in rows else {}
        ends = {"masks": "", "masks at their own size": ORIGINAL}
        for what, end in ends.items():
            counts = rows.get(f"lesion_confusion{end}")
            if counts is not None and (end or same_grid):
                truth[what] = counts[..., 0] + counts[..., 2]
        return truth

    def class_evidence(self, rows: Rows) -> tuple[np.ndarray, np.ndarray] | None:
        """Return given classes and their probabilities, None without classes."""
        return (rows["label"], rows["class_probabilities"]) if "class_probabilities" in rows else None

    def mask_evidence(self, rows: Rows) -> dict[str, np.ndarray]:
        """Return how far true and predicted masks disagree, if there are any."""
        if "confusion" not in rows:
            return {}
        distances = {name.removesuffix(ORIGINAL): rows[name] for name in score_columns(rows)}
        apart = {name: values for name, values in distances.items() if name.startswith("hd95_")}
        return mask_disagreement(rows) | apart

    def counts(self, rows: Rows) -> dict[str, float]:
        """Return how many true masks are empty, if any is: there, nothing found scores 1."""
        number = self.mask_counts(rows).get("num_empty_masks", 0)
        return {"num_empty_masks": float(number)} if number else {}

    def mask_counts(self, rows: Rows) -> dict[str, int]:
        """Return the number of true masks and of empty ones; nothing when there are no masks."""
        if "confusion" not in rows:
            return {}
        return count_masks(rows["lesion_confusion"], rows["confusion"])
