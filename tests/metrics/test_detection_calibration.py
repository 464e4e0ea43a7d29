"""The calibration error of detection scores: by hand, against torchmetrics, and with weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from polymask.metrics.detection_calibration import detection_bins, detection_calibration_error


def counted(num_samples: int = 7, places: int = 30) -> dict[str, np.ndarray]:
    random = np.random.default_rng(1)
    return {
        "detection_scores": random.random((num_samples, places)).astype(np.float32),
        "detection_kinds": random.integers(-1, 2, (num_samples, places)).astype(np.int8),
    }


def test_scores_that_say_more_than_is_there() -> None:
    found = {
        "detection_scores": np.array([[0.9, 0.9, 0.5, 0.9], [0.5, 0.0, 0.0, 0.0]], np.float32),
        "detection_kinds": np.array([[1, 0, 1, -1], [0, -1, -1, -1]], np.int8),
    }
    # Two of 0.9, one of them there; two of 0.5, one of them there. What is of no account does not count.
    assert detection_calibration_error(found) == pytest.approx((0.4 + 0) / 2, abs=1e-6)
    assert detection_calibration_error(found, np.array([[0.0, 3.0]])) == pytest.approx(0.5, abs=1e-6)
    nothing = {name: values[:, -1:] for name, values in found.items()}
    assert np.isnan(detection_calibration_error(nothing)).all()


def test_it_is_the_calibration_error_of_found_objects() -> None:
    found = counted()
    kept = found["detection_kinds"] >= 0
    scores, hits = (torch.from_numpy(found[f"detection_{name}"][kept]) for name in ("scores", "kinds"))
    expected = binary_calibration_error(scores, hits.int(), n_bins=15, norm="l1").item()
    assert detection_calibration_error(found) == pytest.approx(expected, abs=1e-6)


def test_a_weight_counts_a_sample_so_often() -> None:
    found, times = counted(), np.array([0, 2, 1, 3, 0, 1, 1])
    repeated = {name: np.repeat(values, times, axis=0) for name, values in found.items()}
    weighted, expected = detection_bins(found, times[None].astype(float)), detection_bins(repeated)
    for one, two in zip(weighted, expected, strict=True):
        np.testing.assert_allclose(one, two)
