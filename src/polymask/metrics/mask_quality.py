"""How far the true mask of a sample contradicts the predicted probabilities: row columns of single samples.

The losses of other rows are those of whole batches, which say nothing of one sample. These columns are
counted on the grid of the network, over the pixels that are not ignored, with q the probability of what the
truth says of a pixel (its class, foreground or background):

    mask_surprise         mean of -ln q: the pixel cross-entropy of the sample alone
    mask_contradictions   pixels with q <= 0.1: the prediction is 90 % sure that the truth is wrong there

A truth whose outline is drawn a little wider or tighter is contradicted in a thin rim where predictions are
unsure; one of another object, of the wrong place or with a missing part is contradicted in whole regions.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from polymask.metrics.bootstrap import ratio
from polymask.metrics.segmentation import lesion_scores
from polymask.structures.masks import IGNORE
from polymask.structures.samples import Rows

SURE = 0.9
_LEAST = 1e-6  # of a probability, so that one pixel cannot make a mean infinite


def mask_agreement_rows(probabilities: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Return the columns of a batch without waiting for the device.

    Args:
        probabilities: (B, C, H, W) float32: C = 1 probability of foreground, or one channel per class with
            the background first.
        target: (B, H, W) int64 true class of each pixel, 0 = background, 255 = ignore.

    Returns:
        `mask_surprise` (B,) float32, NaN where all pixels are ignored, and `mask_contradictions` (B,) int64.
    """
    valid = target != IGNORE
    true = target.where(valid, torch.zeros_like(target))
    if probabilities.shape[1] == 1:
        of_true = torch.where(true > 0, probabilities[:, 0], 1 - probabilities[:, 0])
    else:
        of_true = probabilities.gather(1, true[:, None])[:, 0]
    surprise = -of_true.clamp(min=_LEAST).log() * valid
    # 0 / 0 is NaN: no mask, nothing to be surprised of.
    return {
        "mask_surprise": surprise.sum(dim=(1, 2)) / valid.sum(dim=(1, 2)),
        "mask_contradictions": ((of_true <= 1 - SURE) & valid).sum(dim=(1, 2)),
    }


def mask_disagreement(rows: Rows) -> dict[str, np.ndarray]:
    """Return by name how far each true mask and its prediction disagree; higher is more suspicious.

    Args:
        rows: `lesion_confusion` (N, 3) and `confusion` (N, C, 3), see `polymask.metrics.segmentation`; the
            columns of `mask_agreement_rows`, which tests of earlier versions lack.

    Returns:
        (N,) float64 each, NaN without a mask: `contradicted`, the pixels of confident contradiction as a
        share of those that are foreground in truth or prediction (at most 1); `surprise`; and
        `overlap_missing`, 1 - Dice. Without the columns, the last alone.
    """
    missing = 1 - lesion_scores(rows["lesion_confusion"], rows["confusion"])["dice"]
    if "mask_surprise" not in rows:
        return {"overlap_missing": missing}
    foreground = rows["lesion_confusion"].sum(axis=1)  # in truth or prediction
    share = np.minimum(rows["mask_contradictions"] / np.maximum(foreground, 1), 1.0)
    return {
        "contradicted": np.where(np.isnan(missing), np.nan, share),
        "surprise": rows["mask_surprise"].astype(np.float64),
        "overlap_missing": missing,
    }


def object_disagreement(rows: Rows) -> dict[str, np.ndarray]:
    """Return by name how far true and found objects of each image disagree; higher is more suspicious.

    Args:
        rows: Rows of `polymask.metrics.instance_matching.match_image`.

    Returns:
        (N,) float64 each: `unexplained`, the share of the objects found with a score of at least 0.9 whose
        mask matches no true object at IoU 0.5 (annotations may be missing; 0 where none was found);
        `missed`, the share of true objects that no found one of enough score matches (there may be nothing; 0
        without true objects); and `overlap_missing`, 1 - Dice of the unions.
    """
    # First of the two kinds (masks), of the four ranges of areas (all) and of the thresholds (0.5).
    hits, alarms = (rows[f"detection_{kind}"][:, :, 0, 0] & 1 for kind in ("hits", "alarms"))
    sure = rows["detection_scores"] >= SURE
    unexplained = ratio((alarms * sure).sum(axis=1), ((hits | alarms) * sure).sum(axis=1))
    true = rows["num_true"][:, :, 0].sum(axis=1)
    missed = ratio(true - rows["num_hits"].sum(axis=1), true)
    union = rows["union_confusion"]
    return {
        "unexplained": np.nan_to_num(unexplained),
        "missed": np.nan_to_num(missed),
        "overlap_missing": 1 - lesion_scores(union[:, 1], union)["dice"],
    }
