"""Thresholds and decisions on hand-made samples, and against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import beta
from sklearn.metrics import confusion_matrix, roc_curve

from polymask.metrics.operating_points import (
    OperatingPoint,
    called,
    exact_intervals,
    group_scores,
    group_truth,
    net_benefit,
    operating_metrics,
    threshold_for,
)

SCORES = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
TRUTH = np.array([1, 1, 0, 1, 0, 0, 1, 0])


def test_a_group_is_the_sum_of_its_classes() -> None:
    probabilities = np.array([[0.5, 0.2, 0.3], [0.1, 0.8, 0.1]], np.float32)
    np.testing.assert_allclose(group_scores(probabilities, (0, 2)), [0.8, 0.2], rtol=1e-6)
    assert group_truth(np.array([0, 1, 2, -1]), (0, 2)).tolist() == [1, 0, 1, -1]


@pytest.mark.parametrize(
    ("kind", "wanted", "threshold"),
    [
        ("sensitivity", 0.75, 0.6),
        ("sensitivity", 0.76, 0.3),
        ("sensitivity", 1, 0.3),
        ("sensitivity", 0.01, 0.9),
        ("specificity", 0.75, 0.5),
        ("specificity", 1, 0.7),
    ],
)
def test_the_threshold_just_gives_what_is_wanted(kind: str, wanted: float, threshold: float) -> None:
    found = threshold_for(SCORES, TRUTH, kind, wanted)
    assert found == pytest.approx(threshold, abs=1e-12)
    assert (found > threshold) == (kind == "specificity")  # just above a negative, which so is none


def test_rounding_asks_for_no_sample_more() -> None:
    scores, truth = np.linspace(0.01, 0.99, 60), np.ones(60, int)
    # 0.95 * 60 is a little more than 57 in floating point.
    assert (scores >= threshold_for(scores, truth, "sensitivity", 0.95)).sum() == 57


def test_on_many_samples_the_threshold_is_the_best_of_the_roc_curve() -> None:
    random = np.random.default_rng(0)
    truth = random.integers(2, size=500)
    scores = random.normal(size=500).round(1) + truth
    rate, hit_rate, thresholds = roc_curve(truth, scores, drop_intermediate=False)
    for wanted in (0.5, 0.9, 0.95):
        assert threshold_for(scores, truth, "sensitivity", wanted) == thresholds[hit_rate >= wanted].max()
        found = threshold_for(scores, truth, "specificity", wanted)
        best = hit_rate[1 - rate >= wanted].max()
        assert (scores[truth == 1] >= found).mean() == pytest.approx(best)


def test_the_same_threshold_serves_other_samples() -> None:
    scores, truth = np.array([0.95, 0.65, 0.55, 0.6, 0.1, 0.7]), np.array([1, 0, 1, 1, 0, -1])
    point = OperatingPoint("malignant", (0, 2), "sensitivity", 0.75)
    column = called(scores, truth, threshold_for(SCORES, TRUTH, point.kind, point.wanted))
    assert column.tolist() == [[1, 1], [1, 0], [0, 1], [1, 1], [0, 0], [1, -1]]
    end = "malignant_at_sensitivity_0.75"
    assert point.column == f"called_{end}"
    weights = np.array([[1.0] * 6, [2, 0, 1, 1, 3, 5]])
    found = operating_metrics({point.column: column, "ids": np.arange(6)}, weights)
    rest, alarms, misses, hits = confusion_matrix(truth[:5], column[:5, 0]).ravel()
    assert found[f"sensitivity_{end}"].tolist() == [hits / (hits + misses), 3 / 4]
    assert found[f"specificity_{end}"].tolist() == [rest / (rest + alarms), 1]
    assert found[f"ppv_{end}"].tolist() == [hits / (hits + alarms), 1]
    assert found[f"npv_{end}"].tolist() == [rest / (rest + misses), 3 / 4]
    assert found[f"number_needed_to_biopsy_{end}"].tolist() == [1.5, 1]


def test_without_a_sample_to_choose_on_nothing_is_known() -> None:
    threshold = threshold_for(SCORES, np.zeros(8, int), "sensitivity", 0.95)
    assert np.isnan(threshold)
    assert not np.isnan(threshold_for(SCORES, np.zeros(8, int), "specificity", 0.95))
    column = called(SCORES, TRUTH, threshold)
    assert (column[:, 0] == -1).all()
    assert all(np.isnan(values).all() for values in operating_metrics({"called_x": column}).values())


def test_net_benefit_by_hand() -> None:
    thresholds = np.array([0.2, 0.5, 0.75])
    benefit, everybody = net_benefit(SCORES, TRUTH, thresholds)
    # Vickers and Elkin 2006: true positives / n - false positives / n * t / (1 - t).
    expected = [4 / 8 - 4 / 8 * 0.25, 3 / 8 - 2 / 8 * 1, 2 / 8 - 0 * 3]
    np.testing.assert_allclose(benefit, [expected])
    np.testing.assert_allclose(everybody, [[0.5 - 0.5 * 0.25, 0.5 - 0.5 * 1, 0.5 - 0.5 * 3]])
    weights = np.random.default_rng(0).integers(0, 3, size=(1, 8))
    drawn = SCORES.repeat(weights[0]), TRUTH.repeat(weights[0])
    for found, repeated in zip(
        net_benefit(SCORES, TRUTH, thresholds, weights), net_benefit(*drawn, thresholds), strict=True
    ):
        np.testing.assert_allclose(found, repeated)


def test_exact_intervals_are_those_of_the_binomial() -> None:
    # Two positives, both found; ten negatives, seven of them left alone; samples of unknown truth.
    decisions = np.array([[1, 1]] * 2 + [[0, 0]] * 7 + [[1, 0]] * 3 + [[1, -1], [-1, 1]])
    found = exact_intervals(decisions)
    assert found["sensitivity"] == pytest.approx((0.025 ** (1 / 2), 1))
    # Clopper and Pearson by quantiles of the beta distribution.
    assert found["specificity"] == pytest.approx((beta.ppf(0.025, 7, 4), beta.ppf(0.975, 8, 3)))
    assert np.isnan(exact_intervals(decisions[:2])["specificity"]).all()
