"""How far the outlines of two masks lie apart: 95th percentile of distances, and share within a tolerance.

The boundary of a mask are its pixels that have one of their four neighbours outside of it; what lies beyond
the image is outside. Each of its points has a distance to the nearest boundary point of the other mask.

- `hd95`: the larger of the two 95th percentiles of these distances, one per direction: the Hausdorff
  distance without its outliers (Taha and Hanbury, "Metrics for evaluating 3D medical image segmentation",
  BMC Medical Imaging 15, 2015).
- `nsd`: the share of the points of both boundaries whose distance is at most a tolerance, the normalised
  surface Dice (Nikolov et al., "Clinically applicable segmentation of head and neck anatomy for
  radiotherapy", Journal of Medical Internet Research 23(7), 2021), by points as MONAI counts it.

Values are those of `monai.metrics`. Where both masks are empty neither is defined; where one is, `nsd` is 0
and `hd95`, which would be infinite, is not defined. What is not defined is NaN and left out of means.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from polymask.metrics.bootstrap import as_weights, ratio
from polymask.metrics.rows import ORIGINAL
from polymask.structures.samples import Rows

Spacing = tuple[float, float]
"""Height and width of a pixel."""

_STRIP_PIXELS = 2**22  # looked at at a time
_CHUNK = 2**20  # points whose distances are found at a time
_CROSS = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
_KINDS = ("hd95_", "nsd_")


def boundary_points(mask: np.ndarray) -> np.ndarray:
    """Return the (N, 2) int64 rows and columns of a mask's boundary, strip by strip to bound the memory.

    Args:
        mask: (H, W) uint8, 0 = outside.
    """
    height, width = mask.shape
    step = max(1, _STRIP_PIXELS // width)
    found = []
    for start in range(0, height, step):
        top = max(0, start - 1)  # whether a pixel is on the boundary depends on the rows beside it
        strip = (mask[top : start + step + 1] != 0).astype(np.uint8)
        inner = cv2.erode(strip, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
        own = slice(start - top, start - top + min(step, height - start))
        points = np.argwhere((strip != inner)[own])
        points[:, 0] += start
        found.append(points)
    return np.concatenate(found)


def surface_distances(points: np.ndarray, others: np.ndarray, spacing: Spacing = (1.0, 1.0)) -> np.ndarray:
    """Return the (N,) distance of each point to the nearest of the others, in the unit of `spacing`.

    A tree of the points costs what the outlines are long, where a distance transform costs the whole image.

    Args:
        points: (N, 2) int64 rows and columns.
        others: (M, 2) likewise, M > 0.
        spacing: Height and width of a pixel.
    """
    from scipy.spatial import cKDTree

    scale = np.array(spacing)
    tree = cKDTree(others * scale)
    distances = np.empty(len(points))
    for start in range(0, len(points), _CHUNK):
        part = points[start : start + _CHUNK]
        _, nearest = tree.query(part * scale)
        # From whole pixels, so that what lies exactly at a tolerance is not lost by rounding.
        steps = (part - others[nearest]) * scale
        distances[start : start + _CHUNK] = np.sqrt((steps**2).sum(axis=1))
    return distances


def boundary_scores(
    predicted: np.ndarray,
    true: np.ndarray,
    *,
    spacing: Spacing = (1.0, 1.0),
    tolerances: Sequence[float] = (),
) -> tuple[float, list[float]]:
    """Compare the outlines of two masks.

    Args:
        predicted: (H, W) uint8, 0 = background.
        true: (H, W) uint8 likewise.
        spacing: Height and width of a pixel.
        tolerances: Distances that count as none, in the unit of `spacing`.

    Returns:
        HD95 in the unit of `spacing`, and the NSD at each tolerance; NaN where undefined, see the module.

    Raises:
        ValueError: The shapes differ.
    """
    if predicted.shape != true.shape:
        raise ValueError(f"predicted {predicted.shape} and true {true.shape} must have one shape.")
    points, others = boundary_points(predicted), boundary_points(true)
    if len(points) == 0 or len(others) == 0:
        missed = 0.0 if len(points) + len(others) else float("nan")
        return float("nan"), [missed] * len(tolerances)
    there, back = surface_distances(points, others, spacing), surface_distances(others, points, spacing)
    both = np.concatenate([there, back])
    hd95 = max(np.percentile(there, 95), np.percentile(back, 95))
    return float(hd95), [float(np.mean(both <= tolerance)) for tolerance in tolerances]


def score_names(unit: str, tolerances: Sequence[float]) -> list[str]:
    """Return the names of HD95 and of the NSD at each tolerance, as columns of rows and as metrics.

    Args:
        unit: `px` or `mm`.
        tolerances: In that unit.
    """
    kinds = [f"hd95_{unit}", *(f"nsd_{tolerance:g}{unit}" for tolerance in tolerances)]
    return [f"{kind}_lesion_image{ORIGINAL}" for kind in kinds]


def score_columns(rows: Rows) -> list[str]:
    """Return which columns of rows are such scores."""
    return [name for name in rows if name.startswith(_KINDS) and name.endswith(ORIGINAL)]


def count_defined(rows: Rows) -> dict[str, int]:
    """Return `num_hd95`, the number of samples whose HD95 is defined; nothing of rows without it."""
    hd95 = next((rows[name] for name in score_columns(rows) if name.startswith("hd95_")), None)
    return {} if hd95 is None else {"num_hd95": int(np.count_nonzero(~np.isnan(hd95)))}


def boundary_metrics(rows: Rows, weights: np.ndarray | None = None) -> dict[str, np.ndarray]:
    """Return the mean over images of each boundary score that rows hold, where it is defined.

    Args:
        rows: N samples; columns as `score_names` calls them are (N,) scores, NaN = undefined.
        weights: (R, N) non-negative sample weights, or None for the point estimate (R = 1).

    Returns:
        Name to (R,) float64; NaN where no image has a value.
    """
    weights = as_weights(weights, len(rows["ids"]))
    metrics = {}
    for name in score_columns(rows):
        defined = ~np.isnan(rows[name])
        metrics[name] = ratio(weights @ np.where(defined, rows[name], 0.0), weights @ defined)
    return metrics
