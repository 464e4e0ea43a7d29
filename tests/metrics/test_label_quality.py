"""The quantities of confident learning, on numbers that were worked out by hand."""

from __future__ import annotations

import numpy as np

from polymask.metrics.label_quality import (
    NONE,
    class_thresholds,
    confident_classes,
    confident_joint,
    estimated_joint,
    normalized_margin,
    self_confidence,
)

LABELS = np.array([0, 0, 0, 1, 1, 2])
PROBABILITIES = np.array(
    [
        [0.9, 0.1, 0.0],
        [0.6, 0.3, 0.1],
        [0.0, 0.8, 0.2],  # given 0, surely 1
        [0.2, 0.7, 0.1],
        [0.4, 0.3, 0.3],  # of no class with confidence
        [0.5, 0.1, 0.4],  # most probable is 0, yet it is sure enough only of its rare class
    ]
)


def test_scores_of_single_samples():
    np.testing.assert_allclose(self_confidence(LABELS, PROBABILITIES), [0.9, 0.6, 0.0, 0.7, 0.3, 0.4])
    np.testing.assert_allclose(
        normalized_margin(LABELS, PROBABILITIES), [0.8, 0.3, -0.8, 0.5, -0.1, -0.1], atol=1e-12
    )


def test_the_threshold_of_a_class_is_its_mean_over_its_own_samples():
    np.testing.assert_allclose(class_thresholds(LABELS, PROBABILITIES), [1.5 / 3, 1.0 / 2, 0.4])
    more = np.column_stack([PROBABILITIES, np.zeros(6)])
    assert class_thresholds(LABELS, more)[3] == np.inf  # no sample was given this class


def test_confident_classes_and_their_joint():
    # Thresholds 0.5, 0.5, 0.4: the last sample reaches those of 0 and of 2, and 0 is the more probable one.
    assert confident_classes(LABELS, PROBABILITIES).tolist() == [0, 0, 1, 1, NONE, 0]
    assert confident_joint(LABELS, PROBABILITIES).tolist() == [[2, 1, 0], [0, 1, 0], [1, 0, 0]]


def test_of_a_class_with_a_low_threshold_less_is_enough():
    rare = np.array([[0.55, 0.45], [0.45, 0.55], [0.9, 0.1]])
    labels = np.array([1, 1, 0])
    # Class 0 needs 0.9, class 1 only 0.5: the first sample is not taken for a 0, although 0 is more probable.
    assert confident_classes(labels, rare).tolist() == [NONE, 1, 0]


def test_the_joint_has_the_given_classes_as_margins():
    joint = estimated_joint(LABELS, PROBABILITIES)
    # Row 0: 2/3 and 1/3 of 3 samples; row 1: both of its samples are right by the one that is confident.
    np.testing.assert_allclose(joint * 6, [[2, 1, 0], [0, 2, 0], [1, 0, 0]])


def test_a_class_that_nobody_was_given_has_an_empty_row():
    joint = estimated_joint(LABELS, np.column_stack([PROBABILITIES, np.zeros(6)]))
    np.testing.assert_allclose(joint[:3, :3], estimated_joint(LABELS, PROBABILITIES))
    assert joint[3].tolist() == [0, 0, 0, 0]


def test_equal_probabilities_reach_their_own_mean():
    probabilities = np.tile([0.1, 0.9], (3, 1))
    assert np.full(3, 0.1).mean() > 0.1  # by rounding
    assert confident_classes(np.zeros(3, int), probabilities).tolist() == [0, 0, 0]


def test_flipped_labels_come_first():
    """5 % of 2,000 labels flipped, predictions of a model that is right in 85 %: chance would be 0.05."""
    rng = np.random.default_rng(0)
    true = rng.integers(0, 5, 2000)
    logits = rng.normal(size=(2000, 5))
    logits[np.arange(2000), true] += 2.5
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    assert 0.8 < (probabilities.argmax(axis=1) == true).mean() < 0.9
    flipped = rng.choice(2000, 100, replace=False)
    given = true.copy()
    given[flipped] = (true[flipped] + rng.integers(1, 5, 100)) % 5
    for score in (self_confidence, normalized_margin):
        first = np.argsort(score(given, probabilities))[:100]
        assert np.isin(first, flipped).mean() > 0.5
    confident = confident_classes(given, probabilities)
    errors = np.flatnonzero((confident != NONE) & (confident != given))
    assert np.isin(flipped, errors).mean() > 0.5
    assert np.isin(errors, flipped).mean() > 0.3
    assert (confident[flipped] == true[flipped]).mean() > 0.5
