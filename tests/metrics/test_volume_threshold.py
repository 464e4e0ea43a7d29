"""The best threshold of sections: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from polymask.metrics.volume_threshold import (
    THRESHOLDS,
    best_volume_threshold,
    counted_sections,
    volume_metrics_at,
)


def rows(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Three volumes, the last with a truth of some slices only: sections, and counts at each threshold."""
    scores = np.array([[0.9, 0.8, 0.42, 0.2], [0.7, 0.3, 0.1, -1], [0.6, -1, -1, -1]], np.float32)
    hits = np.array([[3, 1, 1, 0], [1, 0, 0, 0], [2, 0, 0, 0]], np.int16)  # bit 0 is the IoU of 0.5
    linked = np.tile(np.arange(19)[::-1], (3, 1))
    linked[1] = 6
    return {
        "slice_scores": scores,
        "slice_hits": hits,
        "slice_num_true": np.array([3, 2, 1]),
        "is_complete": np.array([True, True, False]),
        "num_true": np.array([4, 5, 0]),
        "linked_found": linked,
    } | changes


def test_sections_and_counts_at_a_threshold() -> None:
    counted = counted_sections(rows())
    found = volume_metrics_at(counted, 0.4)
    assert found["f1"] == pytest.approx(2 * 4 / (5 + 6))  # 0.9, 0.8, 0.42 and 0.7 are right, 0.6 is not
    assert found["count_error"] == pytest.approx((abs(11 - 4) + 1) / 2)  # 0.4 is the eighth: 11, and 6
    weighted = volume_metrics_at(counted, 0.4, np.array([[2.0, 1, 1], [0, 0, 5]]))
    np.testing.assert_allclose(weighted["count_error"], [(2 * 7 + 1) / 3, np.nan])
    assert np.isnan(volume_metrics_at(counted, 0.41)["count_error"]).all()  # was not linked with that


def test_the_best_of_either_rule() -> None:
    counted = counted_sections(rows())
    # Above 0.42 a right one is lost; up to 0.3 a wrong one is found.
    assert best_volume_threshold(counted, "best_f1") == 0.4
    assert best_volume_threshold(counted, "best_count") == 0.75  # 4 are found in the first
    assert THRESHOLDS[14] == 0.75
    # 0.5 and 0.4 have the same error, one too many and one too few: the better F1 decides.
    linked = np.full((3, 19), 30)
    linked[:, [7, 9, 11]] = [[4], [5], [0]]
    assert best_volume_threshold(counted_sections(rows(linked_found=linked)), "best_count") == 0.4


def test_what_is_not_known_chooses_nothing() -> None:
    without = {name: values for name, values in rows().items() if name != "linked_found"}
    assert best_volume_threshold(counted_sections(without), "best_f1") == 0.4
    assert np.isnan(best_volume_threshold(counted_sections(without), "best_count"))
    sparse = rows(is_complete=np.zeros(3, bool))
    assert np.isnan(best_volume_threshold(counted_sections(sparse), "best_count"))
    wrong = rows(slice_hits=np.zeros((3, 4), np.int16))
    assert np.isnan(best_volume_threshold(counted_sections(wrong), "best_f1"))
