from __future__ import annotations

import warnings
from collections.abc import Sequence

import cv2
import numpy as np
import pytest
import torch

from polymask.metrics import boundaries
from polymask.metrics.boundaries import boundary_metrics, boundary_points, boundary_scores, score_names

TOLERANCES = (0.0, 1.0, 2.5, 3.0)


def blobs(seed: int, shape: tuple[int, int] = (40, 57)) -> np.ndarray:
    """A random mask of smooth areas, some of them cut off by the border."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    return (cv2.GaussianBlur(noise, (0, 0), 3) > 0.03).astype(np.uint8)


def by_monai(
    predicted: np.ndarray, true: np.ndarray, spacing: Sequence[float], tolerances: Sequence[float]
) -> tuple[float, list[float]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its imports, and of empty masks
        from monai.metrics import compute_hausdorff_distance, compute_surface_dice

        pair = [torch.from_numpy(mask)[None, None].float() for mask in (predicted, true)]
        own = {"include_background": True, "spacing": list(spacing)}
        hd95 = compute_hausdorff_distance(*pair, percentile=95, **own).item()
        nsd = [compute_surface_dice(*pair, class_thresholds=[t], **own).item() for t in tolerances]
    return hd95, nsd


@pytest.mark.parametrize("spacing", [(1.0, 1.0), (0.3, 0.3), (2.0, 0.7)])
@pytest.mark.parametrize("seed", range(4))
def test_scores_are_those_of_monai(seed: int, spacing: tuple[float, float]) -> None:
    predicted, true = blobs(2 * seed), blobs(2 * seed + 1)
    found = boundary_scores(predicted, true, spacing=spacing, tolerances=TOLERANCES)
    wanted = by_monai(predicted, true, spacing, TOLERANCES)
    assert found[0] == pytest.approx(wanted[0], rel=1e-6)
    assert found[1] == pytest.approx(wanted[1], rel=1e-6)
    assert 0 < found[0] < np.inf
    assert found[1] == sorted(found[1])


def test_masks_of_noise_and_full_masks_are_scored_as_by_monai() -> None:
    noise = (np.random.default_rng(0).random((21, 33)) > 0.5).astype(np.uint8)
    full = np.ones_like(noise)
    for predicted, true in ((noise, full), (full, noise), (full, full)):
        found = boundary_scores(predicted, true, tolerances=TOLERANCES)
        wanted = by_monai(predicted, true, (1, 1), TOLERANCES)
        assert (found[0], *found[1]) == pytest.approx((wanted[0], *wanted[1]), rel=1e-6)


def test_empty_masks_are_undefined_or_missed_as_in_monai() -> None:
    mask, empty = blobs(0), np.zeros((40, 57), np.uint8)
    for predicted, true, nsd in ((mask, empty, 0.0), (empty, mask, 0.0), (empty, empty, np.nan)):
        found = boundary_scores(predicted, true, tolerances=[2.0])
        wanted = by_monai(predicted, true, (1, 1), [2.0])
        assert np.isnan(found[0])
        assert not np.isfinite(wanted[0])
        np.testing.assert_equal(found[1], [nsd])
        np.testing.assert_equal(wanted[1], [nsd])


def test_a_square_that_is_moved_is_off_by_as_much() -> None:
    true, moved = np.zeros((2, 30, 40), np.uint8)
    true[5:15, 5:15] = 1
    moved[5:15, 8:18] = 1
    hd95, nsd = boundary_scores(moved, true, tolerances=[2.9, 3.0])
    assert hd95 == 3
    assert nsd[1] == 1
    # Of each 36 points, the ten of the outer side lie 3 off, and so do the four in the middle of the inner
    # one; those above and below them are nearer to the other square's top or bottom.
    assert nsd[0] == 1 - 14 / 36
    assert boundary_scores(moved, true, spacing=(5.0, 0.5))[0] == 1.5


def test_a_tolerance_that_is_just_reached_counts_whatever_the_unit() -> None:
    true, moved = np.zeros((2, 8, 200), np.uint8)
    true[:, 100:], moved[:, 103:] = 1, 1
    true[:, 150:] = moved[:, 150:] = 0
    assert boundary_scores(moved, true, spacing=(0.1, 0.1), tolerances=[3 * 0.1])[1] == [1.0]


@pytest.mark.parametrize("strip", [1, 57, 100, 400])
def test_strips_change_no_boundary(strip: int, monkeypatch: pytest.MonkeyPatch) -> None:
    mask = blobs(3)
    whole = boundary_points(mask)
    monkeypatch.setattr(boundaries, "_STRIP_PIXELS", strip)
    np.testing.assert_array_equal(boundary_points(mask), whole)


def test_chunks_change_no_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = boundary_scores(blobs(0), blobs(1), tolerances=[1.0])
    monkeypatch.setattr(boundaries, "_CHUNK", 7)
    assert boundary_scores(blobs(0), blobs(1), tolerances=[1.0]) == whole


def test_means_leave_out_what_is_undefined() -> None:
    hd95, nsd = score_names("mm", [0.5])
    assert (hd95, nsd) == ("hd95_mm_lesion_image_original", "nsd_0.5mm_lesion_image_original")
    rows = {
        "ids": np.array(["a", "b", "c"]),
        hd95: np.array([np.nan, 2.0, 4.0]),
        nsd: np.array([0.0, 0.5, np.nan]),
    }
    point = {name: values.tolist() for name, values in boundary_metrics(rows).items()}
    assert point == {hd95: [3.0], nsd: [0.25]}
    weighted = boundary_metrics(rows, np.array([[1.0, 3.0, 1.0], [1.0, 0.0, 0.0]]))
    np.testing.assert_equal(weighted[hd95], [2.5, np.nan])
    np.testing.assert_equal(weighted[nsd], [0.375, 0.0])


def test_masks_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="must have one shape"):
        boundary_scores(np.zeros((3, 4), np.uint8), np.zeros((4, 3), np.uint8))
