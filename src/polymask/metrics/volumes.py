"""Measures of found volumes: a row per volume, and metrics of weighted volumes.

A row of `match_volume` holds, as numbers, of the volume as a whole where all its slices have a truth, else of
each slice with a truth as an image of its own:

- `seg_sum`, `seg_count`: sum of the Jaccard indices of the true objects, and their number;
- `det_ns`, `det_fn`, `det_fp`: found objects to split, missed and false ones;
- `num_annotated`: slices with a truth.

And of a volume whose slices all have a truth, else 0 or empty:

- `is_complete`: whether they have; `num_found`, `num_true`: objects;
- `volume_matched`, `volume_error_sum`, `volume_bias_sum`: true objects that are matched, and the sums of the
  absolute and of the signed relative differences of their volumes;
- `volume_scores` (V,) float32 and `volume_hits` (V,) int16 of its V best found objects, best first: the
  score, -1 where a place is empty, and flags whose bit t says whether it matches a true object at
  `coco_matching.IOU_THRESHOLDS[t]`.

`slice_rows` adds `slice_scores` and `slice_hits` of the same kind, of single sections, and `slice_num_true`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from polymask.metrics.average_precision import average_precision, flagged, rank
from polymask.metrics.bootstrap import as_weights, ratio
from polymask.metrics.coco_matching import IOU_THRESHOLDS, match
from polymask.metrics.detection_calibration import detection_calibration_error
from polymask.structures import rle
from polymask.structures.crops import crop
from polymask.structures.objects import FoundObjects
from polymask.structures.overlaps import Overlaps, count_overlaps, intersection_over_union, sum_overlaps
from polymask.structures.samples import Rows
from polymask.structures.volumes import FoundVolume

VOLUME_PLACES = 1024
SLICE_PLACES = 4096
"""Found objects of a volume, and found sections in all its slices, that average precision looks at."""

SEG_DET_ROWS = ("seg_sum", "seg_count", "det_ns", "det_fn", "det_fp", "num_annotated")
"""What `seg_and_det` is computed from."""

_AT_75 = 5  # IOU_THRESHOLDS[5] is 0.75
_NUM_LABELS = 2**16  # numbers of 16 bits


class _Comparison(NamedTuple):
    """Voxels of the true and the found objects of an image by number, (65536,) int64, and what they share."""

    true_sizes: np.ndarray
    found_sizes: np.ndarray
    shared: Overlaps


def match_volume(
    found: FoundVolume, truth: np.ndarray, annotated: np.ndarray, *, places: int = VOLUME_PLACES
) -> dict[str, np.ndarray]:
    """Compare what was found in a volume with its truth. Both are read slice by slice.

    A found object matches a true one of which it covers more than half (Ulman et al., "An objective
    comparison of cell-tracking algorithms", Nature Methods 14, 2017); for average precision, objects match as
    in the COCO evaluation, with the IoU of volumes. That is also the average precision of objects in videos,
    with slices as frames (Yang, Fan and Xu, "Video instance segmentation", ICCV 2019). Classes play no part.

    Args:
        found: What was found.
        truth: (Z, H, W) uint16 numbers of the true objects, 0 = background.
        annotated: (Z,) bool: slices that have a truth.
        places: Found objects that average precision looks at, V.

    Returns:
        The row, described at the head of this module.

    Raises:
        ValueError: Found and true volume differ in size.
    """
    if found.labels.shape != truth.shape or annotated.shape != truth.shape[:1]:
        shapes = found.labels.shape, truth.shape, annotated.shape
        raise ValueError(f"{found.id}: found, truth and annotated slices have the shapes {shapes}.")
    single = np.flatnonzero(annotated).tolist()
    is_complete = len(single) == len(truth)
    # Of no slice, and so without any object, where they are images of their own.
    whole = _compare(found.labels, truth, single if is_complete else [])
    counts = [_count_matches(whole)]
    if not is_complete:
        counts += [_count_matches(_compare(found.labels, truth, [z])) for z in single]
    return {
        **{name: np.asarray(sum(count[name] for count in counts)) for name in counts[0]},
        "num_annotated": np.asarray(len(single)),
        "is_complete": np.asarray(is_complete),
        **_compare_sizes(whole),
        **_fill("volume", *_match_volumes(whole, found.scores, places), places),
    }


def slice_rows(
    found: Sequence[FoundObjects], truth: np.ndarray, annotated: np.ndarray, *, places: int = SLICE_PLACES
) -> dict[str, np.ndarray]:
    """Compare the sections found in each slice of a volume with the true ones, before anything is linked.

    Args:
        found: The sections of each of the Z slices, best first; their masks may overlap.
        truth: (Z, H, W) uint16 numbers of the true objects, 0 = background.
        annotated: (Z,) bool: slices that have a truth, the only ones that count.
        places: Sections of the volume that average precision looks at, the best.

    Returns:
        `slice_scores`, `slice_hits` and `slice_num_true`, see the head of this module.

    Raises:
        ValueError: The sections are not those of Z slices.
    """
    if len(found) != len(truth):
        raise ValueError(f"sections of {len(found)} slices, truth of {len(truth)}.")
    slices = np.flatnonzero(annotated).tolist()
    overlaps = [_section_overlap(found[z], truth[z]) for z in slices]
    scores = [found[z].scores for z in slices]
    hits = np.concatenate([np.zeros(0, np.int16), *map(_hits, overlaps)])
    return {
        **_fill("slice", np.concatenate([np.zeros(0, np.float32), *scores]), hits, places),
        "slice_num_true": np.asarray(sum(overlap.shape[1] for overlap in overlaps)),
    }


def counted_sections(rows: Mapping[str, np.ndarray]) -> Rows:
    """Return the scores of sections, and which are there, in the form of `metrics.object_threshold`."""
    scores = rows["slice_scores"]
    kinds = np.where(scores < 0, -1, flagged(rows["slice_hits"], 0)).astype(np.int8)
    return {"detection_scores": scores, "detection_kinds": kinds}


def volume_metrics(rows: Mapping[str, np.ndarray], weights: np.ndarray | None) -> dict[str, np.ndarray]:
    """Compute all metrics of volumes.

    `seg` and `det` are the measures of the Cell Tracking Challenge, over the true objects of all volumes:
    the mean Jaccard index (0 for an object without a match), and 1 - min(A, A0) / A0 with the costs
    A = 5 splits + 10 missed + 1 false and A0 = 10 true objects (Matula et al., "Cell tracking accuracy
    measurement based on comparison of acyclic oriented graphs", PLoS ONE 10(12), 2015). Without any true
    object `seg` is undefined, NaN; `det`, 0 / 0 then, is 1 when nothing was found and else 0, as for all
    that is no better than to find nothing. `op_csb` is their mean.

    `volume_ap` is the average precision of whole objects, over the IoU thresholds 0.50, 0.55, ... 0.95,
    `volume_ap50` and `volume_ap75` at one; `slice_mask_ap`, `slice_mask_ap50` and `slice_mask_ap75` are
    those of single sections, and `slice_detection_ece` is the detection calibration error of their scores, by
    masks at IoU 0.5. `count_error` and `count_bias` are means over volumes of the absolute and signed
    difference of the numbers of found and true objects, `volume_error` and `volume_bias` means over matched
    objects of the absolute and signed difference of their volumes, as a share of the true one.

    Args:
        rows: Rows of `match_volume` and `slice_rows` of N volumes, each (N, ...).
        weights: (R, N) non-negative weights, or None for the point estimate (R = 1).

    Returns:
        Metric name to (R,) float64, NaN where undefined: counts, volumes and `volume_ap` need volumes whose
        slices all have a truth.
    """
    weights = as_weights(weights, len(rows["seg_sum"]))
    seg, det = seg_and_det({name: weights @ rows[name] for name in SEG_DET_ROWS})
    matched = weights @ rows["volume_matched"]
    excess = (rows["num_found"] - rows["num_true"]).astype(np.float64)
    complete = weights @ rows["is_complete"]
    return {
        "seg": seg,
        "det": det,
        "op_csb": (seg + det) / 2,
        **_average_precisions("volume_ap", rows, "volume", rows["num_true"], weights),
        "count_error": ratio(weights @ np.abs(excess), complete),
        "count_bias": ratio(weights @ excess, complete),
        "volume_error": ratio(weights @ rows["volume_error_sum"], matched),
        "volume_bias": ratio(weights @ rows["volume_bias_sum"], matched),
        **_average_precisions("slice_mask_ap", rows, "slice", rows["slice_num_true"], weights),
        "slice_detection_ece": detection_calibration_error(counted_sections(rows), weights),
    }


def seg_and_det(sums: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return SEG and DET, each (M,) float64, from `SEG_DET_ROWS`, (M,), or sums of them.

    Their definitions are those of `volume_metrics`; DET is NaN where no slice has a truth.
    """
    cost = 5 * sums["det_ns"] + 10 * sums["det_fn"] + sums["det_fp"]
    worst = 10 * sums["seg_count"]
    det = np.where(worst > 0, 1 - ratio(np.minimum(cost, worst), worst), cost == 0)
    return ratio(sums["seg_sum"], sums["seg_count"]), np.where(sums["num_annotated"] > 0, det, np.nan)


def _compare(found: np.ndarray, truth: np.ndarray, slices: Sequence[int]) -> _Comparison:
    """Count voxels of some slices of two label volumes (Z, H, W), reading one slice at a time."""
    sizes, shared = np.zeros((2, _NUM_LABELS), np.int64), []
    for z in slices:
        images = np.asarray(truth[z]), np.asarray(found[z])
        for total, image in zip(sizes, images, strict=True):
            total += np.bincount(image.ravel(), minlength=_NUM_LABELS)
        shared.append(count_overlaps(*images))
    return _Comparison(sizes[0], sizes[1], sum_overlaps(shared))


def _matched(image: _Comparison) -> np.ndarray:
    """Return (P,) bool: pairs of which the found object covers more than half of the true one."""
    return 2 * image.shared.shared > image.true_sizes[image.shared.first]


def _iou(image: _Comparison) -> np.ndarray:
    return intersection_over_union(image.shared, image.true_sizes, image.found_sizes)


def _count_matches(image: _Comparison) -> dict[str, float]:
    """Return the rows of SEG and DET, of one image."""
    matched = _matched(image)
    num_true, num_found = (np.count_nonzero(sizes[1:]) for sizes in (image.true_sizes, image.found_sizes))
    num_matched, num_useful = matched.sum(), len(np.unique(image.shared.second[matched]))
    return {
        "seg_sum": _iou(image)[matched].sum(),
        "seg_count": num_true,
        "det_ns": num_matched - num_useful,
        "det_fn": num_true - num_matched,
        "det_fp": num_found - num_useful,
    }


def _compare_sizes(image: _Comparison) -> dict[str, np.ndarray]:
    """Return the numbers of objects, and the sums of the relative differences of matched volumes."""
    matched = _matched(image)
    true_sizes = image.true_sizes[image.shared.first[matched]]
    error = image.found_sizes[image.shared.second[matched]] / true_sizes - 1
    return {
        "num_found": np.asarray(np.count_nonzero(image.found_sizes[1:])),
        "num_true": np.asarray(np.count_nonzero(image.true_sizes[1:])),
        "volume_matched": np.asarray(len(error)),
        "volume_error_sum": np.asarray(np.abs(error).sum()),
        "volume_bias_sum": np.asarray(error.sum()),
    }


def _match_volumes(image: _Comparison, scores: np.ndarray, places: int) -> tuple[np.ndarray, np.ndarray]:
    """Return scores and flags of the best found objects, each (D,), best first."""
    numbers = np.flatnonzero(image.found_sizes[1 : len(scores) + 1])
    best = numbers[np.argsort(-scores[numbers], kind="stable")][:places]
    place_of_found = np.full(_NUM_LABELS, -1)
    place_of_found[best + 1] = np.arange(len(best))
    iou = _iou(image)
    near = (iou >= IOU_THRESHOLDS[0]) & (place_of_found[image.shared.second] >= 0)
    true, column = np.unique(image.shared.first[near], return_inverse=True)
    overlap = np.zeros((len(best), len(true)))
    overlap[place_of_found[image.shared.second[near]], column] = iou[near]
    return scores[best], _hits(overlap)


def _section_overlap(found: FoundObjects, truth: np.ndarray) -> np.ndarray:
    """Return the (D, G) IoU of the sections found in a slice and the G true ones of its labels (H, W)."""
    sizes = np.bincount(truth.ravel())
    sizes[0] = 0
    numbers = np.flatnonzero(sizes)
    shared = np.zeros((len(found), len(numbers)), np.int64)
    for row, mask in zip(shared, found.masks, strict=True):
        piece = crop(mask)
        row[:] = np.bincount(truth[piece.window][piece.mask], minlength=len(sizes))[numbers]
    areas = np.array([rle.area(mask) for mask in found.masks], np.int64)
    return shared / np.maximum(areas[:, None] + sizes[numbers] - shared, 1)


def _hits(overlap: np.ndarray) -> np.ndarray:
    """Return (D,) int16 flags, a bit per threshold, of found objects with IoU (D, G), best first."""
    nobody = np.zeros(overlap.shape[1], bool)  # is ignored, or a crowd
    matches = match(overlap, nobody[None], nobody, IOU_THRESHOLDS)[:, 0]
    return ((matches >= 0) @ (1 << np.arange(len(IOU_THRESHOLDS)))).astype(np.int16)


def _fill(prefix: str, scores: np.ndarray, hits: np.ndarray, places: int) -> dict[str, np.ndarray]:
    """Return the `places` best of scores and flags (D,), best first, with empty places behind them."""
    order = np.argsort(-scores, kind="stable")[:places]
    filled_scores, filled_hits = np.full(places, -1, np.float32), np.zeros(places, np.int16)
    filled_scores[: len(order)], filled_hits[: len(order)] = scores[order], hits[order]
    return {f"{prefix}_scores": filled_scores, f"{prefix}_hits": filled_hits}


def _average_precisions(
    name: str, rows: Mapping[str, np.ndarray], prefix: str, num_true: np.ndarray, weights: np.ndarray
) -> dict[str, np.ndarray]:
    """Return the average precision over all thresholds, and at 0.50 and 0.75, each (R,)."""
    scores, hits = rows[f"{prefix}_scores"], rows[f"{prefix}_hits"]
    flags = hits[..., None, None]  # one kind, one range of areas
    ranking = rank(
        {
            "detection_labels": np.where(scores >= 0, 0, -1),
            "detection_scores": scores,
            "detection_hits": flags,
            "detection_alarms": ~flags,
        },
        0,
    )
    values = average_precision(ranking, num_true[:, None], weights, len(IOU_THRESHOLDS))[0, 0]
    return {name: values.mean(axis=0), f"{name}50": values[0], f"{name}75": values[_AT_75]}
