"""Whether an explanation points at the lesion: the share of its mass inside of a mask.

The share is what Wang et al., "Score-CAM", CVPR Workshops 2020, call the energy-based pointing game, with the
mask in the place of a box. A map that knows nothing of the image has as much of its mass inside as the lesion
has of the image's area: this is what the share must be compared with.
"""

from __future__ import annotations

import numpy as np

from polymask.metrics.bootstrap import as_weights, ratio
from polymask.metrics.rows import ORIGINAL
from polymask.structures.masks import IGNORE
from polymask.structures.samples import Rows

INSIDE = f"explanation_inside_lesion_image{ORIGINAL}"
CHANCE = f"explanation_chance_lesion_image{ORIGINAL}"
TIMES_CHANCE = f"explanation_times_chance_lesion{ORIGINAL}"


def inside_share(heat: np.ndarray, mask: np.ndarray) -> tuple[float, float]:
    """Return which share of a map's mass, and of the area, lies inside of a mask.

    Args:
        heat: (H, W) float, not negative.
        mask: (H, W) uint8: 0 = outside, 255 = ignore, which counts nowhere, anything else = inside.

    Returns:
        Both in [0, 1]; both NaN where nothing is inside, or the map is 0 everywhere.
    """
    counts = mask != IGNORE
    inside = counts & (mask != 0)
    mass, area = heat.sum(where=counts, dtype=np.float64), np.count_nonzero(inside)
    if mass == 0 or area == 0:
        return float("nan"), float("nan")
    return float(heat.sum(where=inside, dtype=np.float64) / mass), float(area / np.count_nonzero(counts))


def explanation_metrics(rows: Rows, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return the mean share of explanations inside of the lesions, that of chance, and their ratio.

    Args:
        rows: N samples; the columns `INSIDE` and `CHANCE` are what `inside_share` returned of each. Nothing
            is returned of rows without them.
        weights: (R, N) non-negative sample weights, or None for the point estimate (R = 1).

    Returns:
        Name to (R,) float64, means over the images that have a value; NaN where none has one.
    """
    if INSIDE not in rows:
        return {}
    weights = as_weights(weights, len(rows["ids"]))
    defined = ~np.isnan(rows[INSIDE])
    inside, chance = (weights @ np.where(defined, rows[name], 0.0) for name in (INSIDE, CHANCE))
    total = weights @ defined
    return {
        INSIDE: ratio(inside, total),
        CHANCE: ratio(chance, total),
        TIMES_CHANCE: ratio(inside, chance),
    }


def count_explained(rows: Rows) -> dict[str, int]:
    """Return `num_explained`, the number of samples with a share; nothing of rows without explanations."""
    return {"num_explained": int(np.count_nonzero(~np.isnan(rows[INSIDE])))} if INSIDE in rows else {}
