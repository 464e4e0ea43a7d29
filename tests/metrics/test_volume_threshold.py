"""The best threshold of sections by the objects that they make: by hand."""

from __future__ import annotations

import numpy as np
import pytest

from polymask.metrics.volume_threshold import (
    THRESHOLDS,
    best_volume_threshold,
    linked_objects,
    volume_metrics_at,
)


def rows(**changes: np.ndarray) -> dict[str, np.ndarray]:
    """Three volumes, the last with a truth of some slices only; 19 down to 1 object in the first."""
    found = np.tile(np.arange(1, 20)[::-1], (3, 1))
    found[1] = 6
    hits = np.minimum(found, 3)
    hits[1] = 4
    return {
        "is_complete": np.array([True, True, False]),
        "num_true": np.array([4, 5, 0]),
        "linked_found": found,
        "linked_hits": hits,
    } | changes


def test_objects_at_a_threshold() -> None:
    linked = linked_objects(rows())
    found = volume_metrics_at(linked, 0.4)  # the eighth: 12 and 6 objects, 3 and 4 of them right
    assert found["f1"] == pytest.approx(2 * 7 / (18 + 9))
    assert found["count_error"] == pytest.approx((8 + 1) / 2)
    weighted = volume_metrics_at(linked, 0.4, np.array([[2.0, 1, 1], [0, 0, 5]]))
    np.testing.assert_allclose(weighted["count_error"], [(2 * 8 + 1) / 3, np.nan])
    np.testing.assert_allclose(weighted["f1"], [2 * 10 / (30 + 13), np.nan])
    assert np.isnan(volume_metrics_at(linked, 0.41)["f1"]).all()  # was not linked with that


def test_the_best_of_either_rule() -> None:
    linked = linked_objects(rows())
    assert best_volume_threshold(linked, "best_f1") == THRESHOLDS[16] == 0.85  # three, all right
    assert best_volume_threshold(linked, "best_count") == 0.8  # four, as many as there are
    # 0.9 and 0.4 have the same error, too few and too many: the better F1 decides.
    found = np.full((3, 19), 30)
    found[0, [7, 17]] = 6, 2
    linked = linked_objects(rows(linked_found=found))
    assert best_volume_threshold(linked, "best_count") == 0.4
    flat = linked_objects(rows(linked_found=np.full((3, 19), 6), linked_hits=np.full((3, 19), 2)))
    assert best_volume_threshold(flat, "best_count") == best_volume_threshold(flat, "best_f1") == 0.95


def test_what_is_not_known_chooses_nothing() -> None:
    without = {name: values for name, values in rows().items() if name != "linked_found"}
    assert linked_objects(without) == {}
    partly = linked_objects(rows(is_complete=np.zeros(3, bool)))
    for rule in ("best_f1", "best_count"):
        assert np.isnan(best_volume_threshold(partly, rule))


def test_numbers_tell_even_where_nothing_is_right() -> None:
    known = linked_objects(rows(linked_hits=np.zeros((3, 19), int)))
    assert np.isnan(best_volume_threshold(known, "best_f1"))
    errors = [float(volume_metrics_at(known, threshold)["count_error"][0]) for threshold in THRESHOLDS]
    highest = max(
        threshold for threshold, error in zip(THRESHOLDS, errors, strict=True) if error == min(errors)
    )
    assert best_volume_threshold(known, "best_count") == highest
