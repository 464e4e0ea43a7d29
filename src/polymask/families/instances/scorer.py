"""The metrics of found objects, from rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from polymask.families import base
from polymask.metrics.instances import instance_metrics
from polymask.metrics.mask_quality import object_disagreement
from polymask.metrics.segmentation import lesion_scores
from polymask.structures.samples import Rows


class Scorer(base.Scorer):
    """Scores found objects; its rows are those of `polymask.metrics.instance_matching.match_image`.

    Args:
        class_names: Names of the K classes, without the background.
    """

    headline = (
        *("mask_ap50", "dice_lesion_image", "mask_ap", "box_ap", "iou_lesion_image"),
        *("mask_ap75", "f1_at_score", "count_error"),
    )

    def __init__(self, class_names: Sequence[str]) -> None:
        self.class_names = list(class_names)

    def metrics(
        self, rows: Rows, weights: np.ndarray | None = None, *, per_class: bool = False
    ) -> dict[str, np.ndarray]:
        """Compute average precisions, counts and the overlap of the union; those of each class always."""
        return instance_metrics(rows, weights, self.class_names)

    def scores(self, rows: Rows) -> dict[str, np.ndarray]:
        """Return the Dice of the union of objects and the IoU of the best found mask with it."""
        union = rows["union_confusion"]
        return {
            "dice_lesion": lesion_scores(union[:, 1], union)["dice"],
            "top_mask_iou": rows["top_mask_iou"].astype(np.float64),
        }

    def mask_evidence(self, rows: Rows) -> dict[str, np.ndarray]:
        """Return how far true and found objects disagree."""
        return object_disagreement(rows)

    def truth(self, rows: Rows, *, same_grid: bool) -> dict[str, np.ndarray]:
        """Return the areas of the true union and of its background, in pixels."""
        union = rows["union_confusion"]
        return {"masks": union[..., 0] + union[..., 2]} if same_grid else {}
