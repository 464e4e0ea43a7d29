"""The metrics of found volumes, from rows."""

from __future__ import annotations

import numpy as np

from polymask.families import base
from polymask.metrics.volumes import seg_and_det, volume_metrics
from polymask.structures.samples import Rows


class Scorer(base.Scorer):
    """Scores volumes; its rows are those of `polymask.metrics.volumes.match_volume` and `slice_rows`."""

    headline = (
        *("seg", "det", "op_csb", "volume_ap50", "slice_mask_ap50", "count_error", "volume_error"),
        "slice_mask_ap",
    )

    def metrics(
        self, rows: Rows, weights: np.ndarray | None = None, *, per_class: bool = False
    ) -> dict[str, np.ndarray]:
        """Compute SEG, DET and their mean, average precisions, and errors of counts and volumes."""
        return volume_metrics(rows, weights)

    def scores(self, rows: Rows) -> dict[str, np.ndarray]:
        """Return SEG and DET of each volume."""
        seg, det = seg_and_det(rows)
        return {"seg": seg, "det": det}

    def truth(self, rows: Rows, *, same_grid: bool) -> dict[str, np.ndarray]:
        """Return the numbers of slices with a truth and of the true objects in them; grids play no part."""
        return {
            "objects": np.stack([rows["num_annotated"], rows["seg_count"], rows["slice_num_true"]], axis=1)
        }
