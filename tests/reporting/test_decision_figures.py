"""Figures that help to decide: what they draw is what the numbers say."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from polymask.metrics.calibration import Bins
from polymask.reporting import decision_figures
from polymask.reporting.decision_figures import (
    DecisionCurve,
    band,
    plot_decision_curves,
    plot_reliability,
    plot_risk_coverage,
    reliability,
)


def test_reliability_of_bins_by_hand() -> None:
    point = Bins(np.array([[4.0, 0, 1]]), np.array([[1.0, 0, 0.9]]), np.array([[2.0, 0, 1]]))
    drawn = Bins(np.tile(point.weight, (3, 1)), np.tile(point.confidence, (3, 1)), np.array([[0, 0, 1]] * 3))
    found = reliability("as predicted", point, drawn)
    np.testing.assert_allclose(found.confidence, [0.25, np.nan, 0.9])
    np.testing.assert_allclose(found.frequency.values, [0.5, np.nan, 1])
    np.testing.assert_allclose(found.frequency.high, [0, np.nan, 1])
    np.testing.assert_allclose(found.share, [0.8, 0, 0.2])
    assert found.error == pytest.approx((1 + 0.1) / 5)


def test_a_band_leaves_out_undefined_replicates() -> None:
    replicates = np.array([[1.0, np.nan], [3, np.nan], [np.nan, np.nan]])
    found = band(np.array([2.0, np.nan]), replicates)
    np.testing.assert_allclose(found.low, [1.05, np.nan])
    np.testing.assert_allclose(found.high, [2.95, np.nan])


def test_pictures_are_there_and_not_blank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    random, grid = np.random.default_rng(0), np.linspace(0.01, 0.99, 9)
    weight = np.ones((5, 15))
    bins = Bins(weight, weight * np.linspace(0, 1, 15), random.random((5, 15)))
    curve = reliability("as predicted", Bins(*(part[:1] for part in bins)), bins)
    risk = band(grid / 4, random.random((5, 9)))
    benefit = DecisionCurve(grid, band(0.3 - grid, random.random((5, 9))), 0.2 - grid)
    plot_reliability({"all classes": [curve, curve], "price $5": [curve]}, tmp_path / "a.png", "Reliability")
    monkeypatch.setattr(decision_figures, "_MOST_PANELS", 1)
    plot_reliability({"a": [curve], "b": [curve]}, tmp_path / "many.png", "Reliability")
    plot_reliability({}, tmp_path / "nothing.png", "Reliability")
    plot_decision_curves({"malignant": benefit}, tmp_path / "b.png")
    plot_risk_coverage(grid, risk, 0.12, tmp_path / "c.png")
    for name in ("a", "many", "nothing", "b", "c"):
        image = cv2.imread(str(tmp_path / f"{name}.png"))
        assert image.std() > 5, name
